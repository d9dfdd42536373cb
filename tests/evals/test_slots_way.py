"""Slots in the harness: empty they are the model, and what was read once is recalled where it stood."""

import torch

from everlearn.evals.slots_way import SlotsWay
from everlearn.evals.ways import Frozen
from everlearn.evals.windows import Window
from everlearn.memory.slots import SlotMemory
from tests.evals.tiny_llama import tiny_llama

WINDOW = Window(8, 4)
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9])


def keyed(model):
    def both(ids):
        out = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        return out.hidden_states[-1], out.logits

    return both


def way(**settings):
    return SlotsWay(keyed(tiny_llama()), SlotMemory(key_dtype=torch.float64, **settings), 8, WINDOW)


def test_empty_slots_are_the_model_and_a_chunk_is_scored_before_it_is_written():
    one, frozen = way(), Frozen(tiny_llama(), WINDOW)
    assert torch.equal(one.score(IDS), frozen.score(IDS))
    torch.testing.assert_close(one.read(IDS[:5]), frozen.read(IDS[:5]), atol=1e-12, rtol=0)
    assert one.state.tokens.tolist() == [IDS[1:5].tolist()]


def test_what_was_read_is_recalled_with_the_weight_of_the_slots():
    """The key of the same place has cosine 1; with a sharp look-up its token gets w + (1 - w) p."""
    one = way(tau=1e6, weight=0.5, gate=0.99)
    one.read(IDS)
    again = one.score(IDS).neg().exp()
    own = Frozen(tiny_llama(), WINDOW).score(IDS).neg().exp()
    torch.testing.assert_close(again, 0.5 + 0.5 * own, atol=1e-6, rtol=0)


def test_documents_are_numbered_so_that_one_can_be_forgotten():
    one = way()
    one.read(IDS[:5])
    one.read(IDS[4:9])
    assert one.state.document.tolist() == [[0] * 4 + [1] * 4]
    before = one.state_bytes()
    one.state = one.slots.forget(one.state, [0])
    assert one.state.tokens.tolist() == [IDS[5:9].tolist()]
    assert one.state_bytes() == before / 2
