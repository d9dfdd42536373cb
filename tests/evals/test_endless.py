"""Marks along a stream: what they say of the state, and that cutting the stream there changes nothing."""

import math

import pytest
import torch

from everlearn.evals.endless import largest, read_on
from everlearn.learn.stream import read
from everlearn.memory.state import ModelState
from tests.tiny import CHUNK, byte_model

IDS = torch.randint(256, (60,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("learn", [True, False])
def test_marks_cut_a_stream_and_change_nothing(learn):
    model = byte_model()
    marks = list(read_on(model, IDS, [21, 60], learn=learn))
    report, state = read(model, IDS[None], model.initial_state(1).detach(), chunk_size=CHUNK, learn=learn)
    bits = report.nll[0] / math.log(2)
    assert [mark.tokens for mark in marks] == [21, 60]
    assert marks[0].bits == pytest.approx(float(bits[1:21].mean()), abs=1e-10)
    assert marks[1].bits == pytest.approx(float(bits[21:].mean()), abs=1e-10)
    assert marks[1].largest == pytest.approx(largest(state)) and marks[1].finite
    assert all(mark.microseconds > 0 for mark in marks)


def test_a_matrix_memory_holds_as_much_after_any_number_of_tokens_and_attention_does_not():
    sizes = [mark.state_bytes for mark in read_on(byte_model(), IDS, [20, 40, 60], learn=True)]
    assert len(set(sizes)) == 1
    growing = [mark.state_bytes for mark in read_on(byte_model("transformer++"), IDS, [20, 40, 60], learn=True)]
    assert growing == sorted(set(growing))


def test_the_largest_number_is_found_in_memory_and_in_context():
    zeros = torch.zeros(1, dtype=torch.long)
    both = ({"a": {"w": torch.tensor([1.0, -5.0])}}, {"b": {"k": torch.tensor([-7.0])}})
    state = ModelState(*both, zeros + 99, zeros)
    assert largest(state) == 7 and largest(ModelState(both[0], {}, zeros, zeros)) == 5
    assert largest(ModelState({}, {}, zeros, zeros)) == 0


@pytest.mark.parametrize("marks", [[], [5, 5], [9, 5], [0, 5], [61]])
def test_marks_that_no_reader_can_reach_are_refused(marks):
    with pytest.raises(ValueError, match=r"marks are .* in a stream of 60 tokens; give rising numbers from 1 to 60"):
        list(read_on(byte_model(), IDS, marks, learn=False))


@pytest.mark.slow
def test_a_million_tokens_are_read_in_constant_memory():
    """Random bytes, the hardest stream to hold; nothing in the state may grow or stop being a number."""
    model = byte_model("delta_net").float()
    ids = torch.randint(256, (1_000_000,), generator=torch.Generator().manual_seed(0))
    marks = list(read_on(model, ids, [1_000, 100_000, 1_000_000], learn=False))
    assert len({mark.state_bytes for mark in marks}) == 1 and all(mark.finite for mark in marks)
    assert marks[-1].largest < 3 * marks[1].largest
