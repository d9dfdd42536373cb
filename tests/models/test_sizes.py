"""Sizes of the presets: the budget is met, counted by hand and without allocating."""

from __future__ import annotations

import pytest

from everlearn.levels import Level
from everlearn.models import PRESETS, SIZES, preset, sized
from everlearn.models.sizes import PARAMETERS, count_parameters

# every preset at the smallest and the largest size, and two of them at all
EDGES = [(name, size) for name in PRESETS for size in (min(SIZES, key=PARAMETERS.get), max(SIZES, key=PARAMETERS.get))]
EVERY_SIZE = [(name, size) for name in ("transformer++", "hope") for size in SIZES]


@pytest.mark.parametrize(("name", "size"), sorted({*EDGES, *EVERY_SIZE}))
def test_every_preset_meets_the_budget_of_its_size(name, size):
    """Within 3 percent: the hidden size is a round number."""
    assert count_parameters(sized(name, size)) == pytest.approx(PARAMETERS[size], rel=0.03)


@pytest.mark.parametrize("size", SIZES)
def test_a_transformer_has_what_its_shape_says(size):
    """Embedding, per layer 4 d^2 of attention, 3 d h of SwiGLU and two norms, and the last norm."""
    config = sized("transformer++", size)
    d, layers = config.dim, config.num_layers
    by_hand = config.vocab_size * d + layers * (4 * d * d + 3 * d * config.hidden_dim + 2 * d) + d
    assert count_parameters(config) == by_hand


def test_levels_share_what_one_mlp_would_have():
    three, one = sized("hope_attention", "340M"), sized("transformer++", "340M")
    assert len(three.levels) * three.hidden_dim == pytest.approx(one.hidden_dim, rel=0.02)


def test_another_vocabulary_changes_the_embedding_alone():
    small, large = sized("delta_net", "tiny"), sized("delta_net", "tiny", vocab_size=50_000)
    assert large.hidden_dim == small.hidden_dim
    assert count_parameters(large) - count_parameters(small) == (50_000 - 256) * small.dim


def test_a_given_hidden_size_and_other_fields_are_taken():
    config = sized("transformer++", "tiny", hidden_dim=40, num_layers=2, levels=[Level("fast", 32)], chunk_size=32)
    wanted = {"dim": 128, "num_layers": 2, "num_heads": 4, "hidden_dim": 40, "chunk_size": 32}
    assert config == preset("transformer++", levels=[Level("fast", 32)], **wanted)


def test_what_does_not_exist_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="size 'huge' is unknown; choose one of tiny, small, 340M"):
        sized("delta_net", "huge")
    with pytest.raises(ValueError, match="preset 'gpt' is unknown; choose one of transformer"):
        sized("gpt", "tiny")
    with pytest.raises(ValueError, match="above the 1,000,000 of size 'tiny'; choose a larger size"):
        sized("delta_net", "tiny", dim=512)
