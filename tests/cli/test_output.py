"""Words for people, JSON for programs."""

import json
import os
from pathlib import Path

import pytest

from everlearn.cli.output import Output, finite


def test_json_on_standard_output_leaves_people_the_other_stream(capsys):
    output = Output("-")
    output.say("device: cpu")
    output.finish({"final": 0.5, "worst": float("nan"), "rows": [float("-inf"), 1, None, True, "a"]})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"final": 0.5, "worst": None, "rows": [None, 1, None, True, "a"]}
    assert shown.err == "device: cpu\n"


def test_json_to_a_file_says_where_it_is(tmp_path: Path, capsys):
    target = tmp_path / "numbers.json"
    Output(str(target)).finish({"final": 0.1})
    assert json.loads(target.read_text()) == {"final": 0.1}
    assert capsys.readouterr().out == f"wrote {target}\n"
    assert list(tmp_path.iterdir()) == [target]


def test_without_json_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = Output()
    output.say("a line")
    output.finish({"final": 0.1})
    assert capsys.readouterr().out == "a line\n"
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_failed_write(tmp_path, monkeypatch):
    target = tmp_path / "numbers.json"
    target.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Output(str(target)).finish({"final": 0.1})
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; give the name of a file"):
        Output(str(tmp_path))
    with pytest.raises(ValueError, match=r"does not exist; create it: mkdir -p"):
        Output(str(tmp_path / "no" / "numbers.json"))


def test_finite_leaves_the_document_alone_and_copies_it():
    document = {"a": [1.5, {"b": float("inf")}], "c": (1, 2)}
    assert finite(document) == {"a": [1.5, {"b": None}], "c": [1, 2]}
    assert document["a"][1]["b"] == float("inf")


def test_tables_have_no_colour_codes_without_a_terminal(capsys):
    Output("-").console().print("[bold red]final[/bold red] 0.5")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "final 0.5\n")
