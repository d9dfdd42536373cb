"""Any rule as a torch optimizer: the same pure function that a memory writes with, applied to slow weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from everlearn.levels.component import Component, nbytes, rule_name
from everlearn.levels.gradients import Slot, gradient_memory
from everlearn.optim.inputs import Inputs
from everlearn.rules import Rule
from everlearn.rules.shapes import as_matrix


class FromRule(torch.optim.Optimizer):
    """Train slow weights by a rule: the optimizer's home of what a memory writes with.

    Every parameter is given to the rule as one matrix: a linear weight as it is, a vector as one row, a convolution as
    [out, the rest]. Rules for matrices alone, and rules with keys, are not for embeddings, norms and biases: give
    those to another optimizer. Schedulers set `lr` of a group; a state that is saved and loaded goes on bit for bit.

    Args:
        params: parameters or groups of them, in float32 or float64.
        rule: a rule of `everlearn.rules`; `functools.partial(rule, beta=0.8)` configures one.
        lr: the rule's eta, in the unit that the rule names; >= 0.
        inputs: of `capture(model)`, for rules that need the layer's input; it collects until `step` or `zero_grad`.
    Raises:
        ValueError: lr is negative, a parameter is in half precision, or a step finds no input for a parameter.
    Example:
        >>> from everlearn.optim import capture
        >>> from everlearn.rules import dgd
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = FromRule(layer.parameters(), dgd, lr=0.1, inputs=capture(layer))
        >>> layer(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        rule: Rule,
        lr: float,
        *,
        inputs: Inputs | None = None,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr {lr} is not a step size; it must be >= 0; try 0.01")
        self.rule, self.inputs = rule, inputs
        super().__init__(params, {"lr": lr})
        for weight in self._parameters():
            if weight.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"a parameter {tuple(weight.shape)} is {weight.dtype}, in which small steps round to nothing; "
                    "float32 or float64 is needed: keep the weights in float32 and compute under torch.autocast"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Apply the rule to every parameter with a gradient; return what `closure` returned, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ready = [(w, group["lr"]) for group in self.param_groups for w in group["params"] if w.grad is not None]
        # every key before the first change, so that a refusal leaves all weights as they were
        keys = [self._key(weight) for weight, _ in ready]
        for (weight, lr), key in zip(ready, keys, strict=True):
            matrix, grad = _flat(weight), _flat(weight.grad)
            changed, slots = self.rule(matrix, grad, key, dict(self.state[weight]), eta=lr)
            weight.copy_(changed.reshape(weight.shape))
            self.state[weight] = slots
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and with them the inputs that they belong to."""
        super().zero_grad(set_to_none)
        if self.inputs is not None:
            for weight in self._parameters():
                self.inputs.forget(weight)

    def memories(self) -> list[tuple[Component, list[Tensor]]] | None:
        """Return what the rule keeps, as `describe` shows it, before the first step too.

        Counters (one number per matrix) are left out. None for parameters on "meta", where a rule cannot step.
        """
        sizes: dict[str, int] = {}
        trained = [weight for weight in self._parameters() if weight.requires_grad]
        if any(weight.is_meta for weight in trained):
            return None
        for weight in trained:
            nothing = _flat(torch.zeros_like(weight))
            # one key of zeros serves the rules that need any
            slots = self.state[weight] or self.rule(nothing, nothing, nothing[:1], {}, eta=0.0)[1]
            for name, slot in slots.items():
                sizes[name] = sizes.get(name, 0) + (nbytes([slot]) if slot.numel() > 1 else 0)
        title = type(self).__name__
        return [
            (gradient_memory(title, Slot(name, "-", f"slot of {rule_name(self.rule)}"), size), trained)
            for name, size in sizes.items()
            if size
        ]

    def _parameters(self) -> list[Tensor]:
        """Return the parameters of all groups."""
        return [weight for group in self.param_groups for weight in group["params"]]

    def _key(self, weight: Tensor) -> Tensor | None:
        """Return the keys of a parameter and forget them; refuse a parameter whose layer was not seen."""
        if self.inputs is None:
            return None
        key = self.inputs.of(weight)
        self.inputs.forget(weight)
        if key is None:
            raise ValueError(
                f"the rule was given the inputs of a model, and none for a parameter {tuple(weight.shape)}; only the "
                "weights of nn.Linear have keys: call capture(model) before the first forward pass, and give biases, "
                "embeddings and norms to another optimizer"
            )
        return key


def _flat(tensor: Tensor) -> Tensor:
    """Return a matrix as it is, a vector as one row, a convolution as [out, the rest]."""
    return tensor.flatten(1) if tensor.ndim > 2 else as_matrix(tensor)
