"""A pretrained model and its tokenizer, from a folder or from the hub; loaded where it is, never copied."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import nn


def load_base(name: str | Path) -> tuple[nn.Module, Any]:
    """Load a causal language model in the dtype that it was saved in, and its tokenizer.

    Args:
        name: a folder that `save_pretrained` wrote, or the name of a model on the hub, which is downloaded once and
            kept in the cache of Hugging Face.
    Returns:
        model: in evaluation mode.
        tokenizer: its tokenizer.
    Raises:
        ValueError: no causal language model there, or none with a tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    place = where_is(name)
    folder = Path(place)
    if folder.is_absolute() and not (folder / "config.json").is_file():
        got = "holds no model (config.json is missing)" if folder.is_dir() else "does not exist"
        raise ValueError(f"{folder} {got}; give a folder that save_pretrained wrote, or a model's name on the hub")
    try:
        model = AutoModelForCausalLM.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()
        raise ValueError(
            f"no causal language model with a tokenizer can be loaded from {place!r} ({why[0] if why else error!r}); "
            "give a folder that save_pretrained wrote for both, or a model's name on the hub"
        ) from None
    return model.eval(), tokenizer


def where_is(name: str | Path) -> str:
    """Return the name of a model that means the same from every working folder: a path is made absolute."""
    text = str(name)
    # owner/model is a name on the hub unless there is such a folder
    looks_like_path = Path(text).exists() or text.startswith((".", "/", "~")) or text.count("/") > 1
    return str(Path(text).expanduser().resolve()) if looks_like_path else text
