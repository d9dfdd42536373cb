"""A hybrid on the disk: its weights in safetensors, what stands where and the hash of the original in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from everlearn.convert.adapter import base_hash
from everlearn.convert.replace_config import ReplaceConfig
from everlearn.memory.codec import digest, load_tensors, save_tensors
from everlearn.memory.files import atomic_write

CONFIG, WEIGHTS = "replacement.json", "replacement.safetensors"
FORMAT = 1


def fingerprint(base: nn.Module, config: ReplaceConfig) -> str:
    """Return a hash of every weight and of the configuration; levels' rates are left out."""
    described = config.to_dict()
    for chosen in described["mlp"].values():
        if "levels" in chosen:
            chosen["levels"] = [level["name"] for level in chosen["levels"]]
    return digest({}, json.dumps([base_hash(base), described], sort_keys=True))


def save(folder: Path | str, base: nn.Module, tokenizer: Any, config: ReplaceConfig) -> None:
    """Write a hybrid into a folder, which is made when it is missing; see `ReplacedModel.save`."""
    folder, own = Path(folder), cast(Any, base)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    meta = {
        "fingerprint": fingerprint(base, config),
        "config": config.to_dict(),
        "base": json.loads(own.config.to_json_string(use_diff=False)),
        # of the model's own weights: what learns in places is wider than 16 bits
        "dtype": str(own.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "tokenizer": tokenizer is not None,
    }
    save_tensors(folder / WEIGHTS, _untied(base), meta)
    # written last: a folder with this file is whole
    atomic_write(folder / CONFIG, json.dumps({"format": FORMAT, **meta}, indent=2).encode())


def load(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and the description of a hybrid.

    Raises:
        ValueError: no hybrid there, or one that is not whole, was changed, or is of a newer format.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no replaced model ({name} is missing); give a folder that save() wrote")
    tensors, meta = load_tensors(folder / WEIGHTS)
    try:
        shown = json.loads((folder / CONFIG).read_text())
    except ValueError:
        shown = None
    if isinstance(shown, dict) and isinstance(shown.get("format"), int) and shown["format"] > FORMAT:
        raise ValueError(f"{folder} has format {shown['format']}, this version reads up to {FORMAT}; update everlearn")
    if shown != {"format": FORMAT, **meta}:
        raise ValueError(f"{folder / CONFIG} and {WEIGHTS} are not of one model; copy both from the same folder")
    return tensors, meta


def _untied(base: nn.Module) -> dict[str, Tensor]:
    """Return the weights, each once: a tied one under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in base.state_dict().items():
        found.setdefault(tensor.data_ptr(), (name, tensor.detach().cpu().contiguous()))
    return dict(found.values())
