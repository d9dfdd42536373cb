"""A vocabulary of pieces: every text comes back, its bytes add up, and a model carries it wherever it goes."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import everlearn
from everlearn.levels import Level
from everlearn.models import BPE, Decoder, load_model, preset, save_model, train_bpe
from everlearn.models.alphabet import BYTES

TEXT = "the cat sat on the mat; the dog sat by it. " * 8
PIECES = train_bpe([TEXT], 272)


def model(alphabet=PIECES, **changes) -> Decoder:
    torch.manual_seed(0)
    levels = [Level("fast", 4, 0.3)]
    sizes = {"dim": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "chunk_size": 4, "vocab_size": alphabet.size}
    one = Decoder(preset("delta_net", levels=levels, **{**sizes, **changes}))
    one.alphabet = alphabet
    return one


@given(st.text())
def test_every_text_comes_back_and_its_bytes_add_up(text):
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text
    assert torch.equal(PIECES.encode(text.encode()), ids)
    assert int(PIECES.count_bytes(ids).sum()) == len(text.encode())


def test_the_first_merges_by_hand():
    """In "xyxyxyxyz" the pair xy comes first; with room for one more piece, xyxy."""
    assert train_bpe(["xyxyxyxyz"], 257).encode("xyz").tolist() == [256, PIECES.encode("z").item()]
    two = train_bpe(["xyxyxyxyz"], 258)
    assert two.count_bytes(two.encode("xyxyz")).tolist() == [4, 1]


def test_a_vocabulary_is_decided_by_its_texts_and_size():
    again = train_bpe([TEXT], 272)
    assert again.to_json() == PIECES.to_json()
    assert PIECES.size == 272
    assert train_bpe(["ab"], 1000).size == 257
    with pytest.raises(ValueError, match=r"of 256 holds no piece .*give 257 or more, or use bytes"):
        train_bpe([TEXT], 256)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("{", "is no JSON"),
        ("[]", "is no tokenizer"),
        (json.dumps({"model": {"type": "Unigram"}}), "is Unigram; a byte-level BPE is needed"),
        (json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}), "lacks 255 of the 256 bytes"),
    ],
)
def test_what_is_no_such_vocabulary_is_refused(data, match):
    with pytest.raises(ValueError, match=match):
        BPE(data)


@pytest.mark.parametrize(("text", "match"), [(b"\xff", "not valid Unicode"), ("\ud800", "not valid"), (3, "got int")])
def test_what_is_no_text_is_refused(text, match):
    with pytest.raises(ValueError, match=match):
        PIECES.encode(text)


def test_a_model_keeps_its_vocabulary_on_disk_and_in_its_fingerprint(tmp_path):
    one = model()
    save_model(one, tmp_path, {"seed": 1})
    back, about = load_model(tmp_path)
    assert about == {"seed": 1}
    assert torch.equal(back.encode(TEXT), one.encode(TEXT))
    assert back.fingerprint() == one.fingerprint()
    other = train_bpe([TEXT[::-1]], 272)
    assert model(other).fingerprint() != one.fingerprint()
    assert one.with_levels([Level("fast", 4, 0.1)]).alphabet is one.alphabet
    file = tmp_path / "tokenizer.json"
    file.write_text(other.to_json())
    with pytest.raises(ValueError, match=r"tokenizer.json was changed, .*copy the whole folder again"):
        load_model(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"tokenizer.json is missing"):
        load_model(tmp_path)


def test_transformers_reads_the_vocabulary_of_a_model(tmp_path):
    from transformers import PreTrainedTokenizerFast

    save_model(model(), tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs(TEXT)["input_ids"] == PIECES.encode(TEXT).tolist()


def test_a_reader_learns_in_pieces_and_counts_in_bytes(tmp_path):
    reader = everlearn.Learner(model(), tmp_path)
    score = reader.read(TEXT, user="ada")
    ids = PIECES.encode(TEXT)
    assert int(score.num_bytes.sum()) == len(TEXT)
    assert score.steps == {"fast": (len(ids) - 1) // 4 + bool((len(ids) - 1) % 4)}
    bits = float(score.bits.nansum()) / (len(TEXT) - int(PIECES.count_bytes(ids[:1])))
    assert score.bits_per_byte == pytest.approx(bits)


def test_a_model_with_fewer_tokens_than_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size is 256, .* alphabet of 272 tokens; build it with vocab_size=272"):
        model(vocab_size=256).encode(TEXT)
    assert BYTES.count_bytes(torch.tensor([[3, 4]])).tolist() == [[1, 1]]
