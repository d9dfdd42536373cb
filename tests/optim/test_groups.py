"""Which parameters are hidden matrices: by the kind of their layer, each exactly once, and what cannot be told."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTForImageClassification

import everlearn as el
from everlearn.models.presets import PRESETS
from everlearn.train import TrainConfig
from everlearn.train.loop import optimizers
from tests.tiny import byte_model


def names(model, **options):
    """Return the names of the hidden matrices, and of the rest."""
    found = {group.get("elementwise", False): group["params"] for group in el.optim.groups(model, **options)}
    return [sorted(name for name, _ in found.get(kind, [])) for kind in (False, True)]


def everything(model):
    return sorted(name for name, _ in model.named_parameters())


def test_the_line_of_the_design_trains_a_model():
    """M3 for the hidden matrices, AdamW for the rest, one optimizer."""
    model = byte_model(dim=16, hidden_dim=16, num_heads=1).float()
    optimizer = el.optim.M3(el.optim.groups(model), lr=2e-3)
    ids = torch.randint(0, 256, (2, 12))
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        logits, _ = model(ids[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert set(optimizer.state[model.embedding.weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert "slow" in optimizer.state[model.blocks[0].mixer.qkv.weight]


@pytest.mark.parametrize("preset", PRESETS)
def test_our_models_are_split_as_training_splits_them(preset):
    model = byte_model(preset, dim=16, hidden_dim=16, num_heads=1)
    hidden, rest = names(model)
    muon, _ = optimizers(model, TrainConfig(steps=1))
    own = {id(p): name for name, p in model.named_parameters()}
    assert hidden == sorted(own[id(p)] for p in muon.param_groups[0]["params"])
    assert sorted(hidden + rest) == everything(model)


def test_a_transformer_of_hugging_face():
    """Its matrices lie in a layer of their own kind, and its head is the embedding."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16))
    hidden, rest = names(model)
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert hidden == sorted(f"transformer.h.{i}.{kind}.weight" for i in (0, 1) for kind in kinds)
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= set(rest)
    assert sorted(hidden + rest) == everything(model)
    untied = GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=50, n_positions=16, tie_word_embeddings=False)
    )
    assert "lm_head.weight" in names(untied)[1]


def test_an_image_classifier_of_hugging_face():
    """Positions and the class token are raw tensors; the classifier is the last layer outside the blocks."""
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=4
    )
    hidden, rest = names(ViTForImageClassification(config))
    assert {"classifier.weight", "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"} <= set(rest)
    assert "vit.embeddings.patch_embeddings.projection.weight" in hidden
    assert sum(".weight" in name for name in hidden) == len(hidden) == 7


def test_layers_of_torch():
    """Attention, recurrent and plain convolutional layers; depthwise, thin and norm ones are not matrices."""
    layers = {
        "attention": nn.MultiheadAttention(16, 2),
        "gru": nn.GRU(16, 16),
        "conv": nn.Conv2d(16, 16, 3),
        "depthwise": nn.Conv1d(16, 16, 9, groups=16),
        "grouped": nn.Conv1d(32, 32, 9, groups=2),
        "gates": nn.Linear(16, 8),
        "norm": nn.LayerNorm([16, 16]),
        "inner": nn.Linear(16, 16),
        "head": nn.Linear(16, 20),
    }
    hidden, rest = names(nn.ModuleDict(layers))
    attention = ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert hidden == [*attention, "conv.weight", "gru.weight_hh_l0", "gru.weight_ih_l0", "inner.weight"]
    assert {
        "depthwise.weight",
        "grouped.weight",
        "gates.weight",
        "norm.weight",
        "head.weight",
        "gru.bias_ih_l0",
    } <= set(rest)


def test_tied_and_frozen_parameters():
    model = nn.ModuleDict({"table": nn.Embedding(20, 16), "inner": nn.Linear(16, 16), "out": nn.Linear(16, 20)})
    model["out"].weight = model["table"].weight
    model["inner"].bias.requires_grad_(False)
    assert names(model) == [["inner.weight"], ["out.bias", "table.weight"]]


def test_rates_and_decay_of_the_groups():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    made = el.optim.Muon(el.optim.groups(model, adamw_lr=0.5, weight_decay=0.25), lr=0.1).param_groups
    assert [(group["elementwise"], group["lr"], group["weight_decay"]) for group in made] == [
        (False, 0.1, 0.25),
        (True, 0.5, 0.25),
    ]
    assert made[0]["param_names"] == ["0.weight"]
    made = el.optim.Muon(el.optim.groups(model), lr=0.1, weight_decay=0.125).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in made] == [(0.1, 0.125)] * 2


class Named(nn.Module):
    """A model that names its output as those of Hugging Face do, and has a later layer outside its blocks."""

    def __init__(self):
        super().__init__()
        self.out, self.pooler = nn.Linear(16, 50, bias=False), nn.Linear(16, 16, bias=False)

    def get_output_embeddings(self):
        return self.out


def test_a_head_that_the_model_names_is_the_head():
    assert names(Named()) == [["pooler.weight"], ["out.weight"]]


class Raw(nn.Module):
    def __init__(self, name, *shape):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def test_a_matrix_that_only_its_author_knows_is_refused_until_it_is_named():
    model = nn.ModuleDict({"mix": Raw("w", 16, 32), "place": Raw("pos_table", 16, 32), "stack": Raw("w", 12, 16, 32)})
    with pytest.raises(
        ValueError, match=r"'mix.w' \(16, 32\) belongs to a Raw.*matrices=\['mix.w'\]\) or elementwise="
    ):
        el.optim.groups(model)
    assert names(model, matrices=["mix.w"]) == [["mix.w"], ["place.pos_table", "stack.w"]]
    assert names(model, elementwise=["mix.*"]) == [[], ["mix.w", "place.pos_table", "stack.w"]]
    assert names(model, elementwise=["mix.w"], matrices=["*"]) == [["place.pos_table", "stack.w"], ["mix.w"]]


def test_what_no_group_can_take_is_refused():
    with pytest.raises(ValueError, match=r"'nothing.\*' fits none of the 2 parameters, such as 'weight'"):
        el.optim.groups(nn.Linear(2, 2), matrices=["nothing.*"])
    with pytest.raises(ValueError, match=r"'weight' has no shape yet.*one batch"):
        el.optim.groups(nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"'weight' will have a sparse gradient.*sparse=False"):
        el.optim.groups(nn.Embedding(2, 2, sparse=True))
    with pytest.raises(ValueError, match=r"no parameter that asks for a gradient; unfreeze"):
        el.optim.groups(nn.Linear(2, 2).requires_grad_(False))
