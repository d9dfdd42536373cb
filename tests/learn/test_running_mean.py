"""A running mean inside a model that reads: cut anywhere, saved anywhere, restarted per document."""

import pytest
import torch

from everlearn.learn import read
from everlearn.levels import Level
from everlearn.memory.codec import check_fits, from_tensors, to_tensors
from everlearn.memory.state import take_level
from everlearn.models import DecoderConfig
from everlearn.models.text import encode
from tests.tiny import CHUNK, TEXT, assert_close, byte_model, fingerprint

LEVELS = (Level("fast", CHUNK, 0.3, reset="document"), Level("slow", mean_of="fast", decay=0.5))
IDS = encode(TEXT)[None]


def reader():
    return byte_model(levels=LEVELS)


@pytest.mark.parametrize("cut", range(1, len(TEXT) - 1, 5))
def test_any_cut_of_the_text_gives_the_same_state(cut):
    model = reader()
    _, whole = read(model, IDS, model.initial_state(1), chunk_size=CHUNK)
    _, state = read(model, IDS[:, :cut], model.initial_state(1), chunk_size=CHUNK)
    _, state = read(model, IDS[:, cut:], state, chunk_size=CHUNK)
    assert_close(whole, state, atol=1e-12)


def test_a_state_saved_in_the_middle_of_a_chunk_goes_on_bit_identically():
    model = reader()
    _, state = read(model, IDS[:, :18], model.initial_state(1), chunk_size=CHUNK)
    saved = from_tensors(to_tensors(state))
    check_fits(saved, model.initial_state(1), "the copy")
    (_, a), (_, b) = (read(model, IDS[:, 18:], each, chunk_size=CHUNK, end="flush") for each in (state, saved))
    assert fingerprint(a) == fingerprint(b)


def test_the_next_document_starts_from_the_mean_and_reads_it_like_any_weights():
    """The state after a restart scores like one whose fast level was set to the mean by hand."""
    model = reader()
    report, state = read(model, IDS, model.initial_state(1), chunk_size=CHUNK, end="flush")
    assert report.steps["slow"].tolist() == report.steps["fast"].tolist() == [10]
    fresh, _ = model.tick(state, "document")
    for name, tensors in fresh.memory.items():
        if "slow.up" in tensors:
            assert torch.equal(tensors["fast.up"], state.memory[name]["slow.up"])
    base = model.initial_state(1)
    (of_mean, _), (of_base, _) = (read(model, IDS, s, chunk_size=CHUNK, learn=False) for s in (fresh, base))
    assert float(of_mean.nll.nanmean()) < float(of_base.nll.nanmean())


def test_one_level_of_the_pair_can_be_rolled_back_alone():
    model = reader()
    _, early = read(model, IDS[:, :16], model.initial_state(1), chunk_size=CHUNK)
    _, late = read(model, IDS[:, 16:], early, chunk_size=CHUNK)
    back = take_level(late, early, "slow")
    for name, tensors in back.memory.items():
        if "slow.up" in tensors:
            assert torch.equal(tensors["slow.up"], early.memory[name]["slow.up"])
            assert torch.equal(tensors["fast.up"], late.memory[name]["fast.up"])


def test_a_config_with_a_mean_survives_its_json():
    config = reader().config
    assert DecoderConfig.from_dict(config.to_dict()) == config
