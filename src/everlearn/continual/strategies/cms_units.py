"""A CMS of hidden units under an exact read-out: slow levels by gradients, and a memory of inputs that protects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from everlearn.continual.strategies.base import Encode, Loss, best_seen, loss_over_batch, squared_error, tensor_bytes
from everlearn.layers.leveled import LeveledMemory
from everlearn.levels.clock import Level
from everlearn.memory.state import LayerState
from everlearn.rules import Rule, least_squares
from everlearn.rules.types import Slots


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


class CMSUnits:
    """Train levels of units by gradients with clocks of their own, read by a head that a slow memory protects.

        z = levels(phi);   (W, P) <- least_squares(W, dE/dW, z, P),   E = 1/2 |W z - onehot|^2
        A_l follows the gradient of loss(temperature W z) at its clock

    The head's gradient passes P, the precision of all z so far: a step changes nothing that earlier records need (OWM
    in its exact form, [NL eq. 47] with P a slower level). The levels drift under it, and what P and W know of earlier
    records then grows stale: so levels must move slowly. With all levels at eta 0 this is recursive ridge regression on
    random units, RanPAC in another order, bit for bit; that control, and one pace for all levels at matched rates,
    belong beside every result. No record is kept and no boundary is needed.

    Args:
        encode: raw records -> features [B, D], not trained.
        levels: what is read.
        num_classes: C.
        ridge: the prior scatter of the read-out, in units of a squared z, > 0.
        temperature: factor on the answers, which lie near 0 and 1, in the loss of the levels.
        loss: which classes compete in it.
    """

    stores_images = False

    def __init__(
        self,
        encode: Encode,
        levels: UnitLevels,
        num_classes: int,
        *,
        ridge: float,
        temperature: float = 10.0,
        loss: Loss = loss_over_batch,
    ) -> None:
        self.encode, self.levels, self.loss, self.temperature = encode, levels, loss, temperature
        self.rule: Rule = partial(least_squares, ridge=ridge)
        self.state = levels.track(None)
        self.weight = torch.zeros(num_classes, levels.size)
        self.slots: Slots = {}
        self.seen = torch.zeros(num_classes, dtype=torch.bool)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Step the head exactly, collect the levels' gradient, and step the levels that are due."""
        self.seen[y] = True
        state = self.levels.track(self.state)
        z = self.levels(self.encode(x).detach(), state)
        weights = list(self.levels.weights(state).values())
        head = self.weight.detach().requires_grad_()
        (of_head,) = torch.autograd.grad(squared_error(z.detach() @ head.mT, y, self.seen), [head])
        loss = self.loss(self.temperature * z @ self.weight.mT, y, self.seen)
        grads = torch.autograd.grad(loss, weights) if weights else []
        self.weight, self.slots = self.rule(self.weight, of_head, z.detach(), self.slots, eta=1.0)
        state = self.levels.accumulate(state, grads, torch.tensor([len(y)]))
        state, _ = self.levels.write(state)
        self.state = LayerState({name: tensor.detach() for name, tensor in state.memory.items()})

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return best_seen(self.levels(self.encode(x), self.state) @ self.weight.mT, self.seen)

    def stores_bytes(self) -> int:
        """Return the bytes of the levels with their gradients and clocks, the head and its precision."""
        return tensor_bytes([*self.state.memory.values(), self.weight, *self.slots.values()])
