"""Orthogonal weight modification as an optimizer: each layer is protected where its earlier inputs look.  [ours]"""

from __future__ import annotations

from functools import partial
from typing import final

from torch import Tensor

from everlearn.optim.base import Group, Params, RuleOptimizer
from everlearn.optim.inputs import Inputs, Statistic
from everlearn.optim.places import Places
from everlearn.optim.readings import Reading
from everlearn.optim.statistics import Moment, Sketch
from everlearn.rules import Rule, Slots
from everlearn.rules.owm import owm_by_moment
from everlearn.rules.owm_low_rank import owm_by_sketch


@final
class OWM(RuleOptimizer):
    """Step where earlier inputs of a layer do not look: momentum with a slow preconditioner.  [ours; NL eq. 47]

        S <- S + C,   C = mean over the layer's inputs of x x^T / |x|^2
        P = (I + kappa S)^-1, refreshed every f steps, and at once where it lags
        m <- beta m + (1 - beta) g,   W <- W - lr (m / (1 - beta^t)) P

    Orthogonal weight modification (Zeng et al. 2019) kept online, which is recursive least squares: a task that is over
    stays learned because the next one may not move what its inputs excite. It is no faster optimizer: steps shrink as
    1 / (1 + kappa S) along what is read all the time, so every stream ends rigid where its inputs have been. Use it for
    streams without replay; biases are not protected, so give them a small rate.

    Memory, fp32: 4 B for each number of the momentum and 8 in^2 B for a layer; 4 in^2 B more while a step collects. A
    layer of 256 x 256 takes 12 B per parameter, one of 1024 x 256 (out x in) 6, one of 256 x 1024 36. With `rank` r a
    layer takes 4 r in B instead of 8 in^2, whatever its width.

    Args:
        params: groups of `everlearn.optim.groups(model)`, or weights of layers that `capture` knows. Convolutions are
            protected by patches, groups of channels by themselves, embeddings token by token.
        lr: in the unit of the gradient, about three times that of SGD; .2 to .6 on a small MLP.
        inputs: of `capture(model)`, called before the first forward pass.
        beta: momentum, in [0, 1).
        kappa: how strongly inputs are protected, >= 0; 0 is momentum.
        refresh_period: f, steps between refreshes of P, >= 1.
        rank: None for the exact S; else directions that are remembered of it (`owm_low_rank`), for layers with inputs
            of some thousands: P is then fresh in every step, and what it cannot hold is not protected.
        weight_decay: decoupled, >= 0; a decay forgets what P protects.
    Raises:
        ValueError: as `RuleOptimizer`, or a layer whose weight has a gradient has not been seen.
    Example:
        >>> import torch
        >>> from everlearn.optim import capture
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = OWM(layer.parameters(), lr=0.3, inputs=capture(layer))
        >>> layer(torch.ones(4, 2)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        *,
        inputs: Inputs,
        beta: float = 0.9,
        kappa: float = 1.0,
        refresh_period: int = 10,
        rank: int | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"beta": beta, "kappa": kappa, "refresh_period": refresh_period, "rank": rank}
        super().__init__(params, lr, weight_decay, options, inputs=Seen(inputs))
        self._places = Places(self)
        inputs.collect(self._collect)

    def rule_of(self, group: Group) -> Rule:
        """Return the rule on the moment of the inputs, or on its sketch where the group has a rank."""
        shared = {"beta": group["beta"], "kappa": group["kappa"]}
        if group["rank"] is None:
            return partial(_for_layer, partial(owm_by_moment, refresh_period=group["refresh_period"], **shared))
        return partial(_for_layer, partial(owm_by_sketch, rank=group["rank"], **shared))

    def _collect(self, reading: Reading, x: Tensor) -> Statistic | None:
        """Keep of an input what the rule of its weight needs."""
        group = self._places.group_of(reading.weight)
        if group is None or group["elementwise"]:
            return None
        return Moment.of(reading, x) if group["rank"] is None else Sketch.of(reading, x, rank=group["rank"])


class Seen:
    """The inputs of a model, which refuse a layer that they have not seen by its name."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def of(self, weight: Tensor) -> Tensor:
        """Return the mean of what was collected."""
        found = self.inputs.of(weight)
        if found is None:
            raise ValueError(self.inputs.unseen("OWM", weight, f"a parameter {tuple(weight.shape)}"))
        return found

    def nothing(self, weight: Tensor) -> Tensor | None:
        """Return the mean of no input, zeros."""
        return self.inputs.nothing(weight)

    def forget(self, weight: Tensor) -> None:
        """Drop it."""
        self.inputs.forget(weight)


def _for_layer(
    rule: Rule, weights: Tensor, grad: Tensor, seen: Tensor, slots: Slots, *, eta: float | Tensor
) -> tuple[Tensor, Slots]:
    """Apply a rule to a layer's weight [out, n] as the matrices that read keys of the length in `seen`."""
    shape = (*seen.shape[:-2], -1, seen.shape[-1])
    changed, slots = rule(weights.reshape(shape), grad.reshape(shape), seen, slots, eta=eta)
    return changed.reshape(weights.shape), slots
