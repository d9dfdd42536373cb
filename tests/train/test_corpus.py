"""What is held out is decided by the bytes of a block, is never trained on, and nothing is lost between the two."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everlearn.models.alphabet import BYTES, Pieces
from everlearn.models.tokenizer import train_tokenizer
from everlearn.train.corpus import SMALLEST_BLOCK, split, tokens

LINES = b"".join(b"line %d of a text, long enough to be cut.\n" % i for i in range(700))
TEXTS = {"a": LINES[:14_000], "b": LINES[14_000:]}


def number(block: bytes) -> float:
    return int(hashlib.sha256(block).hexdigest()[:16], 16) / 2**64


def test_a_block_is_held_out_when_its_hash_says_so():
    """The whole text once more, by hand: cut after the line that a multiple of the size falls into."""
    size = max(SMALLEST_BLOCK, len(LINES) // 40)
    blocks, rest = [], TEXTS["a"]
    while rest:
        end = rest.find(b"\n", size - 1) + 1 if len(rest) > size else len(rest)
        if end == 0 or len(rest) - end < size // 2:
            end = len(rest)
        blocks.append(rest[:end])
        rest = rest[end:]
    held = [block for block in blocks if number(block) < 0.2]
    found = split(TEXTS, 0.2)
    assert held
    assert b"".join(p.data for p in found.valid if p.name.startswith("a,")) == b"".join(held)
    assert b"".join(p.data for p in found.train if p.name.startswith("a,")) == b"".join(
        block for block in blocks if number(block) >= 0.2
    )


def test_nothing_is_lost_and_nothing_is_in_both():
    found = split(TEXTS, 0.2)
    places = []
    for part in [*found.train, *found.valid]:
        name, _, numbers = part.name.partition(", bytes ")
        start, end = (int(n.replace(",", "")) for n in numbers.split(" to "))
        assert TEXTS[name][start:end] == part.data
        places.append((name, start, end))
    places.sort()
    assert [(n, s) for n, s, _ in places] == [
        ("a", 0), *((n, e) if e < len(TEXTS[n]) else ("b", 0) for n, _, e in places[:-1])
    ]  # fmt: skip
    assert places[-1][2] == len(TEXTS["b"])


def test_a_block_has_the_same_use_under_any_name_and_beside_any_file():
    total = {"x": TEXTS["a"], "y": TEXTS["b"]}
    assert [p.data for p in split(total, 0.2).valid] == [p.data for p in split(TEXTS, 0.2).valid]
    twice = split({"a": LINES, "again": LINES}, 0.2)
    held = [[p.data for p in twice.valid if p.name.startswith(name)] for name in ("a,", "again,")]
    assert held[0] == held[1]


@given(st.text(min_size=300, max_size=900))
def test_no_character_is_cut_and_both_parts_hold_something(text):
    data = text.encode() * 3
    found = split({"t": data}, 0.05)
    for part in [*found.train, *found.valid]:
        part.data.decode()
    assert sum(len(p.data) for p in [*found.train, *found.valid]) == len(data)
    assert found.train
    assert found.valid


def test_where_all_blocks_are_one_the_last_is_held_out():
    line = b"a" * 255 + b"\n"
    found = split({"t": line * 4}, 0.5)
    assert (len(found.train[0].data), len(found.valid[0].data)) == (768, 256)


def test_where_every_block_would_be_held_out_one_is_trained_on_and_the_other_way_round():
    blocks = [bytes([letter]) * 255 + b"\n" for letter in b"abc"]
    data = b"".join(blocks)
    ordered = sorted(blocks, key=number)
    assert [p.data for p in split({"t": data}, 1 - 1e-12).train] == [ordered[-1]]
    assert [p.data for p in split({"t": data}, 1e-12).valid] == [ordered[0]]


@pytest.mark.parametrize("data", [b"abc", b"a" * SMALLEST_BLOCK])
def test_too_little_text_is_refused(data):
    with pytest.raises(ValueError, match=rf"holds {len(data)} bytes, .* at least 512 bytes are needed; give a longer"):
        split({"t": data}, 0.05)


def test_tokens_are_those_of_the_alphabet_in_the_smallest_type():
    parts = split(TEXTS, 0.2).valid
    pieces = Pieces(train_tokenizer([LINES.decode()], 300))
    for alphabet, dtype in ((BYTES, torch.uint8), (pieces, torch.int32)):
        for part, ids in zip(parts, tokens(parts, alphabet), strict=True):
            assert ids.dtype == dtype
            assert alphabet.decode(ids.long()) == part.data.decode()
