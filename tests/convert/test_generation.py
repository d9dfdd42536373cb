"""`generate` of Hugging Face reads with a state, whatever it does with the rows."""

from __future__ import annotations

import pytest
import torch

from everlearn.convert import stack_levels
from everlearn.learn.stream import read
from everlearn.levels import Level
from everlearn.memory.codec import decode, encode, from_tensors, to_tensors
from tests.convert.families_fixture import FAMILIES, tiny, tokens
from tests.convert.test_stacked_model import merged_copy

C = 8
PLAIN = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 5}


def stacked(family="llama", **options):
    return stack_levels(tiny(family), levels=[Level("fast", C, 0.5)], chunk_size=C, **options)


def taught(model, rows=2):
    return read(model, tokens(rows, 30, 5), model.initial_state(rows), chunk_size=C, end="flush")[1]


def greedy(model, ids, state, new=5):
    """Return the likeliest continuation, token by token, by the stacked model itself."""
    found = []
    with torch.no_grad():
        for _ in range(new):
            logits, state = model(ids, state)
            ids = logits[:, -1].argmax(-1, keepdim=True)
            found.append(ids)
    return torch.cat(found, 1)


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_generation_is_that_of_each_row_s_own_weights(use_cache):
    model, ids = stacked(), tokens(2, 6)
    state = taught(model)
    with model.using(state):
        found = model.base.generate(ids, use_cache=use_cache, **PLAIN)
    for row in range(2):
        expected = merged_copy(tiny(), model, state, row).generate(ids[[row]], **PLAIN)
        assert torch.equal(found[[row]], expected)
    assert torch.equal(found[:, 6:], greedy(model, ids, state))
    assert not torch.equal(found, model.base.generate(ids, **PLAIN))


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_keep_the_weights_of_their_row(options):
    model, ids = stacked(), tokens(2, 6)
    state, returned = taught(model), options.get("num_return_sequences", 1)
    with model.using(state):
        found = model.base.generate(ids, **PLAIN, **options)
    for row in range(2):
        expected = merged_copy(tiny(), model, state, row).generate(ids[[row]], **PLAIN, **options)
        assert torch.equal(found[row * returned : (row + 1) * returned], expected)


def test_samples_of_one_prompt_share_its_weights():
    model, ids = stacked(), tokens(1, 6)
    state, options = taught(model, rows=1), {**PLAIN, "do_sample": True, "num_return_sequences": 4}
    other = merged_copy(tiny(), model, state, 0)
    torch.manual_seed(0)
    with model.using(state):
        found = model.base.generate(ids, **options)
    torch.manual_seed(0)
    assert torch.equal(found, other.generate(ids, **options))


def test_left_padding_of_a_prompt_changes_nothing():
    model, ids = stacked(), tokens(2, 6)
    state, mask = taught(model), torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    found = model.generate(ids.masked_fill(~mask, 0), state, mask, **PLAIN)
    alone = model.generate(ids[1:, 2:], state.rows([1]), **PLAIN)
    assert torch.equal(found[1, 6:], alone[0, 4:])


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_goes_on_after_what_was_read(family):
    model = stacked(family)
    lengths = torch.tensor([[9], [13]])
    _, state = read(model, tokens(2, 13), taught(model), torch.arange(13) < lengths, chunk_size=C, learn=False)
    ids = tokens(2, 1, 7) if family == "mistral" else tokens(2, 4, 7)
    new = 1 if family == "mistral" else 5  # its own window counts places, not tokens, where rows differ in length
    found = model.generate(ids, state, **{**PLAIN, "max_new_tokens": new})
    expected = greedy(model, ids, state, new)
    rows = [1] if family == "mistral" else [0, 1]
    assert torch.equal(found[rows, ids.shape[1] :], expected[rows])


def test_beams_go_on_after_what_was_read():
    model, ids = stacked(), tokens(2, 4, 7)
    _, state = model(tokens(2, 9), taught(model))
    found = model.generate(ids, state, **PLAIN, num_beams=3)
    whole = torch.cat([tokens(2, 9), ids], 1)
    with model.using(state):
        expected = model.base.generate(whole, **PLAIN, num_beams=3)
    assert torch.equal(found, expected[:, 9:])


def test_a_restored_state_generates_the_same():
    model, ids = stacked(), tokens(2, 4, 7)
    _, state = read(model, tokens(2, 13), taught(model), chunk_size=C)
    restored = from_tensors(decode(encode(to_tensors(state), {}), "a state")[0])
    options, found = {**PLAIN, "do_sample": True}, []
    for start in (state, restored):
        torch.manual_seed(0)
        found.append(model.generate(ids, start, **options))
    assert torch.equal(*found)


def test_positions_beyond_those_that_were_learned_are_refused():
    model = stacked("gpt2")
    _, state = model(tokens(1, 55), model.initial_state(1))
    model.generate(tokens(1, 4), state, **PLAIN)
    with pytest.raises(ValueError, match="has learned 64 positions"):
        model.generate(tokens(1, 5), state, **PLAIN)


@pytest.mark.parametrize("mask", [[[True, False]], [[False, False]]])
def test_a_prompt_without_an_end_is_refused(mask):
    with pytest.raises(ValueError, match="padding on the left"):
        stacked().generate(tokens(1, 2), mask=torch.tensor(mask))
