"""`everlearn describe`: what it takes, what it writes, and what it says about input that it cannot read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from transformers import Mamba2Config

from everlearn.cli.main import main
from everlearn.levels import Level
from everlearn.models import Decoder, preset, save_model
from everlearn.models.presets import PRESETS

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a config and returns its path."""

    def write(data, name: str = "config.json") -> str:
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return str(path)

    return write


def outcome(capsys, *words: str) -> tuple[int, str, str]:
    code = main(["describe", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def document(capsys, *words: str) -> dict:
    code, out, err = outcome(capsys, *words, "--json", "-")
    assert code == 0, err
    assert "next: everlearn describe" in err
    return json.loads(out)


def test_gpt2_under_adamw(capsys, config):
    """The config of the real GPT-2: Adam is two memories of gradients, each as large as the model."""
    data = document(capsys, config(GPT2))
    assert data["name"] == "GPT2LMHeadModel"
    assert data["parameters"] == 124_439_808
    assert data["optimizer_bytes"] == 2 * 4 * 124_439_808
    assert data["depth"] == 3
    assert [component["name"] for component in data["levels"][1]["components"]] == ["AdamW.exp_avg", "AdamW.exp_avg_sq"]
    assert data["state_bytes"] == 1024 * 12 * 2 * 768 * 4


@pytest.mark.parametrize(
    ("word", "names", "depth"),
    [
        ("none", [], 2),
        ("sgd", [], 2),
        ("momentum", ["SGD.momentum_buffer"], 3),
        ("adamw", ["AdamW.exp_avg", "AdamW.exp_avg_sq"], 3),
        ("muon", ["Muon.momentum_buffer", "AdamW.exp_avg", "AdamW.exp_avg_sq"], 3),
    ],
)
def test_every_optimizer(capsys, word, names, depth):
    data = document(capsys, "transformer++", "--optimizer", word)
    shared = {c["name"]: c["state_bytes"] for level in data["levels"] for c in level["components"] if c["shared"]}
    assert list(shared) == names
    assert data["depth"] == depth
    assert data["levels"][-1]["unit"] == ("never" if word == "none" else "optimizer steps")
    if word == "muon":  # the matrices of two blocks; embedding and norms go to AdamW
        assert shared["Muon.momentum_buffer"] == 4 * 2 * (4 * 64 * 64 + 3 * 64 * 128)
        assert shared["AdamW.exp_avg"] == 4 * (256 * 64 + 5 * 64)


def test_a_preset_with_levels_of_its_own_keeps_them(capsys):
    periods = [level["update_period"] for level in document(capsys, "hope_attention")["levels"]]
    assert periods == [1, 64, 256, 1024, 1, 1]  # tokens, then AdamW's memories and the parameters by optimizer steps


def test_a_preset_takes_levels_and_a_context(capsys):
    data = document(capsys, "transformer++", "--levels", "64", "256", "1024", "--context", "10", "--optimizer", "none")
    assert [level["update_period"] for level in data["levels"]] == [1, 64, 256, 1024, None]
    assert data["levels"][0]["held_bytes"] == 10 * 2 * (2 * 64 * 4 + 8)
    assert document(capsys, "delta_net", "--levels", "6", "4", "9", "8")["depth"] == 7


@pytest.mark.parametrize(("names", "built"), [(None, "LlamaModel"), (["LlamaForCausalLM"], "LlamaForCausalLM")])
def test_the_precision_of_a_config_counts(capsys, config, names, built):
    small = {"model_type": "llama", "architectures": names, "vocab_size": 50, **SMALL}
    data = document(capsys, config({**small, "dtype": "bfloat16"}))
    assert data["name"] == built
    assert data["parameter_bytes"] == 2 * data["parameters"]
    assert data["state_bytes"] == 1024 * 2 * 2 * 16 * 2


def test_folders_of_ours(capsys, tmp_path):
    """A folder with weights, one with a config alone, and the folder of a state, which keeps its model in base."""
    model = Decoder(preset("delta_net", levels=[Level("fast", 64)], dim=16, hidden_dim=8)).to(torch.bfloat16)
    save_model(model, tmp_path / "state" / "base")
    for target in (tmp_path / "state" / "base", tmp_path / "state"):
        data = document(capsys, str(target))
        assert data["parameters"] == sum(p.numel() for p in model.parameters())
        assert data["parameter_bytes"] == 2 * data["parameters"]
    (tmp_path / "state" / "base" / "model.safetensors").unlink()
    assert document(capsys, str(tmp_path / "state"))["parameter_bytes"] == 4 * data["parameters"]


def test_it_writes_a_drawing_and_says_what_is_next(capsys, tmp_path):
    target = tmp_path / "levels.svg"
    code, out, err = outcome(capsys, "delta_net", "--svg", str(target), "--json", str(tmp_path / "a.json"))
    assert (code, err) == (0, "")
    assert ET.fromstring(target.read_text()).tag.endswith("svg")
    assert json.loads((tmp_path / "a.json").read_text())["target"] == "delta_net"
    assert out.startswith("device: none, only shapes are read; preset delta_net")
    assert out.splitlines()[-3:] == [
        f"wrote {target}",
        f"wrote {tmp_path / 'a.json'}",
        "next: everlearn describe delta_net --levels 64 256 1024",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "levels.svg"]
    _, out, _ = outcome(capsys, "delta_net", "--levels", "64", "256", "1024", "--svg", str(target))
    assert out.splitlines()[-1] == "next: everlearn describe hope_attention"
    _, out, _ = outcome(capsys, "delta_net", "--levels", "64")
    assert out.splitlines()[-1] == "next: everlearn describe delta_net --levels 64 --svg levels.svg"


def test_the_help_names_every_preset(capsys):
    assert main(["describe", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"or a preset: {', '.join(PRESETS)}" in shown


def test_no_code_of_a_model_s_folder_runs(capsys, config, tmp_path):
    """A type that the library knows is built by the library, whatever the config says about code of its own."""
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('ran')")
    own = {"AutoModel": "modeling_own.Own", "AutoConfig": "modeling_own.Config"}
    path = config({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "auto_map": own})
    assert document(capsys, path)["name"] == "GPT2Model"
    code, _, err = outcome(capsys, config({"model_type": "own_model", "auto_map": own}))
    assert code == 2
    assert "needs code of its own (auto_map) for model_type 'own_model'" in err
    assert "call everlearn.describe(model)" in err


def test_an_architecture_that_is_not_there_falls_back_to_the_base_model(capsys, config):
    tiny = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1}
    for names in (["Trainer"], ["os"], [3], None):
        code, out, err = outcome(capsys, config({**tiny, "architectures": names}))
        assert (code, err) == (0, "")
        assert "GPT2Model" in out.splitlines()[0]
        assert (f"the base model: there is no {(names or [3])[0]} there" in out) == isinstance((names or [3])[0], str)


def test_a_config_that_the_library_wrote_is_read_with_its_endless_numbers(capsys, tmp_path):
    """JSON has no infinity, so transformers writes it as an object; Mamba2 has one by default."""
    Mamba2Config(num_hidden_layers=1, hidden_size=16, num_heads=4, head_dim=8, vocab_size=20).save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert document(capsys, str(tmp_path))["name"] == "Mamba2Model"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "is not JSON"),
        ('{"__float__": "NaN"}', "holds a float; a config.json is an object"),
        ({"__float__": "Infinity", "a": 1}, "has no model_type"),
        ("[1]", "holds a list; a config.json is an object"),
        ({"a": 1}, "has no model_type, so it is not Hugging Face's, and it is not ours either"),
        ({"mixer": "delta_net", "dim": 7}, "does not split into 2 heads"),
        ({"model_type": "lama"}, "does not know here; close names are llama"),
        ({"model_type": "qqqqqqqqq"}, "types has a close name"),
        ({"model_type": ["x"]}, "has model_type ['x']"),
        ({"model_type": "llama", "hidden_size": "x"}, "makes no llama model (StrictDataclassFieldValidationError"),
        ({"model_type": "gpt2", "n_embd": 10, "n_head": 3}, "makes no gpt2 model (ValueError"),
        ({"model_type": "gpt2", "n_embd": -4}, "makes no gpt2 model (RuntimeError"),
    ],
)
def test_a_config_that_makes_no_model_is_one_line(capsys, config, data, message):
    code, out, err = outcome(capsys, config(data))
    assert (code, out) == (2, "")
    assert message in err and err.startswith("everlearn: ") and err.count("\n") == 1


def test_other_mistakes_are_one_line(capsys, config, tmp_path):
    mistakes = [
        (["delta"], "is no file, no folder and no preset; did you mean delta_net?; give a config.json"),
        ([str(tmp_path)], "holds no config.json"),
        ([config(GPT2, "gpt2.json"), "--levels", "64"], "--levels is for presets"),
        (["delta_net", "--levels", "0"], "update_period 0 of level 'fast'"),
        (["delta_net", "--context", "-1"], "--context -1 is below 0"),
        (["delta_net", "--svg", str(tmp_path)], "is a folder; give the name of a file\n"),
        (["delta_net", "--svg", str(tmp_path / "no" / "a.svg")], "lies in a folder that does not exist"),
    ]
    for words, message in mistakes:
        code, out, err = outcome(capsys, *words)
        assert (code, out) == (2, ""), words
        assert message in err and err.count("\n") == 1


def test_without_transformers_it_says_what_to_install(capsys, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = outcome(capsys, config(GPT2))
    assert code == 2
    assert "transformers is not installed; pip install 'transformers>=5.17,<6'" in err


def test_an_interrupted_write_leaves_the_old_drawing(capsys, tmp_path, monkeypatch):
    target = tmp_path / "a.svg"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
    assert outcome(capsys, "delta_net", "--svg", str(target))[0] == 1
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_guide_shows_what_the_command_prints_and_draws(capsys, tmp_path, monkeypatch):
    """To write them again: run the command of the page in docs/guide and paste what it prints."""
    page = (GUIDE / "describe.md").read_text(encoding="utf-8")
    shown = page.split("```text\n$ everlearn ")[1].split("```")[0]
    command, _, text = shown.partition("\n")
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 0
    assert capsys.readouterr().out == text
    assert (tmp_path / "levels.svg").read_text() == (GUIDE / "levels.svg").read_text(encoding="utf-8")


def test_the_guide_names_every_key_of_the_document(capsys):
    page = (GUIDE / "describe.md").read_text(encoding="utf-8")
    data = document(capsys, "delta_net")
    keys = {*data, *data["levels"][0], *data["levels"][0]["components"][0], *data["flows"][0]}
    assert {key for key in keys if f"`{key}`" not in page} == set()
