"""Models of other libraries, read by their structure: every count worked out by hand from the config."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from everlearn.levels import Component, NestedSystem, describe

H, INNER, LAYERS, HEADS, VOCAB, PLACES = 32, 48, 3, 4, 50, 20
LINEAR = H * H + H
FLOAT = 4


def llama(kv_heads: int = 2, tied: bool = False, **changes) -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=H,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        vocab_size=VOCAB,
        max_position_embeddings=PLACES,
        tie_word_embeddings=tied,
        **changes,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2(**changes) -> nn.Module:
    sizes = {"n_embd": H, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCAB, "n_positions": PLACES}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **changes}))


def bert(**changes) -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=H,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        vocab_size=VOCAB,
        max_position_embeddings=PLACES,
        **changes,
    )
    return transformers.BertModel(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=H,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=12,
        patch_size=4,
        num_labels=5,
    )
    return transformers.ViTForImageClassification(config)


def bloom() -> nn.Module:
    """Queries, keys and values of all heads in one map, and no word on being causal."""
    config = transformers.BloomConfig(hidden_size=H, n_layer=LAYERS, n_head=HEADS, vocab_size=VOCAB)
    return transformers.BloomForCausalLM(config)


def gpt_bigcode() -> nn.Module:
    """One map to the queries of all heads and one head of keys and values."""
    sizes = {"n_embd": H, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCAB, "n_positions": PLACES}
    return transformers.GPTBigCodeForCausalLM(transformers.GPTBigCodeConfig(multi_query=True, **sizes))


def titles(system: NestedSystem) -> list[str]:
    return [level.title for level in system.levels]


def kinds(system: NestedSystem) -> dict[str, int]:
    counts: dict[str, int] = {}
    for component in system.components:
        counts[component.kind] = counts.get(component.kind, 0) + component.parameters
    return counts


def memories(system: NestedSystem) -> list[Component]:
    return [c for c in system.components if c.is_memory and not c.shared]


def check_trained(model: nn.Module, parameters: int, first: str) -> None:
    """Check what AdamW adds to any of them: two memories of gradients, as a level between."""
    system = describe(model, torch.optim.AdamW(model.parameters()))
    assert titles(system) == [first, "every optimizer step", "every optimizer step"]
    assert [(c.name, c.state_bytes) for c in system.levels[1].components] == [
        ("AdamW.exp_avg", FLOAT * parameters),
        ("AdamW.exp_avg_sq", FLOAT * parameters),
    ]
    assert system.levels[2].parameters == system.parameters == parameters


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_llama(kv_heads, tied):
    model = llama(kv_heads, tied)
    system = describe(model, context=7)
    kv = kv_heads * (H // HEADS)
    expected = {
        "attention": 0,
        "embedding": VOCAB * H,
        "projections": LAYERS * (2 * H * H + 2 * H * kv),
        "MLP": LAYERS * 3 * H * INNER,
        "norm": LAYERS * 2 * H + H,
    }
    expected |= {} if tied else {"head": VOCAB * H}
    assert kinds(system) == expected
    assert system.parameters == sum(expected.values())
    assert titles(system) == ["every token", "never"]
    (attention,) = memories(system)
    assert attention.name == "model.layers.0-2.self_attn"
    assert attention.token_bytes == LAYERS * 2 * kv * FLOAT
    assert attention.carried
    assert attention.conditioned_on == ("model.layers.0-2.self_attn.*",)
    assert any("lm_head.weight is model.embed_tokens.weight again" in note for note in system.notes) == tied
    check_trained(model, sum(expected.values()), "every token")


def test_gpt2():
    model = gpt2()
    system = describe(model)
    expected = {
        "attention": 0,
        "embedding": VOCAB * H + PLACES * H,
        "norm": LAYERS * 2 * 2 * H + 2 * H,
        "projections": LAYERS * (3 * LINEAR + LINEAR),
        "MLP": LAYERS * (H * 4 * H + 4 * H + 4 * H * H + H),
    }
    assert kinds(system) == expected
    assert titles(system) == ["every token", "never"]
    (attention,) = memories(system)
    assert (attention.name, attention.token_bytes) == ("transformer.h.0-2.attn", LAYERS * 2 * H * FLOAT)
    check_trained(model, sum(expected.values()), "every token")


def test_gpt2_at_its_real_size_on_the_device_meta():
    """124,439,808 parameters; 12 layers keep 2 x 768 numbers a token; AdamW keeps twice the parameters."""
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    system = describe(model, torch.optim.AdamW(model.parameters()), context=1024)
    assert system.parameters == 124_439_808
    assert system.optimizer_bytes == 2 * 4 * 124_439_808
    assert system.state_bytes == 1024 * 12 * 2 * 768 * 4
    assert system.depth == 3
    assert [c.name for c in system.components] == [
        "transformer.h.0-11.attn",
        "AdamW.exp_avg",
        "AdamW.exp_avg_sq",
        "transformer.{wte,wpe}",
        "transformer.h.0-11.{ln_1,ln_2}",
        "transformer.h.0-11.attn.{c_attn,c_proj}",
        "transformer.h.0-11.mlp.{c_fc,c_proj}",
        "transformer.ln_f",
    ]


def test_bert_holds_the_tokens_of_one_forward_pass():
    model = bert()
    system = describe(model, context=9)
    expected = {
        "attention": 0,
        "embedding": (VOCAB + PLACES + 2) * H,
        "norm": 2 * H + LAYERS * 2 * 2 * H,
        "projections": LAYERS * 4 * LINEAR,
        "MLP": LAYERS * (H * INNER + INNER + INNER * H + H),
        "head": LINEAR,
    }
    assert kinds(system) == expected
    assert titles(system) == ["every forward", "never"]
    (attention,) = memories(system)
    assert not attention.carried
    assert attention.token_bytes == LAYERS * 2 * H * FLOAT
    assert attention.held(9) == 9 * LAYERS * 2 * H * FLOAT
    assert system.state_bytes == 0
    check_trained(model, sum(expected.values()), "every forward")
    (causal,) = memories(describe(bert(is_decoder=True)))
    assert causal.carried and causal.unit == "tokens"


def test_vit_holds_the_patches_of_one_forward_pass():
    model = vit()
    system = describe(model)
    expected = {
        "attention": 0,
        "embedding": H + (9 + 1) * H + 3 * 4 * 4 * H + H,  # class token, 3 x 3 places and its own, the patches' map
        "projections": LAYERS * 4 * LINEAR,
        "norm": LAYERS * 2 * 2 * H + 2 * H,
        "MLP": LAYERS * (H * INNER + INNER + INNER * H + H),
        "head": 5 * H + 5,
    }
    assert kinds(system) == expected
    assert titles(system) == ["every forward", "never"]
    assert system.state_bytes == 0
    check_trained(model, sum(expected.values()), "every forward")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [llama, gpt2, bloom, gpt_bigcode])
def test_the_bytes_of_a_row_are_those_of_the_library_s_own_cache(make, dtype):
    model = make().to(dtype).eval()
    cache = model(torch.randint(VOCAB, (1, 7)), use_cache=True).past_key_values
    kept = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert describe(model, context=7).state_bytes == kept


def test_layers_that_keep_different_windows_are_told_apart():
    config = transformers.Gemma2Config(
        hidden_size=H,
        intermediate_size=INNER,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCAB,
        sliding_window=16,
    )
    with torch.device("meta"):
        system = describe(transformers.Gemma2ForCausalLM(config), context=100)
    assert {(c.name, c.max_tokens, c.rule) for c in memories(system)} == {
        ("model.layers.0,2.self_attn", 16, "keep the last 16 tokens"),
        ("model.layers.1,3.self_attn", None, "keep every token"),
    }
    assert system.state_bytes == 2 * (16 + 100) * 2 * 16 * FLOAT


def test_a_window_that_only_the_config_names_is_found():
    sizes = {"hidden_size": H, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS}
    config = transformers.MistralConfig(**sizes, num_key_value_heads=2, vocab_size=VOCAB, sliding_window=5)
    with torch.device("meta"):
        (attention,) = memories(describe(transformers.MistralForCausalLM(config)))
    assert attention.max_tokens == 5


def test_an_encoder_and_its_decoder_change_at_different_paces():
    """The encoder's attention and what the decoder keeps of it change once per forward; only the latter is carried."""
    config = transformers.T5Config(d_model=H, d_kv=8, d_ff=INNER, num_layers=2, num_heads=HEADS, vocab_size=VOCAB)
    model = transformers.T5ForConditionalGeneration(config)
    system = describe(model, context=10)
    per_token = 2 * 2 * H * FLOAT
    assert {(c.name, c.unit, c.carried, c.context_flow, c.token_bytes) for c in memories(system)} == {
        ("decoder.block.0-1.layer.0.SelfAttention", "tokens", True, "tokens of the row", per_token),
        ("decoder.block.0-1.layer.1.EncDecAttention", "forwards", True, "tokens of the encoder", per_token),
        ("encoder.block.0-1.layer.0.SelfAttention", "forwards", False, "tokens of the row", per_token),
    }
    assert titles(system) == ["every token", "every forward", "never"]
    assert system.state_bytes == 2 * 10 * per_token
    assert system.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_a_vector_that_changes_with_every_token(make):
    layer = make(5, 7, num_layers=2)
    _, state = layer(torch.randn(4, 1, 5))
    state = state if isinstance(state, tuple) else (state,)
    system = describe(layer)
    assert titles(system) == ["every token", "never"]
    assert system.state_bytes == sum(t.numel() * t.element_size() for t in state)
    assert system.components[0].conditioned_on == (system.components[1].name,)
    both_ways = make(5, 7, bidirectional=True)
    _, state = both_ways(torch.randn(4, 1, 5))
    (memory,) = memories(describe(both_ways))
    assert not memory.carried
    assert memory.state_bytes == sum(t.numel() * t.element_size() for t in (state if make is nn.LSTM else [state]))


@pytest.mark.parametrize(("make", "numbers"), [(nn.LSTMCell, 14), (nn.GRUCell, 7)])
def test_a_cell_carries_its_vectors(make, numbers):
    assert describe(make(5, 7)).state_bytes == numbers * FLOAT


def test_a_projected_lstm_carries_the_smaller_output():
    layer = nn.LSTM(5, 7, proj_size=3)
    state = layer(torch.randn(4, 1, 5))[1]
    assert describe(layer).state_bytes == sum(t.numel() * t.element_size() for t in state)


def test_torch_s_own_attention_holds_one_forward_pass():
    layer = nn.TransformerEncoderLayer(H, HEADS, INNER)
    system = describe(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    assert titles(system) == ["every forward", "never"]
    assert kinds(system) == {
        "attention": 0,
        "projections": 2 * 4 * LINEAR,
        "MLP": 2 * (H * INNER + INNER + INNER * H + H),
        "norm": 2 * 4 * H,
    }
    assert memories(system)[0].token_bytes == 2 * 2 * H * FLOAT


class CausalSelfAttention(nn.Module):
    """A small GPT as people write it: one projection to queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(H, 3 * H), nn.Linear(H, H)


class AttentionDecoderLayer(nn.Module):
    """A block of a hybrid model, called after what mixes its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.feed_forward = CausalSelfAttention(), GatedMLP()


class GatedMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(H, INNER), nn.Linear(INNER, H)


class Retention(nn.Module):
    """Queries, keys and values, but no softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(H, H) for _ in range(3))


def test_what_is_not_recognised_is_named():
    system = describe(nn.ModuleDict({"attn": CausalSelfAttention(), "other": Retention()}))
    (attention,) = memories(system)
    assert (attention.name, attention.carried, attention.token_bytes) == ("attn", True, 2 * H * FLOAT)
    assert system.notes == ("Retention is not a module that is known here; if it keeps a memory, that is not shown",)
    assert kinds(system)["other: Retention"] == 3 * LINEAR


def test_an_mlp_is_one_also_in_a_block_that_is_called_after_its_attention():
    system = describe(nn.ModuleList([AttentionDecoderLayer()]))
    assert kinds(system) == {
        "attention": 0,
        "projections": H * 3 * H + 3 * H + LINEAR,
        "MLP": H * INNER + INNER + INNER * H + H,
    }


class LatentAttention(nn.Module):
    """Attention whose keys and values come from a shared, smaller vector."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.down, self.up = (nn.Linear(H, H) for _ in range(3))


def test_attention_of_another_form_is_named_too():
    system = describe(LatentAttention())
    assert memories(system) == []
    assert system.notes[0].startswith("LatentAttention is not a module that is known here")
    assert describe(bert()).notes == ()  # wrappers around attention are none


def test_a_mixer_of_an_unknown_kind_is_no_mlp():
    sizes = {"hidden_size": H, "num_hidden_layers": 2, "vocab_size": VOCAB, "state_size": 4}
    with torch.device("meta"):
        system = describe(transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)))
    assert "MLP" not in kinds(system) and kinds(system)["other: MambaMixer"] > 0
    assert system.notes[0].startswith("MambaMixer is not a module that is known here")


def test_vectors_beside_other_layers_are_scales():
    with torch.device("meta"):
        system = describe(transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 8])))
    assert "scale" in kinds(system) and system.notes == ()


class Net(nn.Module):
    """Convolutions and matrices without blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.fc1, self.fc2 = nn.Linear(8, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(2))


def test_a_network_without_memories_has_one_level_and_two_under_momentum():
    system = describe(Net())
    assert kinds(system) == {"convolution": 20, "norm": 4, "MLP": 46, "scale": 2}
    assert system.notes == ()
    assert titles(system) == ["never"]
    model = Net()
    trained = describe(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert titles(trained) == ["every optimizer step", "every optimizer step"]


MODELS = [llama, gpt2, bert, vit, Net, lambda: nn.Transformer(H, HEADS, 1, 1, INNER), lambda: nn.LSTM(2, 3)]


@pytest.mark.parametrize("make", MODELS)
def test_every_parameter_belongs_to_one_component_and_every_name_to_one_row(make):
    model = make()
    system = describe(model, torch.optim.Adagrad(model.parameters()))
    assert system.parameters == sum(p.numel() for p in model.parameters())
    assert system.parameter_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    names = [component.name for component in system.components]
    assert len(names) == len(set(names)) and all(names)
    assert {flow.source for flow in system.flows()} | {flow.target for flow in system.flows()} <= set(names)
