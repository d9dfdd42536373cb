"""Replace attentions and MLPs of a pretrained decoder one after the other, each time learning from the original."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.convert.distil import Objective, check_original, distil, kl, next_token
from everlearn.convert.replace_config import ATTENTION, place_of
from everlearn.convert.replaced import ReplacedModel
from everlearn.convert.replacement import replace_blocks, replace_more
from everlearn.convert.substitutes import Substitute, continuum, delta
from everlearn.levels.component import rule_name

PHASES = ("swap", "local", "whole")


@dataclass(frozen=True, kw_only=True)
class ReplacementRecipe:
    """What is replaced, and how; the rates were chosen on one small model, among two and three.

    Args:
        order: names of the places, first to last, such as "block.3.attention" or "block.3.mlp".
        attention: what takes the place of each attention.
        mlp: what takes the place of each MLP.
        local: steps in which a new memory learns from what stood in its place, >= 0.
        whole: steps in which the whole hybrid learns the objective, >= 0, after each place.
        batch_size: windows per step.
        length: tokens per window.
        local_lr: rate of the local steps.
        lr: rate of the whole steps.
        objective: of the whole steps; see `convert.distil`.
        from_projections: see `replace_blocks`.
        chunk_size: see `replace_blocks`.
        window: see `replace_blocks`.
        seed: of the windows, and of what is drawn.
    """

    order: tuple[str, ...]
    attention: Substitute = delta
    mlp: Substitute = continuum
    local: int = 100
    whole: int = 100
    batch_size: int = 4
    length: int = 256
    local_lr: float = 1e-2
    lr: float = 1e-3
    objective: Objective = kl
    from_projections: bool = True
    chunk_size: int = 128
    window: int | None = None
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        kinds = {"attention": self.attention.to_dict(), "mlp": self.mlp.to_dict()}
        return {**vars(self), **kinds, "order": list(self.order), "objective": rule_name(self.objective)}


@dataclass(frozen=True)
class Stage:
    """How well a hybrid predicts after one phase.

    Args:
        replaced: places that hold a memory by now.
        place: name of the last of them.
        phase: "swap", "local" or "whole".
        score: what `evaluate` said.
        loss: of the phase's last step; NaN after a swap or a phase without steps.
        student: the hybrid itself, which the next phase changes.
    """

    replaced: int
    place: str
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
    *,
    resume: ReplacedModel | None = None,
) -> Iterator[Stage]:
    """Replace one place after the other, and score the hybrid after every phase.

    Args:
        model: the original, which teaches throughout; left as it is.
        ids: the text to learn from, [N] with N > recipe.length.
        recipe: see `ReplacementRecipe`.
        evaluate: such as `bits_per_byte` of a text that is not learned from.
        on_step: called with places replaced, phase, step and loss.
        resume: the student of an earlier run of this recipe after the last phase of some place: goes on behind it, bit
            for bit as if the run had not stopped. Changed in no way itself.
    Yields:
        one stage for each phase of each place.
    Raises:
        ValueError: a text shorter than one window; a hybrid to go on with that is not of this model and recipe; or what
            `replace_blocks` and `distil` refuse.
    """
    if len(ids) <= recipe.length:
        raise ValueError(
            f"the text has {len(ids)} tokens, one window needs {recipe.length + 1}; give a longer text, or a smaller "
            "length"
        )
    done = 0 if resume is None else _done(resume, model, recipe)
    batches = itertools.islice(windows(ids, recipe), done * (recipe.local + recipe.whole), None)
    torch.manual_seed(recipe.seed)
    student = replace_blocks(model, chunk_size=recipe.chunk_size, window=recipe.window)
    for count, name in enumerate(recipe.order, start=1):
        index, place = place_of(name)
        chosen = {"attention": {index: recipe.attention}} if place == ATTENTION else {"mlp": {index: recipe.mlp}}
        # one that is done is drawn again and dropped: what is drawn next is then what it would have been
        grown = replace_more(student, **chosen, from_projections=recipe.from_projections)
        student = resume if resume is not None and count == done else grown
        if count <= done:
            continue
        yield Stage(count, name, "swap", evaluate(student), float("nan"), student)
        for phase in PHASES[1:]:
            loss = float("nan")
            for step, loss in _taught(student, model, batches, recipe, phase, name):
                if on_step:
                    on_step(count, phase, step, loss)
            yield Stage(count, name, phase, evaluate(student), loss, student)


def bits_per_byte(model: nn.Module, windows: Tensor, size: int) -> float:
    """Score windows, each from an empty start and without learning.

    Args:
        model: of Hugging Face, such as `ReplacedModel.base`.
        windows: [N, T]; all but the first token of each is predicted.
        size: bytes that all predicted tokens stand for.
    """
    with torch.no_grad():
        losses = [
            float(next_token(model(input_ids=part, use_cache=False).logits, part, part)) * part[:, 1:].numel()
            for part in windows.split(4)
        ]
    return sum(losses) / math.log(2) / size


def _taught(
    student: ReplacedModel,
    model: nn.Module,
    batches: Iterator[Tensor],
    recipe: ReplacementRecipe,
    phase: str,
    name: str,
) -> Iterator[tuple[int, float]]:
    """Run one phase for one place; yield each step's number and loss."""
    steps = distil(
        student,
        model,
        batches,
        local=recipe.local if phase == "local" else 0,
        whole=recipe.whole if phase == "whole" else 0,
        local_lr=recipe.local_lr,
        lr=recipe.lr,
        objective=recipe.objective,
        places=[name],
    )
    return ((done.step, done.loss) for done in steps)


def _done(student: ReplacedModel, model: nn.Module, recipe: ReplacementRecipe) -> int:
    """Return how many places of a recipe an earlier run has finished.

    Raises:
        ValueError: it was another model, or another recipe.
    """
    check_original(student, model)
    config = student.config
    expected = recipe.order[: len(config.names())]
    same = sorted(expected, key=place_of) == list(config.names()) and all(
        config.at(*place_of(name)) == (recipe.attention if place_of(name)[1] == ATTENTION else recipe.mlp)
        for name in expected
    )
    if not same or (config.chunk_size, config.window) != (recipe.chunk_size, recipe.window):
        raise ValueError(
            f"the hybrid to go on with holds memories in {', '.join(config.names())}, and the recipe begins with "
            f"{', '.join(expected)} and settings of its own; give the recipe that it was made with, or begin anew"
        )
    return len(expected)


def windows(ids: Tensor, recipe: ReplacementRecipe) -> Iterator[Tensor]:
    """Draw windows of a text without end, [batch_size, length]; the same for the same seed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        starts = torch.randint(len(ids) - recipe.length, (recipe.batch_size, 1), generator=generator)
        yield ids[starts + torch.arange(recipe.length)]
