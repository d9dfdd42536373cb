"""Streams that change, by hand, and a memory that follows them or does not."""

import pytest
import torch

from everlearn.continual.changing import Recovery, drift, recovery, relabel
from everlearn.continual.streams import Split
from everlearn.memory.precision import PrecisionMemory

D, CLASSES = 4, 6


def records(n=1_200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(CLASSES, D, generator=torch.Generator().manual_seed(5))
    y = torch.arange(n) % CLASSES
    return Split(centres[y] + 0.5 * torch.randn(n, D, generator=generator), y)


def numbered(n=600):
    """Each record is its number, so that what becomes of it can be seen."""
    return Split(torch.arange(n)[:, None], torch.arange(n) % CLASSES)


def test_names_swap_in_the_middle_and_nothing_else_changes():
    stream = relabel(numbered(), numbered(60), (1, 4), seed=3)
    true = stream.records.x[:, 0] % CLASSES
    assert sorted(stream.records.x[:, 0].tolist()) == list(range(600)) and stream.change == 300
    assert torch.equal(stream.records.y[:300], true[:300])
    swapped = torch.tensor([0, 4, 2, 3, 1, 5])
    assert torch.equal(stream.records.y[300:], swapped[true[300:]])
    assert torch.equal(stream.test.y, swapped[stream.test.x[:, 0] % CLASSES])
    assert stream.touched.sum() == 20 and set(stream.test.y[stream.touched].tolist()) == {1, 4}
    assert not torch.equal(stream.records.x, relabel(numbered(), numbered(60), (1, 4), seed=4).records.x)


def test_content_drifts_from_one_class_to_another_under_one_name():
    stream = drift(numbered(6_000), numbered(60), {1: 4, 0: 3}, seed=3)
    true = stream.records.x[:, 0] % CLASSES
    assert set(stream.records.y.tolist()) == {0, 1, 2, 5} and stream.changed == (1, 0)
    for name, other in ((1, 4), (0, 3)):
        mine = true[stream.records.y == name]
        assert set(mine.tolist()) == {name, other}
        third = len(mine) // 3
        late = (mine == other).float()
        assert late[: third - 60].sum() == 0 and late[2 * third + 60 :].mean() == 1
        assert late[third : third + 100].mean() < 0.4 < 0.6 < late[2 * third - 100 : 2 * third].mean()
    assert (true[: stream.change] == stream.records.y[: stream.change]).all()
    assert len(stream.records.y) / 3 == pytest.approx(stream.change, rel=0.05)
    # at the end a name means the other class, and records of the old content are no class any more
    assert set((stream.test.x[:, 0] % CLASSES).tolist()) == {2, 3, 4, 5}
    assert set(stream.test.y[stream.test.x[:, 0] % CLASSES == 4].tolist()) == {1}


@pytest.mark.parametrize("classes", [(1, 1), (1, 9)])
def test_classes_that_cannot_change_places_are_refused(classes):
    for make in (
        lambda: relabel(numbered(), numbered(), classes, 0),
        lambda: drift(numbered(), numbered(), {classes[0]: classes[1]}, 0),
    ):
        with pytest.raises(ValueError, match="cannot change places"):
            make()


class Always:
    """Answers as it is told, by how many records it has seen."""

    def __init__(self, answers):
        self.answers, self.seen = answers, 0

    def write(self, phi, y):
        self.seen += len(y)

    def predict(self, phi):
        return [self.answers(self.seen)] * len(phi)


def test_the_count_is_that_of_the_records_after_the_change():
    """Ten records, the change after five; right about the changed class from the eighth record on."""
    stream = relabel(
        Split(torch.zeros(10, 1), torch.tensor([0, 1] * 5)), Split(torch.zeros(2, 1), torch.tensor([0, 1])), (0, 1), 0
    )
    stream = type(stream)(stream.records, 5, Split(torch.zeros(4, 1), torch.tensor([0, 0, 2, 2])), (0,))
    found = recovery(lambda: Always(lambda n: 0 if n >= 8 else 2), lambda: Always(lambda n: 0), stream, every=1)
    assert found == Recovery(records=3, fresh=1.0, changed=1.0, unchanged=0.0, unchanged_before=1.0)
    assert recovery(lambda: Always(lambda n: 2), lambda: Always(lambda n: 0), stream, every=2).records is None


@pytest.mark.parametrize("kind", ["relabel", "drift"])
def test_a_half_life_follows_and_the_default_does_not(kind):
    train, test = records(), records(300, seed=1)
    stream = relabel(train, test, (0, 1), 0) if kind == "relabel" else drift(train, test, {0: 1}, 0)
    plain = recovery(lambda: PrecisionMemory(D), lambda: PrecisionMemory(D), stream, every=20)
    fading = recovery(lambda: PrecisionMemory(D, half_life=60.0), lambda: PrecisionMemory(D), stream, every=20)
    assert fading.changed >= 0.9 * fading.fresh and fading.unchanged > 0.9 and plain.unchanged > 0.9
    if kind == "relabel":
        # half of what it learned says the one, and half the other
        assert plain.records is None and plain.changed < 0.75 * plain.fresh
    else:
        assert fading.records < plain.records
