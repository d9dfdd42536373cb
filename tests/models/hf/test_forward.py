"""Forward, loss, masks and packing: the same numbers as the decoder, and as Hugging Face would have them."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from everlearn.models import Decoder
from tests.models.hf.small import make, same, tokens
from tests.tiny import KINDS

EVERY = pytest.mark.parametrize("name", KINDS)


@EVERY
def test_logits_are_those_of_the_decoder_and_hidden_states_lead_to_them(name):
    model, ids = make(name), tokens(2, 9)
    outputs = model(ids, output_hidden_states=True)
    assert torch.equal(outputs.logits, model.decoder(ids)[0])
    assert len(outputs.hidden_states) == 3
    assert torch.equal(outputs.hidden_states[0], model.decoder.embedding(ids))
    assert torch.equal(model.lm_head(outputs.hidden_states[-1]), outputs.logits)
    block = model.decoder.blocks[0]
    empty = model.decoder.initial_state(2)
    given = (outputs.hidden_states[0], empty.layer("blocks.0.mixer"), empty.layer("none"), None)
    same(block(*given)[0], outputs.hidden_states[1])
    as_tuple = model(ids, return_dict=False, use_cache=False)
    assert torch.equal(as_tuple[0], outputs.logits) and len(as_tuple) == 1


def test_the_loss_is_the_mean_over_what_each_place_predicts():
    """Worked out from the logits; -100 is left out, and num_items_in_batch divides instead of the count."""
    model, ids = make(), tokens(2, 6)
    labels = ids.clone()
    labels[0, 3] = labels[1, 0] = -100  # the second is the first of its row, which nothing predicts
    outputs = model(ids, labels=labels)
    nll = -outputs.logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    kept = labels[:, 1:] != -100
    same(outputs.loss, nll[kept].mean())
    same(model(ids, labels=labels, num_items_in_batch=torch.tensor(5)).loss, nll[kept].sum() / 5)


@EVERY
@pytest.mark.parametrize("side", ["left", "right", "inside"])
def test_padding_changes_nothing(name, side):
    model, ids = make(name, torch.float64), tokens(2, 8)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, {"left": slice(0, 3), "right": slice(5, 8), "inside": slice(2, 4)}[side]] = 0
    real = mask[1].bool()
    outputs = model(ids, attention_mask=mask)
    same(outputs.logits[1][real], model(ids[1:, real]).logits[0], 1e-10)
    same(outputs.logits[0], model(ids[:1]).logits[0], 1e-10)
    labels = ids.masked_fill(mask == 0, -100)
    assert torch.isfinite(model(ids, attention_mask=mask, labels=labels).loss)


def documents() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 0, 1, 2]])
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]], dtype=torch.int32)
    return tokens(2, 8), position_ids, seq_idx


@EVERY
def test_packed_documents_read_as_if_alone(name):
    model = make(name, torch.float64)
    ids, position_ids, seq_idx = documents()
    one, two = model(ids, position_ids=position_ids).logits, model(ids, seq_idx=seq_idx).logits
    assert torch.equal(one, two)
    for row, cut in ((0, 3), (1, 5)):
        same(one[row, :cut], model(ids[row : row + 1, :cut]).logits[0], 1e-10)
        same(one[row, cut:], model(ids[row : row + 1, cut:]).logits[0], 1e-10)
    cache = model.new_cache()
    assert torch.equal(model(ids, seq_idx=seq_idx, past_key_values=cache).logits, one)
    last = torch.cat([ids[:1, 3:], ids[:1, :2]], 1)  # the cache holds each row's last document
    same(model(ids[:, :2], past_key_values=cache).logits[0], model(last).logits[0, -2:], 1e-10)
    with pytest.raises(ValueError, match="packed rows start fresh, but past_key_values has read something"):
        model(ids, seq_idx=seq_idx, past_key_values=cache)
    other = ids.clone()
    other[0, :3] = (other[0, :3] + 1) % 256
    assert torch.equal(model(other, position_ids=position_ids).logits[0, 3:], one[0, 3:])
    assert not torch.equal(model(other).logits[0, 3:], model(ids).logits[0, 3:])


def test_packing_beside_padding_and_positions_that_say_nothing_new():
    model = make(dtype=torch.float64)
    ids = tokens(1, 7)
    mask = torch.tensor([[0, 1, 1, 1, 0, 1, 1]])
    packed = model(ids, attention_mask=mask, position_ids=torch.tensor([[0, 0, 1, 0, 0, 1, 2]])).logits
    same(packed[0, 1:3], model(ids[:, 1:3]).logits[0], 1e-10)
    same(packed[0, [3, 5, 6]], model(ids[:, [3, 5, 6]]).logits[0], 1e-10)
    counted = torch.tensor([[1, 0, 1, 2, 1, 3, 4]])  # as generate counts them: 1 at padding
    whole = model(ids, attention_mask=mask).logits
    assert torch.equal(model(ids, attention_mask=mask, position_ids=counted).logits, whole)
    assert torch.equal(model(ids, position_ids=torch.arange(7)[None]).logits, model(ids).logits)


def test_logits_to_keep_are_the_last_or_the_chosen_places():
    model, ids = make(), tokens(2, 6)
    full = model(ids).logits
    assert torch.equal(model(ids, logits_to_keep=2).logits, full[:, -2:])
    assert torch.equal(model(ids, logits_to_keep=torch.tensor([1, 4])).logits, full[:, [1, 4]])


def test_a_gradient_flows_through_a_carried_cache():
    """Two halves with a cache between give the gradient of the whole: nothing is copied in place."""
    model, ids = make(dtype=torch.float64, levels=()), tokens(1, 8)
    (whole,) = torch.autograd.grad(model(ids).logits[:, 4:].square().sum(), model.decoder.embedding.weight)
    first = model(ids[:, :4])
    second = model(ids[:, 4:], past_key_values=first.past_key_values)
    (halves,) = torch.autograd.grad(second.logits.square().sum(), model.decoder.embedding.weight)
    same(halves, whole, 1e-10)


IDS = tokens(2, 4)
REFUSED = {
    "too large": ({"input_ids": IDS + 256}, r"input_ids reach from \d+ to \d+, the vocabulary from 0 to 255; encode"),
    "negative": ({"input_ids": IDS - 256}, "the vocabulary from 0 to 255"),
    "length 0": ({"input_ids": IDS[:, :0]}, r"input_ids of shape \(2, 0\) hold no token; give at least one"),
    "no rows": ({"input_ids": IDS[:0]}, "hold no token"),
    "one dimension": ({"input_ids": IDS[0]}, r"give token numbers \[B, T\]"),
    "floats": ({"input_ids": IDS.float()}, "input_ids are torch.float32"),
    "both": ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 4, 16)}, "inputs_embeds were given, but the memories"),
    "embeddings": ({"inputs_embeds": torch.zeros(1, 2, 16)}, "inputs_embeds were given, but the memories"),
    "nothing": ({}, "no input_ids were given"),
    "attentions": ({"input_ids": IDS, "output_attentions": True}, "memories have no attention to show"),
    "length 1 with labels": ({"input_ids": IDS[:, :1], "labels": IDS[:, :1]}, "labels of 1 token hold no target"),
    "other labels": ({"input_ids": IDS, "labels": IDS[:, 1:]}, "labels have shape"),
    "labels of kept": ({"input_ids": IDS, "labels": IDS, "logits_to_keep": 1}, "labels need the logits of every place"),
    "short mask": ({"input_ids": IDS, "attention_mask": torch.ones(2, 3)}, "attention_mask has shape"),
    "mask of pairs": ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 4, 4)}, "in two dimensions"),
    "short positions": ({"input_ids": IDS, "position_ids": torch.arange(3)[None]}, "position_ids have shape"),
    "short numbers": ({"input_ids": IDS, "seq_idx": torch.zeros(2, 3)}, "seq_idx have shape"),
    "jumps": ({"input_ids": IDS, "position_ids": torch.tensor([[0, 1, 5, 6]])}, "position_ids go from 1 to 5 in row 0"),
    "packing unsaid": ({"input_ids": IDS, "cu_seq_lens_q": torch.tensor([0, 2, 8])}, "but without position_ids"),
    "another cache": ({"input_ids": IDS, "past_key_values": DynamicCache()}, "is a DynamicCache, which has no place"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        make()(**given)
    assert "\n" not in str(error.value)


def test_a_refusal_comes_before_any_block_and_changes_no_cache(monkeypatch):
    """Ids are checked before the embedding, since on a GPU an index out of range would end the process."""
    model, ids = make(), tokens(2, 4)
    cache = model.new_cache()
    model(ids, past_key_values=cache)
    before = cache.state
    monkeypatch.setattr(Decoder, "features", lambda *a, **k: pytest.fail("the model was run"))
    for bad in (torch.tensor([[0, 256]] * 2), torch.tensor([[-1, 255]] * 2), ids[:, :0], ids[:1]):
        with pytest.raises(ValueError, match=r"vocabulary|no token|2 rows"):
            model(bad, past_key_values=cache)
    assert cache.state is before and cache.get_seq_length() == 4
