"""Replace the attention of a pretrained decoder block by block, each time learning from the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everlearn.convert.distil import Objective, distil, kl
from everlearn.convert.replaced import ReplacedModel
from everlearn.convert.replacement import replace_attention, replace_more

PHASES = ("swap", "local", "whole")


@dataclass(frozen=True, kw_only=True)
class ReplacementRecipe:
    """How attention is replaced; the rates were chosen on one small model, among two and three.

    Args:
        order: indices of the blocks, first to last.
        local: steps in which a new memory learns from its attention, >= 0.
        whole: steps in which the whole hybrid learns the objective, >= 0, after each block.
        batch_size: windows per step.
        length: tokens per window.
        local_lr: rate of the local steps.
        lr: rate of the whole steps.
        objective: of the whole steps; see `convert.distil`.
        from_projections: see `replace_attention`.
        seed: of the windows, and of what is drawn.
    """

    order: tuple[int, ...]
    local: int = 100
    whole: int = 100
    batch_size: int = 4
    length: int = 256
    local_lr: float = 1e-2
    lr: float = 1e-3
    objective: Objective = kl
    from_projections: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Stage:
    """How well a hybrid predicts after one phase.

    Args:
        replaced: blocks that hold a memory by now.
        phase: "swap", "local" or "whole".
        score: what `evaluate` said.
        loss: of the phase's last step; NaN after a swap or a phase without steps.
        student: the hybrid itself, which the next phase changes.
    """

    replaced: int
    phase: str
    score: float
    loss: float
    student: ReplacedModel


def gradual(
    model: nn.Module,
    ids: Tensor,
    recipe: ReplacementRecipe,
    evaluate: Callable[[ReplacedModel], float],
    on_step: Callable[[int, str, int, float], None] | None = None,
) -> Iterator[Stage]:
    """Replace one block after the other, and score the hybrid after every phase.

    Args:
        model: the original, which teaches throughout; left as it is.
        ids: the text to learn from, [N] with N > recipe.length.
        recipe: see `ReplacementRecipe`.
        evaluate: such as bits per byte of a text that is not learned from.
        on_step: called with blocks replaced, phase, step and loss.
    Yields:
        one stage for each phase of each block.
    Raises:
        ValueError: a text shorter than one window, or what `replace_attention` and `distil` refuse.
    """
    if len(ids) <= recipe.length:
        raise ValueError(
            f"the text has {len(ids)} tokens, one window needs {recipe.length + 1}; give a longer text, or a smaller "
            "length"
        )
    batches = windows(ids, recipe)
    torch.manual_seed(recipe.seed)
    student = replace_attention(model, layers=())
    for count, index in enumerate(recipe.order, start=1):
        student = replace_more(student, [index], from_projections=recipe.from_projections)
        yield Stage(count, "swap", evaluate(student), float("nan"), student)
        for phase in PHASES[1:]:
            steps = {"local": 0, "whole": 0, phase: recipe.local if phase == "local" else recipe.whole}
            loss = float("nan")
            for done in distil(
                student,
                model,
                batches,
                **steps,
                local_lr=recipe.local_lr,
                lr=recipe.lr,
                objective=recipe.objective,
                blocks=[f"block.{index}"],
            ):
                loss = done.loss
                if on_step:
                    on_step(count, phase, done.step, loss)
            yield Stage(count, phase, evaluate(student), loss, student)


def windows(ids: Tensor, recipe: ReplacementRecipe) -> Iterator[Tensor]:
    """Draw windows of a text without end, [batch_size, length]; the same for the same seed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        starts = torch.randint(len(ids) - recipe.length, (recipe.batch_size, 1), generator=generator)
        yield ids[starts + torch.arange(recipe.length)]
