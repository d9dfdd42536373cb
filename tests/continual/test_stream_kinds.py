"""What arrives, counted: nothing is lost, nothing looks ahead, and test records are never touched."""

from collections import Counter

import pytest
import torch

from everlearn.continual.stream_kinds import epochs, repeats, returning, typos, uneven, wrong_labels
from everlearn.continual.streams import Split, class_incremental, grouped

PER_CLASS = 20


def records(classes=6, per_class=PER_CLASS):
    """Records that say who they are: x is the number of the record."""
    count = classes * per_class
    return Split(torch.arange(count).unsqueeze(1), torch.arange(count) % classes)


@pytest.fixture
def stream():
    return class_incremental(records(), records(), 2, seed=3)


def arrivals(stream):
    return [Counter(experience.records.x.flatten().tolist()) for experience in stream.experiences]


def same(one, other):
    pairs = zip(one.experiences, other.experiences, strict=True)
    return all(torch.equal(a.records.x, b.records.x) and torch.equal(a.records.y, b.records.y) for a, b in pairs)


KINDS = {
    "epochs": lambda stream, seed: epochs(stream, 3, seed),
    "returning": lambda stream, seed: returning(stream, 0.5, seed),
    "repeats": lambda stream, seed: repeats(stream, 0.5, seed),
    "wrong_labels": lambda stream, seed: wrong_labels(stream, 0.5, seed),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_kind_is_decided_by_its_seed_and_leaves_the_test_alone(stream, kind):
    before = torch.get_rng_state()
    one, again, other = kind(stream, 0), kind(stream, 0), kind(stream, 1)
    assert same(one, again) and not same(one, other) and not same(one, stream)
    assert torch.equal(one.test.x, stream.test.x) and torch.equal(one.test.y, stream.test.y)
    assert [e.classes for e in one.experiences] == [e.classes for e in stream.experiences]
    assert torch.equal(torch.get_rng_state(), before)


def test_groups_arrive_in_their_order():
    got = grouped(records(), records(), [(4,), (0, 2, 5)], torch.Generator())
    assert [e.classes for e in got.experiences] == [(4,), (0, 2, 5)]
    assert [len(e.records.y) for e in got.experiences] == [PER_CLASS, 3 * PER_CLASS]
    assert set(got.test.y.tolist()) == {0, 2, 4, 5}
    for groups in ([(4,), (4, 5)], [(0,), (6,)]):
        with pytest.raises(ValueError, match="give each class that has records to one group"):
            grouped(records(), records(), groups, torch.Generator())


def test_uneven_parts_halve_what_is_left():
    sizes = [len(e.classes) for e in uneven(records(16), records(16), 5, seed=0).experiences]
    assert sizes == [8, 4, 2, 1, 1]
    assert [len(e.classes) for e in uneven(records(6), records(6), 6, seed=0).experiences] == [1] * 6
    with pytest.raises(ValueError, match="give 1 to 6"):
        uneven(records(6), records(6), 7, seed=0)


def test_every_epoch_brings_every_record_once(stream):
    got = epochs(stream, 3, seed=0)
    for experience, plain in zip(got.experiences, stream.experiences, strict=True):
        passes = experience.records.x.flatten().split(2 * PER_CLASS)
        assert torch.equal(passes[0], plain.records.x.flatten())
        assert all(torch.equal(one.sort().values, passes[0].sort().values) for one in passes)
        assert not torch.equal(passes[1], passes[2])


def test_classes_come_back_and_every_record_still_comes_once(stream):
    got = returning(stream, 0.5, seed=0)
    assert sum(arrivals(got), Counter()) == sum(arrivals(stream), Counter())
    first, second, last = (Counter(e.records.y.tolist()) for e in got.experiences)
    early = stream.experiences[0].classes
    assert sum(first.values()) == PER_CLASS and set(first) == set(early)
    assert all(second.get(c, 0) + last.get(c, 0) + first[c] == PER_CLASS for c in early)
    assert any(c in last for c in early)
    # nothing of a class before its own experience
    assert not set(first) & set(stream.experiences[1].classes + stream.experiences[2].classes)


def test_a_share_of_the_records_comes_twice_within_its_experience(stream):
    for got, plain in zip(arrivals(repeats(stream, 0.25, seed=0)), arrivals(stream), strict=True):
        assert set(got) == set(plain) and Counter(got.values()) == {2: PER_CLASS // 2, 1: PER_CLASS * 3 // 2}


def test_a_wrong_label_is_another_class_that_has_come(stream):
    got, come = wrong_labels(stream, 0.2, seed=0), set()
    for experience, plain in zip(got.experiences, stream.experiences, strict=True):
        come |= set(experience.classes)
        differ = experience.records.y != plain.records.y
        assert differ.sum() == int(0.2 * 2 * PER_CLASS)
        assert set(experience.records.y.tolist()) <= come
        assert torch.equal(experience.records.x, plain.records.x)
    alone = class_incremental(records(), records(), 1, seed=0)
    assert not (wrong_labels(alone, 0.5, 0).experiences[0].records.y != alone.experiences[0].records.y).any()


def test_a_typing_error_moves_or_drops_one_letter():
    texts = [f"some words {i:03d}" for i in range(100)] + ["a", ""]
    got = typos(texts, 0.3, seed=0)
    changed = [(a, b) for a, b in zip(texts, got, strict=True) if a != b]
    assert 20 <= len(changed) <= 30 and got[-2:] == ["a", ""]  # two equal neighbours may change places
    for before, after in changed:
        if len(after) == len(before):
            assert sorted(after) == sorted(before) and sum(a != b for a, b in zip(before, after, strict=True)) == 2
        else:
            assert any(before[:i] + before[i + 1 :] == after for i in range(len(before)))
    assert typos(texts, 0.3, seed=0) == got != typos(texts, 0.3, seed=1)


def test_shares_outside_their_range_are_refused(stream):
    for refused in (
        lambda: epochs(stream, 0, 0),
        lambda: returning(stream, 1.0, 0),
        lambda: repeats(stream, -0.1, 0),
        lambda: wrong_labels(stream, 1.1, 0),
        lambda: typos(["a"], 2, 0),
    ):
        with pytest.raises(ValueError, match="must lie in "):
            refused()
