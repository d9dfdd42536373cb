"""The verbs of labelled records from end to end: what is learned, answered, gone on with and refused."""

import itertools

import pytest
from verbs_fixture import RECORDS, write_records

from everlearn.cli import labels
from everlearn.cli.errors import UserError
from everlearn.continual import Classifier, HashedText
from everlearn.memory.codec import digest

pytestmark = pytest.mark.usefixtures("small")


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
