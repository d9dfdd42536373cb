"""How levels go together, as the description shows it.  [NL def. 2, eq. 72, 74]"""

import math

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import everlearn as el
from everlearn.levels import Level, describe
from everlearn.memory import AssociativeMemory, Decay, Matrix, NonParametric, l2
from everlearn.models import Decoder, preset
from everlearn.rules import momentum

MLP = 3 * 8 * 12  # gate, up and down of one SwiGLU
LEVELS = (Level("fast", 4), Level("mid", 8), Level("slow", 16))


def test_a_level_starts_from_its_running_mean_and_the_mean_from_the_parameters():
    found = by_name("sequential", (Level("fast", 4, reset="document"), Level("slow", mean_of="fast", decay=0.9)))
    fast, slow = found["blocks.0-1.mlp.fast"], found["blocks.0-1.mlp.slow"]
    assert (fast.update_period, slow.update_period, fast.level) == (4, 4, slow.level)
    assert fast.start_from == ("blocks.0-1.mlp.slow",)
    assert slow.start_from == ("blocks.0-1.mlp.mlps.fast.*",)
    assert (slow.rule, slow.context_flow) == ("running mean, decay 0.9", "weights of fast")
    assert slow.state_bytes == 2 * MLP * 4  # no gradient and no clock of its own


def test_a_stacked_model_shows_its_deltas_beside_frozen_weights():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    levels = (Level("fast", 128), Level("slow", 256))
    stacked = el.stack_levels(base, levels=levels, weights="down")
    found = {component.name: component for component in describe(stacked).components}
    # one matrix of 16 by 24 in each of two layers: weights and gradient in float32, and a clock of eight bytes
    assert found["deltas.fast"].state_bytes == found["deltas.slow"].state_bytes == 2 * 2 * 16 * 24 * 4 + 8
    assert [found[f"deltas.{name}"].update_period for name in ("fast", "slow")] == [128, 256]
    assert sum(component.parameters for component in found.values()) == sum(p.numel() for p in base.parameters())


def test_an_associative_memory_shows_its_four_choices():
    matrix = AssociativeMemory(Matrix(8), l2, Decay(0.99), momentum, eta=0.5)
    memory, start = describe(matrix).components
    assert (memory.kind, memory.objective) == ("Matrix memory", "l2")
    assert memory.rule == "momentum, eta 0.5, Decay(alpha=0.99)"
    assert memory.start_from == (start.name,) and start.parameters == 64
    assert memory.state_bytes == 2 * 8 * 8 * 4 + 4 + 8  # weights and momentum, its mass, and a clock
    windowed, _ = describe(AssociativeMemory(Matrix(8), eta=0.5, window=4)).components
    assert windowed.state_bytes == 8 * 8 * 4 + 2 * 3 * 8 * 4 + 8
    (pairs,) = describe(AssociativeMemory(NonParametric(8), rule=None)).components
    assert (pairs.token_bytes, pairs.rule) == ((8 + 8 + 1) * 4 + 1, "keep every token")


def by_name(kind: str, levels=LEVELS) -> dict[str, el.levels.Component]:
    config = preset("delta_net", levels=levels, dim=8, num_layers=2, num_heads=2, hidden_dim=12, chunk_size=4, cms=kind)
    return {component.name: component for component in describe(Decoder(config)).components}


def test_nested_levels_start_from_the_next_slower_memory_and_own_one_mlp():
    found = by_name("nested")
    assert found["blocks.0-1.mlp.fast"].start_from == ("blocks.0-1.mlp.mid",)
    assert found["blocks.0-1.mlp.mid"].start_from == ("blocks.0-1.mlp.slow",)
    assert found["blocks.0-1.mlp.slow"].start_from == ("blocks.0-1.mlp.mlps.slow.*",)
    assert found["blocks.0-1.mlp.mlps.slow.*"].parameters == 2 * MLP
    assert not any("mlps.fast" in name for name in found)
    # weights and their gradient in float32, and one clock of eight bytes
    assert found["blocks.0-1.mlp.fast"].state_bytes == 2 * (2 * MLP * 4 + 8)


def test_a_nested_level_that_never_changes_is_the_start_of_the_one_before():
    found = by_name("nested", (Level("fast", 4), Level("mid", 8), Level("slow", math.inf)))
    assert found["blocks.0-1.mlp.mid"].start_from == ("blocks.0-1.mlp.mlps.slow.*",)
    assert found["blocks.0-1.mlp.mlps.slow.*"].kind == "learned start"
    assert "blocks.0-1.mlp.slow" not in found


def test_levels_side_by_side_own_their_mixing_weights():
    found = by_name("independent")
    assert found["blocks.0-1.mlp.fast"].start_from == ("blocks.0-1.mlp.mlps.fast.*",)
    mixing = [component for component in found.values() if component.kind == "mixing weights"]
    assert [component.parameters for component in mixing] == [2 * 3]
