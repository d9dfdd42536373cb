"""Reading with slots: what was read once is known, and reading alone keeps nothing."""

import math

import pytest
import torch

from everlearn.learn.chunk import token_nll
from everlearn.learn.slots import look_up, memorize
from everlearn.memory import codec
from everlearn.memory.slots import SlotMemory
from everlearn.models.text import encode
from tests.tiny import TEXT, byte_model, fingerprint

MEMORY = SlotMemory(gate=0.9, newer=0.0, key_dtype=torch.float64)


def empty(model, rows: int = 1):
    with torch.no_grad():
        return MEMORY.initial_state(rows, model.config.dim), model.initial_state(rows)


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
def test_what_is_hidden_gives_the_logits_and_is_the_last_mlp_s_input(name):
    """The hidden part is watched where it is used, and the rest is `forward`, bit for bit."""
    model, ids = byte_model(name), encode(TEXT)[None]
    seen = []
    model.blocks[-1].mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = torch.arange(ids.shape[1])[None] < 30
    for given in (None, mask):
        hidden, logits, state = model.hidden(ids, None, given)
        real = slice(None) if given is None else slice(30)
        assert torch.equal(hidden[:, real], seen[-1][:, real])
        again, after = model(ids, None, given)
        assert torch.equal(logits[:, real], again[:, real])
        assert fingerprint(state) == fingerprint(after)


def test_a_text_read_once_is_predicted_the_second_time_and_alone_nothing_changes():
    model, ids = byte_model(), encode(TEXT)[None]
    slots, state = empty(model)
    logits, _ = look_up(model, MEMORY, slots, ids)
    assert torch.equal(logits, model(ids)[0])
    first, slots, _ = memorize(model, MEMORY, slots, ids, state, document=0, chunk_size=len(TEXT))
    torch.testing.assert_close(first[:, 1:], token_nll(logits[:, :-1], ids[:, 1:]).detach())
    before = codec.digest(slots.to_tensors())
    again, more, _ = memorize(model, MEMORY, slots, ids, state, document=1)
    # every key is met again, and a fourth of the mixture is for the token that came then
    assert float(again[:, 1:].max()) < math.log(4) + 0.01 < 4 < float(first.nanmean())
    assert codec.digest(slots.to_tensors()) == before
    assert more.count().tolist() == [2 * (len(TEXT) - 1)]
    assert MEMORY.contents(more) == [{0: list(TEXT[1:]), 1: list(TEXT[1:])}]  # the text itself
    assert codec.digest(MEMORY.forget(more, [1]).to_tensors()) == before


def test_chunks_are_scored_before_they_are_kept():
    """With one chunk nothing is recalled; with chunks of one token everything before a token is."""
    model, ids = byte_model(), encode(b"abababab")[None]
    slots, state = empty(model)
    by_hand = []
    for t in range(7):
        _, prefix, _ = memorize(model, MEMORY, slots, ids[:, : t + 1], state, document=0, chunk_size=9)
        logits, _ = look_up(model, MEMORY, prefix, ids[:, : t + 1])
        by_hand.append(-float(torch.log_softmax(logits[0, -1].detach(), -1)[ids[0, t + 1]]))
    nll, _, _ = memorize(model, MEMORY, slots, ids, state, document=0, chunk_size=1)
    torch.testing.assert_close(nll[0, 1:], torch.tensor(by_hand, dtype=torch.float64), atol=1e-10, rtol=0)


def test_padding_writes_nothing_and_rows_stay_apart():
    model, ids = byte_model(), encode(TEXT)[None].repeat(2, 1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 10:] = False
    slots, state = empty(model, 2)
    nll, slots, _ = memorize(model, MEMORY, slots, ids, state, mask, document=torch.tensor([4, 5]), chunk_size=8)
    assert MEMORY.contents(slots) == [{4: list(TEXT[1:])}, {5: list(TEXT[1:10])}]
    assert bool(nll[1, 10:].isnan().all()) and not bool(nll[1, 1:10].isnan().any())
    alone = memorize(model, MEMORY, *empty(model)[:1], ids[:1, :10], empty(model)[1], document=5, chunk_size=8)[0]
    torch.testing.assert_close(nll[1:, 1:10], alone[:, 1:], atol=1e-10, rtol=0)
    for call in (
        lambda: memorize(model, MEMORY, slots, ids, state, mask.flip(1), document=0),
        lambda: look_up(model, MEMORY, slots, ids, state, mask.flip(1)),
    ):
        with pytest.raises(ValueError, match="padding before a real token"):
            call()
    with pytest.raises(ValueError, match="chunk_size 0 is below 1"):
        memorize(model, MEMORY, slots, ids, state, document=0, chunk_size=0)


@pytest.mark.parametrize("span", [1, 3, 5])
@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
def test_any_split_gives_the_same_keys_and_rows_end_where_their_padding_begins(name, span):
    model, ids = byte_model(name), encode(TEXT)[None].repeat(2, 1)
    memory = SlotMemory(gate=-1.0, span=span, key_dtype=torch.float64)
    with torch.no_grad():
        _, slots, _ = memorize(
            model, memory, memory.initial_state(2, 8), ids, model.initial_state(2), document=0, chunk_size=10
        )
        whole, _ = look_up(model, memory, slots, ids)
        for cut in (1, 2, 3, 20, 41):
            first, state = look_up(model, memory, slots, ids[:, :cut])
            rest, _ = look_up(model, memory, slots, ids[:, cut:], state)
            torch.testing.assert_close(torch.cat([first, rest], 1), whole, atol=1e-10, rtol=0)
        mask = torch.arange(10)[None] < torch.tensor([[10], [4]])
        _, state = look_up(model, memory, slots, ids[:, :10], None, mask)
        more = torch.stack([ids[0, 10:16], ids[1, 4:10]])
        both, _ = look_up(model, memory, slots, more, state)
    torch.testing.assert_close(both, torch.stack([whole[0, 10:16], whole[1, 4:10]]), atol=1e-10, rtol=0)
