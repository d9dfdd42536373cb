"""A trainer as a checkpoint and back, whatever the number of processes on either side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from everlearn.memory.codec import from_tensors, to_tensors
from everlearn.memory.state import ModelState, Tensors, concat_rows
from everlearn.models.alphabet import Pieces
from everlearn.train.checkpoint import Checkpoint
from everlearn.train.processes import like, whole
from everlearn.train.trainer import Trainer, carried


def capture(trainer: Trainer, counts: Mapping[str, float]) -> Checkpoint:
    """Return all that the next steps depend on; every process has to ask, and the first gets all of it.

    Args:
        trainer: between two steps.
        counts: what the run has counted so far, kept as it is.
    """
    rest = {f"optimizer/{name}/{slot}": whole(tensor) for name, slot, tensor in _slots(trainer)}
    for part, state in enumerate(trainer.states):
        if state is not None:
            tensors = to_tensors(_gather(trainer, state))
            rest |= {f"state/{part}/{name}": tensor for name, tensor in tensors.items()}
    rest["random/cpu"] = torch.get_rng_state()
    if trainer.device.type == "cuda":
        rest["random/cuda"] = torch.cuda.get_rng_state(trainer.device)
    about = {"counts": dict(counts), "environment": environment(trainer), "vocabulary": _alphabet(trainer)}
    return Checkpoint(trainer.step_number, trainer.weights(), rest, about)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> list[str]:
    """Go on where a checkpoint stands.

    Args:
        trainer: just built, with the config and the data of the run.
        checkpoint: of any number of processes.
    Returns:
        what is different here from where it was saved, such as "threads: 2, now 1"; where there is anything, the run
        goes on to rounding and not to the bit.
    Raises:
        ValueError: a checkpoint of another model.
    """
    parameters = dict(trainer.model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if shapes != {name: tensor.shape for name, tensor in checkpoint.weights.items()}:
        wrong = sorted(name for name in {*shapes, *checkpoint.weights} if shapes.get(name) != _shape(checkpoint, name))
        raise ValueError(
            f"the checkpoint of step {checkpoint.step} is another model's: it holds {_shape(checkpoint, wrong[0])} for "
            f"{wrong[0]!r}, this model {shapes.get(wrong[0])}; begin a new run in another folder"
        )
    if checkpoint.about.get("vocabulary") != _alphabet(trainer):
        raise ValueError(
            f"the checkpoint of step {checkpoint.step} was saved with another vocabulary than the run's tokenizer "
            "has; copy the whole folder again"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(like(checkpoint.weights[name], parameter))
    _restore_slots(trainer, parameters, checkpoint.rest)
    for part in range(len(trainer.states)):
        if tensors := _below(f"state/{part}/", checkpoint.rest):
            own = torch.arange(trainer.config.rows)[trainer.share]
            state: ModelState = from_tensors(tensors).rows(own)
            trainer.states[part] = state.map(lambda tensor: tensor.to(trainer.device))
    torch.set_rng_state(checkpoint.rest["random/cpu"])
    if trainer.device.type == "cuda" and "random/cuda" in checkpoint.rest:
        torch.cuda.set_rng_state(checkpoint.rest["random/cuda"], trainer.device)
    trainer.step_number = checkpoint.step
    before, now = checkpoint.about.get("environment", {}), environment(trainer)
    return [f"{name}: {before.get(name)}, now {value}" for name, value in now.items() if before.get(name) != value]


def environment(trainer: Trainer) -> dict[str, Any]:
    """Return what decides the last bits of a result beside config and data."""
    return {
        "torch": torch.__version__,
        "device": trainer.device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": trainer.processes.count,
    }


def _slots(trainer: Trainer) -> Iterator[tuple[str, str, Tensor]]:
    """Yield (parameter, slot, tensor) of all that the optimizers keep."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    for optimizer in trainer.optimizers:
        for parameter, slots in optimizer.state.items():
            for slot, tensor in slots.items():
                yield names[id(parameter)], slot, tensor


def _restore_slots(trainer: Trainer, parameters: Mapping[str, Tensor], rest: Tensors) -> None:
    """Give every parameter what its optimizer kept for it."""
    kept: dict[str, Tensors] = {}
    for name, tensor in _below("optimizer/", rest).items():
        parameter, _, slot = name.rpartition("/")
        kept.setdefault(parameter, {})[slot] = tensor
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = next(name for name, own in parameters.items() if own is parameter)
                # in one order everywhere, for processes share each tensor as they come to it; a counter of steps has
                # another shape, and stays on the CPU
                optimizer.state[parameter] = {
                    slot: like(tensor, parameter) if tensor.shape == parameter.shape else tensor
                    for slot, tensor in sorted(kept.get(name, {}).items())
                }


def _gather(trainer: Trainer, state: ModelState) -> ModelState:
    """Return the rows of all processes together; what the others get than the first is of no use."""
    processes = trainer.processes
    if processes.count == 1:
        return state
    states: list[Any] = [None] * processes.count
    distributed.gather_object(to_tensors(state), states if processes.first else None)
    if not processes.first:
        return state
    fresh = carried(trainer.model, 1)
    return concat_rows([from_tensors(tensors) for tensors in states], fresh.map(Tensor.cpu))


def _below(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _shape(checkpoint: Checkpoint, name: str) -> torch.Size | None:
    return checkpoint.weights[name].shape if name in checkpoint.weights else None


def _alphabet(trainer: Trainer) -> str:
    """Return a hash of the vocabulary, or "" for bytes."""
    alphabet = trainer.corpus.alphabet
    if not isinstance(alphabet, Pieces):
        return ""
    return hashlib.sha256(alphabet.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
