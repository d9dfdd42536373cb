"""Deep momentum (DMGD) as an optimizer, for study."""

from __future__ import annotations

from functools import partial
from typing import final

from everlearn.optim.base import Group, Params, RuleOptimizer
from everlearn.rules import Rule, deep_momentum


@final
class DeepMomentum(RuleOptimizer):
    """Step along a momentum that a small network scales, the rule `deep_momentum`.  [NL eq. 50]

    Experimental. The network scales every element by a positive factor (a sign is never changed) and starts as Adam. It
    did not help in any form that was tried, and a step costs tens of times AdamW's: for study only, and nowhere else.

    Args:
        params: see `RuleOptimizer`.
        lr: as of AdamW: about the change of a number in one step.
        weight_decay: decoupled, for parameters with two dimensions or more.
        beta: share of the old momentum that is kept.
        beta_slow: the same for the slower one.
        beta2: the same for the average of squares.
        eps: added to the root of that average, in units of the gradient.
        eta_inner: step size of the network; 0 leaves Adam bit for bit.
        samples: elements of a matrix that the network is fitted to in a step.
    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = DeepMomentum(layer.named_parameters(), lr=1e-3)
        >>> layer(torch.ones(4, 2)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        beta: float = 0.9,
        beta_slow: float = 0.99,
        beta2: float = 0.999,
        eps: float = 1e-8,
        eta_inner: float = 3e-3,
        samples: int = 2048,
    ) -> None:
        options = {"beta": beta, "beta_slow": beta_slow, "beta2": beta2, "eps": eps}
        super().__init__(params, lr, weight_decay, {**options, "eta_inner": eta_inner, "samples": samples})

    def rule_of(self, group: Group) -> Rule:
        """Return `deep_momentum` with the options of a group."""
        return partial(
            deep_momentum,
            beta=group["beta"],
            beta_slow=group["beta_slow"],
            beta2=group["beta2"],
            eps=group["eps"],
            eta_inner=group["eta_inner"],
            samples=group["samples"],
        )
