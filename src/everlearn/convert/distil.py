"""Teach the memories of a hybrid what stood in their places gave: locally first, then the hybrid as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.convert.adapter import base_hash
from everlearn.convert.in_place import InPlace
from everlearn.convert.replaced import ReplacedModel
from everlearn.memory.state import all_finite

EXACT = 1e-6  # local loss below which a memory has nothing to learn, and Adam's steps would only disturb it
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
Seen = dict[str, tuple[Tensor, Tensor]]  # name -> what an attention or an MLP read and gave


@dataclass(frozen=True)
class DistilStep:
    """What one step showed, before it changed anything.

    Args:
        phase: "local" or "whole".
        step: steps done in this phase, this one included.
        loss: local: mean over the places of the squared error over the variance of what stood there gave, so that 1 is
            an answer of zero; whole: the objective.
        places: name of a place -> its local loss; empty in the phase "whole".
    """

    phase: str
    step: int
    loss: float
    places: Mapping[str, float] = field(default_factory=dict)


def kl(student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence of the student's prediction from the teacher's, in nats.

    Args:
        student: logits, [B, T, V].
        teacher: logits, [B, T, V].
        ids: not looked at.
    """
    p, q = (F.log_softmax(_wide(logits), -1) for logits in (teacher, student))
    return (p.exp() * (p - q)).sum(-1).mean()


def next_token(student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the text itself, in nats; the teacher is not asked.

    Args:
        student: logits, [B, T, V].
        teacher: not looked at.
        ids: the text, [B, T].
    """
    return F.cross_entropy(_wide(student)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def distil(
    student: ReplacedModel,
    teacher: nn.Module,
    batches: Iterable[Tensor],
    *,
    local: int,
    whole: int,
    local_lr: float = 1e-2,
    lr: float = 1e-3,
    objective: Objective = kl,
    places: Iterable[str] | None = None,
) -> Iterator[DistilStep]:
    """Let a hybrid learn from the model that it was made of, one step for each batch.

    First each memory alone learns to give what the teacher's attention or MLP gives for the same inputs, all of them in
    one pass of the teacher; one that gives it already is left alone. Then every parameter of the hybrid learns the
    objective. AdamW, no weight decay, the gradient's norm bounded by 1, the rate falling to a tenth along a line in
    each phase. Stop whenever you like: the student is whole after every step, and in evaluation mode.

    Args:
        student: changed in place.
        teacher: the original model, by its hash; left as it is.
        batches: tokens, [B, T] each, T >= 2; as many as there are steps, or more.
        local: steps of the first phase, >= 0.
        whole: steps of the second phase, >= 0.
        local_lr: rate of the first phase.
        lr: rate of the second phase.
        objective: `kl`, `next_token`, or another function of (student's logits, teacher's logits, ids).
        places: names of the places that learn locally, such as "block.0.attention"; None means all that were replaced.
    Yields:
        what each step showed.
    Raises:
        ValueError: another teacher, a hybrid on which levels are stacked, a place that holds no memory, too few
            batches, or a loss that is not finite.
    """
    check_original(student, teacher)
    if not any(parameter.requires_grad for parameter in student.base.parameters()):
        raise ValueError(
            "the hybrid's parameters take no gradient, as when levels are stacked on it; teach it first, or give the "
            "base back with unstack()"
        )
    held = student.places()
    chosen = list(held) if places is None else list(places)
    if unknown := [name for name in chosen if name not in held]:
        raise ValueError(f"{unknown[0]!r} holds no memory; the replaced places are {list(held)}; name some of them")
    supply = iter(batches)
    learners = {name: held[name] for name in chosen}
    if learners:
        paths = {name: student.path(name) for name in chosen}
        yield from _local(learners, teacher, paths, supply, local, local_lr)
    yield from _whole(student.base, teacher, supply, whole, lr, objective)


def check_original(student: ReplacedModel, teacher: nn.Module) -> None:
    """Refuse a teacher that is not the model which a hybrid was made of.

    Raises:
        ValueError: it has another hash.
    """
    if (found := base_hash(teacher)) != student.config.original:
        raise ValueError(
            f"the hybrid was made of another model: its SHA-256 is {student.config.original[:12]}..., this "
            f"{type(teacher).__name__} has {found[:12]}...; give the original, with the weights and the dtype that it "
            "had"
        )


def local_loss(place: InPlace, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return the squared error of a memory over the variance of what stood in its place gave, |y - a|^2 / |a|^2.

    Args:
        place: the memory in its place.
        inputs: what the attention or the MLP read, [B, T, dim].
        outputs: what it gave, [B, T, dim].
    """
    return (place.read(inputs, None) - outputs).square().sum() / outputs.square().sum()


def record(
    teacher: nn.Module, ids: Tensor, paths: Mapping[str, str]
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Read a batch with the original; return its logits and what the named modules read and gave.

    Args:
        teacher: the original model.
        ids: [B, T].
        paths: any name -> path of an attention or an MLP in the teacher.
    """
    found: Seen = {}
    with ExitStack() as stack, torch.no_grad():
        for name, path in paths.items():
            hook = teacher.get_submodule(path).register_forward_hook(partial(_keep, found, name), with_kwargs=True)
            stack.callback(hook.remove)
        logits = teacher(input_ids=ids, use_cache=False).logits
    return logits, found


def _local(
    held: Mapping[str, InPlace],
    teacher: nn.Module,
    paths: Mapping[str, str],
    batches: Iterator[Tensor],
    steps: int,
    lr: float,
) -> Iterator[DistilStep]:
    """Train each memory on what stood in its place read and gave."""
    parameters = [p for place in held.values() for p in place.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    for step in range(steps):
        _, seen = record(teacher, _next(batches, "local", step, steps), paths)
        losses = {name: local_loss(place, *seen[name]) for name, place in held.items()}
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        wrong = [loss for name, loss in losses.items() if not values[name] < EXACT]
        for place in held.values():
            place.zero_grad(set_to_none=True)
        if wrong:
            total = torch.stack(wrong).sum()
            _step(optimizer, total, [list(place.parameters()) for place in held.values()], lr, step, steps)
        yield DistilStep("local", step + 1, sum(values.values()) / len(values), values)


def _whole(
    base: nn.Module, teacher: nn.Module, batches: Iterator[Tensor], steps: int, lr: float, objective: Objective
) -> Iterator[DistilStep]:
    """Train every parameter of a hybrid."""
    parameters = [p for p in base.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    for step in range(steps):
        ids = _next(batches, "whole", step, steps)
        asked = record(teacher, ids, {})[0] if objective is not next_token else torch.empty(0)
        loss = objective(base(input_ids=ids, use_cache=False).logits, asked, ids)
        base.zero_grad(set_to_none=True)
        _step(optimizer, loss, [parameters], lr, step, steps)
        yield DistilStep("whole", step + 1, float(loss.detach()))


def _step(
    optimizer: torch.optim.Optimizer, loss: Tensor, groups: list[list[nn.Parameter]], lr: float, step: int, steps: int
) -> None:
    """Take one step; each group's gradient has a bound of its own."""
    loss.backward()
    norms = [nn.utils.clip_grad_norm_(bounded, 1.0) for bounded in groups]
    if not all_finite((loss, *norms)):
        raise ValueError(
            f"step {step + 1} has a loss of {loss.item():g} and a gradient of {float(max(norms)):g}, and both must be "
            f"finite; nothing was changed by it; lower the rate {lr:g}"
        )
    for group in optimizer.param_groups:
        group["lr"] = lr * (1 - 0.9 * step / max(1, steps - 1))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _next(batches: Iterator[Tensor], phase: str, step: int, steps: int) -> Tensor:
    """Return the next batch; refuse to go on without one."""
    ids = next(batches, None)
    if ids is None:
        raise ValueError(
            f"the batches ended before step {step + 1} of {steps} of the phase {phase!r}; give one for each step, or "
            "ask for fewer steps"
        )
    return ids


def _keep(found: Seen, name: str, _module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    """Note what a module read and gave; attention gives its weights besides."""
    inputs = args[0] if args else kwargs["hidden_states"]
    given = output[0] if isinstance(output, tuple) else output
    found[name] = cast(Tensor, inputs).detach(), cast(Tensor, given).detach()


def _wide(logits: Tensor) -> Tensor:
    """Return logits in at least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()
