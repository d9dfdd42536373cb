"""Attention in some blocks and a memory in the others: which ones, and that nothing else changes."""

from __future__ import annotations

import json

import pytest
import torch

import everlearn as el
from everlearn.layers import Attention, SelfModifyingTitans
from everlearn.levels import describe
from everlearn.models import Decoder, DecoderConfig, HopeConfig, HopeForCausalLM, load_model, preset, save_model, sized
from everlearn.models.sizes import PARAMETERS, count_parameters
from tests.tiny import assert_close, byte_model

MIXED = ("delta_net", "gated_delta_net", "titans_lmm", "titans_mac", "hope")


@pytest.mark.parametrize(
    ("count", "blocks", "places"),
    [(0, 4, ""), (1, 4, "3"), (2, 8, "37"), (3, 8, "257"), (2, 3, "12"), (3, 3, "012"), (1, 1, "0")],
)
def test_attention_stands_last_in_each_share_of_the_blocks(count, blocks, places):
    """Worked out by hand; 3 of 8 are the blocks after 2 2/3, 5 1/3 and 8, rounded up."""
    config = preset("hope", dim=8, num_heads=2, hidden_dim=3, num_layers=blocks, attention_blocks=count)
    with torch.device("meta"):
        kinds = [type(block.mixer) for block in Decoder(config).blocks]
    assert kinds == [Attention if str(i) in places else SelfModifyingTitans for i in range(blocks)]


@pytest.mark.parametrize("name", MIXED)
def test_a_hybrid_reads_token_by_token_split_and_padded_like_a_full_pass(name):
    model = byte_model(name, num_layers=3, attention_blocks=1, mixer_chunk_size=4)
    ids = torch.randint(256, (2, 13))
    full, end = model(ids)
    for cuts in ((1,) * 13, (5, 8), (12, 1)):
        state, parts = None, []
        for piece in ids.split(cuts, 1):
            y, state = model(piece, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-10, rtol=0)
        assert_close(state, end)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 3:6] = False
    padded = model(ids, mask=mask)[0]
    torch.testing.assert_close(padded[1, mask[1]], model(ids[1:, mask[1]])[0][0], atol=1e-10, rtol=0)
    documents = (torch.arange(13) >= 6).long().expand(2, 13)
    packed = model(ids, document_ids=documents)[0]
    torch.testing.assert_close(packed[:, 6:], model(ids[:, 6:])[0], atol=1e-10, rtol=0)


def test_a_hybrid_is_neither_of_its_two_halves():
    """Each block with attention is the Transformer's; the others are the memory's."""
    ids = torch.randint(256, (1, 9))
    hybrid = byte_model("hope", attention_blocks=1)
    other = byte_model("hope_attention")
    own, theirs = hybrid.state_dict(), other.state_dict()
    assert {name for name in own if name.startswith("blocks.1.")} == {n for n in theirs if n.startswith("blocks.1.")}
    x, h = torch.randn(1, 9, 8, dtype=torch.float64), {n: t for n, t in own.items() if n.startswith("blocks.1.")}
    other.load_state_dict({**theirs, **h})
    empty = other.initial_state(1)
    given = (x, empty.layer("blocks.1.mixer"), empty.layer("blocks.1.mlp"), None)
    assert torch.equal(hybrid.blocks[1](*given)[0], other.blocks[1](*given)[0])
    assert hybrid.fingerprint() != byte_model("hope").fingerprint()
    assert not torch.allclose(hybrid(ids)[0], byte_model("hope")(ids)[0])


@pytest.mark.parametrize("size", ["tiny", "340M"])
@pytest.mark.parametrize("name", ["hope", "gated_delta_net"])
def test_a_hybrid_meets_the_budget_of_its_size(name, size):
    config = sized(name, size, attention_blocks=2)
    assert count_parameters(config) == pytest.approx(PARAMETERS[size], rel=0.03)


def test_a_hybrid_survives_the_disk_and_the_form_of_hugging_face(tmp_path):
    model = byte_model("hope", attention_blocks=1, num_layers=3).float()
    assert DecoderConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config
    assert "attention_blocks" not in byte_model("hope").config.to_dict(), "old models keep their fingerprint"
    save_model(model, tmp_path / "ours")
    loaded, _ = load_model(tmp_path / "ours")
    assert loaded.fingerprint() == model.fingerprint() and loaded.config.attention_blocks == 1
    HopeForCausalLM.from_decoder(loaded).eval().save_pretrained(tmp_path / "theirs")
    theirs, ids = HopeForCausalLM.from_pretrained(tmp_path / "theirs"), torch.randint(256, (2, 7))
    assert theirs.config.attention_blocks == 1 and torch.equal(theirs(ids).logits, model(ids)[0])
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(theirs.generate(ids, **options), theirs.generate(ids, use_cache=False, **options))
    assert HopeConfig.from_preset("hope", attention_blocks=2).decoder_config() == sized("hope", attention_blocks=2)


def test_a_hybrid_learns_what_it_reads():
    model = byte_model("hope", num_layers=4, attention_blocks=2)
    reader, text = el.Learner(model), "the cat sat on the mat; the dog sat by it. " * 6
    before = reader.score(text).bits_per_byte
    reader.read(text, user="ada")
    assert reader.score(text, user="ada").bits_per_byte < before


def test_describe_counts_what_a_row_of_a_hybrid_carries():
    model = byte_model("gated_delta_net", levels=(), num_layers=4, attention_blocks=2).float()
    _, state = model(torch.zeros(1, 64, dtype=torch.long))
    parts = [*state.memory.values(), *state.context.values()]
    system = describe(model, context=64)
    assert system.state_bytes == sum(tensor.nbytes for tensors in parts for tensor in tensors.values())
    assert system.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_count_that_does_not_fit_is_refused():
    for count in (-1, 3, 1.0, True):
        with pytest.raises(
            ValueError, match=r"attention_blocks is .*; it must be a whole number from 0 to num_layers, 2"
        ):
            preset("hope", attention_blocks=count, num_layers=2)
    with pytest.raises(ValueError, match="attention_blocks is 1, but mixer 'attention' gives attention to every block"):
        preset("hope_attention", attention_blocks=1)
