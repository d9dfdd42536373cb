"""The harness itself: positions, controls and the stream, on ways whose answers are known in advance."""

import math

import pytest
import torch

from everlearn.evals.reading_stream import by_position, controls, late, read_apart, run_stream
from everlearn.evals.tokens import Tokens


def text(length: int, tag: int) -> Tokens:
    """Return a text of one token again and again, each of two bytes."""
    return Tokens(torch.full((length,), tag), torch.full((length,), 2))


class Remembers:
    """Costs 1 bit a token, and half for texts of a tag that it has read; `forgetful` drops them with the document."""

    def __init__(self, forgetful: bool = False) -> None:
        self.known: set[int] = set()
        self.forgetful = forgetful

    def read(self, ids):
        nll = self.score(ids)
        self.known.add(int(ids[0]))
        return nll

    def end_document(self):
        if self.forgetful:
            self.known.clear()

    def score(self, ids):
        bits = 0.5 if int(ids[0]) in self.known else 1.0
        return torch.full((len(ids) - 1,), bits * math.log(2), dtype=torch.float64)

    def logits(self, ids):
        raise AssertionError("not asked here")

    def state_bytes(self):
        return 8 * len(self.known)


def test_positions_count_bytes_and_leave_the_first_token_out():
    """Token t costs t bits and holds 2 bytes: tokens 1 to 3 cost 6 bits over 6 bytes, 4 to 5 cost 9 over 4."""
    nll = torch.arange(1, 6) * math.log(2)
    assert by_position(nll, text(6, 0), [(0, 4), (4, 6)]) == pytest.approx([1.0, 2.25])
    with pytest.raises(ValueError, match="positions 4 to 7 do not fit in a document of 6 tokens"):
        by_position(nll, text(6, 0), [(4, 7)])


def test_late_is_the_second_half():
    class Ramp(Remembers):
        def score(self, ids):
            return torch.arange(1, len(ids)) * math.log(2)

    assert late(Ramp(), text(4, 0)) == pytest.approx((2 + 3) / 4)


def test_documents_are_read_apart():
    rows = read_apart(Remembers, [text(9, 1), text(9, 1)], [(0, 9)])
    assert rows == [[0.5], [0.5]]


def test_the_control_sees_what_was_read_and_nothing_else():
    pairs = [text(9, 1), text(9, 1)], [text(9, 2), text(9, 1)]
    assert controls(Remembers, *pairs, [(0, 9), (4, 9)]) == [[0.5, 0.5], [0.25, 0.25]]


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_stream_tells_gains_and_losses_apart(forgetful):
    heldout = {"a": text(9, 1), "b": text(9, 2), "general": text(9, 3), "other": text(9, 1)}
    documents = [("a", text(9, 1)), ("b", text(9, 2)), ("a", text(9, 1))]
    fresh = {name: late(Remembers(), t) for name, t in heldout.items()}
    report = run_stream(Remembers(forgetful), fresh, documents, heldout, "general", ["other"])
    gain = 0.0 if forgetful else -0.25
    assert report.online == [0.5, 0.5, 0.5 + gain]
    assert report.learned == report.kept == {"a": gain, "b": gain}
    assert report.general == [0.0, 0.0, 0.0]
    assert report.other == {"other": gain}
    assert report.state_bytes == (0 if forgetful else 16)
    assert report.to_dict()["online"] == report.online
