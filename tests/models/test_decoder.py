"""The decoder: one result however a stream is cut, padded or packed, for every preset with a memory on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.layers import SelfModifyingTitans
from everlearn.levels import Level
from everlearn.models import Decoder, DecoderConfig, load_model, preset, save_model
from tests.tiny import KINDS

LEVELS = [Level("fast", 4, 0.3), Level("slow", 8, 0.3)]


def make(name: str, levels=LEVELS, seed: int = 0, **changes) -> Decoder:
    torch.manual_seed(seed)
    sizes = {"dim": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "vocab_size": 11, "chunk_size": 4}
    sizes["mixer_chunk_size"] = 4
    if name.startswith("titans"):
        sizes["window"] = 5  # shorter than the inputs, so that segments close and windows slide
    return Decoder(preset(name, levels=levels, **{**sizes, **changes})).double()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(seed))


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("levels", [(), LEVELS], ids=["mlp", "cms"])
def test_full_pass_equals_every_split_and_token_by_token(name, levels):
    """[NL eq. 94-97] in float64."""
    model, ids = make(name, levels), tokens(2, 13)
    full, end = model(ids)
    # at the edges of chunks of 4 and 8 and of windows of 5, and beside them
    for cut in (1, 4, 5, 6, 8, 12):
        first, state = model(ids[:, :cut])
        second, state = model(ids[:, cut:], state)
        same(torch.cat([first, second], 1), full)
    state, steps = None, []
    for t in range(13):
        y, state = model(ids[:, t : t + 1], state)
        steps.append(y)
    same(torch.cat(steps, 1), full)
    assert state.tokens_seen.tolist() == end.tokens_seen.tolist() == [13, 13]
    for layer, parts in end.memory.items():
        for leaf, value in parts.items():
            same(state.memory[layer][leaf], value)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("levels", [(), LEVELS], ids=["mlp", "cms"])
def test_a_block_adds_its_mixer_and_then_its_memory(name, levels):
    """[NL eq. 94-97] written out: x + mixer(norm(x)), then x + memory(norm(x)), read out by the embedding itself."""
    model, ids = make(name, levels), tokens(2, 5)
    x = model.embedding.weight[ids]
    for block in model.blocks:
        x = x + block.mixer(block.mixer_norm(x))[0]
        h = block.mlp_norm(x)
        x = x + (block.mlp(h)[0] if levels else block.mlp(h))
    same(model(ids)[0], torch.nn.functional.rms_norm(x, (16,), model.norm.weight) @ model.embedding.weight.T)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_left_right_and_interior_padding_change_nothing(name, data):
    model = make(name)
    masks = data.draw(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=2, max_size=3))
    mask = torch.tensor(masks)
    ids = tokens(*mask.shape)
    logits, state = model(ids, mask=mask)
    follow, _ = model(tokens(len(mask), 3, seed=1), state)
    for row, real in enumerate(mask):
        alone, own = model(ids[row][real][None]) if real.any() else (logits[row][real][None], None)
        same(logits[row][real], alone[0])
        same(follow[row], model(tokens(len(mask), 3, seed=1)[row][None], own)[0][0])


@pytest.mark.parametrize("name", KINDS)
def test_what_stands_at_padding_does_not_matter(name):
    model, mask = make(name), torch.tensor([[True, False, True, True, False]])
    one, two = tokens(1, 5), tokens(1, 5)
    two[~mask] = 7
    one[~mask] = 3
    a, b = model(one, mask=mask), model(two, mask=mask)
    assert torch.equal(a[0][mask], b[0][mask])


@pytest.mark.parametrize("name", KINDS)
def test_packed_documents_start_fresh(name):
    model = make(name)
    ids, documents = tokens(2, 10), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 2], [5, 5, 5, 5, 5, 5, 9, 9, 9, 9]])
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, 2] = False
    logits, state = model(ids, mask=mask, document_ids=documents)
    for row in range(2):
        for number in documents[row].unique():
            own = (documents[row] == number) & mask[row]
            same(logits[row][own], model(ids[row][own][None])[0][0])
    last = torch.stack([ids[0, 7:10], ids[1, 6:9]])
    same(model(tokens(2, 2), state)[0][0], model(tokens(2, 2)[:1], model(last[:1])[1])[0][0])
    with pytest.raises(ValueError, match="packed rows start fresh"):
        model(ids, state, document_ids=documents)


@pytest.mark.parametrize("name", KINDS)
def test_rows_never_mix_and_the_future_never_leaks(name):
    model, ids = make(name), tokens(3, 9)
    full, _ = model(ids)
    other = ids.clone()
    other[1] = (other[1] + 1) % 11
    assert torch.equal(model(other)[0][[0, 2]], full[[0, 2]])
    later = ids.clone()
    later[:, 6:] = (later[:, 6:] + 1) % 11
    assert torch.equal(model(later)[0][:, :6], full[:, :6])
    assert not torch.equal(model(later)[0][:, 6:], full[:, 6:])


@pytest.mark.parametrize("name", KINDS)
def test_a_fresh_state_reads_like_none(name):
    model, ids = make(name), tokens(2, 7)
    same(model(ids, model.initial_state(2))[0], model(ids)[0])


def test_hope_attention_is_the_transformer_with_a_memory_for_its_mlp():
    """[NL eq. 94-97]: the paper's Hope-Attention; without levels it is transformer++ itself."""
    config = preset("hope_attention")
    assert (config.mixer, [level.update_period for level in config.levels]) == ("attention", [64, 256, 1024])
    assert preset("hope_attention", levels=()) == preset("transformer++")
    assert preset("transformer++", levels=config.levels) == config


def test_hope_has_self_modifying_memories_in_the_place_of_attention():
    """[NL eq. 94-97]: the paper's Hope; its chunk is part of what the model is, and old fingerprints stay."""
    config = preset("hope", mixer_chunk_size=8)
    assert config.levels == preset("hope_attention").levels
    mixer = Decoder(config).blocks[0].mixer
    assert isinstance(mixer, SelfModifyingTitans) and mixer.rule.chunk_size == 8
    assert DecoderConfig.from_dict(config.to_dict()) == config
    assert "mixer_chunk_size" not in preset("hope").to_dict()


def test_endless_periods_make_a_plain_chain_and_keep_nothing():
    model = make("delta_net", [Level("a", math.inf), Level("b", math.inf)])
    assert all("mlp" not in layer for layer in model.initial_state(1).memory)


def test_with_levels_shares_the_parameters_and_keeps_the_names():
    model = make("delta_net")
    other = model.with_levels([Level("fast", 8, 1.0), Level("slow", 16, 0.0)])
    assert other.embedding.weight is model.embedding.weight
    assert torch.equal(other(tokens(1, 5))[0], model(tokens(1, 5))[0])
    assert other.fingerprint() == model.fingerprint()
    with pytest.raises(ValueError, match="keep the names"):
        model.with_levels([Level("fast", 8)])


def test_a_saved_model_is_bit_equal_and_a_changed_one_is_refused(tmp_path):
    model = make("delta_net").float()
    save_model(model, tmp_path / "m", {"data": "none"})
    loaded, about = load_model(tmp_path / "m")
    assert about == {"data": "none"}
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens(1, 9))[0], model(tokens(1, 9))[0])
    file = tmp_path / "m" / "model.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:-5], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\x80\x04."):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load_model(tmp_path / "m")
    with pytest.raises(ValueError, match="holds no model"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_keeps_its_precision_on_disk(dtype, tmp_path):
    model = make("delta_net").to(dtype)
    save_model(model, tmp_path / "deep" / "folder")
    loaded, about = load_model(tmp_path / "deep" / "folder")
    assert about == {}
    assert not loaded.training
    assert loaded.fingerprint() == model.fingerprint()
    for (name, parameter), other in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert parameter.dtype == dtype and parameter.requires_grad, name
        assert torch.equal(parameter, other), name


def test_weights_and_config_of_two_models_are_refused(tmp_path):
    """The same shapes, another retention or another size: both files are whole, but they are not of one model."""
    for name, changes in (("a", {}), ("b", {"chunk_size": 2}), ("c", {"hidden_dim": 6})):
        save_model(make("delta_net", **changes), tmp_path / name)
    for other, message in (("b", "are not of one model"), ("c", "are not of one model")):
        (tmp_path / "a" / "config.json").write_bytes((tmp_path / other / "config.json").read_bytes())
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / "a")
    for broken in ("{", "3", '{"dim": "x"}', '{"levels": [{}]}'):
        (tmp_path / "a" / "config.json").write_text(broken)
        with pytest.raises(ValueError, match=r"is not a model's config \(.*use a backup"):
            load_model(tmp_path / "a")


def test_configs_survive_json_and_refuse_what_does_not_fit():
    config = preset(
        "transformer++", levels=[Level("a", 64, 0.2), Level("b", math.inf), Level("c", "session")], window=32
    )
    assert DecoderConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown field 'dims'"):
        DecoderConfig.from_dict({"dims": 3})
    with pytest.raises(ValueError, match="does not split into 3 heads"):
        preset("delta_net", num_heads=3, dim=64)
    with pytest.raises(ValueError, match="preset 'hopeless' is unknown"):
        preset("hopeless")
    with pytest.raises(ValueError, match="chunk_size 48 does not divide"):
        preset("delta_net", levels=[Level("a", 64)], chunk_size=48)
