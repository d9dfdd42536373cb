"""A pretrained model and its tokenizer or image processor, from a folder or the hub; loaded where it is, not copied."""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

PATIENCE = 5.0  # seconds that the hub has to answer at all


def load_base(name: str | Path) -> tuple[nn.Module, Any]:
    """Load a causal language model in the dtype that it was saved in, and its tokenizer.

    Args:
        name: see `load_pretrained`.
    Returns:
        model: in evaluation mode.
        tokenizer: its tokenizer.
    Raises:
        ValueError: no causal language model there, or none with a tokenizer.
    """
    from transformers import AutoModelForCausalLM

    return load_pretrained(name, AutoModelForCausalLM, "causal language model")


def load_pretrained(
    name: str | Path, kind: Any, what: str, *, beside: Any = None, beside_name: str = "tokenizer"
) -> tuple[nn.Module, Any]:
    """Load a pretrained model of some kind and its tokenizer; safetensors alone, and no code that comes with it.

    A model that the cache holds is taken from there without asking the hub, so that it loads at once, without a network
    too, and stays the one whose hash memories name.

    Args:
        name: a folder that `save_pretrained` wrote, or the name of a model on the hub, which is downloaded once and
            kept in the cache of Hugging Face.
        kind: a class of transformers with `from_pretrained`, such as AutoModel.
        what: what it is, for messages.
        beside: a class of transformers for what prepares the model's inputs, such as AutoImageProcessor; AutoTokenizer
            when None.
        beside_name: what that is, for messages.
    Returns:
        model: in evaluation mode; weights that its file lacks are drawn from a fixed seed.
        tokenizer: its tokenizer, or what `beside` makes.
    Raises:
        ValueError: no such model there, none with a tokenizer, or a library that it needs is missing.
    """
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # each retry would be a line
    place = where_is(name)
    folder = Path(place)
    if folder.is_absolute() and not (folder / "config.json").is_file():
        got = "holds no model (config.json is missing)" if folder.is_dir() else "does not exist"
        raise ValueError(f"{folder} {got}; give a folder that save_pretrained wrote, or a model's name on the hub")
    try:
        if not folder.is_absolute():
            with suppress(OSError, ValueError, KeyError):
                return _load(place, kind, beside, beside_name, local_files_only=True)
            check_reachable(place)
        return _load(place, kind, beside, beside_name)
    except ImportError as error:
        why = str(error).strip().split("\n")[0]
        raise ValueError(
            f"the {what} of {place!r} needs a library that is not installed ({why}); install it, or give another model"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(
            f"no {what} can be loaded from {place!r} ({reason}); "
            "give a folder that save_pretrained wrote, or a model's name on the hub"
        ) from None


def check_reachable(name: str) -> None:
    """Refuse a name that only the hub can know when the hub does not answer: a download would try for half a minute.

    Raises:
        ValueError: no answer within `PATIENCE`.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return  # said by the library at once
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return  # an answer
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError):
            raise ValueError(
                f"{name!r} is no folder here and not in the cache, and the hub at {constants.ENDPOINT} does not answer "
                f"({reason}); give a folder that save_pretrained wrote, or try again with a network"
            ) from None


def _load(place: str, kind: Any, beside: Any, beside_name: str, **options: bool) -> tuple[nn.Module, Any]:
    """Load both as `from_pretrained` does."""
    from transformers import AutoTokenizer

    # a model is known by a hash of its weights: those that no file holds must be the same each time
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_pretrained(place, use_safetensors=True, **options)
    try:
        made = (beside or AutoTokenizer).from_pretrained(place, **options)
    except (OSError, ValueError, KeyError):
        call = f"{beside_name.replace(' ', '_')}.save_pretrained(FOLDER)"
        raise ValueError(f"no {beside_name} is there; save it too, with {call}") from None
    return model.eval(), made


def where_is(name: str | Path) -> str:
    """Return the name of a model that means the same from every working folder: a path is made absolute."""
    text = str(name)
    # owner/model is a name on the hub unless there is such a folder
    looks_like_path = Path(text).exists() or text.startswith((".", "/", "~")) or text.count("/") > 1
    return str(Path(text).expanduser().resolve()) if looks_like_path else text
