"""What stacking adds to a pretrained model, in a folder of its own: the base is named by its hash, never copied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from everlearn.convert.config import StackConfig
from everlearn.convert.families import Matrix, is_matrix, shape_of
from everlearn.convert.folder import Folder
from everlearn.convert.in_place import places
from everlearn.memory.codec import from_tensors, raw_bytes, to_tensors
from everlearn.memory.state import ModelState

CONFIG, WEIGHTS = "adapter.json", "adapter.safetensors"
FOLDER = Folder("adapter", "save_adapter", CONFIG, WEIGHTS)
# what a config says of where a model came from and how it is run, and not of what it computes
INCIDENTAL = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")


def base_hash(model: nn.Module) -> str:
    """Return a SHA-256 over a pretrained model: its class, its config, and every tensor that it saves."""
    config: Any = model.config
    described = {name: value for name, value in config.to_dict().items() if name not in INCIDENTAL}
    sha = hashlib.sha256(json.dumps([type(model).__name__, described], sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode())
        for tensor in _tensors_in(value):
            sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            # a quantised tensor by the numbers that it stands for
            sha.update(raw_bytes(tensor.dequantize() if tensor.is_quantized else tensor))
    return sha.hexdigest()


def save(
    folder: Path,
    model: nn.Module,
    config: StackConfig,
    matrices: Sequence[Matrix],
    starts: Mapping[str, Tensor],
    state: ModelState | None,
) -> None:
    """Write an adapter folder, which is made when it is missing; see `StackedModel.save_adapter`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"start/{name}": start for name, start in starts.items()}
    if state is not None:
        tensors |= {f"state/{name}": tensor for name, tensor in to_tensors(state).items()}
    meta = {
        "base": {
            "sha256": base_hash(model),
            "class": type(model).__name__,
            # a hybrid is not the model whose name its config still bears
            "name": None if places(model) else vars(model.config).get("_name_or_path"),
        },
        "config": config.to_dict(),
        "matrices": [[m.name, m.out_features, m.in_features] for m in matrices],
    }
    FOLDER.save(folder, tensors, meta)


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], ModelState | None]:
    """Read an adapter folder.

    Returns:
        meta: "base", "config" and "matrices" as they were saved.
        starts: what the levels start from.
        state: what was saved with it, or None.
    Raises:
        ValueError: no adapter there, or one that is not whole, was changed, or is of a newer format.
    """
    tensors, meta = FOLDER.load(Path(folder))
    parts: dict[str, dict[str, Tensor]] = {"start": {}, "state": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return meta, parts["start"], from_tensors(parts["state"]) if parts["state"] else None


def check_base(model: nn.Module, meta: Mapping[str, Any], folder: Path) -> None:
    """Refuse a base that is not the one an adapter was made on.

    Raises:
        ValueError: a matrix that is not where it was, or has another size; other weights or another config.
    """
    modules = dict(model.named_modules())
    for name, *shape in meta["matrices"]:
        found = modules.get(name)
        if found is None or not is_matrix(found) or list(shape_of(found)) != shape:
            got = "is missing" if found is None or not is_matrix(found) else f"is {list(shape_of(found))}"
            raise ValueError(
                f"the adapter in {folder} belongs to matrix {name!r} of shape {shape}, which {got} in this "
                f"{type(model).__name__}: the layer was moved, renamed or resized; load it into the "
                f"{meta['base']['class']} that it was made on"
            )
    if (found_hash := base_hash(model)) != meta["base"]["sha256"]:
        raise ValueError(
            f"the adapter in {folder} was made on another base: its SHA-256 is {meta['base']['sha256'][:12]}..., this "
            f"{type(model).__name__} has {found_hash[:12]}...; load the base {meta['base']['name'] or ''!r} with the "
            "weights and the dtype that it had"
        )


def _tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors of one entry of a state_dict; a quantised module packs several into one."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors_in(item)]
    return []
