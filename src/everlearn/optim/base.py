"""What all optimizers made of rules share: groups, checks before the first change, state, and steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from everlearn.levels.component import Component, nbytes, rule_name
from everlearn.levels.gradients import Slot, average, gradient_memory
from everlearn.optim.checks import Ready, check_gradients, check_options, check_weight
from everlearn.optim.views import Elements, Matrices
from everlearn.rules import Rule, Slots

Group = dict[str, Any]
Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Group]

ADAMW: Group = {"betas": (0.9, 0.999), "eps": 1e-8}  # what a group with elementwise=True starts from, as torch's
SMALL = 32_768  # numbers of a matrix up to which several of one shape are stepped as a batch: faster, measured on a CPU


class Keys(Protocol):
    """What the layers of parameters have read since the last step, for rules that need it."""

    def of(self, weight: Tensor) -> Tensor | None:
        """Return the key of a parameter for its rule, or None where nothing was seen."""
        ...

    def nothing(self, weight: Tensor) -> Tensor | None:
        """Return the key of a layer that has read nothing, from which the size of what a rule keeps can be told."""
        ...

    def forget(self, weight: Tensor) -> None:
        """Drop it: its gradient was used or zeroed."""
        ...


class RuleOptimizer(torch.optim.Optimizer, ABC):
    """A rule of `everlearn.rules` as a torch optimizer; abstract.

    A subclass says how a group's options make a rule (`rule_of`), and nothing else. Options live in the groups, where
    a schedule may change them between steps. `lr` is the eta of the rule, outside its memory; `weight_decay` shrinks
    parameters with two dimensions or more by lr * weight_decay before the step, and leaves vectors alone.

    A group with `elementwise=True` is stepped by torch's AdamW instead, with its own `betas` and `eps`: for
    embeddings, heads, norms and biases. `everlearn.optim.groups(model)` makes both kinds.

    Before the first parameter changes, a step refuses options out of range, sparse gradients, and gradients with NaN
    or infinity, naming the parameter where the groups hold names (`model.named_parameters()`); nothing has changed
    then, in any process. Parameters that processes share (FSDP2) keep their state shared in the same way.

    Args:
        params: parameters, named parameters, or groups of either; in float32 or float64, or complex.
        lr: step size of the groups that name none, in the unit that the rule names; >= 0.
        weight_decay: decoupled, >= 0.
        options: of the rule: plain numbers, strings and booleans, which `state_dict` saves with the groups.
        any_shape: the rule steps every number by itself, so that it needs no matrices.
        inputs: of `capture(model)`, for rules that need the layer's input; it collects until `step` or `zero_grad`.
    Raises:
        ValueError: an option out of its range, or a parameter in half precision.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        weight_decay: float = 0.0,
        options: Group | None = None,
        *,
        any_shape: bool = False,
        inputs: Keys | None = None,
    ) -> None:
        self.options, self.any_shape, self.inputs = options or {}, any_shape, inputs
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "elementwise": False})

    @abstractmethod
    def rule_of(self, group: Group) -> Rule:
        """Return the rule of a group, with the options that it has now; `group["step"]` counts the steps before."""

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters; a group takes the options of the optimizer where it names none.

        Raises:
            ValueError: as the constructor; the optimizer is as it was.
        """
        own = ADAMW if param_group.get("elementwise", False) else {**self.options, "step": 0}
        for name, value in own.items():
            param_group.setdefault(name, value)
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step every parameter that has a gradient; return what `closure` returned, or None.

        Raises:
            ValueError: as the class says; the parameters are as they were.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            # rules decide from their counters: traced, every step would be compiled anew, with other last digits
            torch.compiler.disable(self._step)()
        else:
            self._step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, and with them the inputs that they belong to."""
        super().zero_grad(set_to_none)
        if self.inputs is not None:
            for _, weight in self._parameters():
                self.inputs.forget(weight)

    def load_state_dict(self, state_dict: Group) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: a group of the state lacks an option of this optimizer, so it is another's; nothing has changed.
        """
        for number, group in enumerate(state_dict["param_groups"]):
            own = ADAMW if group.get("elementwise", False) else {**self.options, "step": 0}
            missing = [name for name in ("lr", "weight_decay", "elementwise", *own) if name not in group]
            if missing:
                raise ValueError(
                    f"group {number} of the state has no {missing[0]!r}, so {type(self).__name__} has not saved it; a "
                    "state of the same optimizer is needed: load that one, or begin without a state"
                )
        super().load_state_dict(state_dict)

    def memories(self) -> list[tuple[Component, list[Tensor]]] | None:
        """Return what the rule keeps, as `describe` shows it, before the first step too.

        Counters (one number per matrix) are left out. None for parameters on "meta", where a rule cannot step.
        """
        if any(weight.is_meta for _, weight in self._parameters()):
            return None
        found: dict[Slot, list[tuple[Tensor, int]]] = {}
        for group in self.param_groups:
            for weight in [weight for weight in group["params"] if weight.requires_grad and weight.numel()]:
                for slot, size in self._kept(group, weight):
                    found.setdefault(slot, []).append((weight, size))
        title = type(self).__name__
        return [
            (gradient_memory(title, slot, sum(size for _, size in those)), [weight for weight, _ in those])
            for slot, those in found.items()
        ]

    def __getstate__(self) -> Group:
        # torch names what it knows; a copy needs the settings of the subclass too
        return {**super().__getstate__(), **{name: value for name, value in vars(self).items() if name[0] != "_"}}

    def _step(self) -> None:
        """Check everything, then step every group."""
        rules = [self._checked_rule(group) for group in self.param_groups]
        ready = [_stepped(group) for group in self.param_groups]
        check_gradients([one for those in ready for one in those])
        # every key before the first change, so that a refusal leaves all weights as they were
        keyed = [those if rule is None else self._keyed(those) for rule, those in zip(rules, ready, strict=True)]
        for rule, group, those in zip(rules, self.param_groups, keyed, strict=True):
            if rule is None:
                self._step_adamw(group, those)
            else:
                self._step_rule(rule, group, those)

    def _step_rule(self, rule: Rule, group: Group, ready: list[Ready]) -> None:
        """Apply the rule to the parameters of a group, small ones of one shape together."""
        view = self._view
        for batch in self._batches(ready):
            weights = [view.read(one.weight) for one in batch]
            grads = [view.read(one.grad) for one in batch]
            slots = [self._slots(one.weight) for one in batch]
            if group["weight_decay"]:
                keep = 1 - group["lr"] * group["weight_decay"]
                pairs = zip(batch, weights, strict=True)
                weights = [keep * seen if one.weight.ndim > 1 else seen for one, seen in pairs]
            if len(batch) == 1:
                changed, after = rule(weights[0], grads[0], batch[0].key, slots[0], eta=group["lr"])
                results = [(changed, after)]
            else:
                together = {name: torch.stack([own[name] for own in slots]) for name in slots[0]}
                changed, after = rule(torch.stack(weights), torch.stack(grads), None, together, eta=group["lr"])
                results = [(changed[row], _row(after, row, len(batch))) for row in range(len(batch))]
            for one, (new, kept) in zip(batch, results, strict=True):
                self._keep(one.weight, new, kept)
        group["step"] += 1

    def _batches(self, ready: list[Ready]) -> Iterator[list[Ready]]:
        """Yield the parameters that one call of the rule steps: large ones and those with keys alone."""
        batches: dict[Any, list[Ready]] = {}
        for one in ready:
            # a set: a state out of a file may name its slots in another order
            weight, names = one.weight, frozenset(self.state[one.weight])
            alone = one.key is not None or self.any_shape or weight.numel() > SMALL
            kind = (_matrix_shape(weight), weight.ndim > 1, weight.dtype, weight.device, names)
            batches.setdefault(id(weight) if alone else kind, []).append(one)
        yield from batches.values()

    def _slots(self, weight: Tensor) -> Slots:
        """Return what the rule keeps for a parameter, as the rule sees it."""
        return {
            name: self._view.read(slot) if slot.shape == weight.shape else slot
            for name, slot in self.state[weight].items()
        }

    def _keep(self, weight: Tensor, changed: Tensor, slots: Slots) -> None:
        """Write a parameter, and keep its slots; those like the parameter are shared between processes as it is."""
        self.state[weight] = {
            name: self._view.back(slot, weight) if slot.shape == changed.shape else slot for name, slot in slots.items()
        }
        weight.copy_(self._view.back(changed, weight))

    def _step_adamw(self, group: Group, ready: list[Ready]) -> None:
        """Step as torch.optim.AdamW does, vectors without decay."""
        for weight in [one.weight for one in ready]:
            if not self.state[weight]:
                moments = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                self.state[weight] = {"step": torch.zeros((), dtype=torch.float32), **moments}
        for decay in (True, False):
            those = [one for one in ready if (one.weight.ndim > 1) == decay]
            states = [self.state[one.weight] for one in those]
            adamw(
                [one.weight for one in those],
                [one.grad for one in those],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                foreach=False if isinstance(group["lr"], Tensor) else None,
                has_complex=any(one.weight.is_complex() for one in those),
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"] if decay else 0.0,
                eps=group["eps"],
                maximize=False,
            )

    @property
    def _view(self) -> Elements | Matrices:
        return Elements() if self.any_shape else Matrices()

    def _checked_rule(self, group: Group) -> Rule | None:
        """Return the rule of a group, or None for AdamW, once its options are in their ranges."""
        check_options(group)
        return None if group["elementwise"] else self.rule_of(group)

    def _check(self, group: Group) -> None:
        """Refuse a group that this optimizer cannot step."""
        self._checked_rule(group)
        real = None if group["elementwise"] or self.any_shape else type(self).__name__
        for name, weight in _named(group):
            check_weight(name, weight, real)

    def _keyed(self, ready: list[Ready]) -> list[Ready]:
        """Return the parameters with their keys, which are used up; refuse one whose layer was not seen."""
        if self.inputs is None:
            return ready
        keyed = [one._replace(key=self.inputs.of(one.weight)) for one in ready]
        for one in keyed:
            self.inputs.forget(one.weight)
        for one in keyed:
            if one.key is None:
                raise ValueError(
                    f"the rule was given the inputs of a model, and none for {one.name}; only the weights of nn.Linear "
                    "have keys: call capture(model) before the first forward pass, and give biases, embeddings and "
                    "norms to another optimizer"
                )
        return keyed

    def _parameters(self) -> list[tuple[str, Tensor]]:
        """Return the parameters of all groups with their names."""
        return [pair for group in self.param_groups for pair in _named(group)]

    def _kept(self, group: Group, weight: Tensor) -> list[tuple[Slot, int]]:
        """Return what is kept for a parameter, and its bytes."""
        if group["elementwise"]:
            first, second = group["betas"]
            return [
                (average("exp_avg", first), nbytes([weight])),
                (average("exp_avg_sq", second, "g^2"), nbytes([weight])),
            ]
        rule = self.rule_of(group)
        nothing = torch.zeros_like(self._view.read(weight.detach()))
        # one key of zeros serves the rules that need any
        key = self.inputs.nothing(weight) if self.inputs else nothing[:1] if nothing.ndim else None
        slots = self.state[weight] or rule(nothing, nothing, key, {}, eta=0.0)[1]
        said = f"slot of {rule_name(rule)}"
        return [(Slot(name, "-", said), nbytes([slot])) for name, slot in slots.items() if slot.numel() > 1]


def _named(group: Group) -> list[tuple[str, Tensor]]:
    """Return the parameters of a group with their names, or their shapes where they have none."""
    weights = group["params"]
    names = group.get("param_names")
    words = [f"parameter {name!r}" for name in names] if names else [f"a parameter {tuple(w.shape)}" for w in weights]
    return list(zip(words, weights, strict=True))


def _stepped(group: Group) -> list[Ready]:
    """Return the parameters of a group that have a gradient; one without any number has nothing to step."""
    return [
        Ready(name, weight, weight.grad) for name, weight in _named(group) if weight.grad is not None and weight.numel()
    ]


def _matrix_shape(weight: Tensor) -> tuple[int, ...]:
    """Return [out, in] of a parameter as a rule for matrices sees it."""
    return (weight.shape[0], weight.numel() // max(weight.shape[0], 1)) if weight.ndim > 1 else (1, weight.numel())


def _row(slots: Slots, row: int, count: int) -> Slots:
    """Return what a batch keeps for one of its matrices; a counter may have one number for all."""
    return {name: slot.expand(count, *slot.shape[1:])[row].clone() for name, slot in slots.items()}
