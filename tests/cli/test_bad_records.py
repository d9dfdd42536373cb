"""Bad records end in one clear line that names theirs, and teach nothing; odd but good ones are learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input_fixture import LINE, OTHER, copy, refused, taken

pytestmark = pytest.mark.usefixtures("desk")


RECORDS = {
    "empty": ("", "is empty"),
    "blank": ("\n \n\n", "is empty"),
    "broken": (LINE * 2 + "{oops\n" + LINE, "line 3 is not JSON"),
    "broken after a separator inside a text": ('{"text": "a\u2028b", "label": "x"}\n{oops\n', "line 2 is not JSON"),
    "deep": (LINE + "[" * 100_000 + "\n", "line 2 is not JSON"),
    "label too long a number": (LINE + '{"text": "a", "label": ' + "9" * 5000 + "}\n", "line 2 is not JSON"),
    "zero byte": (LINE + '{"text": "a\0b", "label": "y"}\n', "line 2 is not JSON"),
    "array": (LINE + "[1]\n", "line 2 lacks text or label"),
    "no label": (LINE + '{"text": "a"}\n', "line 2 lacks text or label"),
    "no text": (LINE + '{"label": "a"}\n', "line 2 lacks text or label"),
    "text a number": (LINE + '{"text": 5, "label": "x"}\n', "line 2: text must be"),
    "text blank": (LINE + '{"text": " ", "label": "x"}\n', "line 2: text must be"),
    "text half a pair": (LINE + '{"text": "\\ud800", "label": "x"}\n', "line 2: text must be a string of valid"),
    "label half a pair": (LINE + '{"text": "a", "label": "\\ud800"}\n', "line 2: label is not valid Unicode"),
    **{
        f"label {label}": (LINE + f'{{"text": "a", "label": {label}}}\n', "line 2: label must be")
        for label in ("1.5", "null", "true", "NaN", '["x"]', '""', '" "', "{}")
    },
}


@pytest.mark.parametrize(("content", "match"), RECORDS.values(), ids=RECORDS)
def test_a_broken_line_is_named_by_its_number(capsys, content, match):
    Path("r.jsonl").write_text(content)
    assert match in refused(capsys, "learn", "r.jsonl", "--state", "S")


def test_records_in_another_encoding_or_in_no_file(capsys):
    for data in (LINE.encode("utf-16"), '{"text": "é", "label": "x"}'.encode("latin-1")):
        Path("r.jsonl").write_bytes(data)
        assert "is not UTF-8 text" in refused(capsys, "learn", "r.jsonl", "--state", "S")
    assert "does not exist" in refused(capsys, "learn", "none.jsonl", "--state", "S")
    Path("d.jsonl").mkdir()
    assert "a file is needed here" in refused(capsys, "learn", "d.jsonl", "--state", "S")


GOOD_RECORDS = {
    "windows": (LINE + OTHER).replace("\n", "\r\n"),
    "mark": "\ufeff" + LINE + OTHER,
    "empty lines": "\n" + LINE + "\n\n" + OTHER,
    "no last newline": (LINE + OTHER).rstrip(),
    "separators": json.dumps({"text": "a\u2028b\x85c", "label": "x"}, ensure_ascii=False) + "\n" + OTHER,
    "escaped zero": LINE + '{"text": "a\\u0000b", "label": "y"}\n',
    "long line": LINE + '{"text": "' + "ab " * 100_000 + '", "label": "y"}\n',
}


@pytest.mark.parametrize("content", GOOD_RECORDS.values(), ids=GOOD_RECORDS)
def test_odd_but_good_records_are_learned(capsys, content):
    Path("r.jsonl").write_bytes(content.encode())
    assert "2 labels, 2 records" in taken(capsys, "learn", "r.jsonl", "--state", "S")


def test_a_damaged_classifier_is_refused(capsys, made):
    Path("r.jsonl").write_text(LINE)
    state = copy(made, "labels")
    good = (state / "classifier.safetensors").read_bytes()
    (user,) = (made / "text" / "users").iterdir()
    for data, match in (
        (good[:5000], "truncated"),
        (b"", "truncated"),
        (good[:-9] + bytes([good[-9] ^ 4]) + good[-8:], "was changed"),
        (user.read_bytes(), "not a classifier's file"),
    ):
        (state / "classifier.safetensors").write_bytes(data)
        for verb in ("learn", "predict", "eval"):
            assert match in refused(capsys, verb, "r.jsonl", "--state", "S")
    (state / "classifier.safetensors").unlink()
    assert "no classifier yet" in refused(capsys, "predict", "r.jsonl", "--state", "S")


def test_predict_on_what_is_no_text(capsys, made, monkeypatch):
    copy(made, "labels")
    Path("x.bin").write_bytes(b"\xff\xfe\0")
    assert "x.bin is not UTF-8 text" in refused(capsys, "predict", "x.bin", "--state", "S")
    Path("x.txt").write_text("\n\n")
    assert "holds no text" in refused(capsys, "predict", "x.txt", "--state", "S")
    assert "a file is needed" in refused(capsys, "predict", ".", "--state", "S")
    assert "give a number >= 1" in refused(capsys, "predict", "t.txt", "--state", "S", "--top", "0")
