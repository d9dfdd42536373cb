"""An archive scores a chunk with the state that fitted the one before, keeps every document, and never harms."""

import torch

from everlearn.convert import stack_levels
from everlearn.evals.archive_way import ArchiveWay
from everlearn.evals.stacked_way import StackedWay
from everlearn.evals.ways import Frozen
from everlearn.evals.windows import Window
from everlearn.levels import Level
from tests.evals.tiny_llama import tiny_llama

WINDOW = Window(8, 4)
ONE, TWO = torch.arange(61) % 3, 5 + torch.arange(61) % 4


def model():
    return stack_levels(tiny_llama(), weights="mlp", levels=[Level("fast", 4, eta=0.5)], chunk_size=4)


def test_each_chunk_is_scored_by_the_candidate_that_cost_least_on_the_one_before():
    """Literally: three readers of their own, a pretrained one and one for each document."""
    stacked = model()
    way = ArchiveWay(stacked, WINDOW)
    alone = [Frozen(tiny_llama(), WINDOW)]
    for ids in (ONE, TWO):
        reader = StackedWay(stacked, WINDOW)
        assert torch.equal(way.read(ids), reader.read(ids))
        way.end_document()
        alone.append(reader)
    text = torch.cat([ONE[:21], TWO[:20], torch.tensor([10, 9, 10, 8])])
    costs = torch.stack([reader.score(text) for reader in alone])
    expected, routes = [costs[0, :4]], [0]
    for start in range(4, len(text) - 1, 4):
        routes.append(int(costs[:, start - 4 : start].sum(1).argmin()))
        expected.append(costs[routes[-1], start : start + 4])
    torch.testing.assert_close(way.score(text), torch.cat(expected), atol=1e-10, rtol=0)
    assert way.routes == routes
    assert {1, 2} <= set(routes)
    assert way.state_bytes() == 2 * alone[1].state_bytes()


def test_an_empty_archive_is_the_pretrained_model():
    way = ArchiveWay(model(), WINDOW)
    torch.testing.assert_close(way.score(ONE), Frozen(tiny_llama(), WINDOW).score(ONE), atol=1e-10, rtol=0)
    assert set(way.routes) == {0}
    assert way.state_bytes() == 0


def test_what_is_packed_is_what_is_read():
    way = ArchiveWay(model(), WINDOW, pack=lambda _: way.reader.model.initial_state(1), packed_bytes=7)
    way.read(ONE)
    way.end_document()
    torch.testing.assert_close(way.score(ONE), Frozen(tiny_llama(), WINDOW).score(ONE), atol=1e-10, rtol=0)
    assert way.state_bytes() == 7
