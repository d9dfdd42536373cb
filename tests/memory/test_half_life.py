"""A memory with a half-life against the literal weighted sums, and threads that read what others write."""

import itertools
import threading

import pytest
import torch

from everlearn.memory import precision
from everlearn.memory.precision import MAX_CLASSES, PrecisionMemory
from everlearn.memory.readout import Snapshot

D = 6


def records(n=90, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    phi = torch.randn(n, D, generator=generator) + torch.randn(classes, D, generator=generator)[y]
    # on the grid, so that the literal sums see the same numbers
    return (phi.double() * 2**16).round() / 2**16, y


def learned(phi, y, size, **options):
    memory = PrecisionMemory(D, **options)
    for a, b in zip(phi.split(size), y.split(size), strict=True):
        memory.write(a, b)
    return memory


@pytest.mark.parametrize("half_life", [0.7, 10.0, 1e6])
def test_the_sums_are_those_of_the_weights_written_out(half_life):
    """A record counts 2^(-a/h) once a records have come after it."""
    phi, y = records()
    weights = torch.tensor([2 ** (-(len(y) - 1 - i) / half_life) for i in range(len(y))], dtype=torch.float64)
    kept = learned(phi, y, 7, half_life=half_life).statistics
    moment = sum(w * torch.outer(x, x) for w, x in zip(weights, phi, strict=True))
    torch.testing.assert_close(kept.second_moment, moment, atol=1e-12, rtol=1e-12)
    for row, label in enumerate(kept.labels):
        mine = (y == label).double() * weights
        # a count of e-40 has its digits too, so the comparison is relative alone
        torch.testing.assert_close(kept.counts[row], mine.sum(), atol=0, rtol=1e-12)
        torch.testing.assert_close(kept.sums[row], mine @ phi, atol=1e-300, rtol=1e-9)


@pytest.mark.parametrize("pending", [1, 8, 1_024])
def test_batches_do_not_matter_and_their_order_does(pending, monkeypatch):
    monkeypatch.setattr(precision, "PENDING", pending)
    phi, y = records()
    one, other = (learned(phi, y, size, half_life=20.0).scores(phi) for size in (1, 90))
    torch.testing.assert_close(one, other, atol=0, rtol=1e-9)
    assert not torch.allclose(one, learned(phi.flip(0), y.flip(0), 90, half_life=20.0).scores(phi), rtol=1e-2)


def test_an_old_class_keeps_its_mean_and_is_gone_after_500_half_lives():
    memory = PrecisionMemory(D, half_life=2.0)
    memory.write(torch.full((1, D), 3.0), ["old"])
    for _ in range(99):
        memory.write(torch.randn(10, D, generator=torch.Generator().manual_seed(1)), ["new"] * 10)
    assert memory.counts["old"] == pytest.approx(2.0**-495)
    torch.testing.assert_close(memory.statistics.means[1], torch.full((D,), 3.0, dtype=torch.float64))
    assert memory.predict(torch.full((1, D), 3.0)) == ["old"]
    memory.write(torch.randn(20, D), ["new"] * 20)
    assert memory.labels == ("new",)
    many = PrecisionMemory(D, half_life=0.5)
    many.write(torch.ones(1_000, D), ["first", *["later"] * 999])
    assert many.labels == ("later",) and bool(torch.isfinite(many.scores(torch.ones(1, D))).all())


def test_what_needs_the_age_of_a_record_is_refused():
    phi, y = records()
    memory, plain = learned(phi, y, 9, half_life=20.0), learned(phi, y, 9)
    before = memory.scores(phi)
    for act in (lambda: memory.remove(phi[:1], y[:1]), lambda: memory.merge(plain), lambda: plain.merge(memory)):
        with pytest.raises(ValueError, match=r"half_life 20.0 .* half_life=None"):
            act()
    assert torch.equal(memory.scores(phi), before) and plain.exact and not memory.exact


def test_a_state_with_a_half_life_comes_back_and_goes_on():
    phi, y = records()
    memory = learned(phi[:50], y[:50], 9, half_life=20.0, max_classes=9)
    back = PrecisionMemory.from_tensors(*memory.to_tensors())
    for one in (memory, back):
        one.write(phi[50:], y[50:])
    assert torch.equal(memory.scores(phi), back.scores(phi)) and (back.half_life, back.max_classes) == (20.0, 9)
    # a state from before there were half-lives names none
    assert set(learned(phi, y, 9).to_tensors()[1]) == {"dim", "shrinkage", "readout", "resolution", "labels"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"half_life": 0.0}, "half_life 0.0"),
        ({"half_life": float("inf")}, "inf"),
        ({"max_classes": 0}, "max_classes 0"),
    ],
)
def test_settings_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PrecisionMemory(D, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", ""], "empty text"),
        (["a", " \t"], "empty text"),
        (range(MAX_CLASSES + 1), r"10,005 classes are asked for, this memory takes 10,000; .* max_classes"),
        (["2"], "label 2 comes as a number and as text"),
        (["9", 9], "label 9 comes as a number and as text"),
    ],
)
def test_labels_that_begin_no_class_are_refused_and_change_nothing(labels, message):
    phi, y = records()
    memory = learned(phi, y, 9)
    before = memory.to_tensors()
    with pytest.raises(ValueError, match=message):
        memory.write(torch.zeros(len(labels), D), [f"x{i}" for i in labels] if len(labels) > 9 else labels)
    assert memory.to_tensors()[1] == before[1] and memory.counts == learned(phi, y, 9).counts
    other = PrecisionMemory(D)
    other.write(torch.zeros(1, D), ["2"])
    with pytest.raises(ValueError, match="label 2"):
        memory.merge(other)


def test_a_million_labels_are_refused_before_room_is_made_for_them():
    with pytest.raises(ValueError, match="1,000,000 classes"):
        PrecisionMemory(1).write(torch.zeros(10**6, 1), range(10**6))


def test_records_wait_in_bounded_number_and_change_no_bit(monkeypatch):
    phi, y = records()
    whole = learned(phi, y, 90)
    monkeypatch.setattr(precision, "PENDING", 16)
    memory = PrecisionMemory(D)
    for row in range(len(y)):
        memory.write(phi[row : row + 1], y[row : row + 1])
        assert sum(len(labels) for _, labels in memory._pending) < 16
    assert torch.equal(memory.statistics.second_moment, whole.statistics.second_moment)


def test_a_large_second_moment_is_symmetric_and_equals_one_product():
    """Wider than one block of columns, and not a multiple of it."""
    wide = torch.randn(5, 600, generator=torch.Generator().manual_seed(0)).double()
    memory = PrecisionMemory(600)
    memory.write(wide, [0] * 5)
    rounded = (wide * 2**16).round() / 2**16
    assert torch.equal(memory.statistics.second_moment, rounded.mT @ rounded)


def test_a_snapshot_stays_as_it_was_and_is_solved_once(monkeypatch):
    phi, y = records()
    memory, solved, solve = learned(phi, y, 9), itertools.count(), Snapshot.of

    def counted(*arguments):
        next(solved)
        return solve(*arguments)

    monkeypatch.setattr(Snapshot, "of", counted)
    before = memory.snapshot()
    scores = before.scores(phi)
    assert memory.snapshot() is before and torch.equal(memory.scores(phi), scores)
    memory.write(phi[:3], ["new"] * 3)
    assert torch.equal(before.scores(phi), scores) and before.version < memory.version
    assert memory.snapshot().labels == (*before.labels, "new") and next(solved) == 2


def test_a_reader_does_not_wait_for_who_writes():
    """The lock of writers is held by another thread, and the answer comes all the same."""
    phi, y = records()
    memory = learned(phi, y, 9)
    expected, answers = memory.predict(phi), []
    with memory._writing:
        reader = threading.Thread(target=lambda: answers.append(memory.predict(phi)))
        reader.start()
        reader.join(20)
        assert answers == [expected]
