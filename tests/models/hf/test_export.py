"""A folder that loads without everlearn gives the same logits, in a process where the package cannot be imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import everlearn
from everlearn.models import PRESETS, HopeForCausalLM
from everlearn.models.hf.export import export, source_code
from tests.convert.test_text import byte_level
from tests.models.hf.small import make, tokens

ELSEWHERE = """
import sys
sys.modules["everlearn"] = None  # an import of it fails
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1])
    raise SystemExit("code of the folder was run without consent")
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
for folder in sys.argv[1:]:
    wanted = load_file(folder + "/wanted")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    assert torch.equal(model(wanted["ids"]).logits, wanted["logits"])
    assert torch.equal(model.generate(wanted["ids"], max_new_tokens=5, do_sample=False), wanted["made"])
    cache = model.load_memory(folder + "/memory")
    assert torch.equal(model(wanted["ids"], past_key_values=cache).logits, wanted["later"])
body = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert torch.equal(model.lm_head(body(wanted["ids"]).last_hidden_state), wanted["logits"])
try:
    model(wanted["ids"] + 256)
    raise SystemExit("ids out of the vocabulary were read")
except ValueError as error:
    assert "the vocabulary from 0 to 255" in str(error)
model.save_pretrained(folder + "/again")  # and once more from there
again = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code=True)
assert torch.equal(again(wanted["ids"]).logits, wanted["logits"])
"""


def run_elsewhere(tmp_path, *folders) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", ELSEWHERE, *map(str, folders)]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    "names", [("hope",), pytest.param(tuple(PRESETS), marks=pytest.mark.slow)], ids=["hope", "all"]
)
def test_presets_load_without_the_package(tmp_path, names):
    folders = []
    for i, name in enumerate(names):
        folder, model, ids = tmp_path / f"model-{i}", make(name), tokens(2, 9)
        export(model, folder)
        cache = model.new_cache()
        model(tokens(2, 6, seed=1), past_key_values=cache)
        model.save_memory(folder / "memory", cache.new_segment())
        with torch.no_grad():
            wanted = {"ids": ids, "logits": model(ids).logits, "made": model.generate(ids, max_new_tokens=5)}
            wanted["later"] = model(ids, past_key_values=model.load_memory(folder / "memory")).logits
        save_file(wanted, folder / "wanted")
        folders.append(folder)
    done = run_elsewhere(tmp_path, *folders)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Write a model with its tokenizer and the code that loads it."""
    folder = tmp_path_factory.mktemp("exported")
    export(make(vocab_size=320), folder, byte_level())
    return folder


def test_the_folder_loads_as_any_other_where_the_package_is(exported):
    model, ids = make(vocab_size=320), tokens(1, 5)
    loaded = AutoModelForCausalLM.from_pretrained(exported)
    assert type(loaded) is HopeForCausalLM
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert {path.name for path in exported.iterdir()} >= {"modeling_hope.py", "tokenizer.json", "model.safetensors"}
    assert json.loads((exported / "config.json").read_text())["auto_map"]["AutoModel"] == "modeling_hope.HopeModel"
    # preference training asks the config for its map; without it, it fails on models that come from elsewhere
    assert loaded.config.auto_map["AutoConfig"] == "modeling_hope.HopeConfig"


def test_the_source_names_its_parts_and_nothing_of_the_package_is_imported(exported):
    text = source_code()
    assert text == (exported / "modeling_hope.py").read_text(), "written twice, it is not the same"
    assert "# everlearn/models/decoder.py\n" in text and "# everlearn/models/hf/modeling.py\n" in text
    assert not [line for line in text.splitlines() if line.lstrip().startswith(("from everlearn", "import everlearn"))]


def test_we_ourselves_never_trust_remote_code():
    """The word stands in the docstring that shows what others may do, and nowhere else."""
    root = Path(everlearn.__file__).parent
    found = [path.name for path in root.rglob("*.py") for _ in re.findall("trust_remote_code=True", path.read_text())]
    assert found == ["export.py"]
