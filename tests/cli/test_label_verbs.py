"""The verbs of a classifier from end to end: an encoder, a ledger, forgetting, merging, unknown texts, reasons."""

import json

import pytest
import torch
from verbs_fixture import Shell

from everlearn.cli import labels
from everlearn.continual.classifier import Classifier
from everlearn.memory.codec import save_tensors
from tests.continual.test_encoders import save as save_encoder

RECORDS = [
    (f"{word} number {i}", label)
    for i in range(6)
    for word, label in (("apple pie", "fruit"), ("oak tree", "tree"), ("red car", 7))
]
PLANES = [(f"a plane in the sky {i}", "plane") for i in range(4)]


@pytest.fixture
def shell(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(labels, "FEATURES", 64)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.jsonl", RECORDS)
    write(tmp_path / "p.jsonl", PLANES)
    return Shell(tmp_path, capsys)


def write(path, records):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in records))
    return path


def knows(folder):
    """Return the sums that a state holds, without what was noted beside them."""
    return labels.open_classifier(folder, make=False)[0].memory.to_tensors()


def same(one, other):
    (a, a_meta), (b, b_meta) = one, other
    return a_meta == b_meta and all(torch.equal(a[name], b[name]) for name in a)


def learned(shell, records, name="other"):
    shell("learn", write(shell.folder / f"{name}.jsonl", records), "--state", shell.folder / name)
    return knows(shell.folder / name)


def test_a_file_of_any_name_holds_labels_when_it_is_said(shell):
    (shell.folder / "r.jsonl").rename(shell.folder / "records.txt")
    said = shell("learn", "--labels", "records.txt", "--state", "s")
    assert "3 labels, 18 records" in said and "KB kept, no text" in said
    assert "about labelled records" in shell("learn", "records.txt", "--state", "t", "--ledger", code=2)


def test_records_are_forgotten_by_id_by_class_and_by_themselves(shell):
    document = shell.json("learn", "r.jsonl", "--state", "s", "--ledger")
    assert len(document["ids"]) == len(RECORDS)
    said = shell("memory", "show", "--state", "s")
    assert "18 records" in said and "and a ledger of" in said and "no text" in said
    said = shell("memory", "forget", "--record", document["ids"][0], document["ids"][4], "--state", "s")
    assert "forgot 2 records" in said
    left = [record for i, record in enumerate(RECORDS) if i not in (0, 4)]
    assert same(knows(shell.folder / "s"), learned(shell, left, "a"))
    assert "forgot 6 records" in shell("memory", "forget", "--class", "7", "--state", "s")
    left = [record for record in left if record[1] != 7]
    assert same(knows(shell.folder / "s"), learned(shell, left, "b"))
    write(shell.folder / "gone.jsonl", left[:3])
    assert "forgot 3 records" in shell("memory", "forget", "gone.jsonl", "--state", "s")
    assert same(knows(shell.folder / "s"), learned(shell, left[3:], "c"))
    # and it goes on learning, by a file of the same name, without the flag
    write(shell.folder / "p.jsonl", PLANES)
    assert "plane" in [label for label, _ in _classes(shell, "learn", "p.jsonl")]


def _classes(shell, *words):
    shell(*words, "--state", "s")
    return shell.json("memory", "show", "--state", "s")["classes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["forget", "--record", "0" * 16], "holds no record '0000000000000000'"),
        (["forget", "--class", "moon"], "class 'moon' is not known"),
        (["forget"], "needs one of"),
        (["forget", "r.jsonl", "--class", "tree"], "needs one of"),
        (["forget", "p.jsonl"], "no such record of class 'plane'"),
        (["merge"], "needs the folder of another state"),
        (["merge", "s"], "is the state itself"),
        (["merge", "r.jsonl"], "holds no classifier"),
        (["calibrate"], "needs a .jsonl file"),
        (["calibrate", "p.jsonl"], "class 'plane' was not learned"),
        (["diff"], "holds a classifier, not memories of text"),
        (["show", "--user", "me"], "one classifier for all"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(shell, words, message):
    shell("learn", "r.jsonl", "--state", "s", "--ledger")
    before = knows(shell.folder / "s")
    said = shell("memory", *words, "--state", "s", code=2)
    assert message in said and said.count("\n") == 1
    assert same(knows(shell.folder / "s"), before)


def test_what_needs_a_ledger_says_so(shell):
    shell("learn", "r.jsonl", "--state", "s")
    assert "needs a ledger" in shell("memory", "forget", "--class", "tree", "--state", "s", code=2)
    assert "begun without --ledger" in shell("learn", "p.jsonl", "--state", "s", "--ledger", code=2)


def test_merged_states_are_one_that_learned_all(shell):
    whole = learned(shell, RECORDS + PLANES, "whole")
    shell("learn", "r.jsonl", "--state", "s")
    shell("learn", "p.jsonl", "--state", "t")
    assert "merged 4 records of 1 classes" in shell("memory", "merge", "t", "--state", "s")
    assert same(knows(shell.folder / "s"), whole)
    # what either has seen is not learned again, and not merged again
    assert "learned before" in shell("learn", "p.jsonl", "--state", "s")
    assert "count twice" in shell("memory", "merge", "t", "--state", "s", code=2)
    assert same(knows(shell.folder / "s"), whole)


def test_unknown_texts_are_told_once_a_threshold_is_chosen(shell):
    shell("learn", "r.jsonl", "--state", "s")
    assert "memory calibrate VALIDATION.jsonl" in shell("predict", "p.jsonl", "--unknown", "--state", "s", code=2)
    write(shell.folder / "v.jsonl", [(text.replace("number", "no"), label) for text, label in RECORDS])
    (shell.folder / "u.txt").write_text("a plane above\n\nstars at night\nthe deep blue sea\n")
    document = shell.json("memory", "calibrate", "v.jsonl", "--unknown", "u.txt", "--state", "s")
    assert document["report"]["unknown"] == 3 and document["report"]["kept"] == document["report"]["refused"] == 1.0
    assert "unknown by" in shell("memory", "show", "--state", "s")
    (shell.folder / "q.txt").write_text("apple pie no 3\na plane in the sky 2\n")
    assert (
        shell("predict", "q.txt", "--unknown", "--state", "s")
        == "fruit\tapple pie no 3\nunknown\ta plane in the sky 2\n"
    )
    answers = shell.json("predict", "q.txt", "--unknown", "--state", "s")["answers"]
    assert [one["unknown"] for one in answers] == [False, True] and answers[0]["labels"][0][0] == "fruit"


def test_a_class_called_unknown_is_not_mixed_with_what_is_unknown(shell):
    write(shell.folder / "u.jsonl", [*RECORDS, ("something else", "unknown")])
    shell("learn", "u.jsonl", "--state", "s")
    shell("memory", "calibrate", "r.jsonl", "--state", "s")
    assert "has a class 'unknown'" in shell("predict", "r.jsonl", "--unknown", "--state", "s", code=2)
    shell("predict", "r.jsonl", "--state", "s")


def test_an_answer_says_why(shell):
    ids = shell.json("learn", "r.jsonl", "--state", "s", "--ledger")["ids"]
    (shell.folder / "q.txt").write_text(f"{RECORDS[4][0]}\n")
    said = shell("predict", "q.txt", "--explain", "--top", "2", "--state", "s")
    assert said.startswith("tree ") and "for the class, 6 records" in said and "margin to the second" in said
    assert f"  record {ids[4]} carried" in said
    (one,) = shell.json("predict", "q.txt", "--explain", "--state", "s")["answers"]
    assert one["why"]["classes"][0]["label"] == "tree" and one["why"]["records"][0][0] == ids[4]
    assert one["why"]["classes"][0]["score"] == pytest.approx(
        one["why"]["classes"][0]["evidence"] + one["why"]["classes"][0]["bias"]
    )


def test_a_state_remembers_its_encoder_and_refuses_another(shell):
    encoder, other = save_encoder(shell.folder / "encoder"), save_encoder(shell.folder / "other", seed=1)
    write(shell.folder / "e.jsonl", [("the cat sat", "cat"), ("a dog ran", "dog"), ("the cat slept", "cat")])
    said = shell("learn", "e.jsonl", "--encoder", encoder, "--state", "s")
    assert "2 labels, 3 records" in said
    (shell.folder / "q.txt").write_text("the cat sat\n")
    assert shell("predict", "q.txt", "--state", "s") == "cat\tthe cat sat\n"
    assert f"encoder: {encoder}" in shell("memory", "show", "--state", "s")
    for words in (["predict", "q.txt"], ["eval", "e.jsonl"], ["learn", "e.jsonl"]):
        said = shell(*words, "--encoder", other, "--state", "s", code=2)
        assert "use the same encoder" in said and said.count("\n") == 1
    moved = encoder.rename(shell.folder / "moved")
    assert "does not exist" in shell("predict", "q.txt", "--state", "s", code=2)
    assert shell("predict", "q.txt", "--encoder", moved, "--state", "s") == "cat\tthe cat sat\n"
    write(shell.folder / "f.jsonl", [("a dog slept", "dog")])
    shell("learn", "f.jsonl", "--encoder", moved, "--state", "s")
    assert shell("predict", "q.txt", "--state", "s") == "cat\tthe cat sat\n"
    shell("learn", "r.jsonl", "--state", "hashed")
    assert "use the same encoder" in shell("predict", "q.txt", "--encoder", moved, "--state", "hashed", code=2)


def test_a_half_life_is_kept_and_not_changed(shell):
    shell("learn", "r.jsonl", "--half-life", "10", "--state", "s")
    assert labels.open_classifier(shell.folder / "s", make=False)[0].memory.half_life == 10
    assert "half-life: 10 records" in shell("memory", "show", "--state", "s")
    assert "begun with half-life 10.0, not 5.0" in shell("learn", "p.jsonl", "--half-life", "5", "--state", "s", code=2)
    shell("learn", "p.jsonl", "--half-life", "10", "--state", "s")
    assert "half_life 10.0 forgets no single" in shell("memory", "forget", "p.jsonl", "--state", "s", code=2)


def test_a_ledger_survives_an_interrupt_between_two_batches(shell, monkeypatch):
    """The classifier and its ledger are of one moment, and the same command goes on."""
    monkeypatch.setattr(labels, "BATCH", 5)
    save, saves = Classifier.save, []

    def interrupted(self, *arguments):
        if len(saves) == 3:  # the first is of the empty state
            raise KeyboardInterrupt
        saves.append(save(self, *arguments))

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "save", interrupted)
        shell("learn", "r.jsonl", "--ledger", "--state", "s", code=130)
    assert "resumed at record 11 of 18" in shell("learn", "r.jsonl", "--state", "s")
    classifier, _ = labels.open_classifier(shell.folder / "s", make=False, write=True)
    assert len(classifier.ledger) == 18 and same(classifier.memory.to_tensors(), learned(shell, RECORDS))


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_ledger_survives_the_end_of_a_process_before_any_of_its_states(shell, monkeypatch, written):
    """The ledger is committed first; its records are of no state when the process ends right there."""
    monkeypatch.setattr(labels, "BATCH", 5)
    states = []

    def killed(path, *arguments):
        if len(states) == written:
            raise KeyboardInterrupt
        states.append(save_tensors(path, *arguments))

    with monkeypatch.context() as patch:
        patch.setattr("everlearn.continual.classifier.save_tensors", killed)
        shell("learn", "r.jsonl", "--ledger", "--state", "s", code=130)
    shell("learn", "r.jsonl", "--ledger", "--state", "s")
    classifier, _ = labels.open_classifier(shell.folder / "s", make=False, write=True)
    assert len(classifier.ledger) == 18 and same(classifier.memory.to_tensors(), learned(shell, RECORDS))


def test_memories_of_text_take_no_classes(shell):
    from verbs_fixture import ONE, tiny_base

    (shell.folder / "one.txt").write_bytes(ONE)
    shell("read", "one.txt", "--state", "text", "--base", tiny_base(shell.folder / "base"))
    for words in (["merge", "x"], ["calibrate", "x"], ["forget", "--class", "a"], ["forget", "--record", "a"]):
        assert "about a classifier" in shell("memory", *words, "--state", "text", code=2)
