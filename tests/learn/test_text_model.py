"""A learner on a model whose tokens are no bytes: what it counts, where a text begins and where it stops."""

import math

import pytest
import torch

from everlearn.learn import Learner, read
from tests.learn.words import START, STOP, THE, Words
from tests.tiny import CHUNK, TEXT, assert_close, byte_model

N = len(TEXT)


def ids_of(model: Words) -> torch.Tensor:
    return torch.cat([torch.tensor([START]), model.encode(TEXT)])[None]


def test_bits_per_byte_are_all_bits_over_all_bytes_of_the_text():
    """By hand: every token is predicted, the first from the token that opens a text, and 42 bytes are 33 tokens."""
    model = Words()
    assert N == 42 and len(model.encode(TEXT)) == 33
    score = Learner(model).score(TEXT)
    with torch.no_grad():
        logits, _ = model.decoder(ids_of(model)[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits[0], ids_of(model)[0, 1:], reduction="none") / math.log(2)
    torch.testing.assert_close(score.bits, expected, atol=1e-10, rtol=0)
    assert score.bits_per_byte == pytest.approx(float(expected.sum()) / N, abs=1e-12)
    assert int(score.num_bytes.sum()) == N


def test_reading_opens_each_document_once_and_never_in_the_middle():
    """A text in two pieces is the same as in one, and both are `learn.read` of the tokens with one opening."""
    whole, pieces, model = Learner(Words()), Learner(Words()), Words()
    a = whole.read(TEXT, "ada", end="open")
    b = [pieces.read(part, "ada", end="open") for part in (TEXT[:15], TEXT[15:])]
    _, expected = read(model, ids_of(model), model.initial_state(1), chunk_size=CHUNK)
    for learner in (whole, pieces):
        assert_close(learner.state("ada"), expected)
    torch.testing.assert_close(torch.cat([s.bits for s in b]), a.bits, atol=1e-12, rtol=0)
    assert a.num_bytes.sum() == sum(s.num_bytes.sum() for s in b) == N
    assert not bool(a.bits.isnan().any())
    whole.close("ada")
    assert whole.position("ada") == 0


def test_users_in_one_batch_count_their_own_bytes():
    apart, together = Learner(Words()), Learner(Words())
    texts = {"ada": TEXT, "bob": b"the the the end"}
    scores = together.read(texts)
    for name, text in texts.items():
        alone = apart.read(text, name)
        assert scores[name].num_bytes.tolist() == alone.num_bytes.tolist()
        assert scores[name].bits_per_byte == pytest.approx(alone.bits_per_byte, abs=1e-12)


@pytest.mark.parametrize("last", [STOP, THE])
def test_generation_ends_at_a_stop_token_and_leaves_it_out(last, monkeypatch):
    """The likeliest token is forced to be "t", "h", then `last` for ever."""
    learner, forced = Learner(Words()), iter([ord("t"), ord("h"), last, last, last])
    plain = Words.__call__

    def call(self, ids, state, mask=None):
        _, state = plain(self, ids, state, mask)
        return torch.nn.functional.one_hot(torch.full(ids.shape, next(forced)), 259).double(), state

    monkeypatch.setattr(Words, "__call__", call)
    assert learner.generate("a", max_new_tokens=5) == ("th" if last == STOP else "ththe the the ")


def test_one_byte_a_token_is_the_mean_bit_for_bit():
    """Special case: for bytes, the cost per byte is the mean cost per token."""
    score = Learner(byte_model()).read(TEXT, "ada")
    assert score.bits_per_byte == float(score.bits.nanmean())
