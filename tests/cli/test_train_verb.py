"""`everlearn train` from end to end: what it says and leaves, what goes on, what is refused, and what follows."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import pytest
from verbs_fixture import Shell

from everlearn.cli.main import main
from everlearn.cli.train import Options, clock, config_of
from everlearn.evals.ngram import ByteNgram
from everlearn.memory.files import sole_writer
from everlearn.models import PRESETS, load_model
from everlearn.recipes.pretrain import recipe, stated
from everlearn.train.config import RunConfig
from everlearn.train.corpus import split

TEXT = "".join(f"Chapter {i}. The captain wrote {i % 7} letters home, and met the whale.\n" for i in range(60))
FEW = ["--steps", "3", "--batch-size", "2", "--length", "16", "--save-every", "2", "--valid-every", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Train three steps on a text, plain and packed; return the folder of both."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "a.txt").write_text(TEXT)
    (folder / "b.txt.gz").write_bytes(gzip.compress(TEXT[::-1].encode()))
    data = ["--data", str(folder / "a.txt"), str(folder / "b.txt.gz")]
    assert main(["train", *data, "--out", str(folder / "run"), *FEW, "--json", str(folder / "out.json")]) == 0
    return folder


@pytest.fixture
def shell(tmp_path, capsys, monkeypatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TEXT)
    Path("short.txt").write_text(TEXT[:600])
    return Shell(tmp_path, capsys)


def refused(shell: Shell, *words: str) -> str:
    """Run a command that must fail with one line and change nothing."""
    before = {path: path.read_bytes() for path in shell.folder.rglob("*") if path.is_file() and path.name != ".lock"}
    err = shell(*words, code=2)
    lines = [line for line in err.splitlines() if line.startswith("everlearn: ")]
    assert len(lines) == 1
    assert "EVERLEARN_DEBUG" not in lines[0]
    after = {path: path.read_bytes() for path in shell.folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before
    return lines[0]


def test_a_run_leaves_a_model_a_log_and_a_document(trained):
    model, about = load_model(trained / "run")
    document = json.loads((trained / "out.json").read_text())
    assert (document["model"], document["size"], document["steps"]) == ("hope_attention", "tiny", 3)
    assert document["parameters"] == sum(p.numel() for p in model.parameters())
    assert document["tokens"] == 3 * 2 * 16
    assert [file["bytes"] for file in about["data"]] == [len(TEXT)] * 2
    assert (trained / "run" / "log.jsonl").is_file()


def test_everything_is_said_and_the_same_command_goes_on(shell):
    words = ["train", "--model", "delta_net", "--data", "t.txt", "--out", "r", *FEW]
    said = shell(*words)
    for line in ("device: cpu", "model: delta_net, size tiny, ", "recipe: 3 steps of 2 x 16 tokens; Muon 0.008 for",
                 "data: 1 file, ", "bits per byte of held-out text after 3 steps", "kept in r",
                 "next: everlearn eval r/heldout --base r --ppl"):  # fmt: skip
        assert line in said
    before = Path("r/model.safetensors").read_bytes()
    assert "goes on after step 3 of 3" in shell(*words)
    assert Path("r/model.safetensors").read_bytes() == before


def test_one_option_puts_attention_into_some_blocks(shell):
    words = ["train", "--model", "gated_delta_net", "--attention", "1", "--data", "t.txt", "--out", "r", *FEW]
    assert "model: gated_delta_net, attention in 1 of 4 blocks, size tiny, " in shell(*words)
    model, _ = load_model(Path("r"))
    assert model.config.mixers() == ("gated_delta_net",) * 3 + ("attention",)
    assert model.config.window == 16, "attention sees what it was trained on"
    assert len(shell("generate", "The captain", "--base", "r", "--tokens", "5").encode()) >= 5
    assert "attention_blocks is 5; it must be a whole number from 0 to num_layers, 4" in refused(
        shell, "train", "--model", "hope", "--attention", "5", "--data", "t.txt", "--out", "new"
    )
    assert "gives attention to every block" in refused(
        shell, "train", "--attention", "1", "--data", "t.txt", "--out", "new"
    )


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(shell, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("everlearn.train.trainer.Trainer.step", interrupted)
        err = shell("train", "--data", "t.txt", "--out", "r", *FEW, code=130)
    again = "everlearn train --data t.txt --out r --steps 3 --batch-size 2 --length 16 --save-every 2 --valid-every 2"
    assert err.endswith(f"everlearn: interrupted; the last checkpoint is kept in r; to go on: {again}\n")
    assert shell(*again.split()[1:]).endswith("next: everlearn eval r/heldout --base r --ppl\n")


def test_the_verbs_take_the_trained_folder(trained, shell):
    base = trained / "run"
    new = shell("generate", "The captain", "--base", base, "--tokens", "5")
    assert len(new.encode()) >= 5
    said = shell("score", "short.txt", "--base", base)
    assert "with the model as trained; nothing was learned" in said
    assert not Path("memory").exists()
    shell("read", "short.txt", "--base", base, "--state", "S")
    learned = shell.json("score", "short.txt", "--state", "S", "--user", "me")
    plain = shell.json("score", "short.txt", "--base", base)
    assert learned["bits_per_byte"] != plain["bits_per_byte"]
    assert shell.json("score", "short.txt", "--state", "S", "--base", base, "--user", "me") == learned
    shell("train", "--data", "t.txt", "--out", "other", *FEW, "--seed", "1")
    assert "begun with another model" in shell(
        "score", "short.txt", "--state", "S", "--base", "other", "--user", "me", code=2
    )
    assert "holds no state" in shell("score", "short.txt", "--base", "nothing", code=2)


def test_a_model_is_measured_beside_compressors_and_an_n_gram(trained, shell):
    base = trained / "run"
    found = shell.json("eval", base / "heldout", "--base", base, "--ppl", "--limit", "400")
    data = (trained / "run" / "heldout" / "0000.txt").read_bytes()[:400]
    row = found["documents"][0]
    texts = {"a": TEXT.encode(), "b": TEXT[::-1].encode()}
    ngram = ByteNgram(5)
    for part in split(texts, 0.05).train:
        ngram.train(part.data)
    assert row["bytes"] == len(data)
    assert row["gzip"] == 8 * len(gzip.compress(data, 9, mtime=0)) / len(data)
    assert row["ngram_frozen"] == pytest.approx(float(ngram.bits(data)[1:].mean()))
    assert row["ngram_learning"] == pytest.approx(float(ngram.bits(data, learn=True)[1:].mean()))
    model, _ = load_model(base)
    import everlearn

    reader = everlearn.Learner(model)
    assert row["frozen"] == pytest.approx(reader.score(data).bits_per_byte)
    assert row["learning"] == pytest.approx(reader.read(data, user="me").bits_per_byte)
    total = found["total"]
    assert found["perplexity_per_token"] == pytest.approx(2 ** total["frozen"])
    assert total["frozen"] == pytest.approx(
        sum(r["frozen"] * r["bytes"] for r in found["documents"]) / sum(r["bytes"] for r in found["documents"])
    )
    said = shell("eval", "t.txt", "--base", base, "--ppl", "--limit", "100")
    assert "measured on 1 of 1 documents, at most 100 bytes of each" in said
    assert "nothing that was learned is kept" in said
    assert said.endswith(f"next: everlearn generate PROMPT --base {base}\n")
    assert "--limit 1 is too small" in refused(shell, "eval", "t.txt", "--base", str(base), "--ppl", "--limit", "1")


def test_no_document_helps_another(trained, shell):
    import everlearn

    Path("two").mkdir()
    for name in "ab":
        Path("two", f"{name}.txt").write_text(TEXT[:600])
    found = shell.json("eval", "two", "--base", trained / "run", "--ppl", "--limit", "600")["documents"]
    alone = everlearn.Learner(load_model(trained / "run")[0]).read(TEXT[:600], user="me").bits_per_byte
    assert [row["learning"] for row in found] == [pytest.approx(alone)] * 2


def test_the_n_gram_begins_empty_where_the_training_text_is_gone_or_changed(shell):
    shell("train", "--data", "t.txt", "--out", "r", *FEW)
    words = ("eval", "r/heldout", "--base", "r", "--ppl", "--limit", "100")
    assert "begins empty" not in shell(*words)
    Path("t.txt").write_text(TEXT + "x")
    assert "the n-gram begins empty: t.txt, on which the model was trained, has changed" in shell(*words)
    Path("t.txt").unlink()
    assert "t.txt, on which the model was trained, is not there" in shell(*words)
    shell("read", "short.txt", "--base", "r", "--state", "S")
    said = shell("eval", "short.txt", "--state", "S", "--ppl", "--limit", "100")
    assert "the model's folder does not say what it was trained on" in said
    found = shell.json("eval", "short.txt", "--state", "S", "--ppl", "--limit", "100")
    assert found["documents"][0]["ngram_frozen"] is None


def test_a_vocabulary_is_learned_and_bits_stay_those_of_bytes(shell):
    words = ["train", "--model", "delta_net", "--vocab", "300", "--data", "t.txt", "--out", "r", *FEW]
    summary = shell.json(*words)
    assert summary["vocabulary"] == 300
    assert summary["bytes"] > summary["tokens"]
    found = shell.json("eval", "t.txt", "--base", "r", "--ppl")
    assert found["documents"][0]["tokens"] < len(TEXT)
    per_token = found["perplexity_per_token"]
    assert math.log2(per_token) * found["total"]["tokens"] == pytest.approx(found["total"]["frozen_bits"])
    assert found["total"]["frozen"] == pytest.approx(found["total"]["frozen_bits"] / len(TEXT), rel=0.02)
    assert shell("generate", "The", "--base", "r", "--tokens", "3")


REFUSED = {
    "no data": (["--out", "r"], "no text was given; name at least one file"),
    "an empty file": (["--data", "empty"], "empty is empty"),
    "three bytes": (
        ["--data", "three"],
        "the data holds 3 bytes, .* at least 512 bytes are needed; give a longer file",
    ),
    "a missing file": (["--data", "none.txt"], "none.txt is not there"),
    "a damaged gzip": (["--data", "bad.gz"], "bad.gz is damaged: got no whole gzip file"),
    "an unknown preset": (["--data", "t.txt", "--model", "hop"], "preset 'hop' is unknown; choose one of transformer"),
    "an unknown size": (["--data", "t.txt", "--size", "huge"], "size 'huge' is unknown; choose one of tiny, small"),
    "a vocabulary of bytes": (["--data", "t.txt", "--vocab", "257"], "of 257 holds no piece .*give 258 or more"),
    "a window above the text": (
        ["--data", "t.txt", "--length", "99999"],
        "one window needs 100000; give a longer text",
    ),
    "parts that do not fit": (["--data", "t.txt", "--accumulate", "3"], "accumulate 3 does not divide batch_size 16"),
    "a full folder": (["--data", "t.txt", "--out", "full"], "full is not empty and holds no run"),
    "a file": (["--data", "t.txt", "--out", "t.txt"], "t.txt is a file; a run needs a folder"),
    "steps below one": (["--data", "t.txt", "--steps", "0"], "steps is 0; it must be a whole number of at least 1"),
    "a seed": (["--data", "t.txt", "--seed=-1"], "--seed -1 is out of range"),
}


@pytest.mark.parametrize(("words", "match"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(shell, words, match):
    Path("empty").write_text("")
    Path("three").write_text("abc")
    Path("bad.gz").write_bytes(gzip.compress(b"a" * 5000)[:-9])
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    line = refused(shell, "train", *words)
    assert re.search(match, line), line
    assert not Path("run").exists()
    assert not Path("r").exists()


def test_another_run_a_changed_file_and_a_second_writer(shell):
    words = ["train", "--model", "delta_net", "--data", "t.txt", "--out", "r", *FEW]
    shell(*words)
    line = refused(shell, *words, "--lr", "0.1")
    assert (
        "r holds another run (training.lr: 0.008, now 0.1); go on with its own options, or choose a new folder" in line
    )
    with sole_writer(Path("r")):
        assert "another process is writing r" in refused(shell, *words)
    Path("t.txt").write_text(TEXT + "more\n")
    assert "t.txt is not what the run in r was begun with" in refused(shell, *words)


def test_a_gzip_file_that_unpacks_to_too_much_is_refused(shell, monkeypatch):
    monkeypatch.setattr("everlearn.demo.corpus.LARGEST_TEXT", 1000)
    Path("bomb.gz").write_bytes(gzip.compress(b"a" * 2000))
    assert "bomb.gz is too large: got more than 1000 bytes unpacked" in refused(shell, "train", "--data", "bomb.gz")


def test_every_option_reaches_the_run():
    given = {"steps": 7, "batch_size": 6, "length": 9, "lr": 0.5, "adamw_lr": 0.25, "warmup": 3, "clip": 2.0, "seed": 5}
    of_run = {"accumulate": 2, "carry": True, "bf16": True, "recompute": True, "compile": True, "save_every": 8,
              "valid_every": 9}  # fmt: skip
    config = config_of(Options(model="delta_net", vocab=300, **given, **of_run))
    assert {name: vars(config.training)[name] for name in given} == given
    assert {name: vars(config)[name] for name in of_run} == of_run
    assert (config.model.mixer, config.model.vocab_size) == ("delta_net", 300)
    assert RunConfig.from_dict(config.to_dict()) == config


def test_the_rates_fall_with_the_width_and_say_whether_they_were_tried():
    tiny, small = recipe("delta_net"), recipe("delta_net", "small")
    assert (tiny.training.lr, tiny.training.adamw_lr, tiny.training.warmup) == (8e-3, 6e-3, 33)
    assert (small.training.lr, small.training.adamw_lr) == (pytest.approx(2e-3), pytest.approx(3e-3))
    assert "extrapolated" not in stated(tiny, "tiny")
    assert stated(small, "small").endswith("; the rates of 'small' are extrapolated, not tried")
    for name in PRESETS:
        assert recipe(name, model={"vocab_size": 256}).training == tiny.training


def test_attention_looks_back_as_far_as_it_was_trained():
    assert recipe("hope_attention").model.window == 256
    assert recipe("hope_attention", training={"length": 64}).model.window == 64
    assert recipe("hope_attention", model={"window": 8}).model.window == 8


def test_a_time_is_written_as_people_say_it():
    assert [clock(s) for s in (0, 89.4, 90, 5399, 5400, 172_799, 172_800)] == [
        "0 s", "89 s", "2 min", "90 min", "1.5 h", "48.0 h", "2.0 days"
    ]  # fmt: skip


def test_a_model_of_tokens_goes_the_whole_way(shell):
    """train --vocab, then eval --ppl, generate, read, score, eval and export with the very folder."""
    Path("new.txt").write_text("In June the gardener sold nine baskets of plums, and kept two. " * 12)
    few = ["--steps", "12", "--batch-size", "4", "--length", "16", "--save-every", "12", "--valid-every", "12"]
    shell("train", "--vocab", "300", "--data", "t.txt", "--out", "r", *few)
    model, _ = load_model(Path("r"))
    assert model.encode("The captain").numel() < len("The captain"), "pieces are longer than bytes"
    ppl = shell.json("eval", "r/heldout", "--base", "r", "--ppl")
    assert math.isfinite(ppl["total"]["frozen"])
    assert shell("generate", "The captain", "--base", "r", "--tokens", "4").strip()
    read = shell.json("read", "new.txt", "--base", "r", "--state", "S", "--user", "ada")
    frozen, learned = read["total"]["frozen"], read["total"]["learned"]
    assert learned < frozen == pytest.approx(shell.json("score", "new.txt", "--base", "r")["bits_per_byte"], abs=1e-4)
    later = shell.json("eval", "new.txt", "--state", "S", "--user", "ada")["total"]
    assert later["learned"] < later["frozen"] == pytest.approx(frozen, abs=1e-4)
    assert shell("generate", "The captain", "--state", "S", "--user", "ada", "--tokens", "4").strip()
    shell("memory", "export", "ada.el", "--state", "S", "--user", "ada")
    shell("memory", "import", "ada.el", "--state", "S", "--user", "eve")
    assert shell.json("eval", "new.txt", "--state", "S", "--user", "eve")["total"] == later


def test_a_model_that_keeps_nothing_is_not_read_with(shell):
    shell("train", "--model", "delta_net", "--data", "t.txt", "--out", "r", *FEW)
    line = refused(shell, "read", "short.txt", "--base", "r", "--state", "S")
    assert "the model in r has no levels, so nothing that it reads is kept; give one that has" in line


def test_what_a_model_without_a_memory_cannot_answer_is_said_in_one_line(trained, shell):
    base = str(trained / "run")
    line = refused(shell, "eval", "short.txt", "--base", base)
    assert line.endswith(f"to measure the model itself: everlearn eval short.txt --base {base} --ppl")
    line = refused(shell, "score", "short.txt", "--base", base, "--user", "ada")
    assert "memory holds no memory of user 'ada', since it holds no state; make one: everlearn read FILE" in line
    assert f"the model in {base} has no chat template" in refused(shell, "chat", "--base", base)
