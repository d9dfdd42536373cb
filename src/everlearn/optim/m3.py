"""M3 as an optimizer: a fast and a slow momentum, both orthogonalised."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

import torch

from everlearn.optim.base import Group, Params, RuleOptimizer
from everlearn.optim.checks import check_options
from everlearn.rules import Rule, m3


@final
class M3(RuleOptimizer):
    """Step along two momenta of different speed, the rule `m3`.  [NL alg. 1, eq. 75]

    For the matrices of hidden layers; `groups(model)` sends the rest to AdamW. Measured in runs of up to 490 steps it
    ties with `Muon`, the second moment helping and the slow memory not: alpha 0 was at least as good as the .3 that is
    true to the paper. Not for streams whose tasks change, where the slow memory goes on pushing along the last one.
    A constant `lr` leaves noise: use a decaying schedule.

    It keeps 16 bytes for each number in float32, 8 with alpha 0, 4 less without the second moment. The slow memory
    begins when alpha rises above 0 and is dropped when it falls back.

    Args:
        params: see `RuleOptimizer`.
        lr: the root mean square of a change is 0.2 lr in every matrix, as about with AdamW at this rate.
        weight_decay: decoupled, for parameters with two dimensions or more.
        alpha: share of the slow memory, >= 0, or a function of the number of steps done, which a state does not save; a
            number in a group goes before it.
        beta: share of the fast momentum that is kept per step.
        beta_slow: share of the slow one that is kept per refresh.
        beta2: share of the old second moment that is kept.
        slow_period: steps between two refreshes of the slow memory, which costs one orthogonalisation.
        ns_steps: Newton-Schulz steps.
        second_moment: False steps along the orthogonalised momenta themselves.
        eps: added to the root of the second moment, in units of the orthogonalised step.
        ns_dtype: type of the Newton-Schulz steps, as of `Muon`.
    Example:
        >>> import torch
        >>> from everlearn.optim import groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
        >>> optimizer = M3(groups(model), lr=2e-3, alpha=lambda step: min(0.3, step / 1000))
        >>> model(torch.ones(4, 16)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        *,
        weight_decay: float = 0.0,
        alpha: float | Callable[[int], float] = 0.3,
        beta: float = 0.95,
        beta_slow: float = 0.9,
        beta2: float = 0.95,
        slow_period: int = 10,
        ns_steps: int = 5,
        second_moment: bool = True,
        eps: float = 1e-8,
        ns_dtype: torch.dtype | None = None,
    ) -> None:
        self.schedule = alpha if callable(alpha) else None
        options: Group = {"alpha": None if callable(alpha) else alpha, "beta": beta, "beta_slow": beta_slow}
        options |= {"beta2": beta2, "slow_period": slow_period, "ns_steps": ns_steps, "ns_dtype": ns_dtype}
        super().__init__(params, lr, weight_decay, {**options, "second_moment": second_moment, "eps": eps})

    def rule_of(self, group: Group) -> Rule:
        """Return `m3` with the options of a group."""
        alpha = group["alpha"]
        if alpha is None:
            alpha = self._scheduled(group["step"])
        return partial(
            m3,
            alpha=alpha,
            beta=group["beta"],
            beta_slow=group["beta_slow"],
            beta2=group["beta2"],
            slow_period=group["slow_period"],
            ns_steps=group["ns_steps"],
            second_moment=group["second_moment"],
            eps=group["eps"],
            ns_dtype=group["ns_dtype"],
        )

    def _scheduled(self, step: int) -> float:
        """Return the alpha of a step; refuse a state that was saved under a schedule where there is none."""
        if self.schedule is None:
            raise ValueError(
                "a group has no alpha, and M3 was built without a schedule; a number or a function is needed: build it "
                "with the alpha that the saved state had, or set group['alpha']"
            )
        alpha = float(self.schedule(step))
        check_options({"alpha": alpha})
        return alpha
