"""Momentum, plain and preconditioned, as optimizers."""

from __future__ import annotations

from functools import partial
from typing import final

from everlearn.optim.base import Group, Params, RuleOptimizer
from everlearn.rules import Rule, momentum, preconditioned


@final
class Momentum(RuleOptimizer):
    """Step along a decaying average of the gradients, the rule `momentum`.  [NL eq. 10-13, 33]

    For any shape, embeddings and vectors too. With `average=False` it is torch.optim.SGD with momentum, whose steps
    are 1 / (1 - beta) times larger; with the average, `lr` keeps its meaning whatever beta is. Not where layers need
    steps of very different sizes, as in transformers: take `Muon` or AdamW there.

    Args:
        params: see `RuleOptimizer`.
        lr: in units of the gradient; 0.1 to 1 where plain gradient descent works.
        weight_decay: decoupled, for parameters with two dimensions or more.
        beta: share of the old average that is kept.
        average: False for the printed sum.
    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = Momentum(layer.named_parameters(), lr=0.1)
        >>> layer(torch.ones(4, 2)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, params: Params, lr: float = 0.1, *, weight_decay: float = 0.0, beta: float = 0.9, average: bool = True
    ) -> None:
        super().__init__(params, lr, weight_decay, {"beta": beta, "average": average}, any_shape=True)

    def rule_of(self, group: Group) -> Rule:
        """Return `momentum` with the options of a group."""
        return partial(momentum, beta=group["beta"], average=group["average"])


@final
class PreconditionedMomentum(RuleOptimizer):
    """Step along an average of rescaled gradients, the rule `preconditioned`.  [NL eq. 46-47]

    Each gradient is divided by the scale that was known when it came; AdamW divides their average by the newest scale.
    For any shape. It was measured about as good as AdamW and no better, so it is for study.

    Args:
        params: see `RuleOptimizer`.
        lr: as of AdamW: about the change of a number in one step.
        weight_decay: decoupled, for parameters with two dimensions or more.
        beta: share of the old average that is kept.
        beta2: the same for the average of squares.
        eps: added to the root of that average, in units of the gradient.
    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = PreconditionedMomentum(layer.named_parameters(), lr=1e-3)
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
        beta2: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, weight_decay, {"beta": beta, "beta2": beta2, "eps": eps}, any_shape=True)

    def rule_of(self, group: Group) -> Rule:
        """Return `preconditioned` with the options of a group."""
        return partial(preconditioned, beta=group["beta"], beta2=group["beta2"], eps=group["eps"])
