"""Delta momentum as an optimizer: a memory of gradients that forgets by the delta rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

from torch import Tensor

from everlearn.optim.base import Group, Params, RuleOptimizer
from everlearn.rules import Rule, Slots, delta_momentum, delta_momentum_matrix, delta_momentum_printed
from everlearn.rules.delta_momentum import Map, identity

Form = Callable[..., tuple[Tensor, Slots]]  # one of the three delta rules of `everlearn.rules`

# form -> beta and gamma where the user names none; the printed form has no gamma
STARTS: dict[Form, tuple[float, float | None]] = {
    delta_momentum: (0.95, 0.9),
    delta_momentum_matrix: (0.9, 0.3),
    delta_momentum_printed: (0.9, None),
}


@final
class DeltaMomentum(RuleOptimizer):
    """Step along a momentum that forgets what the new gradient contradicts.  [ours; NL eq. 48-49, 51]

    The gated form is the default: measured to need fewer steps than momentum on deterministic problems, where beta .99
    is better, and to gain nothing on noisy ones. `form=delta_momentum_matrix` forgets along the new gradient whether
    it agrees or not, and is slower; not for embeddings. `form=delta_momentum_printed` is the paper's line, which
    overflows on gradients of ordinary size: for comparison only, and every step warns.

    Args:
        params: see `RuleOptimizer`.
        lr: in units of the gradient, as of `Momentum`; of the printed form, the step inside the memory.
        weight_decay: decoupled, for parameters with two dimensions or more.
        beta: share of the old momentum that is kept; None takes .95 gated, .9 otherwise.
        gamma: share of what is forgotten on top, in [0, beta]; None takes .9 gated, .3 for the matrix form.
        form: `delta_momentum`, `delta_momentum_matrix` or `delta_momentum_printed` of `everlearn.rules`.
        precondition: u = P g, a function of the gradient of one matrix alone.
        feature_map: phi, applied to u before the key is formed; not for the printed form.
    Raises:
        ValueError: gamma above beta, or gamma or a feature map for the printed form.
    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = DeltaMomentum(layer.named_parameters(), lr=0.1)
        >>> layer(torch.ones(4, 2)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float = 0.1,
        *,
        weight_decay: float = 0.0,
        beta: float | None = None,
        gamma: float | None = None,
        form: Form = delta_momentum,
        precondition: Map = identity,
        feature_map: Map = identity,
    ) -> None:
        self.form, self.precondition, self.feature_map = form, precondition, feature_map
        own_beta, own_gamma = STARTS.get(form, STARTS[delta_momentum])
        options = {"beta": own_beta if beta is None else beta, "gamma": own_gamma if gamma is None else gamma}
        super().__init__(params, lr, weight_decay, options)

    def rule_of(self, group: Group) -> Rule:
        """Return the form with the options of a group."""
        beta, gamma = group["beta"], group["gamma"]
        if self.form is delta_momentum_printed:
            if gamma is not None or self.feature_map is not identity:
                raise ValueError(
                    f"delta_momentum_printed got gamma {gamma} or a feature map; it takes beta and a precondition; "
                    "leave them out, or choose delta_momentum_matrix, which has both"
                )
            return partial(delta_momentum_printed, alpha=beta, precondition=self.precondition)
        if gamma > beta:
            raise ValueError(
                f"gamma {gamma} is above beta {beta}, so that more would be forgotten than is held; it must be in "
                "[0, beta]; lower gamma or raise beta"
            )
        return partial(self.form, beta=beta, gamma=gamma, precondition=self.precondition, feature_map=self.feature_map)
