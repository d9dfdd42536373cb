"""The level clock of training: groups that step every C steps, on the mean gradient of the steps between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from everlearn.levels.component import Component, nbytes
from everlearn.levels.gradients import Slot, gradient_memory
from everlearn.optim.around import Around, called
from everlearn.optim.views import finite, shared


@final
class Clocked(Around):
    """Step each group of another optimizer only every C steps.  [NL eq. 71]

        theta_l <- theta_l - step(mean over the last C_l steps of g)   when C_l divides the number of steps

    Between its steps a group is bit-identical: no decay, no momentum. A gradient that is missing in a step counts as
    zero. `LEVEL_CLOCK` (1, 4, 16, 64) is the clock that was published. A slower group holds one gradient of its size
    more. With inputs (`DGD`, `OWM`) inside, a group sees those of the steps that it takes.

    Args:
        optimizer: any optimizer; its own schedules and momenta count the steps that it takes.
        periods: C of each of its groups, in steps, >= 1; 1 is the plain optimizer, bit for bit. Also "period" of a
            group; a group that is added later has 1 unless it brings its own.
        average: True for the mean gradient of the period; False for the sum, as the paper prints it.
    Raises:
        ValueError: as many periods as groups are needed, each a whole number >= 1; a gradient that waits is not
            finite or is sparse. Nothing has changed then.
    Example:
        >>> slow, fast = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
        >>> groups = [{"params": fast.parameters()}, {"params": slow.parameters()}]
        >>> optimizer = Clocked(torch.optim.SGD(groups, lr=0.1), periods=(1, 4))
    """

    def __init__(self, optimizer: torch.optim.Optimizer, periods: Sequence[int], *, average: bool = True) -> None:
        if len(periods) != len(optimizer.param_groups):
            raise ValueError(
                f"{len(periods)} periods were given for {len(optimizer.param_groups)} groups; one for each is needed: "
                "split the parameters into a group for each level, or give another period"
            )
        for period in periods:
            _check(period)
        super().__init__(optimizer)
        self.average, self.steps = average, 0
        self._waiting: dict[Tensor, Tensor] = {}
        for group, period in zip(self.param_groups, periods, strict=True):
            group["period"] = period

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more parameters, every "period" steps of the group, or in every step."""
        _check(param_group.setdefault("period", 1))
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer inside, the number of steps, and the gradients that wait."""
        waiting = {n: self._waiting[w] for n, w in enumerate(self._parameters()) if w in self._waiting}
        return super().state_dict() | {"clock": {"steps": self.steps, "waiting": waiting}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; a state of the optimizer inside alone starts the clock."""
        periods = [group["period"] for group in self.param_groups]
        super().load_state_dict({name: part for name, part in state_dict.items() if name != "clock"})
        for group, period in zip(self.param_groups, periods, strict=True):
            group.setdefault("period", period)
        clock = state_dict.get("clock", {"steps": 0, "waiting": {}})
        self.steps, weights = clock["steps"], self._parameters()
        self._waiting = {
            weights[n]: held.to(weights[n].device, weights[n].dtype, copy=True) for n, held in clock["waiting"].items()
        }

    def memories(self) -> list[tuple[Component, list[Tensor]]] | None:
        """Return what the optimizer inside keeps, and the gradients that wait."""
        inside = super().memories()
        slow = [w for group in self.param_groups if group["period"] > 1 for w in group["params"] if w.requires_grad]
        if inside is None or not slow:
            return inside
        slot = Slot("waiting", "-", f"{'mean' if self.average else 'sum'} of the gradients of a period")
        return [*inside, (gradient_memory("Clocked", slot, nbytes(slow)), slow)]

    def _step(self) -> None:
        number = self.steps + 1
        late = [group for group in self.param_groups if number % group["period"]]
        due = [group for group in self.param_groups if group["period"] > 1 and number % group["period"] == 0]
        _refuse(late)
        given = [(w, w.grad) for group in late + due for w in group["params"]]
        for group in late:
            for weight in group["params"]:
                weight.grad = None
        for group in due:
            for weight in group["params"]:
                weight.grad = self._of_period(weight, group["period"])
        try:
            self.inner.step()
        finally:
            for weight, grad in given:
                weight.grad = grad
        for group in due:
            for weight in group["params"]:
                self._waiting.pop(weight, None)
        for group in late:
            self._collect(group["params"])
        self.steps = number

    def _of_period(self, weight: Tensor, period: int) -> Tensor | None:
        """Return the mean or sum of the gradients since the last step."""
        parts = [part for part in (self._waiting.get(weight), weight.grad) if part is not None]
        if not parts:
            return None
        total = parts[0].clone() if len(parts) == 1 else parts[0] + parts[1]
        return total.div_(period) if self.average else total

    def _collect(self, weights: list[Tensor]) -> None:
        """Add the gradients to those that wait."""
        new = [(weight, weight.grad) for weight in weights if weight.grad is not None]
        held = [(self._waiting[weight], grad) for weight, grad in new if weight in self._waiting]
        if held:
            torch._foreach_add_([old for old, _ in held], [grad for _, grad in held])
        self._waiting |= {weight: grad.clone() for weight, grad in new if weight not in self._waiting}


def _check(period: int) -> None:
    """Refuse what is no period."""
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise ValueError(f"period {period!r} is not a number of steps; a whole number >= 1 is needed; 1 steps always")


def _refuse(groups: list[dict[str, Any]]) -> None:
    """Refuse gradients that would spoil a whole period."""
    grads = [(group, weight, weight.grad) for group in groups for weight in group["params"] if weight.grad is not None]
    for group, weight, grad in grads:
        if grad.layout != torch.strided:
            raise ValueError(
                f"the gradient of {called(group, weight)} is sparse and cannot wait for its period; a dense one is "
                "needed: build the embedding with sparse=False, or set period 1 for its group"
            )
    # in one pass where nothing is wrong, which is nearly always
    if grads and not any(shared(grad) for _, _, grad in grads):
        largest = torch._foreach_norm([grad for _, _, grad in grads], float("inf"))
        if bool(torch.stack([norm.to(largest[0]) for norm in largest]).isfinite().all()):
            return
    for (group, weight, _), good in zip(grads, finite([grad for _, _, grad in grads]), strict=True):
        if not good:
            raise ValueError(
                f"the gradient of {called(group, weight)} has NaN or infinity in it and would spoil a whole period; "
                "every number must be finite: clip the gradient, lower lr, or skip the step"
            )
