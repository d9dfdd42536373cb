"""Generation in every mode: cached equals uncached, and the cache is the state of the streams."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import TextIteratorStreamer

from tests.convert.test_text import byte_level
from tests.models.hf.small import make, same, tokens
from tests.tiny import KINDS

EVERY = pytest.mark.parametrize("name", KINDS)
GREEDY = {"do_sample": False, "max_new_tokens": 6}


def by_hand(model, ids: torch.Tensor, steps: int = 6) -> torch.Tensor:
    """Take the likeliest token again and again, and read everything anew each time."""
    for _ in range(steps):
        ids = torch.cat([ids, model.decoder(ids)[0][:, -1:].argmax(-1)], 1)
    return ids


@EVERY
def test_greedy_is_the_likeliest_token_with_and_without_a_cache(name):
    model, ids = make(name), tokens(2, 5)
    wanted = by_hand(model, ids)
    assert torch.equal(model.generate(ids, **GREEDY), wanted)
    assert torch.equal(model.generate(ids, use_cache=False, **GREEDY), wanted)
    assert torch.equal(model.generate(ids[:, :1], **GREEDY), by_hand(model, ids[:, :1]))


@EVERY
def test_cached_logits_equal_uncached_ones(name):
    """1e-5 in float32: the same numbers in another order."""
    model, ids = make(name), tokens(2, 7)
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    cached, uncached = model.generate(ids, **options), model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached.sequences, uncached.sequences)
    for a, b in zip(cached.logits, uncached.logits, strict=True):
        same(a, b)
    assert cached.past_key_values.state.tokens_seen.tolist() == [12, 12]  # the last new token is not read


@EVERY
def test_a_prompt_in_chunks_is_the_whole_prompt(name):
    model, ids = make(name), tokens(2, 7)
    expected = by_hand(model, ids, 2)
    for size in (1, 3, 5, 100):
        found = model.generate(ids, prefill_chunk_size=size, do_sample=False, max_new_tokens=2)
        assert torch.equal(found, expected), f"chunks of {size}"


@EVERY
def test_rows_of_a_padded_batch_generate_as_if_alone(name):
    model, ids = make(name), tokens(2, 6)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    both = model.generate(ids, attention_mask=mask, pad_token_id=0, **GREEDY)
    assert torch.equal(both[1:, 3:], by_hand(model, ids[1:, 3:]))
    assert torch.equal(both[:1], by_hand(model, ids[:1]))
    chunks = model.generate(ids, attention_mask=mask, pad_token_id=0, prefill_chunk_size=2, **GREEDY)
    assert torch.equal(chunks, both)


@EVERY
def test_beams_with_a_cache_are_beams_without(name):
    """Beams change places at every step, so a state that did not follow would show."""
    model, ids = make(name), tokens(2, 5)
    options = {"num_beams": 4, "num_return_sequences": 2, **GREEDY, "return_dict_in_generate": True}
    cached, uncached = model.generate(ids, **options), model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert len(cached.sequences) == 4
    assert any(bool((beams != beams.sort()[0]).any()) for beams in cached.beam_indices)


@EVERY
def test_sampling_is_repeatable_and_several_sequences_differ(name):
    model, ids = make(name), tokens(1, 5)
    options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6}
    torch.manual_seed(3)
    one = model.generate(ids, **options)
    torch.manual_seed(3)
    assert torch.equal(model.generate(ids, use_cache=False, **options), one)
    assert len({tuple(row.tolist()) for row in one}) == 3


def test_text_is_streamed_as_it_is_made():
    model, tokenizer = make(vocab_size=320), byte_level()
    ids = tokenizer("to be", return_tensors="pt")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    options = {**ids, **GREEDY, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs=options)
    thread.start()
    text = "".join(streamer)
    thread.join()
    new = by_hand(model, ids["input_ids"])[0, ids["input_ids"].shape[1] :]
    assert text == tokenizer.decode(new)


def test_generation_writes_no_parameter():
    model = make("hope_attention")
    before = model.decoder.fingerprint()
    model.generate(tokens(1, 9), max_new_tokens=12, do_sample=True)
    assert model.decoder.fingerprint() == before
    assert all(parameter.grad is None for parameter in model.parameters())


@EVERY
def test_turns_on_one_cache_are_one_prompt(name):
    """The second call is given everything, and reads what is new alone."""
    model, ids = make(name), tokens(1, 5)
    cache = model.new_cache()
    first = model.generate(ids, past_key_values=cache, **GREEDY)
    assert cache.get_seq_length() == 10
    longer = torch.cat([first, tokens(1, 4, seed=2)], 1)
    assert torch.equal(model.generate(longer, past_key_values=cache, **GREEDY), by_hand(model, longer))
    mask = torch.ones(1, 24, dtype=torch.long)  # what was read and what is new: then the new tokens alone may be given
    read = int(cache.state.tokens_seen)
    again = model.generate(tokens(1, 24 - read, seed=3), attention_mask=mask, past_key_values=cache, **GREEDY)
    whole = torch.cat([longer, by_hand(model, longer)[:, longer.shape[1] :]], 1)[:, :read]
    whole = torch.cat([whole, tokens(1, 24 - read, seed=3)], 1)
    assert torch.equal(again[:, -6:], by_hand(model, whole)[:, -6:])


@EVERY
def test_a_new_segment_keeps_the_memory_and_takes_the_new_text_alone(name):
    """As the decoder reads with `state.new_segment()`."""
    model, first, second = make(name), tokens(2, 6), tokens(2, 4, seed=2)
    cache = model.new_cache()
    model(first, past_key_values=cache)
    state = model.decoder(first)[1].new_segment()
    made = model.generate(second, past_key_values=cache.new_segment(), **GREEDY)
    for t in range(4, 10):
        assert torch.equal(made[:, t], model.decoder(made[:, :t], state)[0][:, -1].argmax(-1))
    assert cache.state.tokens_seen.tolist() == [15, 15]
    assert cache.state.segment_len.tolist() == [9, 9]


def test_a_prompt_that_does_not_go_on_is_refused_where_its_start_would_be_cut_off():
    """Hugging Face cuts as many tokens from a prompt as a cache has read, without looking at them."""
    model, ids = make(), tokens(2, 6)
    cache = model.new_cache()
    read = model.generate(ids, past_key_values=cache, **GREEDY)[:, :11]
    before = cache.state
    for prompt in (tokens(2, 15, seed=5), ids, read, tokens(2, 3), torch.cat([ids, tokens(2, 9, seed=4)], 1)):
        with pytest.raises(ValueError, match="the cache has read 11 tokens in this segment, and the prompt of"):
            model.generate(prompt, past_key_values=cache, **GREEDY)
    assert cache.state is before


def test_beams_on_a_given_cache_leave_it_as_it_was():
    model, ids = make(), tokens(2, 6)
    cache = model.new_cache()
    model(ids[:, :4], past_key_values=cache)
    before = cache.state
    options = {"num_beams": 3, **GREEDY}
    assert torch.equal(model.generate(ids, past_key_values=cache, **options), model.generate(ids, **options))
    assert cache.state is before and cache.get_seq_length() == 4


def test_what_generation_cannot_do_is_refused():
    model, ids = make(), tokens(1, 4)
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        model.generate(ids, assistant_model=make(), **GREEDY)
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        model.generate(ids, prompt_lookup_num_tokens=2, **GREEDY)
    with pytest.raises(ValueError, match="cache_implementation is 'static', but a memory has one form"):
        model.generate(ids, cache_implementation="static", **GREEDY)
    with pytest.raises(ValueError, match="hold no token"):
        model.generate(ids[:, :0], **GREEDY)
    with pytest.raises(ValueError, match="the vocabulary from 0 to 255"):
        model.generate(ids + 256, **GREEDY)
