"""A Continuum Memory System as the head of a classifier.  [NL eq. 70-71, 73]"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode, Loss, best_seen, tensor_bytes
from everlearn.layers.cms import CMS
from everlearn.levels.clock import LEVEL_CLOCK, Level
from everlearn.memory.state import LayerState


def step_levels(eta: float, batch_size: int, steps: Sequence[int] = LEVEL_CLOCK) -> tuple[Level, ...]:
    """Return levels that step every 1, 4, 16 and 64 optimizer steps, all with the same rate.

    A CMS counts records: a period is `batch_size` times the steps. A level averages the gradients of its period.
    """
    return tuple(Level(f"every_{n}", n * batch_size, eta) for n in steps)


class CMSHead:
    """Read features through a chain of MLPs with clocks of their own, and a linear read-out above them.

        h = phi + CMS(phi);  logits = W h + b

    The read-out is a plain weight that steps on every batch at `readout_lr`: a new class must be writable at once,
    and so it is the same in the control with one rate. The levels' steps are clipped as everywhere in `CMS`.

    Args:
        encode: raw records -> features [B, D], of about unit size per feature.
        dim: D.
        num_classes: rows reserved in the read-out; a class has no say before its first record.
        levels: in order of application; see `step_levels`, and `one_rate_levels` for the control.
        batch_size: records per batch; divides every period.
        hidden_dim: hidden size of each level.
        readout_lr: step of the read-out per batch.
        loss: `loss_over_seen` or `loss_over_batch`.
        seed: of the levels' start.
    """

    stores_images = False

    def __init__(
        self,
        encode: Encode,
        dim: int,
        num_classes: int,
        levels: Sequence[Level],
        *,
        batch_size: int,
        readout_lr: float,
        loss: Loss,
        hidden_dim: int = 32,
        seed: int = 0,
    ) -> None:
        self.encode, self.readout_lr, self.loss = encode, readout_lr, loss
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cms = CMS(dim, hidden_dim, levels, chunk_size=batch_size)
        self.state = self.cms.track(None)
        self.readout = [torch.zeros(num_classes, dim), torch.zeros(num_classes)]
        self.seen = torch.zeros(num_classes, dtype=torch.bool)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Collect the batch's gradient, step the read-out, and write the levels that are due."""
        self.seen[y] = True
        state = self.cms.track(self.state)
        readout = [t.detach().requires_grad_() for t in self.readout]
        levels = list(self.cms.weights(state).values())
        loss = self.loss(self._logits(x, state, readout), y, self.seen)
        grads = torch.autograd.grad(loss, [*levels, *readout])
        self.readout = [(t - self.readout_lr * g).detach() for t, g in zip(readout, grads[len(levels) :], strict=True)]
        state = self.cms.accumulate(state, grads[: len(levels)], torch.tensor([len(y)]))
        state, _ = self.cms.write(state)
        # what one batch taught is a value to the next: no graph may grow along the stream
        self.state = LayerState({name: tensor.detach() for name, tensor in state.memory.items()})

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return best_seen(self._logits(x, self.state, self.readout), self.seen)

    def stores_bytes(self) -> int:
        """Return the bytes of the levels' weights, of the gradients they collect, their clocks and the read-out."""
        return tensor_bytes([*self.state.memory.values(), *self.readout])

    def moved(self) -> dict[str, float]:
        """Return how far each level is from its start, relative to the start's norm: 0 says that it learned nothing."""
        now, start = self.cms.weights(self.state), self.cms.weights(self.cms.initial_state(1))
        shares = {}
        for level in dict.fromkeys(name.split(".")[0] for name in now):
            names = [name for name in now if name.startswith(f"{level}.")]
            change = sum(float((now[name] - start[name]).detach().square().sum()) for name in names)
            shares[level] = (change / sum(float(start[name].detach().square().sum()) for name in names)) ** 0.5
        return shares

    def _logits(self, x: Tensor, state: LayerState, readout: list[Tensor]) -> Tensor:
        """Return [B, C]."""
        phi = self.encode(x)
        return (phi + self.cms(phi.unsqueeze(0), state)[0].squeeze(0)) @ readout[0].mT + readout[1]
