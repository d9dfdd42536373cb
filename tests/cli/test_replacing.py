"""`everlearn convert --replace`: places are replaced one after the other, a stopped run goes on, the result reads."""

from __future__ import annotations

import json
import random
import re
import shutil

import pytest
from verbs_fixture import Shell

import everlearn
from everlearn.convert import Delta, ReplacedModel, StackedModel, load_replaced, replace_blocks
from everlearn.convert.adapter import base_hash
from everlearn.models.hub import load_base
from everlearn.recipes import replacement
from tests.pretrained import WORDS, pretrained

CHUNK = "16"
REPLACE = ("--replace", "0", "1", "--replace-mlp", "1")
PLACES = ["block.1.attention", "block.0.attention", "block.1.mlp"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("hf") / "base")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    draw, words = random.Random(0), WORDS.decode().split()
    file = tmp_path_factory.mktemp("data") / "lesson.txt"
    file.write_text(" ".join(draw.choice(words) for _ in range(900)))
    return file


@pytest.fixture
def shell(tmp_path, capsys):
    (tmp_path / "ada.txt").write_bytes(WORDS)
    return Shell(tmp_path, capsys)


def words(base, lesson, folder, *more):
    return ("convert", base, folder, *REPLACE, "--data", lesson, "--steps", "3", "--chunk-size", CHUNK, *more)


def stop_after_places(patch, count):
    """Interrupt as Ctrl-C would, at the first step of the place after so many."""
    whole = replacement.gradual

    def stopped(*arguments, **options):
        for stage in whole(*arguments, **options):
            if stage.replaced > count:
                raise KeyboardInterrupt
            yield stage

    patch.setattr(replacement, "gradual", stopped)


def test_places_are_replaced_in_order_and_what_each_phase_cost_is_printed_and_kept(base, lesson, shell):
    out = shell.folder / "out"
    said = shell(*words(base, lesson, out, "--json", shell.folder / "c.json"))
    document = json.loads((shell.folder / "c.json").read_text())
    kept = json.loads((out / "replaced.json").read_text())
    assert document["replaced"] == kept and kept["original"] == base_hash(load_base(base)[0])
    phases = ["swap", "local", "whole"]
    assert [(s["place"], s["phase"]) for s in kept["stages"]] == [(place, p) for place in PLACES for p in phases]
    lines = {line.partition(":")[0]: line for line in said.splitlines()}
    for place in PLACES:
        bits = [s["bits_per_byte"] for s in kept["stages"] if s["place"] == place]
        assert "swapped {:.3f}, taught alone {:.3f}, tuned {:.3f} bits per byte".format(*bits) in lines[place]
    # all units of the last MLP are dealt out, so this swap loses nothing
    assert kept["stages"][6]["bits_per_byte"] == pytest.approx(kept["stages"][5]["bits_per_byte"], abs=1e-5)
    assert f"the original: {kept['original_bits_per_byte']:.3f} bits per byte" in lines["the original"]
    assert "bit for bit those of the hybrid" in said and "the model itself is not needed again" in said
    assert not (out / "replacing").exists()
    assert document["matrices"] == [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]


def test_the_folder_reads_scores_generates_and_talks_like_any_other(base, lesson, shell):
    gone = shell.folder / "gone"
    shutil.copytree(base, gone)
    out = shell.folder / "out"
    shell(*words(gone, lesson, out))
    shutil.rmtree(gone)  # the folder is whole
    learner = everlearn.load(out)
    assert isinstance(learner.model, StackedModel) and list(learner.model.memories()) == ["stack", "block.1.mlp"]
    (row,) = shell.json("read", shell.folder / "ada.txt", "--state", out, "--user", "ada")["documents"]
    assert row["learned"] == pytest.approx(learner.read(WORDS, "eve").bits_per_byte, abs=1e-6)
    assert row["learned"] < row["frozen"] - 0.1
    scored = shell.json("score", shell.folder / "ada.txt", "--state", out, "--user", "ada")
    assert scored["bits_per_byte"] == pytest.approx(learner.score(WORDS, "eve").bits_per_byte, abs=1e-6)
    text = shell.json("generate", "the cat", "--state", out, "--user", "ada", "--tokens", "4")["text"]
    assert text == learner.generate("the cat", "eve", max_new_tokens=4)


def test_a_hybrid_that_cannot_learn_opens_and_says_so(base, shell, monkeypatch, tmp_path):
    """Delta memories alone: score, generate, chat and read work, and reading leaves nothing behind."""
    model, tokenizer = load_base(base)
    reader = everlearn.Learner(replace_blocks(model, tokenizer, attention={0: Delta()}))
    everlearn.save(reader, tmp_path / "plain")
    (row,) = shell.json("read", shell.folder / "ada.txt", "--state", tmp_path / "plain", "--user", "ada")["documents"]
    assert row["frozen"] == pytest.approx(reader.score(WORDS).bits_per_byte, abs=1e-6)
    assert row["learned"] == pytest.approx(row["frozen"], abs=1e-6)
    said = shell("read", shell.folder / "ada.txt", "--state", tmp_path / "plain", "--user", "ada")
    assert "nothing in this model learns while it reads" in said
    assert shell("generate", "the cat", "--state", tmp_path / "plain", "--tokens", "4") == (
        reader.generate("the cat", max_new_tokens=4) + "\n"
    )
    monkeypatch.setattr("sys.stdin", (tmp_path / "talk").open("w+"))
    (tmp_path / "talk").write_text("the cat\n")
    assert len(shell.json("chat", "--state", tmp_path / "plain", "--tokens", "3")["turns"]) == 1
    assert "leave out base=" in shell(
        "score", shell.folder / "ada.txt", "--state", tmp_path / "plain", "--base", base, code=2
    )


@pytest.mark.parametrize("done", [0, 2])
def test_an_interrupted_run_goes_on_behind_the_last_place_and_ends_the_same(base, lesson, shell, monkeypatch, done):
    out, whole = shell.folder / "out", shell.folder / "whole"
    shell(*words(base, lesson, whole))
    with monkeypatch.context() as patch:
        stop_after_places(patch, done)
        said = shell(*words(base, lesson, out), code=130)
    assert f"what was replaced is kept in {out}; to go on: everlearn convert" in said
    assert "--replace 0 1" in said and "--data" in said
    again = shell(*words(base, lesson, out))
    assert ("places were replaced before the interrupt" in again) == (done > 0)
    names = ("replaced.json", "base/replacement.safetensors", "base/adapter.json")
    assert [(out / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]
    assert not (out / "replacing").exists()


def test_a_run_that_stops_while_a_place_is_being_kept_does_that_place_again(base, lesson, shell, monkeypatch):
    """What is done is written after the hybrid that it names, and the hybrid before is dropped last."""
    out, whole = shell.folder / "out", shell.folder / "whole"
    shell(*words(base, lesson, whole))
    save = ReplacedModel.save

    def stopped(model, folder):
        if len(model.config.names()) == 2:
            raise KeyboardInterrupt
        save(model, folder)

    with monkeypatch.context() as patch:
        patch.setattr(ReplacedModel, "save", stopped)
        shell(*words(base, lesson, out), code=130)
    assert json.loads((out / "replacing" / "progress.json").read_text())["done"] == 1
    assert "1 of 3 places were replaced before the interrupt" in shell(*words(base, lesson, out))
    assert (out / "replaced.json").read_bytes() == (whole / "replaced.json").read_bytes()


def test_another_command_does_not_go_on_with_an_interrupted_run(base, lesson, shell, monkeypatch):
    out = shell.folder / "out"
    for done, more in ((0, ("--seed", "5")), (1, ())):  # before a place is done, any command may begin anew
        with monkeypatch.context() as patch:
            stop_after_places(patch, done)
            shell(*words(base, lesson, out, *more), code=130)
    other = pretrained(shell.folder / "other", seed=1)
    for command, reason in (
        (words(other, lesson, out), "was begun with another original"),
        (words(base, shell.folder / "ada.txt", out, "--window", "20"), "was begun with another texts"),
        (words(base, lesson, out, "--seed", "5"), "was begun with another recipe"),
        (("convert", base, out), "holds a run of convert --replace that was interrupted; repeat the command"),
    ):
        assert reason in shell(*command, code=2)
    (out / "replacing" / "progress.json").write_text("{")
    assert "is not whole; remove" in shell(*words(base, lesson, out), code=2)


def test_a_rate_that_was_found_holds_for_what_learns_in_places_too(base, lesson, shell):
    out = shell.folder / "out"
    found = shell.json(*words(base, lesson, out, "--eta", "0.001", "--calibrate", lesson, "--length", "64"))
    scale = found["calibration"]["scale"]
    assert scale not in (0.0, 1.0)
    rates = {name: memory.levels[0].eta for name, memory in everlearn.load(out).model.memories().items()}
    assert rates == {name: pytest.approx(0.001 * scale) for name in ("stack", "block.1.mlp")}


def test_a_hybrid_made_in_python_is_converted_too(base, shell, tmp_path):
    model, tokenizer = load_base(base)
    replace_blocks(model, tokenizer, attention={1: Delta()}).save(tmp_path / "hybrid")
    shell("convert", tmp_path / "hybrid", tmp_path / "out", "--chunk-size", CHUNK)
    expected = load_replaced(tmp_path / "hybrid").fingerprint()
    assert everlearn.load(tmp_path / "out").model.hybrid.fingerprint() == expected
    said = shell("convert", tmp_path / "hybrid", tmp_path / "x", "--replace", "0", "--data", base, code=2)
    assert "holds replaced blocks already; begin again from the original model" in said


REFUSED = [
    (("--replace", "0"), "need texts to teach by, and --data is for them alone; give both"),
    (("--data", "ada.txt"), "need texts to teach by, and --data is for them alone; give both"),
    (("--replace", "7", "--data", "lesson"), "block 7 is not of LlamaForCausalLM, whose blocks are 0 to 1"),
    (("--replace-mlp", "0", "1", "--data", "lesson"), "names all 2 blocks, and the pretrained MLPs that are left"),
    (("--replace", "0", "--data", "ada.txt"), "have 256 tokens or fewer each; one of at least 257"),
    (("--replace", "0", "--data", "lesson", "--steps", "-1"), "--steps -1 is below 0; 100 was measured"),
    (("--replace", "x", "--data", "lesson"), "Could not find valid parse for arguments: .'x'"),
]


def test_bad_input_is_one_line_and_the_right_command_follows(base, lesson, shell):
    files, out = {"lesson": lesson, "ada.txt": shell.folder / "ada.txt"}, shell.folder / "out"
    for more, reason in REFUSED:
        said = shell("convert", base, out, *(files.get(word, word) for word in more), code=2)
        lines = [line for line in said.splitlines() if line.startswith("everlearn: ")]
        assert re.search(reason, lines[0]) and len(lines) == 1, more
    shell(*words(base, lesson, out))
