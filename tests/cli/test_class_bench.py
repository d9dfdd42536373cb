"""`bench digits` and its like, as a user runs them."""

import csv
import json

import pytest
from verbs_fixture import Shell

from everlearn.cli import class_bench


@pytest.fixture
def shell(tmp_path, capsys):
    return Shell(tmp_path, capsys)


def texts(folder):
    """Twelve topics, each with words of its own."""
    folder.mkdir()
    for part, count in (("train", 20), ("test", 5)):
        rows = [
            (f"word{c} says {'abcde'[i % 5]} thing {i} {part}", f"topic {c}") for c in range(12) for i in range(count)
        ]
        with (folder / f"{part}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *rows])
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(class_bench, "DEFAULT", ("nearest_mean", "fine_tune"))


def test_it_chooses_measures_and_goes_on_where_it_stopped(shell, tmp_path, monkeypatch):
    asked = ("bench", "banking", "--data", texts(tmp_path / "texts"), "--encoder", "hashed", "--seeds", "2")
    document = shell.json(*asked, "--out", tmp_path / "out")
    assert set(document["rows"]) == {"nearest_mean", "fine_tune"} and len(document["rows"]["nearest_mean"]) == 2
    assert document["rows"]["nearest_mean"][0]["final"] > 0.9 > 0.5 > document["rows"]["fine_tune"][0]["final"]
    assert document["chosen"]["fine_tune"] == document["tried"]["fine_tune"][0][0] and len(document["floor"]) == 2
    assert (tmp_path / "out" / "banking" / "tasks.png").is_file()
    rows = sorted((tmp_path / "out" / "banking" / "rows").iterdir())
    times = [file.stat().st_mtime_ns for file in rows]
    again = shell.json(*asked, "--out", tmp_path / "out")
    assert again == document and [file.stat().st_mtime_ns for file in rows] == times


def test_the_table_and_every_candidate_are_printed(shell, tmp_path):
    words = ("--strategies", "nearest_mean", "--seeds", "1", "--stream", "single")
    said = shell("bench", "digits", *words, "--out", tmp_path)
    assert "| nearest_mean | " in said and "joint probe, trained anew" in said and "nothing to choose" in said
    assert (tmp_path / "digits" / "single.png").is_file()


def test_what_accuracy_costs_stands_below_and_in_the_document(shell, tmp_path):
    words = ("--strategies", "nearest_mean", "streaming_lda", "one_model_per_domain", "--quick", "--out", tmp_path)
    said = shell("bench", "digits", *words)
    assert "settings not chosen" in said and "within 1 point of streaming_lda" in said
    assert "| records, boundaries, each test record's domain |" in said
    document = shell.json("bench", "digits", *words, "--reference", "nearest_mean", "--margin", "2.5")
    assert document["seeds"] == 1 and document["tried"]["nearest_mean"] == [[{}, None]]
    costs = document["economics"]
    assert costs["reference"] == "nearest_mean" and costs["margin"] == pytest.approx(0.025)
    assert costs["equal"]["streaming_lda"]["experience"] == 1
    (row,) = document["rows"]["streaming_lda"]
    assert costs["courses"]["streaming_lda"]["seconds"] == pytest.approx(
        [a + b for a, b in zip(row["seconds"], row["solving_seconds"], strict=True)]
    )
    assert (tmp_path / "digits" / "tasks-economics.png").read_bytes()[:4] == b"\x89PNG"


def test_rows_that_were_measured_without_solving_still_serve(shell, tmp_path):
    words = ("bench", "digits", "--strategies", "nearest_mean", "--quick", "--out", tmp_path)
    shell(*words)
    (kept,) = (tmp_path / "digits" / "rows").glob("nearest_mean-*.json")
    old = json.loads(kept.read_text())
    del old["row"]["solving_seconds"]
    kept.write_text(json.dumps(old))
    said = shell(*words)
    assert "| 1 of 5 | ≥ " in said and "≥: measured before the time of solving was told apart" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("digits", "--strategies", "magic"), "unknown strategy 'magic'; give all, or some of"),
        (("digits", "--stream", "river"), "unknown stream 'river'; give one of tasks"),
        (("digits", "--seeds", "0"), "--seeds is 0; give a whole number of at least 1"),
        (("digits", "--workers", "0"), "--workers is 0"),
        (("digits", "--reference", "ewc", "--strategies", "si", "lwf"), "'ewc' is not measured; give one of si, lwf"),
        (("digits", "--margin", "-1"), "--margin is -1; give points of accuracy from 0 to below 100, such as 1"),
        (("banking", "--data", "nowhere", "--encoder", "hashed"), "train.csv is missing; give the folder"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(shell, tmp_path, words, line):
    said = shell("bench", *words, "--out", tmp_path, code=2)
    assert line in said and said.strip().count("\n") == 0
