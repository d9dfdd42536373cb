"""Muon as an optimizer: orthogonalised momentum for matrices."""

from __future__ import annotations

from functools import partial
from typing import final

import torch

from everlearn.optim.base import Group, Params, RuleOptimizer
from everlearn.rules import Rule, newton_schulz


@final
class Muon(RuleOptimizer):
    """Step along the orthogonalised momentum, the rule `newton_schulz`.  [NL eq. 42-44, 52]

    For the matrices of hidden layers. Embeddings, heads, norms and biases take AdamW: `groups(model)` sends them there.
    A constant `lr` leaves noise, because the size of a step does not fall with the gradient: use a decaying schedule.

    It is the rule and not torch.optim.Muon, so that memory and optimizer have one home: it takes convolutions, float64
    and parameters shared between processes, and batches small matrices. The numbers are those of
    torch.optim.Muon(adjust_lr_fn="match_rms_adamw") up to the bfloat16 that torch orthogonalises in. That takes
    less than half of the time where the processor multiplies in bfloat16: `ns_dtype=torch.bfloat16` does it here.

    Args:
        params: see `RuleOptimizer`.
        lr: the root mean square of a change is about 0.2 lr in every matrix, as with AdamW at this rate.
        weight_decay: decoupled, for parameters with two dimensions or more.
        beta: share of the old momentum that is kept.
        ns_steps: Newton-Schulz steps.
        nesterov: False orthogonalises the momentum itself.
        ns_dtype: type of the Newton-Schulz steps; None is float32, or float64 for parameters in it.
    Example:
        >>> import torch
        >>> from everlearn.optim import groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
        >>> optimizer = Muon(groups(model), lr=2e-3)
        >>> model(torch.ones(4, 16)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        *,
        weight_decay: float = 0.0,
        beta: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        ns_dtype: torch.dtype | None = None,
    ) -> None:
        options = {"beta": beta, "ns_steps": ns_steps, "nesterov": nesterov, "ns_dtype": ns_dtype}
        super().__init__(params, lr, weight_decay, options)

    def rule_of(self, group: Group) -> Rule:
        """Return `newton_schulz` with the options of a group."""
        return partial(
            newton_schulz,
            beta=group["beta"],
            ns_steps=group["ns_steps"],
            nesterov=group["nesterov"],
            ns_dtype=group["ns_dtype"],
        )
