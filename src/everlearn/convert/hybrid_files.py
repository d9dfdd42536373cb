"""A hybrid on the disk: its weights in safetensors, what stands where and the hash of the original in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from everlearn.convert.adapter import base_hash
from everlearn.convert.folder import Folder
from everlearn.convert.replace_config import ReplaceConfig
from everlearn.memory.codec import digest

FOLDER = Folder("replaced model", "save()", "replacement.json", "replacement.safetensors")


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
    FOLDER.save(folder, _untied(base), meta)


def load(folder: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and the description of a hybrid.

    Raises:
        ValueError: no hybrid there, or one that is not whole, was changed, or is of a newer format.
    """
    return FOLDER.load(Path(folder))


def _untied(base: nn.Module) -> dict[str, Tensor]:
    """Return the weights, each once: a tied one under its first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in base.state_dict().items():
        found.setdefault(tensor.data_ptr(), (name, tensor.detach().cpu().contiguous()))
    return dict(found.values())
