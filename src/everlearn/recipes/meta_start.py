"""Start the levels of a stacked model where reading learns most: a start that is itself learned, over documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.convert import StackedModel
from everlearn.convert.stacked import MEMORY
from everlearn.learn.stream import read


@dataclass(frozen=True, kw_only=True)
class MetaStartRecipe:
    """How a start is learned; the rate was chosen on one small model, among three.

    Args:
        steps: changes of the start, >= 1.
        rows: documents per step, >= 1.
        length: tokens of a document that are predicted, >= 1: what the start is for.
        lr: rate of Adam on the start, falling to zero over the steps.
        seed: of the documents.
    """

    steps: int = 120
    rows: int = 4
    length: int = 2048
    lr: float = 3e-4
    seed: int = 0


def meta_start(
    model: StackedModel,
    ids: Tensor,
    recipe: MetaStartRecipe,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Learn what the deltas of a stacked model start from, so that reading one document with it gains more.

        theta_0 <- Adam(theta_0, mean over documents of theta_0 - theta_T)

    theta_T is what reading a document leaves behind. Every chunk is a test of the steps before it and a lesson for
    those after it, so theta_0 - theta_T, the sum of the clipped steps, is the first-order gradient of the whole
    document's loss in theta_0: first-order MAML, and Reptile at the same time (Nichol et al. 2018). The inner loop is
    whatever the model's level does. With one whose period is the whole document nothing changes inside it, and this is
    plain further training: the control, which tells what is learned about learning from what is learned.

    The start is shared by all who read with the model, and is saved by `save_adapter`; the pretrained weights are not
    touched, and `unstack` drops it.

    Args:
        model: with one level that is read; its start is replaced.
        ids: [N] tokens that documents are cut from, at random places.
        recipe: see `MetaStartRecipe`.
        on_step: called with steps done and the loss of the last documents.
    Returns:
        the loss of every step's documents while they were read, in nats per token.
    Raises:
        ValueError: more than one level, or a text that is shorter than a document.
    """
    if len(model.deltas.read_levels) != 1:
        raise ValueError(
            f"the model reads the levels {[level.name for level in model.deltas.read_levels]}, which share one start; "
            "a start is learned for one; stack a single level, and give its start to others afterwards"
        )
    if len(ids) <= recipe.length:
        raise ValueError(
            f"the text has {len(ids)} tokens, a document needs {recipe.length + 1}; give more text, or a smaller length"
        )
    name = model.deltas.read_levels[0].name
    start = {part: value.clone() for part, value in model.deltas.learned_start(name).items()}
    optimizer = torch.optim.Adam(start.values(), lr=recipe.lr)
    dice, losses = torch.Generator().manual_seed(recipe.seed), []
    for step in range(recipe.steps):
        documents = _documents(ids, recipe, dice).to(model.device)
        report, state = read(
            model, documents, model.initial_state(recipe.rows), chunk_size=model.chunk_size, end="flush"
        )
        learned = state.memory[MEMORY]
        for part, value in start.items():
            value.grad = value - learned[f"{name}.{part}"].mean(0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (1 - step / recipe.steps)
        optimizer.step()
        model.set_starts(start)
        losses.append(float(report.nll.nanmean()))
        if on_step is not None:
            on_step(step + 1, losses[-1])
    return losses


def _documents(ids: Tensor, recipe: MetaStartRecipe, dice: torch.Generator) -> Tensor:
    """Cut documents at random places, [rows, length + 1]."""
    places = torch.randint(len(ids) - recipe.length, (recipe.rows,), generator=dice)
    return torch.stack([ids[place : place + recipe.length + 1] for place in places.tolist()])
