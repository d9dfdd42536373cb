"""The verbs of texts from end to end, on small files and an untrained base: what is learned, kept, said and refused."""

import pytest
from verbs_fixture import CHUNK, ONE, RECORDS, TWO, memory, write_records

import everlearn
from everlearn.cli import learn
from everlearn.cli.output import Output
from everlearn.cli.reading import show, totals
from everlearn.learn import Learner
from everlearn.memory.codec import digest, to_tensors
from everlearn.models import load_model
from everlearn.recipes import byte_reader

pytestmark = pytest.mark.usefixtures("small")


def test_read_learns_each_file_and_says_what_it_cost(shell):
    """The numbers are those of a learner that reads the same bytes."""
    document = shell.json(
        "read", shell.folder / "texts/one.txt", shell.folder / "texts/two.txt", "--state", shell.folder / "s",
        "--user", "ada", "--base", shell.folder / "base",
    )  # fmt: skip
    model, _ = load_model(shell.folder / "base")
    plain = Learner(model)
    for row, data in zip(document["documents"], (ONE, TWO), strict=True):
        assert row["bytes"] == len(data)
        assert row["frozen"] == pytest.approx(plain.score(data).bits_per_byte, abs=1e-6)
        assert row["learned"] == pytest.approx(plain.read(data, user="ada").bits_per_byte, abs=1e-6)
        assert row["learned"] < row["frozen"]
    assert document["user"] == "ada"
    assert document["state"] == str(shell.folder / "s")
    assert document["total"]["bytes"] == len(ONE) + len(TWO)
    assert memory(shell.folder / "s", "ada") == digest(to_tensors(plain.state("ada")))
    assert (shell.folder / "s" / "base" / "config.json").exists()


def test_totals_are_means_weighted_by_bytes():
    """(2 bytes at 1 and 8, 6 bytes at 5 and 4): frozen (2 + 30) / 8 = 4, learned (16 + 24) / 8 = 5."""
    rows = [{"bytes": 2, "frozen": 1.0, "learned": 8.0}, {"bytes": 6, "frozen": 5.0, "learned": 4.0}]
    assert totals(rows) == {"documents": 2, "bytes": 8, "frozen": 4.0, "learned": 5.0}
    assert totals([]) == {"documents": 0, "bytes": 0, "frozen": None, "learned": None}


def test_the_table_shows_each_document_and_what_reading_saved(capsys):
    """8.0 bits frozen and 7.25 with learning: 0.75 saved, and a loss has its sign."""
    rows = [
        {"name": "one.txt", "bytes": 1_234, "frozen": 8.0, "learned": 7.25},
        {"name": "two.txt", "bytes": 5, "frozen": 2.0, "learned": 2.5},
    ]
    show(rows, Output(), title="a title", learned="with memory")
    lines = [" ".join(line.replace("\u2502", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "a title"
    assert any("document" in line and "frozen" in line and "with memory" in line and "saved" in line for line in lines)
    assert "one.txt 1,234 8.000 7.250 +0.750" in lines
    assert "two.txt 5 2.000 2.500 -0.500" in lines


def test_every_verb_names_what_it_passed_over_and_the_next_command(shell):
    texts, state = shell.folder / "texts", shell.folder / "s"
    (texts / "picture.bin").write_bytes(b"\0" * 100)
    skipped = f"skipped: {texts / 'picture.bin'} is binary"
    said = shell("learn", texts, "--state", state, "--base", shell.folder / "base")
    assert skipped in said
    assert f"all {len(ONE) + len(TWO)} bytes: " in said
    assert "8.000 bits per byte without this memory, 7.000 with it (-1.000)" in said
    assert said.endswith(f"kept in {state}\nnext: everlearn eval {texts} --state {state} --user me\n")
    said = shell("eval", texts, "--state", state)
    assert skipped in said
    assert said.endswith(f"next: everlearn generate PROMPT --state {state} --user me\n")
    said = shell("read", texts, "--state", state)
    assert skipped in said
    assert said.endswith(f"next: everlearn eval {texts} --state {state} --user me\n")
    write_records(shell.folder / "r.jsonl", RECORDS[:2])
    said = shell("learn", shell.folder / "r.jsonl", "--state", shell.folder / "labels")
    assert said.endswith(f"next: everlearn predict {shell.folder / 'r.jsonl'} --state {shell.folder / 'labels'}\n")


def test_read_reads_again_and_learn_does_not(shell):
    texts, state = shell.folder / "texts", shell.folder / "s"
    shell("learn", texts, "--state", state, "--base", shell.folder / "base")
    once = memory(state)
    said = shell("learn", texts, "--state", state)
    assert said.count("read before, skipped") == 2
    assert memory(state) == once
    assert "Reading 0 documents" not in said
    shell("read", texts / "one.txt", "--state", state)
    assert memory(state) != once


def test_learn_says_what_was_learned_kept_and_passed_over(shell):
    (shell.folder / "texts" / "picture.bin").write_bytes(b"\0" * 100)
    (shell.folder / "texts" / "copy.txt").write_bytes(ONE)  # the same content is read once
    document = shell.json(
        "learn", shell.folder / "texts", "--state", shell.folder / "s", "--base", shell.folder / "base"
    )
    assert [row["bytes"] for row in document["documents"]] == [len(ONE), len(TWO)]
    assert document["kept"] == {"before": 8.0, "after": 7.0, "files": 1}
    assert len(document["skipped"]) == 1 and "picture.bin is binary" in document["skipped"][0]
    assert document["user"] == "me"
    assert document["total"]["documents"] == 2


def test_damage_scores_held_out_modules_without_and_with_the_memory(shell, monkeypatch):
    """Two made-up modules, of which one is long enough and is cut; the other way round for a user who has learned."""
    from everlearn.demo import corpus
    from everlearn.demo.corpus import Document

    monkeypatch.undo()
    heldout = [Document("a", ONE * 3), Document("short", b"x" * 20), Document("b", TWO * 3), Document("c", ONE)]
    sizes = []
    monkeypatch.setattr(corpus, "standard_library", lambda *wanted: (sizes.append(wanted), heldout))
    learner = Learner(load_model(shell.folder / "base")[0])
    learner.read(TWO, user="ada")
    kept = learn.damage(learner, "ada", files=2, length=50)
    for key, user in (("before", None), ("after", "ada")):
        expected = [learner.score(text[:50], user).bits_per_byte for text in (ONE, TWO)]
        assert kept[key] == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert kept["files"] == 2 and kept["before"] != kept["after"]
    assert sizes == [(byte_reader.TRAIN_BYTES, 150_000)]  # the base knows the rest


def test_a_text_too_short_for_a_step_says_so(shell):
    """The slow level of this base goes on collecting; the first byte is predicted by nothing."""
    (shell.folder / "short.txt").write_bytes(b"x" * CHUNK)
    (shell.folder / "long.txt").write_bytes(b"x" * (CHUNK + 1))
    command = ["--state", shell.folder / "s", "--base", shell.folder / "base"]
    said = shell("read", shell.folder / "short.txt", *command)
    assert "nothing was learned yet: 8 tokens, a step needs 9; its gradient waits for more text\n" in said
    assert "nothing was learned" not in shell("read", shell.folder / "long.txt", *command)


def test_eval_scores_and_changes_nothing(shell):
    texts, state = shell.folder / "texts", shell.folder / "s"
    shell("read", texts / "one.txt", "--state", state, "--user", "ada", "--base", shell.folder / "base")
    files = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    document = shell.json("eval", texts, "--state", state, "--user", "ada")
    learner = everlearn.Learner(load_model(state / "base")[0], state / "users")
    for row, data in zip(document["documents"], (ONE, TWO), strict=True):
        assert row["frozen"] == pytest.approx(learner.score(data).bits_per_byte, abs=1e-6)
        assert row["learned"] == pytest.approx(learner.score(data, "ada").bits_per_byte, abs=1e-6)
        assert row["learned"] != row["frozen"]
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == files
    said = shell("eval", texts, "--state", state, "--user", "eve", code=2)
    assert "holds no memory of user 'eve'; it knows ada" in said


def test_eval_knows_a_name_in_either_spelling(shell):
    one = shell.folder / "texts/one.txt"
    shell("read", one, "--state", shell.folder / "s", "--user", "zo\u00eb", "--base", shell.folder / "base")


def test_a_state_inside_the_folder_that_is_read_is_refused(shell):
    said = shell("learn", shell.folder / "texts", "--state", shell.folder / "texts" / "memory", code=2)
    assert "lies inside" in said and not (shell.folder / "texts" / "memory").exists()


def test_verbs_refuse_the_other_kind_of_memory(shell):
    write_records(shell.folder / "r.jsonl", RECORDS[:2])
    text, records = shell.folder / "texts/one.txt", shell.folder / "r.jsonl"
    shell("learn", records, "--state", shell.folder / "labels")
    shell("read", text, "--state", shell.folder / "text", "--base", shell.folder / "base")
    for words, message in (
        (["read", text, "--state", shell.folder / "labels"], "holds a memory of labels, this is about text"),
        (["learn", records, "--state", shell.folder / "text"], "holds a memory of text, this is about labels"),
        (["eval", text, "--state", shell.folder / "labels"], "holds a classifier; give a .jsonl file"),
        (["eval", records, "--state", shell.folder / "text"], "holds a memory of text; give a folder or a text file"),
        (["predict", text, "--state", shell.folder / "text"], "holds a memory of text, which has no labels"),
        (["eval", text, "--state", shell.folder / "nowhere"], "holds no state (everlearn.json is missing)"),
        (["predict", text, "--state", shell.folder / "nowhere"], "holds no state"),
        (["learn", shell.folder / "gone", "--state", shell.folder / "new"], "gone does not exist"),
    ):
        assert message in shell(*words, code=2)
    assert not (shell.folder / "nowhere").exists() and not (shell.folder / "new").exists()
    (shell.folder / "empty.txt").write_text(" \n")
    assert "holds no text" in shell("predict", shell.folder / "empty.txt", "--state", shell.folder / "labels", code=2)
