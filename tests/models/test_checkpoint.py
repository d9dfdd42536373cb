"""A model's folder that is half written, edited or damaged is refused in one line, before anything large is built."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from everlearn.levels import Level
from everlearn.memory.codec import load_tensors, save_tensors
from everlearn.models import Decoder, load_model, preset, save_model
from everlearn.models.decoder import fingerprint


@pytest.fixture
def folder(tmp_path) -> Path:
    levels = [Level("fast", 16, reset="document"), Level("slow", 32), Level("fixed", math.inf)]
    config = preset("delta_net", levels=levels, dim=8, num_layers=1, num_heads=1, hidden_dim=8, chunk_size=16)
    save_model(Decoder(config), tmp_path, {"seed": 3})
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match=r"\w") as error:
        load_model(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_comes_back_bit_for_bit(folder):
    model, about = load_model(folder)
    assert about == {"seed": 3}
    before = Path(folder, "model.safetensors").read_bytes()
    save_model(model, folder, about)
    assert Path(folder, "model.safetensors").read_bytes() == before


FAULTS = {
    "missing": (lambda t: t.pop("norm.weight"), "holds nothing as 'norm.weight', but its config asks for (8,); copy"),
    "left over": (
        lambda t: t.update(more=torch.zeros(2)),
        "holds (2,) as 'more', but its config asks for nothing; copy",
    ),
    "another shape": (
        lambda t: t.update({"norm.weight": torch.zeros(3)}),
        "holds (3,) as 'norm.weight', but its config asks for (8,); copy the whole folder again",
    ),
    "NaN": (lambda t: t["norm.weight"].fill_(math.nan), "NaN or infinity"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_tensors_that_are_not_those_of_the_config_are_refused(folder, change, message, monkeypatch):
    """Written anew by somebody with hash and fingerprint, so that both fit."""
    file, before = folder / "model.safetensors", load_model(folder)[0].config
    tensors, meta = load_tensors(file)
    change(tensors)
    with monkeypatch.context() as patch:
        patch.setattr("everlearn.memory.codec._not_finite", lambda tensors: None)
        save_tensors(file, tensors, {**meta, "fingerprint": fingerprint(before, tensors)})
    assert message in refusal(folder)


LEVEL = {"name": "fast", "update_period": 16, "eta": 0.3, "anchor_decay": 0.0, "reset": None}
EDITS = {
    **{f"{name} {value!r}": {name: value} for name in ("dim", "num_layers", "hidden_dim") for value in (2**42, -1, 0)},
    **{f"dim {value!r}": {"dim": value} for value in ("8", 8.0, True, None, [8], 16, 2**42, -2)},
    **{f"window {value!r}": {"window": value} for value in ("x", -1, 1.5)},
    **{f"levels {value!r}": {"levels": value} for value in (3, "abc", None, [{}], [3], [])},
    **{f"mixer {value!r}": {"mixer": value} for value in ([1], "other", "attention")},
    "chunk_size 0": {"chunk_size": 0},
    "chunk_size that does not divide": {"chunk_size": 12},
    "a field that does not exist": {"size": 1},
    "period in quotes": {"levels": [LEVEL | {"update_period": "16"}]},
    "period none": {"levels": [LEVEL | {"update_period": None}]},
    "period not a number": {"levels": [LEVEL | {"update_period": math.nan}]},
    "eta in quotes": {"levels": [LEVEL | {"eta": "x"}]},
    "reset a number": {"levels": [LEVEL | {"reset": 5}]},
    "level field": {"levels": [LEVEL | {"speed": 5}]},
    "level name": {"levels": [LEVEL | {"name": 5}]},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_config_is_refused(folder, edit):
    """Sizes beyond any memory are among them: a refusal that built the model first would never return."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    assert "config" in refusal(folder)


@pytest.mark.parametrize("data", [b"", b"[1]", b"null", b'{"dim": 6', b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_none_is_refused(folder, data):
    (folder / "config.json").write_bytes(data)
    assert "is not a model's config" in refusal(folder)


def test_a_folder_without_all_its_files_is_refused(folder, tmp_path_factory):
    assert "holds no model" in refusal(tmp_path_factory.mktemp("empty"))
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refusal(folder)


def test_weights_that_are_not_finite_are_not_saved(folder):
    model, _ = load_model(folder)
    before = Path(folder, "model.safetensors").read_bytes()
    with torch.no_grad():
        model.embedding.weight[0, 0] = math.inf
    with pytest.raises(ValueError, match="was not saved"):
        save_model(model, folder)
    assert Path(folder, "model.safetensors").read_bytes() == before
