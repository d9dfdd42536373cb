"""Find the components of a model: each layer's own, and by structure those of other modules."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from torch.optim import Optimizer

from everlearn.levels import naming
from everlearn.levels.component import NEVER, STEPS, Component, Describable, nbytes
from everlearn.levels.gradients import gradient_memories, unknown_memory
from everlearn.levels.structure import OTHER, memories, unread, weights_kind


@dataclass
class Found:
    """One component at one place of the model, before what repeats is put together.

    Args:
        component: as its layer said.
        path: of its layer.
        places: dotted names of the modules that hold its parameters, or its own.
        weights: its parameters, with their names.
    """

    component: Component
    path: str
    places: list[str]
    weights: dict[str, Tensor] = field(default_factory=dict)

    def key(self) -> tuple[object, ...]:
        """Return what two components share that are one row of the description."""
        c = self.component
        form = naming.pattern(self.places[0]) if c.is_memory or c.name else naming.container(self.places[0])
        return form, replace(c, name="", owns=(), state_bytes=0, token_bytes=0), c.is_memory, c.name

    def refers(self, names: Sequence[str]) -> list[str]:
        """Return names within its layer as names in the model."""
        return [naming.join(self.path, name) for name in names]


def survey(model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[list[Component], list[str]]:
    """Return the components of a model and its optimizers, those of repeated blocks as one, in the model's order.

    Every parameter belongs to exactly one of them: to the outermost layer that says it owns it.

    Args:
        model: any module; ours are asked for `components()`, others are read by their structure.
        optimizers: those that train it; a parameter that none of them trains is frozen.
    Returns:
        components: named, counted and with their pace; their levels are not decided yet.
        notes: what could not be told, and what is counted once.
    """
    said = _said(model)
    found = [*said, *_left_over(model, said)]
    owner = {
        id(parameter): type(optimizer).__name__
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    rows, holders = _merge([part for item in found for part in _by_optimizer(item, owner, bool(optimizers))])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = list(rows)
    for optimizer in optimizers:
        for component, parameters in gradient_memories(optimizer):
            own = {holders[names[id(p)]] for p in parameters if id(p) in names}
            name = _unlike(component.name, [row.name for row in rows])
            rows.append(replace(component, name=name, gradient_of=tuple(w.name for w in weights if w.name in own)))
    return rows, [*_unknown(model, found), *_astray(model, said), *unknown_memory(optimizers), *_tied(model)]


def _unknown(model: nn.Module, found: list[Found]) -> list[str]:
    """Say which modules may keep a memory that is not described."""
    kinds = [type(module).__name__ for module in model.modules() if own_components(module) is None and unread(module)]
    others = [item.component.kind for item in found if item.component.kind.startswith(OTHER)]
    kinds += [kind.removeprefix(OTHER) for kind in others]
    return [
        f"{kind} is not a module that is known here; if it keeps a memory, that is not shown"
        for kind in dict.fromkeys(kinds)
    ]


def _astray(model: nn.Module, said: list[Found]) -> list[str]:
    """Say which names a layer gives that nothing in the model bears, and which weights are no parameters."""
    there = {name for name, _ in [*model.named_modules(), *model.named_parameters(remove_duplicate=False)]}
    there |= {place for item in said if item.component.is_memory for place in item.places}
    notes = []
    for path, module in model.named_modules():
        kind = type(module).__name__
        names = vars(module).keys() | dict(module.named_children()).keys()
        if "_packed_params" in names and not path.endswith("_packed_params"):
            notes.append(f"{kind} keeps its weights packed, outside its parameters; they are not counted")
        for component in own_components(module) or []:
            for field_name in ("owns", "start_from", "gradient_of"):
                for name in vars(component)[field_name]:
                    if naming.join(path, name) not in there:
                        notes.append(
                            f"{field_name} of component {component.name!r} of {kind} names {name!r}, which is not "
                            "there; it is left out"
                        )
    return list(dict.fromkeys(notes))


def _tied(model: nn.Module) -> list[str]:
    """Say which parameters are one and the same, and so counted once."""
    first: dict[int, str] = {}
    notes = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            notes.append(f"{name} is {first[id(parameter)]} again, counted once")
    return notes


def own_components(module: nn.Module) -> list[Component] | None:
    """Return what a module says of itself, or None where it has no method `components`."""
    if isinstance(module, Describable) and inspect.ismethod(module.components):
        return module.components()
    return None


def _said(model: nn.Module) -> list[Found]:
    """Ask every module for its components, the outer ones first; each parameter goes to the first that owns it."""
    found: list[Found] = []
    taken: set[int] = set()
    for path, module in model.named_modules():
        own_words = own_components(module)
        for component in memories(module, path) if own_words is None else own_words:
            own = {
                naming.join(path, name): parameter
                for name, parameter in module.named_parameters()
                if any(name == part or name.startswith(f"{part}.") for part in component.owns)
                and id(parameter) not in taken
            }
            if component.owns and not own:
                continue
            taken |= {id(parameter) for parameter in own.values()}
            places = [name.rpartition(".")[0] for name in own] or [naming.join(path, component.name)]
            found.append(Found(component, path, list(dict.fromkeys(places)), own))
    return found


def _left_over(model: nn.Module, said: list[Found]) -> list[Found]:
    """Describe the parameters that no layer has claimed, by the structure of the model."""
    claimed = {id(parameter) for item in said for parameter in item.weights.values()}
    modules = dict(model.named_modules())
    has_blocks = any(naming.container(path) for path in modules)
    found: dict[str, Found] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in claimed:
            continue
        path = name.rpartition(".")[0]
        parts = path.split(".") if path else []
        chain = [modules[".".join(parts[:n])] for n in range(len(parts), 0, -1)] or [model]
        kind = weights_kind(chain, bool(naming.container(path)), has_blocks)
        item = found.setdefault(path, Found(Component(name="", kind=kind, owns=(path,)), path, [path]))
        item.weights[name] = parameter
    return list(found.values())


def _by_optimizer(item: Found, owner: dict[int, str], training: bool) -> list[Found]:
    """Split a component by what steps its parameters: an optimizer, or nothing."""
    if item.component.is_memory:
        return [item]
    split: dict[str, dict[str, Tensor]] = {}
    for name, parameter in item.weights.items():
        steps = owner.get(id(parameter), "") if parameter.requires_grad else ""
        split.setdefault(steps, {})[name] = parameter
    parts = []
    for steps, weights in split.items():
        component = replace(
            item.component,
            update_period=1 if steps else math.inf,
            unit=STEPS if steps else NEVER,
            objective="training loss" if steps else "-",
            rule=steps or ("frozen" if training else "-"),
            context_flow="training batches" if steps else "earlier training",
        )
        places = list(dict.fromkeys(name.rpartition(".")[0] for name in weights))
        parts.append(Found(component, item.path, places, weights))
    return parts


def _merge(found: list[Found]) -> tuple[list[Component], dict[str, str]]:
    """Put what repeats into one component each, with names that differ; return also who holds each parameter."""
    groups: dict[tuple[object, ...], list[Found]] = {}
    for item in found:
        groups.setdefault(item.key(), []).append(item)
    names = _names(groups)
    holders: dict[str, str] = {}
    stores: dict[str, str] = {}  # of a memory, the place that its layer calls it by
    for name, items in zip(names, groups.values(), strict=True):
        holders |= {parameter: name for item in items for parameter in item.weights}
        stores |= {place: name for item in items if item.component.is_memory for place in item.places}
    rows = []
    for name, items in zip(names, groups.values(), strict=True):
        weights = [parameter for item in items for parameter in item.weights.values()]
        row = replace(
            items[0].component,
            name=name,
            parameters=sum(parameter.numel() for parameter in weights),
            parameter_bytes=nbytes(weights),
            state_bytes=sum(item.component.state_bytes for item in items),
            token_bytes=sum(item.component.token_bytes for item in items),
            gradient_of=_starts(
                [n for item in items for n in item.refers(item.component.gradient_of)], holders, stores
            ),
            start_from=_starts([n for item in items for n in item.refers(item.component.start_from)], holders, stores),
            conditioned_on=_resolve([n for item in items for n in item.refers(item.component.conditioned_on)], holders),
        )
        rows.append(row)
    return rows, holders


def _starts(paths: list[str], holders: dict[str, str], stores: dict[str, str]) -> tuple[str, ...]:
    """Return the rows that hold the parameters, or are the memories, that these paths name."""
    return tuple(dict.fromkeys((*_resolve(paths, holders), *(stores[path] for path in paths if path in stores))))


def _names(groups: dict[tuple[object, ...], list[Found]]) -> list[str]:
    """Name each group after its places; where two would be called the same, the kind tells them apart."""
    plain = [naming.shared_name(place for item in items for place in item.places) for items in groups.values()]
    kinds = [items[0].component.kind for items in groups.values()]
    names: list[str] = []
    for name, kind in zip(plain, kinds, strict=True):
        name = f"{name} ({kind})" if name and plain.count(name) > 1 else name or kind
        names.append(_unlike(name, names))
    return names


def _unlike(name: str, taken: list[str]) -> str:
    """Return the name, with a number where it is taken."""
    tries = (name if n == 1 else f"{name} #{n}" for n in itertools.count(1))
    return next(each for each in tries if each not in taken)


def _resolve(paths: list[str], holders: dict[str, str]) -> tuple[str, ...]:
    """Return the rows that hold parameters at or below these paths."""
    whole, below = set(paths), tuple(f"{path}." if path else "" for path in paths)
    return tuple(dict.fromkeys(row for name, row in holders.items() if name in whole or name.startswith(below)))
