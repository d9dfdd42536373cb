"""A tokenizer of one's own: every text comes back, its texts decide it, and a crash at its saving leaves it whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.models.alphabet import Pieces
from everlearn.models.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

TEXT = "the cat sat on the mat; the dog sat by it. " * 8
PIECES = Pieces(train_tokenizer([TEXT], 270))


@settings(max_examples=50)
@given(st.text())
def test_every_text_comes_back_and_its_bytes_add_up(text):
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text
    assert int(PIECES.count_bytes(ids).sum()) == len(text.encode())


def test_the_first_merges_by_hand():
    """In "xyxyxyxyz" the pair xy comes first; with room for one more piece, xyxy."""
    one, two = (Pieces(train_tokenizer(["xyxyxyxyz"], size)) for size in (258, 259))
    assert one.count_bytes(one.encode("xyxyz")).tolist() == [2, 2, 1]
    assert two.count_bytes(two.encode("xyxyz")).tolist() == [4, 1]


def test_texts_and_size_decide_a_tokenizer():
    again = train_tokenizer([TEXT], 270).backend_tokenizer.to_str()
    assert again == PIECES.tokenizer.backend_tokenizer.to_str()
    assert PIECES.size == 270
    assert len(train_tokenizer(["ab"], 1000)) == 258
    with pytest.raises(ValueError, match=r"of 257 holds no piece .*give 258 or more, or read bytes"):
        train_tokenizer([TEXT], 257)


@pytest.mark.parametrize("call", [1, 2])
def test_a_crash_at_either_rename_leaves_a_whole_tokenizer_or_none(tmp_path, monkeypatch, call):
    folder, left = tmp_path / "tokenizer", call
    save_tokenizer(PIECES.tokenizer, folder)
    rename = Path.rename

    def crashing(self, target):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crashing)
        with pytest.raises(KeyboardInterrupt):
            save_tokenizer(train_tokenizer(["xyxyxyxyz"], 258), folder)
    if folder.is_dir():
        assert len(load_tokenizer(folder)) == 270
    save_tokenizer(PIECES.tokenizer, folder)
    assert len(load_tokenizer(folder)) == 270
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_the_same_tokenizer_is_not_written_again_and_another_is(tmp_path):
    folder = tmp_path / "tokenizer"
    save_tokenizer(PIECES.tokenizer, folder)
    before = folder.stat().st_ino
    save_tokenizer(PIECES.tokenizer, folder)
    assert folder.stat().st_ino == before
    save_tokenizer(train_tokenizer(["xyxyxyxyz"], 258), folder)
    assert len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) == 258
