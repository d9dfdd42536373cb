"""Any rule as a torch optimizer: the same pure function that a memory writes with, applied to slow weights."""

from __future__ import annotations

from typing import final

from everlearn.optim.base import Group, Keys, Params, RuleOptimizer
from everlearn.rules import Rule


@final
class FromRule(RuleOptimizer):
    """Train slow weights by a rule: the optimizer's home of what a memory writes with.

    Every parameter is given to the rule as one matrix: a linear weight as it is, a vector as one row, a convolution as
    [out, the rest]. Rules for matrices alone, and rules with keys, are not for embeddings, norms and biases: give
    those to a group with elementwise=True. Schedulers set `lr` of a group; a state that is saved and loaded goes on bit
    for bit. See `RuleOptimizer` for what all of them share.

    Args:
        params: parameters, named parameters or groups of them, in float32 or float64.
        rule: a rule of `everlearn.rules`; `functools.partial(rule, beta=0.8)` configures one.
        lr: the rule's eta, in the unit that the rule names; >= 0.
        weight_decay: decoupled, for parameters with two dimensions or more; >= 0.
        inputs: of `capture(model)`, for rules that need the layer's input; it collects until `step` or `zero_grad`.
    Raises:
        ValueError: lr is negative, a parameter is in half precision, or a step finds no input for a parameter.
    Example:
        >>> import torch
        >>> from everlearn.optim import capture
        >>> from everlearn.rules import dgd
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = FromRule(layer.parameters(), dgd, lr=0.1, inputs=capture(layer))
        >>> layer(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, params: Params, rule: Rule, lr: float, *, weight_decay: float = 0.0, inputs: Keys | None = None
    ) -> None:
        self.rule = rule
        super().__init__(params, lr, weight_decay, inputs=inputs)

    def rule_of(self, group: Group) -> Rule:
        """Return the rule as it was given."""
        return self.rule
