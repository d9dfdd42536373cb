"""A state as a safetensors file: one codec for the learner, the demo and every store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from everlearn.memory.files import atomic_write
from everlearn.memory.in_state import SLOTS, check_slots
from everlearn.memory.state import ModelState, Tensors

FORMAT = 1  # of the file; it has its own number, apart from the package's version
KEY = "everlearn"


def to_tensors(state: ModelState) -> Tensors:
    """Return the state as one flat dictionary: "memory/<layer>/<name>", "context/<layer>/<name>" and the counters."""
    flat = {"tokens_seen": state.tokens_seen, "segment_len": state.segment_len}
    for part, layers in (("memory", state.memory), ("context", state.context)):
        for layer, tensors in layers.items():
            flat |= {f"{part}/{layer}/{name}": tensor for name, tensor in tensors.items()}
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in flat.items()}


def from_tensors(tensors: Mapping[str, Tensor]) -> ModelState:
    """Rebuild a state from `to_tensors`.

    Raises:
        ValueError: a name that no state has, or a counter that is missing.
    """
    parts: dict[str, dict[str, Tensors]] = {"memory": {}, "context": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        layer, _, leaf = rest.partition("/")
        if part in parts and leaf:
            parts[part].setdefault(layer, {})[leaf] = tensor
        elif name not in ("tokens_seen", "segment_len"):
            raise ValueError(f"tensor {name!r} does not belong to a state; it was not written by everlearn")
    if missing := [name for name in ("tokens_seen", "segment_len") if name not in tensors]:
        raise ValueError(f"tensor {missing[0]!r} is missing from the state; the file is not whole, use a backup")
    return ModelState(parts["memory"], parts["context"], tensors["tokens_seen"], tensors["segment_len"])


def encode(tensors: Tensors, meta: Mapping[str, Any]) -> bytes:
    """Return the bytes of a safetensors file that carries its own hash.

    Args:
        tensors: any flat dictionary.
        meta: JSON data that belongs to it, such as the fingerprint of the model.
    Raises:
        ValueError: NaN or infinity in a tensor: a file that `decode` would refuse is never written.
    """
    if (damaged := _not_finite(tensors)) is not None:
        raise ValueError(f"{damaged!r} holds NaN or infinity, so it was not saved; go back to an earlier state")
    content = {"format": FORMAT, "torch": torch.__version__, "meta": meta}
    content["sha256"] = digest(tensors, json.dumps(content, sort_keys=True))
    # one key, because safetensors writes several in any order, and equal knowledge should give equal bytes
    return safetensors.torch.save(dict(tensors), metadata={KEY: json.dumps(content, sort_keys=True)})


def decode(data: bytes, name: str) -> tuple[Tensors, dict[str, Any]]:
    """Read `encode`'s bytes and check everything: format, hash, and that every number is finite.

    Args:
        data: content of the file.
        name: what to call it in an error.
    Returns:
        tensors: as encoded.
        meta: as encoded.
    Raises:
        ValueError: not such a file, truncated, changed, of a newer format, or holding NaN or infinity.
    """
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{name} is truncated or no safetensors file ({error}); use a snapshot or a backup") from None
    if KEY not in header:
        raise ValueError(f"{name} was not written by everlearn (its header says nothing); give a file that it saved")
    content = _content(header[KEY], name)
    # before the hash: a newer format may take it over other things
    if content["format"] > FORMAT:
        raise ValueError(f"{name} has format {content['format']}, this version reads up to {FORMAT}; update everlearn")
    if content.pop("sha256", None) != digest(tensors, json.dumps(content, sort_keys=True)):
        raise ValueError(f"{name} was changed after it was saved (its hash does not match); use a snapshot or a backup")
    if (damaged := _not_finite(tensors)) is not None:
        raise ValueError(f"{name} holds NaN or infinity in {damaged!r}; use a snapshot or a backup from before")
    return tensors, content["meta"]


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that holds NaN or infinity, or None."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _content(text: str, name: str) -> dict[str, Any]:
    """Parse the header's own JSON."""
    damaged = f"{name} was changed after it was saved (its header is damaged); use a snapshot or a backup"
    try:
        content = json.loads(text)
    except ValueError:
        raise ValueError(damaged) from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int) or "meta" not in content:
        raise ValueError(damaged)
    return content


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return a SHA-256 over names, types, shapes and bytes of all tensors, and over `text`."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        sha.update(raw_bytes(tensor))
    return sha.hexdigest()


def raw_bytes(tensor: Tensor) -> bytes:
    """Return the numbers of a tensor of any dtype and layout, in row-major order."""
    # a copy: what torch calls contiguous may still have a stride that `view` refuses, where a dimension has size 1
    plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def save_tensors(path: Path, tensors: Tensors, meta: Mapping[str, Any]) -> None:
    """Write `encode`'s bytes atomically."""
    atomic_write(Path(path), encode(tensors, meta))


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read and check a file of `save_tensors`."""
    return decode(Path(path).read_bytes(), str(path))


def check_fits(state: ModelState, fresh: ModelState, name: str) -> None:
    """Refuse a state whose memory is not that of the model, or that has another number of rows.

    Slots are of any number, and a state may lack them: it was written before they were asked for.

    Args:
        state: what was loaded.
        fresh: the model's `initial_state`.
        name: what to call the state in an error.
    Raises:
        ValueError: a layer or tensor that the model lacks, or another shape or type.
    """
    rows = fresh.batch_size
    if state.batch_size != rows:
        raise ValueError(f"{name} has {state.batch_size} rows, {rows} needed; pick the right ones with state.rows()")
    if SLOTS in state.memory and SLOTS in fresh.memory:
        check_slots(state.memory[SLOTS], fresh.memory[SLOTS], name)
    elif SLOTS in state.memory:
        raise ValueError(
            f"{name} holds slots, which this learner does not read; give it slots=SlotMemory(...) as it had, or take "
            "them out: memory.without_slots(state)"
        )
    known = {layer: tensors for layer, tensors in fresh.memory.items() if layer != SLOTS}
    for layer, tensors in known.items():
        for leaf, tensor in tensors.items():
            found = state.memory.get(layer, {}).get(leaf)
            if found is None or found.shape != (rows, *tensor.shape[1:]) or found.dtype != tensor.dtype:
                got = "nothing" if found is None else f"{found.dtype} {tuple(found.shape)}"
                raise ValueError(
                    f"{name} does not fit this model: {layer}/{leaf} is {got}, the model has {tensor.dtype} "
                    f"{(rows, *tensor.shape[1:])}; load it with the model that wrote it"
                )
    unknown = sorted(set(state.memory) - set(fresh.memory)) or [
        f"{layer}/{leaf}"
        for layer, tensors in known.items()
        # what a rule keeps appears with its first step
        for leaf in sorted(set(state.memory[layer]) - set(tensors))
        if ".slot." not in leaf
    ]
    if unknown:
        raise ValueError(
            f"{name} holds a memory {unknown[0]!r} that this model lacks; load it with the model that wrote it"
        )
