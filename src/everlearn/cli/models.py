"""Build a model from a word of the command line, for its shapes alone: nothing is downloaded, no foreign code runs."""

from __future__ import annotations

import difflib
import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError
from everlearn.layout import BASE, CONFIG

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

LEVEL_NAMES = ("fast", "mid", "slow")


def build(target: str, periods: Sequence[int] = ()) -> tuple[nn.Module, str]:
    """Return a model without its weights, and one line on where it comes from.

    Args:
        target: a config.json of Hugging Face, a folder that holds one, a folder of ours, or the name of a preset.
        periods: update periods of the levels that a preset gets, in tokens; none leaves it those that it has.
    Raises:
        UserError: nothing there that is known, or a config that makes no model.
    """
    from everlearn.models import PRESETS

    path = Path(target)
    if path.exists():
        if periods:
            raise UserError(f"--levels is for presets, but {target} is a model of its own; leave --levels out")
        return from_files(path)
    if target in PRESETS:
        return from_preset(target, periods)
    near = difflib.get_close_matches(target, PRESETS, n=1)
    raise UserError(
        f"{target!r} is no file, no folder and no preset{f'; did you mean {near[0]}?' if near else ''}; give a "
        f"config.json, a folder that holds one, or a preset ({', '.join(PRESETS)})"
    )


def from_preset(name: str, periods: Sequence[int]) -> tuple[nn.Module, str]:
    """Build a preset of ours at its default size, with levels of these periods, or with those that it has."""
    import torch

    from everlearn.levels import Level
    from everlearn.models import Decoder, preset

    names = LEVEL_NAMES if len(periods) <= len(LEVEL_NAMES) else [f"level{n}" for n in range(1, len(periods) + 1)]
    levels = [Level(level, period) for level, period in zip(names, periods, strict=False)]
    chunk = {"chunk_size": min(64, math.gcd(*periods))} if periods else {}
    with torch.device("meta"):
        return Decoder(preset(name, levels=levels or None, **chunk)), f"preset {name} at its default size"


def from_files(path: Path) -> tuple[nn.Module, str]:
    """Build what a file or a folder holds."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and not (path / CONFIG).is_file() and (path / BASE / CONFIG).is_file():
        folder = path / BASE  # a state folder keeps its model there
    file = folder / CONFIG if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} holds no {CONFIG}; give a folder with a model, or a {CONFIG} itself")
    data = read_config(file)
    if "model_type" in data:
        return from_hugging_face(file, data)
    return from_ours(file, data)


def read_config(file: Path) -> dict[str, Any]:
    """Read a config as JSON.

    Raises:
        UserError: the file holds no JSON object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"), object_hook=special_float)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error}); give the {CONFIG} of a model") from None
    if not isinstance(data, dict):
        raise UserError(f"{file} holds a {type(data).__name__}; a {CONFIG} is an object with named fields")
    return data


def special_float(data: dict[str, Any]) -> dict[str, Any] | float:
    """Return the number that transformers writes as {"__float__": "Infinity"}, and any other object as it is."""
    word = data.get("__float__")
    return float(word) if len(data) == 1 and word in ("Infinity", "-Infinity", "NaN") else data


def from_ours(file: Path, data: dict[str, Any]) -> tuple[nn.Module, str]:
    """Build a decoder of ours; its weights are read where they are there, because they tell its precision."""
    import torch

    from everlearn.models import Decoder, DecoderConfig, load_model
    from everlearn.models.checkpoint import WEIGHTS

    if file.name == CONFIG and (file.parent / WEIGHTS).is_file():
        return load_model(file.parent)[0], f"a model of ours, from {file.parent}"
    try:
        with torch.device("meta"):
            return Decoder(DecoderConfig.from_dict(data)), f"a config of ours, {file}"
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} has no model_type, so it is not Hugging Face's, and it is not ours either ({error}); "
            f"give the {CONFIG} of a model"
        ) from None


def from_hugging_face(file: Path, data: dict[str, Any]) -> tuple[nn.Module, str]:
    """Build a model of the transformers library from its config, on the device "meta".

    Raises:
        UserError: the library is missing or does not know the model, or the config makes none.
    """
    try:
        import transformers
        from huggingface_hub.errors import StrictDataclassError
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ModuleNotFoundError as error:
        raise UserError(
            f"{file} is a Hugging Face config, but {error.name} is not installed; pip install 'transformers>=5.17,<6'"
        ) from None
    kind = data["model_type"]
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UserError(unknown_type(file, data, sorted(CONFIG_MAPPING.keys())))
    transformers.logging.set_verbosity_error()
    wrong = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, ImportError)
    try:
        model, origin = from_config(CONFIG_MAPPING[kind].from_dict(data))
    except (*wrong, StrictDataclassError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
        raise UserError(f"{file} makes no {kind} model ({reason}); compare its fields with the original") from None
    return model, f"{origin} of transformers {transformers.__version__}, from {file}"


def from_config(config: PreTrainedConfig) -> tuple[nn.Module, str]:
    """Build the class that a config names under "architectures", or its base model where it names none.

    Returns:
        model: on the device "meta", in the precision that the config names, else in float32.
        origin: the name of the class, and of those that were asked for in vain.
    """
    import torch
    from transformers import AutoModel, PreTrainedModel

    # only classes that the library itself defines beside this config
    modeling = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    wanted = [name for name in config.architectures or () if isinstance(name, str)]
    classes = [vars(modeling)[name] for name in wanted if name in vars(modeling)]
    fitting = [each for each in classes if isinstance(each, type) and issubclass(each, PreTrainedModel)]
    with torch.device("meta"):
        model: nn.Module = fitting[0](config) if fitting else AutoModel.from_config(config, trust_remote_code=False)
    if isinstance(config.dtype, torch.dtype):
        model = model.to(config.dtype)
    instead = f" (the base model: there is no {wanted[0]} there)" if wanted and not fitting else ""
    return model, f"{type(model).__name__}{instead}"


def unknown_type(file: Path, data: dict[str, Any], known: list[str]) -> str:
    """Say that the library lacks a model, and whether it would need code that comes with it."""
    kind = data["model_type"]
    if "auto_map" in data:
        return (
            f"{file} needs code of its own (auto_map) for model_type {kind!r}, and code from a model's folder is never "
            "run here; build the model in Python and call everlearn.describe(model)"
        )
    near = difflib.get_close_matches(str(kind), known, n=3)
    guess = f"close names are {', '.join(near)}" if near else f"none of its {len(known)} types has a close name"
    return f"{file} has model_type {kind!r}, which transformers does not know here; {guess}; correct it or update"
