"""What a step reads depends on seed and step alone, and every token is a target as often as it should be."""

from __future__ import annotations

import pytest
import torch

from everlearn.train.order import Strips, Windows

DATA = torch.arange(100, dtype=torch.int32)


def test_a_window_is_a_piece_of_the_text_and_begins_a_stream():
    batch = Windows([DATA[:60], DATA[60:]], 4, 10, 0).batch(3)
    assert torch.equal(batch.ids - batch.ids[:, :1], torch.arange(11).expand(4, -1))
    assert bool(batch.real.all() and batch.fresh.all())
    assert (batch.ids.dtype, batch.real.shape) == (torch.int64, (4, 10))


def test_an_epoch_reads_every_window_once_in_an_order_of_its_own():
    """100 tokens hold nine windows of 10 and their targets; an epoch takes eight, from a start of its own."""
    order = Windows([DATA], 4, 10, 0)
    epochs = [torch.cat([order.batch(step).ids[:, 0] for step in (2 * e, 2 * e + 1)]) for e in range(5)]
    assert order.count == 8
    for starts in epochs:
        ordered = starts.sort().values
        assert torch.equal(ordered - ordered[0], 10 * torch.arange(8))
        assert 0 <= ordered[0] < 10
    assert len({tuple(starts.tolist()) for starts in epochs}) == 5
    assert len({int(starts.min()) for starts in epochs}) > 1


def test_a_step_is_the_same_in_any_process_and_whatever_came_before():
    one, two = (Windows([DATA], 3, 10, 7) for _ in range(2))
    before = [one.batch(step).ids for step in range(9)]
    for step in (8, 0, 5, 3):
        assert torch.equal(two.batch(step).ids, before[step])
    assert not torch.equal(Windows([DATA], 3, 10, 8).batch(0).ids, before[0])


def test_the_only_window_of_a_short_text_is_read_again_and_again():
    order = Windows([DATA[:11]], 2, 10, 0)
    assert torch.equal(order.batch(4).ids, torch.arange(11).expand(2, -1))
    with pytest.raises(ValueError, match=r"has 10 tokens, one window needs 11; .*set length below 10"):
        Windows([DATA[:10]], 1, 10, 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_strips_predict_every_token_that_has_one_before_it_in_its_document_exactly_once(rows, seed):
    documents = [DATA[:37], DATA[37:38], DATA[38:90], DATA[90:]]
    order = Strips(documents, rows, 8, seed)
    seen: list[int] = []
    for row, segments in enumerate(order._segments):
        last = None
        for step in range(len(segments)):
            batch = order.batch(step)
            targets = batch.ids[row, 1:][batch.real[row]]
            # a text of one token is left out, and numbers tell where in a document a token stands
            assert torch.equal(targets, batch.ids[row, :-1][batch.real[row]] + 1)
            assert bool(batch.fresh[row]) == (last is None or int(batch.ids[row, 0]) != last)
            last = int(targets[-1])
            seen += targets.tolist()
            if not bool(batch.real[row].all()):
                after = order.batch(step + 1)
                assert bool(after.fresh[row])
        assert torch.equal(order.batch(len(segments)).ids[row], order.batch(0).ids[row])
    firsts = [0, 37, 38, 90]
    assert sorted(seen) == [n for n in range(100) if n not in firsts]


def test_the_strips_of_two_seeds_begin_elsewhere_and_too_short_a_text_is_refused():
    starts = {int(Strips([DATA], 1, 8, seed).batch(0).ids[0, 0]) for seed in range(5)}
    assert len(starts) > 1
    with pytest.raises(ValueError, match=r"has 16 tokens, 2 rows of 8 need more than 16; give a longer text"):
        Strips([DATA[:16]], 2, 8, 0)
    with pytest.raises(ValueError, match=r"has 0 tokens"):
        Strips([DATA[:1]], 1, 8, 0)
