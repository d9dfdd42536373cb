"""A folder that loads without everlearn: weights, config, and one file of source made from our own modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from everlearn.layout import CONFIG
from everlearn.memory.files import atomic_write
from everlearn.models.hf.bundle import bundle
from everlearn.models.hf.modeling import HopeForCausalLM

SOURCE = "modeling_hope"
CLASSES = {"AutoConfig": "HopeConfig", "AutoModel": "HopeModel", "AutoModelForCausalLM": "HopeForCausalLM"}
HEAD = '''"""A model of everlearn in one file, which needs torch, transformers and safetensors alone.

Made from the modules of everlearn, each under a line with its path; licence: Apache-2.0. Change those and export again.
What is read here is what `everlearn.models` reads; learning from text (`Learner`) needs the package.
"""'''


def export(model: HopeForCausalLM, folder: Path | str, tokenizer: Any = None) -> None:
    """Write a model so that Hugging Face loads it where everlearn is not installed.

        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

    That runs the source in the folder: readers should look at it first, and it is one file for that reason. Where
    everlearn is installed and imported the folder loads without, as any other.

    Args:
        model: its weights and config are written as `save_pretrained` does.
        folder: made when it is missing.
        tokenizer: written too; None leaves it out.
    Raises:
        ValueError: a module of the package that cannot be joined to the others.
    """
    folder, source = Path(folder), source_code()
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    atomic_write(folder / f"{SOURCE}.py", source.encode(), private=False)
    config = json.loads((folder / CONFIG).read_text())
    config["auto_map"] = {auto: f"{SOURCE}.{name}" for auto, name in CLASSES.items()}
    atomic_write(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(), private=False)


def source_code() -> str:
    """Return the source that `export` writes; the same for every model of one version."""
    return bundle(["everlearn.models.hf.modeling"], HEAD)
