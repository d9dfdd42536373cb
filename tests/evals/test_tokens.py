"""Bytes of tokens: they add up to the text, whatever the tokenizer does with spaces and characters."""

import math

import pytest
import torch

from everlearn.evals.tokens import Tokens, bits_per_byte, encode, tokens
from tests.evals.tiny_llama import tiny_tokenizer

TEXT = "  The cat — “naïve” — sat.\n\nOn the mat; 猫 too. \n"


@pytest.mark.parametrize("text", [TEXT, "", "a", "é", "   "])
def test_the_bytes_of_the_tokens_are_those_of_the_text(text):
    """A byte-level vocabulary writes each byte as one character, so the length of a token's name is its bytes."""
    tokenizer = tiny_tokenizer()
    found = tokens(tokenizer, text)
    assert torch.equal(found.ids, encode(tokenizer, text))
    assert int(found.bytes.sum()) == len(text.encode())
    assert tokenizer.decode(found.ids) == text
    names = [len(tokenizer.convert_ids_to_tokens(int(i))) for i in found.ids]
    # where tokens cut a character the first of them brings all its bytes, so only running sums can be compared
    gaps = torch.tensor(names).cumsum(0) - found.bytes.cumsum(0) if names else torch.zeros(1)
    assert gaps.abs().max() <= 3
    assert gaps[-1] == 0


def test_bits_per_byte_by_hand():
    """Two tokens of 1 and 2 nats stand for 3 bytes: 3 nats are 3 / ln 2 bits."""
    assert bits_per_byte(torch.tensor([1.0, 2.0]), torch.tensor([1, 2])) == pytest.approx(1 / math.log(2))


def test_a_tokenizer_without_offsets_and_a_text_too_short_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="bits per byte need a fast tokenizer"):
        tokens(Slow(), "text")
    with pytest.raises(ValueError, match="a text of 2 tokens is too short: 3 are needed"):
        Tokens(torch.zeros(2), torch.ones(2)).first(3)
