"""A CMS under a read-out that a slow memory of its inputs protects: orthogonal weight modification, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import Encode, Loss, best_seen, loss_over_batch, loss_over_seen, tensor_bytes
from everlearn.layers.cms import CMS
from everlearn.layers.leveled import LeveledMemory
from everlearn.levels.clock import Level
from everlearn.memory.state import LayerState
from everlearn.rules import Rule, least_squares
from everlearn.rules.types import Slots

Read = Callable[[Tensor, LayerState], Tensor]


class UnitLevels(LeveledMemory):
    """Levels of hidden units side by side, each a layer that reads the features itself.  [NL eq. 71, 74]

        z = [phi, relu(A_1 [phi, 1]), ..., relu(A_K [phi, 1])]

    The sum that eq. 74 takes over the levels' second layers is the read-out's: its columns for a level are that layer.

    Args:
        dim: length of a feature vector.
        units: of each level.
        levels: see `Level`.
        chunk_size: records of a batch; divides every period.
        gain: size of the units at the start, as in `features.RandomReLU`.
        seed: of the start; the global generator stays as it was.
    """

    def __init__(
        self, dim: int, units: int, levels: Sequence[Level], *, chunk_size: int, gain: float = 2.0, seed: int = 0
    ) -> None:
        super().__init__(levels, chunk_size=chunk_size)
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ParameterDict()
        for level in self.levels:
            start = torch.randn(units, dim + 1, generator=generator) * gain / dim**0.5
            start[:, -1] *= dim**0.5 / 2
            self.layers[level.name] = nn.Parameter(start)
        self.size = dim + units * len(self.levels)

    def learned_start(self, level: str) -> Mapping[str, Tensor]:
        """Return the level's layer before any record, [units, dim + 1]."""
        return {"units": self.layers[level]}

    def forward(self, phi: Tensor, state: LayerState) -> Tensor:
        """Return what the read-out reads, [B, size]."""
        with_one = torch.cat([phi, torch.ones_like(phi[:, :1])], 1)
        weights = {level.name: self._level_weights(level.name, state.memory)["units"] for level in self.levels}
        units = [(with_one @ weight.reshape(-1, weight.shape[-1]).mT).relu() for weight in weights.values()]
        return torch.cat([phi, *units], 1)

    def _links(self) -> dict[str, str]:
        return {}


class CMSWithOWM:
    """Train levels by gradients with clocks of their own, under a read-out whose steps a slow memory protects.

        z = read(phi);   (W, P) <- least_squares(W, dL/dW, z, P)      L: cross-entropy over all classes seen so far
        level l follows the gradient of a loss of its own at its clock

    The read-out's gradient passes P, the precision of all z so far: a step changes little of what earlier records
    need. This is orthogonal weight modification (Zeng et al., 2019) with P exact ([NL eq. 47] with P a slower level)
    and one head for all classes. The levels drift under it, and what P and W know of earlier records grows stale, so
    they must move slowly. With all levels at eta 0 nothing but the read-out learns: that control, and one pace for all
    levels at matched rates, belong beside every result. No record is kept and no boundary is needed.

    Args:
        encode: raw records -> features [B, D], not trained.
        levels: what learns below the read-out.
        read: features and the levels' state -> z [B, size]; `chain(cms)`, or a `UnitLevels` itself.
        size: of z.
        num_classes: C.
        ridge: the prior scatter of z, in units of a squared z, > 0.
        eta: share of the exact step of the read-out: 1 for `squared_error`, which is then ridge regression; a softmax
            needs answers far from 0 and 1, and a mean over the batch, so about 200.
        loss: what the read-out learns by.
        level_loss: what the levels learn by; classes absent from the batch are left alone by default.
    """

    stores_images = False

    def __init__(
        self,
        encode: Encode,
        levels: LeveledMemory,
        read: Read,
        size: int,
        num_classes: int,
        *,
        ridge: float,
        eta: float = 200.0,
        loss: Loss = loss_over_seen,
        level_loss: Loss = loss_over_batch,
    ) -> None:
        self.encode, self.levels, self.read = encode, levels, read
        self.loss, self.level_loss = loss, level_loss
        self.rule: Rule = partial(least_squares, ridge=ridge)
        self.eta = eta
        self.state = levels.track(None)
        self.weight = torch.zeros(num_classes, size)
        self.slots: Slots = {}
        self.seen = torch.zeros(num_classes, dtype=torch.bool)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Step the read-out, collect the levels' gradient, and step the levels that are due."""
        self.seen[y] = True
        state = self.levels.track(self.state)
        z = self.read(self.encode(x).detach(), state)
        weight = self.weight.detach().requires_grad_()
        (of_weight,) = torch.autograd.grad(self.loss(z.detach() @ weight.mT, y, self.seen), [weight])
        loss = self.level_loss(z @ self.weight.mT, y, self.seen)
        grads = torch.autograd.grad(loss, list(self.levels.weights(state).values()))
        self.weight, self.slots = self.rule(self.weight, of_weight, z.detach(), self.slots, eta=self.eta)
        state = self.levels.accumulate(state, grads, torch.tensor([len(y)]))
        state, _ = self.levels.write(state)
        self.state = LayerState({name: tensor.detach() for name, tensor in state.memory.items()})

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return best_seen(self.read(self.encode(x), self.state) @ self.weight.mT, self.seen)

    def stores_bytes(self) -> int:
        """Return the bytes of the levels with their gradients and clocks, the read-out and its precision."""
        return tensor_bytes([*self.state.memory.values(), self.weight, *self.slots.values()])


def chain(cms: CMS) -> Read:
    """Return how a chain of MLPs is read: z = phi + CMS(phi).  [NL eq. 70, 73]"""
    return lambda phi, state: phi + cms(phi.unsqueeze(0), state)[0].squeeze(0)
