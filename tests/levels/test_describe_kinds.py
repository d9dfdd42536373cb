"""How levels go together, as the description shows it.  [NL def. 2, eq. 72, 74]"""

import math

import everlearn as el
from everlearn.levels import Level, describe
from everlearn.models import Decoder, preset

MLP = 3 * 8 * 12  # gate, up and down of one SwiGLU
LEVELS = (Level("fast", 4), Level("mid", 8), Level("slow", 16))


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
