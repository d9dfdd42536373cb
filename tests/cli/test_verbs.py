"""The verbs from end to end, on small files and an untrained base: what is learned, kept, said and refused."""

import itertools
import json
import shutil

import pytest
import torch
from verbs_fixture import CHUNK, ONE, TWO, Shell, tiny_base

import everlearn
from everlearn.cli import labels, learn, workspace
from everlearn.cli.errors import UserError
from everlearn.cli.output import Output
from everlearn.cli.reading import show, totals
from everlearn.continual import Classifier, HashedText
from everlearn.learn import Learner
from everlearn.memory.codec import digest, to_tensors
from everlearn.models import load_model
from everlearn.recipes import byte_reader


@pytest.fixture
def shell(tmp_path, capsys):
    for name, data in (("one.txt", ONE), ("two.txt", TWO)):
        (tmp_path / "texts" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(data)
    tiny_base(tmp_path / "base")
    return Shell(tmp_path, capsys)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The held-out modules take a second to find, one test measures them; a projection to 2,000 features takes half."""
    monkeypatch.setattr(labels, "FEATURES", 64)
    monkeypatch.setattr(learn, "damage", lambda learner, user: {"before": 8.0, "after": 7.0, "files": 1})


def memory(state, user="me") -> str:
    """Return a hash of what a user's file on disk holds."""
    model, _ = load_model(state / "base")
    return digest(to_tensors(everlearn.Learner(model, state / "users").state(user)))


def stop_after(monkeypatch, pieces: int) -> None:
    """Interrupt every stream before the commit of its next piece but `pieces`."""
    commit, count = Learner._commit, itertools.count()

    def interrupted(self, states, notes):
        if next(count) >= pieces:
            raise KeyboardInterrupt
        commit(self, states, notes)

    monkeypatch.setattr(Learner, "_commit", interrupted)


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


@pytest.mark.parametrize("verb", ["read", "learn"])
@pytest.mark.parametrize("pieces", [1, 14, 15, 16, 29])
def test_the_same_command_after_an_interrupt_is_never_having_stopped(verb, pieces, shell, monkeypatch):
    """15 pieces for the first file, 16 for the second: interrupted in one, between both, and in the other."""
    texts = [shell.folder / "texts"] if verb == "learn" else sorted((shell.folder / "texts").iterdir())
    command = [verb, *texts, "--base", shell.folder / "base"]
    whole = shell.json(*command, "--state", shell.folder / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, pieces)
        said = shell(*command, "--state", shell.folder / "cut", code=130)
    assert said.splitlines()[-1].startswith("everlearn: interrupted; what was ")
    assert f"to go on: everlearn {verb} {texts[0]}" in said
    resumed = shell.json(*command, "--state", shell.folder / "cut")
    assert memory(shell.folder / "cut") == memory(shell.folder / "whole")
    # `read` tells of all the files it was given, `learn` of those that are new
    expected = whole["documents"][verb == "learn" and pieces >= 15 :]
    assert [row["name"] for row in resumed["documents"]] == [own["name"] for own in expected]
    for row, own in zip(resumed["documents"], expected, strict=True):
        for key in ("bytes", "frozen", "learned"):
            assert row[key] == pytest.approx(own[key], abs=1e-6)


def test_a_resumed_document_says_where_it_goes_on(shell, monkeypatch):
    command = ["read", shell.folder / "texts/one.txt", "--state", shell.folder / "s", "--base", shell.folder / "base"]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell(*command, code=130)
    assert f"one.txt: resumed at byte {3 * CHUNK + 1} of {len(ONE)}" in shell(*command)


def test_an_interrupted_document_goes_on_before_a_new_one_is_read(shell, monkeypatch):
    """A file that sorts first appears while another is open: its bytes must not run into the open document."""
    texts, state = shell.folder / "texts", shell.folder / "s"
    command = ["learn", texts, "--state", state, "--base", shell.folder / "base"]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell(*command, code=130)
    (texts / "a first.txt").write_bytes(b"a file that came later, and stands before the others")
    document = shell.json(*command)
    names = [row["name"].rpartition("/")[2] for row in document["documents"]]
    assert names == ["one.txt", "a first.txt", "two.txt"]
    plain = Learner(load_model(shell.folder / "base")[0])
    for row, name in zip(document["documents"], names, strict=True):
        assert row["learned"] == pytest.approx(
            plain.read((texts / name).read_bytes(), user="me").bits_per_byte, abs=1e-6
        )


def test_the_same_file_twice_in_one_command_is_read_twice_also_after_an_interrupt(shell, monkeypatch):
    one, two = shell.folder / "texts/one.txt", shell.folder / "texts/two.txt"
    command = ["read", one, two, one, "--base", shell.folder / "base"]
    shell(*command, "--state", shell.folder / "whole")
    for pieces in (20, 33):
        with monkeypatch.context() as patch:
            stop_after(patch, pieces)
            shell(*command, "--state", shell.folder / f"cut{pieces}", code=130)
        shell(*command, "--state", shell.folder / f"cut{pieces}")
        assert memory(shell.folder / f"cut{pieces}") == memory(shell.folder / "whole")


def test_a_document_left_open_ends_before_a_list_begins_with_another(shell, monkeypatch):
    """`read one two three` stopped after the first, `read three` stopped inside, and then all of them once more."""
    one, two = shell.folder / "texts/one.txt", shell.folder / "texts/two.txt"
    state, base = shell.folder / "s", shell.folder / "base"
    (shell.folder / "three.txt").write_bytes(b"a third file that stands last in the list of files")
    command = ["read", one, two, shell.folder / "three.txt", "--state", state, "--base", base]
    for words, pieces in ((command, 15), (["read", shell.folder / "three.txt", "--state", state], 2)):
        with monkeypatch.context() as patch:
            stop_after(patch, pieces)
            shell(*words, code=130)
    document = shell.json(*command)
    assert [row["name"].rpartition("/")[2] for row in document["documents"]] == ["one.txt", "two.txt", "three.txt"]
    plain, three = Learner(load_model(base)[0]), (shell.folder / "three.txt").read_bytes()
    plain.read(ONE, user="me")
    plain.read(three[: 2 * CHUNK + 1], user="me", end="drop")
    for data in (ONE, TWO, three):
        plain.read(data, user="me")
    assert memory(state) == digest(to_tensors(plain.state("me")))


def test_an_interrupted_document_that_is_not_given_again_ends_where_it_stood(shell, monkeypatch):
    state, base = shell.folder / "s", shell.folder / "base"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell("read", shell.folder / "texts/one.txt", "--state", state, "--base", base, code=130)
    said = shell("read", shell.folder / "texts/two.txt", "--state", state)
    assert f"an interrupted document is not among these; it ends at byte {3 * CHUNK + 1}" in said
    plain = Learner(load_model(base)[0])
    plain.read(ONE[: 3 * CHUNK + 1], user="me", end="drop")
    plain.read(TWO, user="me")
    assert memory(state) == digest(to_tensors(plain.state("me")))


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
    shell("eval", one, "--state", shell.folder / "s", "--user", "zoe\u0308")


RECORDS = [(f"{word} number {i}", label) for i in range(6) for word, label in (("apple pie", "fruit"), ("oak tree", 7))]


def write_records(path, records) -> None:
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in records))


def test_learn_answers_each_batch_before_it_learns_it(shell, monkeypatch):
    """Prequential: a batch of the file is answered by what the batches before it have taught, worked out here."""
    monkeypatch.setattr(labels, "BATCH", 5)
    write_records(shell.folder / "r.jsonl", RECORDS)
    document = shell.json("learn", shell.folder / "r.jsonl", "--state", shell.folder / "s")
    classifier, right = Classifier(HashedText(labels.FEATURES)), [0] * 5
    for start in (0, 5, 10):
        batch = RECORDS[start : start + 5]
        if start:
            guesses = classifier.predict([text for text, _ in batch])
            right += [int(guess == label) for guess, (_, label) in zip(guesses, batch, strict=True)]
        classifier.learn([text for text, _ in batch], [label for _, label in batch])
    assert sum(right) > 0
    assert document["accuracy"] == pytest.approx(sum(right) / 12)
    assert document["accuracy_by_quarter"] == [pytest.approx(sum(right[i : i + 3]) / 3) for i in (0, 3, 6, 9)]
    assert (document["records"], document["labels"]) == (12, 2)
    tensors, _ = classifier.memory.to_tensors()
    assert document["stores_kb"] == sum(t.nbytes for t in tensors.values()) // 1024


def test_records_are_learned_once_and_an_interrupted_stream_goes_on(shell, monkeypatch):
    monkeypatch.setattr(labels, "BATCH", 5)
    write_records(shell.folder / "r.jsonl", RECORDS)
    command = ["learn", shell.folder / "r.jsonl", "--state"]
    whole = shell.json(*command, shell.folder / "whole")
    file = (shell.folder / "whole" / "classifier.safetensors").read_bytes()
    assert shell("learn", shell.folder / "r.jsonl", "--state", shell.folder / "whole").count("learned twice") == 1
    assert (shell.folder / "whole" / "classifier.safetensors").read_bytes() == file
    save, count = Classifier.save, itertools.count()

    def interrupted(self, *arguments):
        if next(count) == 1:
            raise KeyboardInterrupt
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "save", interrupted)
        assert "to go on: everlearn learn" in shell(*command, shell.folder / "cut", code=130)
    assert "resumed at record 6 of 12" in shell(*command, shell.folder / "cut")
    assert (shell.folder / "cut" / "classifier.safetensors").read_bytes() == file
    assert whole["records"] == 12


def test_another_stream_is_learned_beside_the_first(shell, monkeypatch):
    write_records(shell.folder / "a.jsonl", RECORDS[:4])
    write_records(shell.folder / "b.jsonl", [("a new thing", "new")])
    shell("learn", shell.folder / "a.jsonl", "--state", shell.folder / "s")
    assert shell.json("learn", shell.folder / "b.jsonl", "--state", shell.folder / "s")["labels"] == 3
    _, notes = labels.open_classifier(shell.folder / "s", make=False)
    assert sorted(map(len, notes["streams"].values())) == [1, 4]
    assert "learned twice" in shell("learn", shell.folder / "a.jsonl", "--state", shell.folder / "s")


def test_a_file_that_has_grown_goes_on_with_its_new_lines(shell):
    """Learned in two goes or in one, the knowledge is the same, and neither file is learned again."""
    grown, whole = shell.folder / "grown", shell.folder / "whole"
    write_records(shell.folder / "r.jsonl", RECORDS[:7])
    shell("learn", shell.folder / "r.jsonl", "--state", grown)
    write_records(shell.folder / "old.jsonl", RECORDS[:7])
    write_records(shell.folder / "r.jsonl", RECORDS)
    assert "resumed at record 8 of 12" in shell("learn", shell.folder / "r.jsonl", "--state", grown)
    shell("learn", shell.folder / "r.jsonl", "--state", whole)
    one, two = (labels.open_classifier(folder, make=False)[0] for folder in (grown, whole))
    assert one.counts == two.counts == {"fruit": 6, 7: 6}
    assert digest(one.memory.to_tensors()[0]) == digest(two.memory.to_tensors()[0])
    for name in ("old.jsonl", "r.jsonl"):
        assert "learned twice" in shell("learn", shell.folder / name, "--state", grown)


def test_a_state_inside_the_folder_that_is_read_is_refused(shell):
    said = shell("learn", shell.folder / "texts", "--state", shell.folder / "texts" / "memory", code=2)
    assert "lies inside" in said and not (shell.folder / "texts" / "memory").exists()


def test_eval_and_predict_answer_with_what_was_learned(shell, monkeypatch):
    """Of four records three are known: micro 3/4; labels fruit 2/2, 7 1/1 and moon 0/1: macro 2/3."""
    write_records(shell.folder / "r.jsonl", RECORDS)
    write_records(shell.folder / "t.jsonl", [*RECORDS[:3], ("full moon", "moon")])
    shell("learn", shell.folder / "r.jsonl", "--state", shell.folder / "s")
    files = (shell.folder / "s" / "classifier.safetensors").read_bytes()
    document = shell.json("eval", shell.folder / "t.jsonl", "--state", shell.folder / "s")
    assert document == {
        "records": 4,
        "accuracy": 0.75,
        "accuracy_macro": pytest.approx(2 / 3),
        "labels_unknown": ["moon"],
    }
    (shell.folder / "t.txt").write_text("apple pie number 2\n\noak tree number 9\n")
    assert shell("predict", shell.folder / "t.txt", "--state", shell.folder / "s") == (
        "fruit\tapple pie number 2\n7\toak tree number 9\n"
    )
    (shell.folder / "u.jsonl").write_text('{"text": "oak tree number 9"}\n')
    answers = shell.json("predict", shell.folder / "u.jsonl", "--state", shell.folder / "s", "--top", "2")["answers"]
    classifier, _ = labels.open_classifier(shell.folder / "s", make=False)
    (expected,) = classifier.predict(["oak tree number 9"], top_k=2)
    assert answers == [{"text": "oak tree number 9", "labels": [[label, share] for label, share in expected]}]
    assert [label for label, _ in answers[0]["labels"]] == [7, "fruit"]
    assert f"7 {expected[0][1]:.2f}, fruit {expected[1][1]:.2f}\toak" in shell(
        "predict", shell.folder / "t.txt", "--state", shell.folder / "s", "--top", "2"
    )
    monkeypatch.setattr("sys.stdin", (shell.folder / "t.txt").open())
    assert shell("predict", "-", "--state", shell.folder / "s").startswith("fruit\tapple")
    assert (shell.folder / "s" / "classifier.safetensors").read_bytes() == files


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 lacks text or label"),
        ('{"text": "x"}', "line 2 lacks text or label"),
        ('{"label": "x"}', "line 2 lacks text or label"),
        ('{"text": 3, "label": "x"}', "line 2: text must be a string of valid Unicode that is not empty, got 3"),
        ('{"text": " ", "label": "x"}', "line 2: text must be a string"),
        ('{"text": "x", "label": true}', "line 2: label must be text or a whole number, got True"),
        ('{"text": "x", "label": 0.5}', "line 2: label must be text or a whole number, got 0.5"),
        ('{"text": "x", "label": ""}', "line 2: label must be text or a whole number, got ''"),
        ('{"text": "x", "label": null}', "line 2: label must be text"),
    ],
)
def test_a_broken_line_is_named_and_nothing_is_learned(shell, line, message):
    (shell.folder / "r.jsonl").write_text(f'{{"text": "a", "label": 0}}\n{line}\n')
    said = shell("learn", shell.folder / "r.jsonl", "--state", shell.folder / "s", code=2)
    assert message in said and "nothing was learned" in said
    assert said.count("\n") == 1
    assert not (shell.folder / "s").exists()


def test_records_may_be_apart_by_empty_lines_and_need_no_label_to_be_answered(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('\n{"text": "a"}\n\n{"text": "b", "label": 3}\n')
    assert labels.read_records(path, labelled=False) == [("a", ""), ("b", 3)]
    path.write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(UserError, match="is not UTF-8 text"):
        labels.read_records(path)
    path.write_text("\n \n")
    with pytest.raises(UserError, match=r'is empty; give one JSON object per line, such as \{"text'):
        labels.read_records(path)


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


def test_a_state_folder_goes_on_with_its_own_base(shell):
    one, state = shell.folder / "texts/one.txt", shell.folder / "s"
    shell("read", one, "--state", state, "--base", shell.folder / "base")
    shell("read", one, "--state", state, "--base", shell.folder / "base")  # the same model is no other
    tiny_base(shell.folder / "other", seed=1)
    said = shell("read", one, "--state", state, "--base", shell.folder / "other", code=2)
    assert "was begun with another model than" in said
    shutil.rmtree(state / "base")
    assert "holds no model; make one" in shell("eval", one, "--state", state, code=2)


def test_without_a_base_one_is_trained_and_kept(shell, monkeypatch):
    trained = []

    def train(folder, seed, quick):
        trained.append((folder, seed, quick))
        tiny_base(folder)

    monkeypatch.setattr(workspace, "train_base", train)
    for _ in range(2):
        shell("read", shell.folder / "texts/one.txt", "--state", shell.folder / "s", "--seed", "4", "--quick")
    assert trained == [(shell.folder / "s" / "base", 4, True)]


def test_a_folder_is_prepared_for_one_kind_and_never_over_something_else(tmp_path):
    workspace.prepare(tmp_path / "new" / "state", "text")
    workspace.prepare(tmp_path / "new" / "state", "text")
    assert workspace.kind_of(tmp_path / "new" / "state") == "text"
    with pytest.raises(UserError, match="holds a memory of text, this is about labels"):
        workspace.prepare(tmp_path / "new" / "state", "labels")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; give a folder"):
        workspace.prepare(tmp_path / "file", "text")
    with pytest.raises(UserError, match="is not empty and was not made by everlearn"):
        workspace.prepare(tmp_path, "text")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / ".lock").touch()
    workspace.prepare(tmp_path / "locked", "labels")
    assert workspace.kind_of(tmp_path / "locked") == "labels"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not whole; restore it"),
        ("[]", "is not whole; restore it"),
        ('{"kind": "text"}', "is not whole; restore it"),
        ('{"kind": "text", "format": "x"}', "is not whole; restore it"),
        ('{"kind": "text", "format": 2}', "has state format 2, this version reads up to 1; update everlearn"),
        ('{"kind": "music", "format": 1}', "says kind 'music', which is neither"),
    ],
)
def test_a_marker_that_is_not_ours_is_refused(tmp_path, content, message):
    (tmp_path / "everlearn.json").write_text(content)
    with pytest.raises(UserError, match=message):
        workspace.kind_of(tmp_path)


def test_one_process_writes_at_a_time(tmp_path):
    with (
        workspace.sole_writer(tmp_path / "s"),
        pytest.raises(ValueError, match="another process is writing"),
        workspace.sole_writer(tmp_path / "s"),
    ):
        pass
    with workspace.sole_writer(tmp_path / "s"):
        assert (tmp_path / "s" / ".lock").exists()


def test_opening_a_reader_leaves_the_model_ready_to_be_learned_with(shell):
    """The model that a verb opens is the base's, moved and nothing else."""
    given = (shell.folder / "s", "me", shell.folder / "base", "cpu", 0, False)
    with workspace.writing_reader(*given):
        learner = workspace.open_reader(shell.folder / "s", "cpu")
    base, _ = load_model(shell.folder / "base")
    assert learner.model.fingerprint() == base.fingerprint()
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), base.parameters(), strict=True))
    with pytest.raises(UserError, match="holds no model; make one"):
        workspace.open_reader(shell.folder / "t", "cpu")
