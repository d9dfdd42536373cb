"""The cache: one state, its rows, and whose it is."""

from __future__ import annotations

import copy

import pytest
import torch

import everlearn as el
from everlearn.models import MemoryCache
from tests.models.hf.small import make, same, tokens


def test_rows_are_repeated_picked_and_reordered_with_their_state():
    model, ids, more = make(), tokens(3, 6), tokens(3, 2, seed=1)
    alone = model(torch.cat([ids, more], 1)).logits[:, 6:]
    cache = model.new_cache()
    model(ids, past_key_values=cache)
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    same(model(more[[2, 0, 1]], past_key_values=copy.deepcopy(cache)).logits, alone[[2, 0, 1]])
    several = cache.repeated(2)
    same(model(more[[2, 2, 0, 0, 1, 1]], past_key_values=several).logits, alone[[2, 2, 0, 0, 1, 1]])
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.batch_size == 1
    same(model(more[:1], past_key_values=cache.repeated(1)).logits, alone[:1])
    cache.batch_repeat_interleave(2)
    same(model(more[[0, 0]], past_key_values=cache).logits, alone[[0, 0]])


def test_a_copy_reads_for_itself_and_a_state_put_back_undoes_reading():
    model, ids = make(), tokens(1, 6)
    cache = model.new_cache()
    model(ids, past_key_values=cache)
    state, other = cache.state, copy.deepcopy(cache)
    after = model(tokens(1, 3), past_key_values=other).logits
    assert cache.state is state and cache.get_seq_length() == 6 and other.get_seq_length() == 9
    cache.state = state
    assert torch.equal(model(tokens(1, 3), past_key_values=cache).logits, after)


def test_what_hugging_face_asks_of_a_cache():
    model = make()
    cache = model.new_cache()
    assert (cache.batch_size, cache.is_initialized, cache.get_seq_length(), cache.get_max_length()) == (
        -1,
        False,
        0,
        -1,
    )
    cache.reorder_cache(torch.tensor([0]))
    cache.batch_repeat_interleave(2)
    assert cache.new_segment() is cache and cache.state is None
    model(tokens(2, 3), past_key_values=cache)
    assert (cache.batch_size, cache.is_initialized, cache.get_mask_sizes(2, 0)) == (2, True, (5, 0))
    assert not cache.is_compileable and not cache.is_croppable
    assert repr(cache) == "MemoryCache(2 rows, 3 columns)"
    cache.crop(0)
    with pytest.raises(ValueError, match="2 tokens should be removed from a memory, which cannot unread"):
        cache.crop(2)
    cache.reset()
    assert (cache.batch_size, cache.get_seq_length()) == (-1, 0)


def test_a_cache_of_another_model_or_batch_size_is_refused_and_left_alone():
    model, twin, ids = make(), make(), tokens(2, 4)
    cache = model.new_cache()
    model(ids, past_key_values=cache)
    before = cache.state
    for call in (twin, twin.generate):
        with pytest.raises(ValueError, match=r"the cache of another model; start one by model\.new_cache"):
            call(ids, past_key_values=cache)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="the cache has 2 rows, the input has 1; keep rows with"):
            call(ids[:1], past_key_values=cache)
    with pytest.raises(ValueError, match="the state is another model's"):
        make(dim=32).new_cache(before)
    with pytest.raises(ValueError, match="the state is another model's"):
        MemoryCache(make("hope_attention").decoder, before)
    assert cache.state is before


def test_a_model_that_is_gone_is_not_kept_by_its_caches():
    model = make()
    cache = model.new_cache()
    model(tokens(1, 3), past_key_values=cache)
    del model
    with pytest.raises(ValueError, match="the cache of another model"):
        make()(tokens(1, 3), past_key_values=cache)
    with pytest.raises(ValueError, match="no state to give"):
        cache.whole_state()


def test_a_learner_goes_on_from_a_cache_and_a_cache_from_a_learner():
    """Reading without levels moves the same state, whichever of the two reads."""
    model, text = make("delta_net"), "the cat sat on the mat"
    reader = el.Learner(model)
    cache = model.new_cache()
    model(reader.model.encode(text)[None], past_key_values=cache)
    reader.restore("ada", cache.whole_state())
    going_on = reader.generate("; the dog", user="ada", max_new_tokens=8)
    ids = reader.model.encode(text + "; the dog")[None]
    assert going_on == reader.model.decode(model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :])
