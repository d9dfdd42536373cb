"""Streams: every record once, classes dealt by the seed, a split that no seed moves."""

import pytest
import torch

from everlearn.continual.streams import DAYS, Split, class_incremental, deal, digits, week_of_digits


def records(classes=7, each=6):
    y = torch.arange(classes).repeat(each)
    return Split(torch.arange(len(y)).unsqueeze(1).float(), y)


def arrived(stream):
    return torch.cat([experience.records.x for experience in stream.experiences]).squeeze(1)


def test_every_record_arrives_once_among_its_classes():
    data = records()
    stream = class_incremental(data, data, 3, seed=1)
    assert [len(e.classes) for e in stream.experiences] == [3, 3, 1]
    assert arrived(stream).sort().values.tolist() == list(range(42))
    for experience in stream.experiences:
        assert set(experience.records.y.tolist()) == set(experience.classes)


def test_the_seed_deals_classes_and_order():
    data = records()
    one, same, other = (class_incremental(data, data, 3, seed=s) for s in (1, 1, 2))
    assert torch.equal(arrived(one), arrived(same)) and not torch.equal(arrived(one), arrived(other))
    assert [e.classes for e in one.experiences] != [e.classes for e in other.experiences]


def test_batches_cover_an_experience_in_order():
    experience = class_incremental(records(), records(), 3, seed=0).experiences[0]
    parts = list(experience.batches(4))
    assert [len(y) for _, y in parts] == [4, 4, 4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in parts]), experience.records.x)


def test_reversed_is_the_whole_stream_backwards():
    stream = class_incremental(records(), records(), 3, seed=3)
    assert torch.equal(arrived(stream.reversed()), arrived(stream).flip(0))
    assert stream.reversed().test_experience.tolist() == [2 - i for i in stream.test_experience.tolist()]


def test_test_records_of_absent_classes_are_left_out():
    data = records()
    some = data.take((data.y < 4).nonzero().squeeze(1))
    assert set(class_incremental(some, data, 2, seed=0).test.y.tolist()) == {0, 1, 2, 3}


def test_digits_are_split_once_and_for_all():
    train, validation, test = digits()
    assert [len(part.y) for part in (train, validation, test)] == [1077, 270, 450]
    assert sum(int(part.x.long().sum()) for part in (train, validation, test)) == 561718
    assert test.y.bincount().min() >= 43 and train.x.dtype == torch.uint8
    week = week_of_digits(5, train, test)
    assert tuple(e.name for e in week.experiences) == DAYS and all(len(e.classes) == 2 for e in week.experiences)
    assert torch.equal(week.test.x, test.x)


def test_streams_that_cannot_be_dealt_are_refused():
    data = records()
    with pytest.raises(ValueError, match="at least one class per experience"):
        class_incremental(data, data, 0, seed=0)
    with pytest.raises(ValueError, match="one name for each"):
        class_incremental(data, data, 3, seed=0, names=("a", "b"))


def test_dealing_leaves_each_class_on_both_sides():
    first, second = deal([0] * 10 + [1] * 2 + [2], 0.3, 0)
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(13))
    assert torch.bincount(labels[second], minlength=3).tolist() == [3, 1, 0]
