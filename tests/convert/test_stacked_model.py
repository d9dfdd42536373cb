"""A stacked model reads like the pretrained one, and like one whose weights were changed, row by row."""

from __future__ import annotations

import copy
import dataclasses
import threading

import pytest
import torch
import torch.nn.functional as F

from everlearn.convert import stack_levels
from everlearn.learn.chunk import NotFiniteError, learn_chunk
from everlearn.learn.stream import read
from everlearn.levels import Level
from everlearn.memory.codec import decode, encode, from_tensors, to_tensors
from everlearn.memory.state import concat_rows
from tests.convert.families_fixture import tiny, tokens
from tests.tiny import assert_close, fingerprint

C = 8
LEVELS = (Level("fast", C, 0.5, anchor_decay=0.1, reset="document"), Level("slow", 2 * C, 0.5))


def stacked(family="llama", levels=LEVELS, model=None, **options):
    return stack_levels(model or tiny(family), levels=levels, chunk_size=C, **options)


def taught(model, rows=2, length=30, seed=5):
    """Return a state that has learned a document of its own in each row, closed."""
    _, state = read(model, tokens(rows, length, seed), model.initial_state(rows), chunk_size=C, end="flush")
    return state


def merged_copy(plain, model, state, row):
    """Return the pretrained model with one row's deltas added to its weights, by hand."""
    other = copy.deepcopy(plain)
    memory = state.memory["stack"]
    for matrix in model.matrices:
        delta = sum(memory[f"{level.name}.{matrix.name}"][row] for level in model.deltas.learning_levels)
        other.get_submodule(matrix.name).weight.data += delta
    return other


def test_a_fresh_model_gives_the_logits_of_the_original_bit_for_bit():
    plain, model, ids = tiny(), stacked(), tokens()
    expected = plain(ids).logits
    assert torch.equal(model(ids)[0], expected)
    assert torch.equal(model(ids, model.initial_state(2))[0], expected)
    with model.using(model.initial_state(2)):
        assert torch.equal(model.base(ids).logits, expected)
    assert torch.equal(model.base(ids).logits, expected)
    one = plain(ids[:1]).logits
    assert torch.equal(model(ids[:1], model.initial_state(1))[0], one)
    with model.using(model.initial_state(1)):
        assert torch.equal(model.base(ids[:1]).logits, one)


@pytest.mark.parametrize("weights", ["mlp", "down", "last_down", ["*.o_proj", "*.1.mlp.up_proj"]])
def test_each_row_reads_like_a_model_with_its_own_weights(weights):
    """W0 x + D_1 x + D_2 x is (W0 + D_1 + D_2) x: independent levels with the sum as aggregation [NL eq. 74]."""
    plain, model, ids = tiny(), stacked(weights=weights), tokens()
    state = taught(model)
    logits, _ = model(ids, state)
    for row in range(2):
        expected = merged_copy(plain, model, state, row)(ids[row : row + 1]).logits
        torch.testing.assert_close(logits[row : row + 1], expected, atol=1e-10, rtol=0)
    assert (logits[0] - plain(ids).logits[0]).abs().max() > 1e-3


def test_one_chunk_moves_the_weights_by_the_clipped_gradient():
    """theta <- theta - eta clip_1(mean gradient), here of the pretrained matrix itself [NL eq. 71]."""
    plain, ids = tiny(), tokens(2, C + 1)
    level = Level("fast", C, 0.5, anchor_decay=0.1)
    model = stacked(levels=[level], max_norm=0.65)
    _, state = learn_chunk(model, ids, model.initial_state(2))
    for row in range(2):
        plain.zero_grad()
        logits = plain(ids[row : row + 1, :-1]).logits
        F.cross_entropy(logits[0], ids[row, 1:]).backward()
        clipped = 0
        for matrix in model.matrices:
            grad = plain.get_submodule(matrix.name).weight.grad
            clipped += float(grad.norm()) > 0.65
            expected = -0.5 * grad * min(1, 0.65 / float(grad.norm())) * (1 - 0.1)
            found = state.memory["stack"][f"fast.{matrix.name}"][row]
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        assert 0 < clipped < len(model.matrices)  # both sides of the clip are tested


@pytest.mark.parametrize(
    ("family", "cut"), [*[("llama", cut) for cut in (1, 7, 8, 9, 39)], ("mistral", 7), ("gpt2", 7), ("gpt2", 9)]
)
def test_any_split_of_a_text_learns_what_the_whole_teaches(family, cut):
    model, ids = stacked(family), tokens()
    whole, expected = read(model, ids, model.initial_state(2), chunk_size=C)
    first, state = read(model, ids[:, :cut], model.initial_state(2), chunk_size=C)
    second, state = read(model, ids[:, cut:], state, chunk_size=C)
    nll = torch.cat([first.nll, second.nll], 1)
    torch.testing.assert_close(nll, whole.nll, atol=1e-10, rtol=0, equal_nan=True)
    assert_close(state, expected)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_reading_token_by_token_gives_the_logits_of_the_full_pass(family):
    model, ids = stacked(family), tokens(2, 20)
    start = taught(model).new_segment()
    whole, _ = model(ids, start)
    state, pieces = start, []
    for t in range(20):
        logits, state = model(ids[:, t : t + 1], state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-10, rtol=0)
    assert state.segment_len.tolist() == [20, 20]
    assert state.tokens_seen.tolist() == [29 + 20, 29 + 20]  # the last token of the document before was not consumed


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_padding_changes_nothing_wherever_it_stands(family):
    model, lengths = stacked(family), (9, 14)
    ids = tokens(2, 14)
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 20, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, torch.randperm(20, generator=generator)[:length]] = True
    padded = torch.full((2, 20), 7)
    for row, length in enumerate(lengths):
        padded[row, mask[row]] = ids[row, :length]
    report, state = read(model, padded, model.initial_state(2), mask, chunk_size=C)
    more, state = model(ids[:, :3], state)
    for row, length in enumerate(lengths):
        alone, own = read(model, ids[row : row + 1, :length], model.initial_state(1), chunk_size=C)
        torch.testing.assert_close(report.nll[row, mask[row]], alone.nll[0], atol=1e-10, rtol=0, equal_nan=True)
        expected, own = model(ids[row : row + 1, :3], own)
        torch.testing.assert_close(more[row : row + 1], expected, atol=1e-10, rtol=0)
        assert_close(state.rows([row]), own)


def test_rows_are_bit_isolated():
    model, ids = stacked(), tokens()
    other = torch.cat([ids[:1], tokens(1, 40, seed=9)])
    states = [read(model, text, model.initial_state(2), chunk_size=C)[1] for text in (ids, other)]
    assert fingerprint(states[0].rows([0])) == fingerprint(states[1].rows([0]))
    assert fingerprint(states[0].rows([1])) != fingerprint(states[1].rows([1]))


def test_a_state_saved_within_a_chunk_resumes_bit_for_bit():
    model, ids = stacked(), tokens()
    _, state = read(model, ids[:, :21], model.initial_state(2), chunk_size=C)
    loaded = from_tensors(decode(encode(to_tensors(state), {}), "a state")[0])
    assert fingerprint(loaded) == fingerprint(state)
    ends = [read(stacked(), ids[:, 21:], start, chunk_size=C)[1] for start in (state, loaded)]
    assert fingerprint(ends[0]) == fingerprint(ends[1])


def test_streams_of_different_lengths_join_into_one_batch():
    model, ids = stacked(), tokens(2, 30)
    own = [read(model, ids[i : i + 1, :n], model.initial_state(1), chunk_size=C)[1] for i, n in ((0, 11), (1, 20))]
    joined = concat_rows([*own, model.initial_state(1)], model.initial_state(1))
    logits, _ = model(ids[[0, 1, 0], 20:25], joined)
    for i, state in enumerate([*own, model.initial_state(1)]):
        expected, _ = model(ids[[[0], [1], [0]][i], 20:25], state)
        torch.testing.assert_close(logits[i : i + 1], expected, atol=1e-10, rtol=0)


def test_empty_places_of_a_shorter_row_are_zero():
    model = stacked()
    _, state = read(
        model, tokens(2, 20), model.initial_state(2), torch.arange(20) < torch.tensor([[20], [9]]), chunk_size=C
    )
    cache = state.context["cache"]
    empty = cache["slots"] == 0
    assert empty.sum(1).tolist() == [0, 8]
    assert not any(tensor[empty].any() for tensor in cache.values())


def test_scoring_and_generating_change_no_bit_of_a_state():
    model = stacked()
    _, state = read(model, tokens(), model.initial_state(2), chunk_size=C)
    before = fingerprint(state)
    read(model, tokens(), state, chunk_size=C, learn=False)
    with model.using(state):
        model.base.generate(tokens(2, 4), max_new_tokens=3, do_sample=True)
    assert fingerprint(state) == before


def test_a_level_steps_only_when_its_period_is_over():
    model, ids = stacked(), tokens(1, 3 * C + 1)
    state, seen = model.initial_state(1), []
    for n in range(3):
        _, state = read(model, ids[:, n * C : (n + 1) * C + (n == 2)], state, chunk_size=C)
        seen.append({level: state.memory["stack"][f"{level}.{model.matrices[0].name}"] for level in ("fast", "slow")})
    assert torch.equal(seen[0]["slow"], torch.zeros_like(seen[0]["slow"]))  # the first chunk is not closed yet
    assert not torch.equal(seen[1]["fast"], seen[0]["fast"])
    assert torch.equal(seen[1]["slow"], seen[0]["slow"])
    assert not torch.equal(seen[2]["slow"], seen[1]["slow"])
    state, _ = model.tick(state, "document")
    assert not state.memory["stack"][f"fast.{model.matrices[0].name}"].any()
    assert state.memory["stack"][f"slow.{model.matrices[0].name}"].any()


def test_a_rate_that_diverges_is_refused_and_changes_nothing():
    model, ids = stacked(levels=[Level("fast", C, 1e300)]), tokens()
    _, state = read(model, ids[:, :5], model.initial_state(2), chunk_size=C)
    before = fingerprint(state)
    with pytest.raises(NotFiniteError, match="nothing was learned"):
        read(model, ids[:, 5:], state, chunk_size=C)
    assert fingerprint(state) == before


class TestUsing:
    def test_contexts_nest_and_end(self):
        model, ids = stacked(), tokens()
        a, b = taught(model, seed=5), taught(model, seed=6)
        plain = model.base(ids).logits
        with model.using(a):
            outer = model.base(ids).logits
            with model.using(b):
                inner = model.base(ids).logits
            assert torch.equal(model.base(ids).logits, outer)
        assert torch.equal(model.base(ids).logits, plain)
        assert not torch.equal(outer, inner)
        with pytest.raises(RuntimeError), model.using(a):
            raise RuntimeError
        assert torch.equal(model.base(ids).logits, plain)

    def test_two_models_do_not_read_each_other(self):
        first, second, ids = stacked(), stacked(), tokens()
        plain = second.base(ids).logits
        state = taught(first)
        with first.using(state):
            assert torch.equal(second.base(ids).logits, plain)
            alone = first.base(ids).logits
            with second.using(taught(second, seed=6)):
                assert torch.equal(first.base(ids).logits, alone)
                assert not torch.equal(second.base(ids).logits, plain)

    def test_threads_each_see_their_own(self):
        model, ids = stacked(), tokens()
        states = [taught(model, seed=s) for s in range(4)]
        expected = []
        for state in states:
            with model.using(state):
                expected.append(model.base(ids).logits)
        found = [[] for _ in states]
        barrier = threading.Barrier(len(states))

        def work(i):
            with model.using(states[i]):
                for _ in range(5):
                    barrier.wait()
                    found[i].append(model.base(ids).logits)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(states))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(logits, expected[i]) for i in range(4) for logits in found[i])

    def test_no_tensor_of_a_state_stays_on_a_module(self):
        model = stacked()
        names = set(model.state_dict())
        state = taught(model)
        model(tokens(), state)
        assert set(model.state_dict()) == names
        held = {id(v) for module in model.modules() for v in vars(module).values() if isinstance(v, torch.Tensor)}
        assert not held & {id(t) for t in state.memory["stack"].values()}

    def test_a_batch_that_is_no_multiple_of_the_rows_is_refused(self):
        model = stacked()
        state = taught(model)
        with pytest.raises(ValueError, match=r"gets 3 rows, the state in use has 2"), model.using(state):
            model.base(tokens(3))

    def test_a_state_of_another_model_is_refused(self):
        model, other = stacked(weights="down"), stacked(weights="mlp")
        with pytest.raises(ValueError, match="another memory's"):
            model(tokens(), other.initial_state(2).map(lambda t: t[..., :1] if t.ndim > 2 else t))
        with pytest.raises(ValueError, match="another model's"):
            state = other.initial_state(2)
            model(tokens(), dataclasses.replace(state, memory={"blocks.0.mlp": {}}))
