"""Twelve families convert bit for bit, learn what they read, and keep it in a folder."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import nn

from everlearn.convert import Family, load_adapter, stack_levels
from everlearn.convert.families import find_family
from everlearn.learn.stream import read
from everlearn.levels import Level
from tests.convert.families_fixture import FAMILIES, SIZES, tiny, tokens
from tests.tiny import assert_close, fingerprint

C = 8
LEVELS = (Level("fast", C, 0.5, reset="document"), Level("slow", mean_of="fast"))
MATRICES = {"gpt2": 2, "gpt_neox": 2, "phi": 2, "phi3": 2, "falcon": 2}  # in each block; the others have three


def stacked(model, **options):
    return stack_levels(model, **{"levels": LEVELS, "chunk_size": C, **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_those_of_the_original_bit_for_bit(family, dtype):
    ids, plain = tokens(), tiny(family, dtype)
    with torch.no_grad():
        expected = plain(ids).logits
        model = stacked(tiny(family, dtype), layers=[0, -1])
        assert len(model.matrices) == 2 * MATRICES.get(family, 3)
        assert torch.equal(model(ids, model.initial_state(2))[0], expected)
        assert torch.equal(model.unstack()(ids).logits, expected)
    assert dict(model.base.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    assert all(weight.requires_grad for weight in model.base.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_is_learned_while_it_is_read_and_kept_in_a_folder(family, tmp_path):
    document = tokens(1, C, seed=4).repeat(2, 7)  # it repeats itself, so there is something to learn
    model = stacked(tiny(family, torch.float32))
    start = model.initial_state(2)
    frozen, _ = read(model, document, start, chunk_size=C, learn=False)
    learning, state = read(model, document, start, chunk_size=C, end="flush")
    late = slice(-2 * C, None)
    assert learning.nll[:, late].mean() < 0.75 * frozen.nll[:, late].mean()
    assert learning.nll[:, late].mean() < 0.75 * learning.nll[:, 1:C].mean()

    model.save_adapter(tmp_path, state)
    loaded, kept = load_adapter(tiny(family, torch.float32), tmp_path)
    assert fingerprint(kept) == fingerprint(state)
    assert loaded.config == model.config
    assert loaded.fingerprint() == model.fingerprint()
    assert torch.equal(loaded(document, kept)[0], model(document, state)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_cuts_and_padding_change_nothing(family):
    """In each family alike: its positions and its mask are told to it, row by row."""
    model, ids = stacked(tiny(family)), tokens(2, 26)
    whole, expected = read(model, ids, model.initial_state(2), chunk_size=C)
    first, state = read(model, ids[:, :11], model.initial_state(2), chunk_size=C)
    gap, mask = torch.zeros(2, 20, dtype=torch.long), torch.zeros(2, 20, dtype=torch.bool)
    for row, places in enumerate((range(15), range(5, 20))):
        gap[row, list(places)], mask[row, list(places)] = ids[row, 11:], True
    second, state = read(model, gap, state, mask, chunk_size=C)
    nll = torch.cat([first.nll, second.nll[mask].reshape(2, -1)], 1)
    torch.testing.assert_close(nll, whole.nll, atol=1e-10, rtol=0, equal_nan=True)
    assert_close(state, expected)


def test_the_seen_families_are_found_by_structure():
    family = find_family(tiny("phi3"))
    assert family == Family("model.layers", "mlp", ("gate_up_proj",), "down_proj", "post_attention_layernorm")
    assert find_family(tiny("gpt2")).norm == "ln_2"


def test_words_name_the_matrices_they_say():
    def names(**options):
        return [matrix.name.removeprefix("model.layers.") for matrix in stacked(tiny(), **options).matrices]

    assert names(weights="down") == ["0.mlp.down_proj", "1.mlp.down_proj"]
    assert names(weights="last_down") == ["1.mlp.down_proj"]
    assert names(weights="last_down", layers=[0]) == ["0.mlp.down_proj"]
    assert names(weights="mlp", layers=[-1]) == ["1.mlp.gate_proj", "1.mlp.up_proj", "1.mlp.down_proj"]
    assert names(weights=["*.v_proj", "*.0.*.o_proj"]) == [
        "0.self_attn.v_proj",
        "0.self_attn.o_proj",
        "1.self_attn.v_proj",
    ]
    assert names(weights=["*.v_proj"], layers=[1]) == ["1.self_attn.v_proj"]


def test_a_mixture_of_experts_is_refused_by_name():
    sizes = {**SIZES, "num_local_experts": 2}
    with pytest.raises(ValueError, match="MixtralForCausalLM is a mixture of experts"):
        stacked(hf.MixtralForCausalLM(hf.MixtralConfig(**sizes)))
    qwen = hf.Qwen3MoeConfig(**{**SIZES, "num_experts": 2, "moe_intermediate_size": 8, "head_dim": 8})
    with pytest.raises(ValueError, match="Qwen3MoeForCausalLM is a mixture of experts"):
        stacked(hf.Qwen3MoeForCausalLM(qwen))


class TestAnUnknownStructure:
    @staticmethod
    def model():
        """Return a model whose MLPs have names that nobody else uses."""
        model = tiny()
        for layer in model.model.layers:
            mlp = layer.mlp
            layer.mlp = Oddly(mlp)
        return model

    def test_the_error_shows_how_to_write_the_map(self):
        with pytest.raises(ValueError, match=r"no MLP was found in LlamaForCausalLM.*family=Family\(blocks="):
            stacked(self.model())

    def test_a_map_makes_it_known(self):
        model, ids = self.model(), tokens()
        expected = model(ids).logits
        model = stacked(model, family=Family("model.layers", "mlp", ("a", "b"), "c", "post_attention_layernorm"))
        assert len(model.matrices) == 6
        assert torch.equal(model(ids)[0], expected)

    def test_patterns_need_no_map(self):
        assert len(stacked(self.model(), weights=["*.mlp.c"]).matrices) == 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"weights": "attention"}, "weights 'attention' are unknown; choose 'mlp'"),
            ({"weights": ["*.q"]}, r"no matrix has a name like \['\*\.q'\]"),
            ({"weights": ["*.mlp.c"], "layers": [0]}, "no MLP was found"),
            ({"family": Family("model.layers", "mlp", ("a",), "d")}, "'model.layers.0.mlp.d' is no matrix"),
            ({"family": Family("model", "mlp", ("a",), "c")}, "'model' is no list of blocks"),
        ],
    )
    def test_a_choice_that_names_nothing_is_refused(self, options, message):
        known = Family("model.layers", "mlp", ("a", "b"), "c")
        if options.get("weights") == "attention":
            options = {**options, "family": known}
        with pytest.raises(ValueError, match=message):
            stacked(self.model(), **options)

    @pytest.mark.parametrize("layers", [[2], [-3], [], [True], "some"])
    def test_a_layer_that_does_not_exist_is_refused(self, layers):
        with pytest.raises(ValueError, match="layer"):
            stacked(tiny(), layers=layers)


class Oddly(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.a, self.b, self.c = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x):
        return self.c(nn.functional.silu(self.a(x)) * self.b(x))


def test_a_model_is_stacked_once():
    model = stacked(tiny())
    with pytest.raises(ValueError, match="has levels already"):
        stacked(model.base)
    stacked(model.unstack())
