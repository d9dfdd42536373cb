"""Reading with levels in a chain, side by side and nested: any cut, any padding, any interruption.  [NL eq. 71-74]"""

from __future__ import annotations

import pytest
import torch

from everlearn.compose import learner
from everlearn.learn import read
from everlearn.levels import Level
from everlearn.memory.codec import decode, encode, from_tensors, to_tensors
from everlearn.memory.state import ModelState
from everlearn.models import Decoder
from everlearn.models.presets import MEMORIES
from everlearn.models.text import encode as bytes_of
from tests.tiny import CHUNK, TEXT, assert_close, byte_model, fingerprint

LEVELS = (Level("fast", CHUNK, 0.3, reset="document"), Level("mid", 2 * CHUNK, 0.3), Level("slow", "session", 0.3))
IDS = torch.stack([bytes_of(TEXT)[:23], bytes_of(TEXT)[19:42]])
every_kind = pytest.mark.parametrize("word", MEMORIES)


def run(model: Decoder, ids: torch.Tensor, state: ModelState | None = None, **options):
    state = state or model.initial_state(len(ids)).detach()
    return read(model, ids, state, chunk_size=CHUNK, **options)


@every_kind
def test_any_cut_gives_the_same(word):
    """Values and what is learned, to 1e-10 in float64."""
    model = byte_model(cms=word, levels=LEVELS)
    whole, end = run(model, IDS)
    assert whole.steps["fast"].tolist() == [5, 5]
    for cut in (1, 4, 5, 7, 9, 14, 17, 22):  # on the borders of chunks and of periods, and between them
        first, state = run(model, IDS[:, :cut])
        second, state = run(model, IDS[:, cut:], state)
        nll = torch.cat([first.nll, second.nll], 1)
        torch.testing.assert_close(nll, whole.nll, atol=1e-10, rtol=1e-10, equal_nan=True)
        assert_close(state, end)


@every_kind
def test_padded_rows_learn_as_if_alone(word):
    """Rows of different lengths step at different times; a restart in one row leaves the other."""
    model = byte_model(cms=word, levels=LEVELS)
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[0, [0, 3, 4, 11, 20, 22]] = False
    report, state = run(model, IDS, mask=mask, end="flush")
    more, after = run(model, IDS.flip(1), state)
    for row in range(2):
        alone, own = run(model, IDS[row][mask[row]][None], end="flush")
        torch.testing.assert_close(report.nll[row][mask[row]], alone.nll[0], atol=1e-10, rtol=1e-10, equal_nan=True)
        follow, own = run(model, IDS.flip(1)[row][None], own)
        torch.testing.assert_close(more.nll[row], follow.nll[0], atol=1e-10, rtol=1e-10, equal_nan=True)
        assert_close(after.rows([row]), own)


@every_kind
def test_another_rows_content_changes_no_bit(word):
    model = byte_model(cms=word, levels=LEVELS)
    other = IDS.clone()
    other[1] = other[1].flip(0)
    (a, state), (b, changed) = run(model, IDS), run(model, other)
    assert torch.equal(a.nll[0, 1:], b.nll[0, 1:])
    assert not torch.equal(a.nll[1, 1:], b.nll[1, 1:])
    assert fingerprint(state.rows([0])) == fingerprint(changed.rows([0]))


@every_kind
def test_saved_loaded_and_resumed_is_uninterrupted_bit_for_bit(word):
    """Through the codec after every call, in the middle of a chunk and of a period, and over events."""
    model = byte_model(cms=word, levels=LEVELS)

    def through(save):
        state = model.initial_state(2).detach()
        for start, stop in ((0, 6), (6, 13), (13, 20), (20, 23)):
            _, state = run(model, IDS[:, start:stop], save(state))
            if stop == 13:
                state, _ = model.tick(save(state), "session", torch.tensor([True, False]))
        state, _ = model.tick(save(state.new_segment()), "document")
        return run(model, IDS, save(state), end="drop")

    plain, state = through(lambda s: s)
    saved, loaded = through(lambda s: from_tensors(decode(encode(to_tensors(s), {}), "the state")[0]))
    assert torch.equal(plain.nll[:, 1:], saved.nll[:, 1:])
    assert fingerprint(state) == fingerprint(loaded)


@every_kind
def test_a_folder_keeps_a_reader_s_memory_bit_for_bit(word, tmp_path):
    model = byte_model(cms=word, levels=LEVELS)
    first = learner(model, tmp_path)
    first.read(TEXT, user="ada", end="open")
    score = first.score(TEXT, user="ada").bits[1:]
    again = learner(byte_model(cms=word, levels=LEVELS), tmp_path)
    assert fingerprint(again.state("ada")) == fingerprint(first.state("ada"))
    assert torch.equal(again.score(TEXT, user="ada").bits[1:], score)


@every_kind
def test_the_end_of_a_document_restarts_the_level_that_says_so(word):
    """A chain and a sum go back to what training left; nested, to what the session has taught the next level."""
    model = byte_model(cms=word, levels=LEVELS)
    _, state = run(model, IDS)
    ended, _ = model.tick(state.new_segment(), "document")
    for layer, memory in model.memories().items():
        start = state.memory[layer]["mid.up"] if word == "nested" else memory.mlps["fast"].up.weight.expand(2, -1, -1)
        assert torch.equal(ended.memory[layer]["fast.up"], start)
        assert not torch.equal(state.memory[layer]["fast.up"], start)
        assert torch.equal(ended.memory[layer]["mid.up"], state.memory[layer]["mid.up"])


@every_kind
def test_learning_helps_on_a_repeated_text(word):
    model = byte_model(cms=word, levels=[Level("fast", CHUNK, 0.5), Level("slow", 4 * CHUNK, 0.5)])
    ids = bytes_of(b"the cat sat ")[None].repeat(1, 20)
    report, _ = run(model, ids)
    frozen, _ = run(model, ids, learn=False)
    assert report.nll[0, -60:].mean() < 0.8 * frozen.nll[0, -60:].mean()


def test_one_nested_level_reads_like_a_chain_of_one_bit_for_bit():
    """[NL eq. 72-73] through a whole decoder."""
    levels = [Level("only", CHUNK, 0.3)]
    chain, nested = (byte_model(cms=word, levels=levels) for word in ("sequential", "nested"))
    (a, one), (b, two) = run(chain, IDS), run(nested, IDS)
    assert torch.equal(a.nll[:, 1:], b.nll[:, 1:])
    assert fingerprint(one) == fingerprint(two)
