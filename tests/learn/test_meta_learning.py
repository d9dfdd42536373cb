"""What the second order is for: a start that was learned through the inner steps learns a new task in fewer of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everlearn.layers import CMS, associate
from everlearn.levels import Level
from everlearn.memory.state import LayerState

DIM, HIDDEN, SHOTS, INNER, OUTER, LIMIT = 6, 24, 8, 5, 400, 40
ETAS = (0.1, 0.3, 1.0, 3.0)


def squared(prediction: Tensor, value: Tensor) -> Tensor:
    return (prediction - value).square().sum(-1)


class Tasks:
    """Linear maps cos(a) P + sin(a) Q with a random angle: their mean is zero, and their family has two dimensions."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.bases = [torch.linalg.qr(torch.randn(DIM, DIM, generator=self.generator))[0] for _ in range(2)]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return keys and values, [count, 3 SHOTS, DIM]: the first SHOTS to learn from, the others to test on."""
        angle = torch.rand(count, 1, 1, generator=self.generator) * 2 * torch.pi
        maps = angle.cos() * self.bases[0] + angle.sin() * self.bases[1]
        keys = torch.randn(count, 3 * SHOTS, DIM, generator=self.generator)
        return keys, keys @ maps.mT


def memory(eta: float = 0.3) -> CMS:
    return CMS(DIM, HIDDEN, [Level("fast", SHOTS, eta)], chunk_size=SHOTS)


def train(tasks: Tasks, seed: int, inner: int, *, second_order: bool) -> CMS:
    """Train a start on the loss after `inner` steps on each task; with none this is the pooled loss of all tasks."""
    torch.manual_seed(seed)
    cms = memory()
    optimizer = torch.optim.Adam(cms.parameters(), lr=5e-3)
    for _ in range(OUTER):
        keys, values = tasks.draw(16)
        shown = [t[:, :SHOTS].repeat(1, inner, 1) for t in (keys, values)]
        _, state = associate(cms, *shown, squared, second_order=second_order)
        loss = squared(cms(keys[:, SHOTS:], state)[0], values[:, SHOTS:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return cms


@torch.no_grad()
def curve(start: CMS, keys: Tensor, values: Tensor, eta: float) -> list[float]:
    """Return the loss on the test pairs before and after each of LIMIT steps on the shown ones."""
    cms = memory(eta)
    cms.load_state_dict(start.state_dict())
    state, losses = LayerState(), []
    for _ in range(LIMIT + 1):
        losses.append(float(squared(cms(keys[:, SHOTS:], state)[0], values[:, SHOTS:]).mean()))
        _, state = associate(cms, keys[:, :SHOTS], values[:, :SHOTS], squared, state)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_meta_learned_start_learns_a_held_out_task_in_fewer_steps(seed):
    """The start of the pooled loss may choose its step among four after the fact; the other keeps the one it has.

    From about 6.1, the meta-learned start came to 4.22, 4.36 and 4.38 in five steps; the other's best of 40 steps and
    four sizes was 5.34, 5.43 and 5.51. A start that was learned in first order did as well as this one.
    """
    tasks = Tasks(seed)
    meta = train(tasks, seed, INNER, second_order=True)
    pooled = train(tasks, seed, 0, second_order=False)
    keys, values = tasks.draw(64)
    reached = curve(meta, keys, values, 0.3)[INNER]
    others = [curve(pooled, keys, values, eta) for eta in ETAS]
    needed = min((n for losses in others for n, loss in enumerate(losses) if loss <= reached), default=LIMIT + 1)
    assert needed > 2 * INNER
