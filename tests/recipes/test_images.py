"""Images to train on: parts that never overlap, noise of a known size, folders and data sets with known answers."""

import sys
import types

import pytest
import torch

from everlearn.recipes import image_files
from everlearn.recipes.image_files import folder, hub
from everlearn.recipes.images import TensorImages, digits

Image = pytest.importorskip("PIL.Image")
COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write(place, classes=COLOURS, count=10, size=(12, 9)):
    """Write `count` pictures of one colour for each class; the shade tells them apart."""
    for name in classes:
        (place / name).mkdir(parents=True)
        for n in range(count):
            shade = tuple(max(0, part - 5 * n) for part in COLOURS[name])
            Image.new("RGB", size, shade).save(place / name / f"{n}.png")
    return place


def dice():
    return torch.Generator().manual_seed(0)


def test_the_digits_are_those_of_scikit_learn_and_their_parts_do_not_overlap():
    from sklearn.datasets import load_digits

    images, own = digits(), load_digits()
    assert (images.train_count, len(images.test)) == (1438, 359)
    both = torch.cat([images.train, images.test]).flatten(1)
    assert sorted(map(tuple, ((both + 1) * 8).int().tolist())) == sorted(map(tuple, own.data.astype(int).tolist()))
    assert torch.bincount(images.test_labels).tolist() == [
        round(0.2 * n) for n in torch.bincount(torch.tensor(own.target)).tolist()
    ]
    assert (images.channels, images.image_size, images.classes) == (1, 8, tuple("0123456789"))
    assert images.train.min() == -1 and images.train.max() == 1


def test_a_search_sees_training_images_alone():
    images = digits()
    inner = images.for_search()
    held = {row.numpy().tobytes() for row in images.test}
    seen = {row.numpy().tobytes() for row in torch.cat([inner.train, inner.test])}
    assert len(inner.train) + len(inner.test) == images.train_count
    assert not seen & held


def test_noise_changes_as_many_classes_as_it_says_and_no_test_image():
    images = digits()
    noisy = images.with_label_noise(0.2, seed=3)
    assert (noisy.train_labels != images.train_labels).sum() == 288
    assert noisy.test_labels is images.test_labels
    assert set(noisy.train_labels.tolist()) == set(range(10))
    assert not torch.equal(noisy.train_labels, images.with_label_noise(0.2, seed=4).train_labels)
    assert torch.equal(images.with_label_noise(0.0, seed=3).train_labels, images.train_labels)
    with pytest.raises(ValueError, match=r"label noise 1.5 is not a share; it must lie in \[0, 1\]"):
        images.with_label_noise(1.5, seed=0)


def test_a_hash_tells_images_apart():
    one = TensorImages(
        ("a", "b"), torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), torch.zeros(1, 1, 2, 2), torch.tensor([0])
    )
    other = TensorImages(one.classes, one.train, torch.tensor([1, 0]), one.test, one.test_labels)
    assert one.fingerprint() != other.fingerprint()


def test_a_folder_gives_the_colours_that_were_written(tmp_path):
    images = folder(write(tmp_path), 8)
    assert images.classes == ("blue", "green", "red")
    assert images.train_count == 27
    batch, labels = images.train_batch(torch.arange(27), dice())
    assert batch.shape == (27, 3, 8, 8)
    assert labels.tolist() == [0] * 9 + [1] * 9 + [2] * 9
    # the channel of the class is bright everywhere, the others are dark
    bright = batch.mean((2, 3))
    assert torch.equal(bright.argmax(1), torch.tensor([2] * 9 + [1] * 9 + [0] * 9))
    assert bright.sort(1).values[:, :2].max() == -1
    tests = list(images.test_batches(2))
    assert [len(labels) for _, labels in tests] == [2, 1]
    shades = {round(float(batch[i].max()), 4) for i in range(9)} | {round(float(tests[0][0][0].max()), 4)}
    assert len(shades) == 10, "the one that is held out is none of those that are trained on"


def test_a_folder_may_hold_its_own_parts_and_grey_is_one_channel(tmp_path):
    write(tmp_path / "train", count=3)
    write(tmp_path / "val", ("red",), count=1)
    images = folder(tmp_path, 8, channels=1)
    assert images.train_count == 9
    (batch, labels), *more = images.test_batches(5)
    assert batch.shape == (1, 1, 8, 8) and labels.tolist() == [2] and not more
    assert images.fingerprint() == folder(tmp_path, 8, channels=1).fingerprint() != folder(tmp_path, 9).fingerprint()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: None, "holds none of the subfolders that stand for classes; at least 2 are needed"),
        (lambda place: write(place, ("red",)), "holds only 'red' of the subfolders"),
        (lambda place: [write(place), (place / "grey").mkdir()], "grey holds no image; a class needs files that end"),
        (lambda place: write(place, count=1), "blue holds 1 image, and one of each class is held out"),
        (
            lambda place: [write(place / "train", ("red", "blue")), write(place / "test", ("green", "red"))],
            "test holds a class 'green' that .*train lacks",
        ),
    ],
)
def test_folders_that_are_no_data_set_are_refused(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(ValueError, match=words):
        folder(tmp_path, 8)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing is no folder; images are read from one with a subfolder"):
        folder(tmp_path / "nothing", 8)


@pytest.mark.parametrize("damage", [b"", b"no image", None])
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage):
    images = folder(write(tmp_path, count=3), 8)
    bad = tmp_path / "green" / "1.png"
    bad.write_bytes(bad.read_bytes()[:45] if damage is None else damage)
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image .*; replace or remove the file") as caught:
        images.train_batch(torch.arange(6), dice()), list(images.test_batches(9))
    assert "\n" not in str(caught.value)


def test_what_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"image files need Pillow.*pip install 'everlearn\[vision\]'"):
        folder(tmp_path, 8)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"'a/b' needs the package datasets.*pip install 'everlearn\[vision\]'"):
        hub("a/b", 8)


class Column:
    def __init__(self, names=()):
        self.names = list(names)


class Rows(list):
    """As much of a data set of the hub as is asked for."""

    features = {"picture": Column(), "kind": Column(["cold", "warm"])}

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def select(self, numbers):
        return Rows(self[number] for number in numbers)


@pytest.fixture
def fake(monkeypatch):
    """Put a module in the place of `datasets`, whose columns are told apart by their classes."""
    module = types.ModuleType("datasets")
    module.Image, module.ClassLabel = type("Image", (Column,), {}), type("ClassLabel", (Column,), {})
    features = {"picture": module.Image(), "kind": module.ClassLabel(["cold", "warm"])}
    monkeypatch.setattr(Rows, "features", features)
    warm = [n % 2 for n in range(20)]
    rows = Rows({"picture": Image.new("RGB", (9, 9), COLOURS["red" if w else "blue"]), "kind": w} for w in warm)
    parts = {"train": rows}
    module.load_dataset = lambda name: parts
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module, parts


def test_a_data_set_of_the_hub_gives_its_pictures(fake):
    images = hub("some/thing", 8)
    assert (images.classes, images.train_count) == (("cold", "warm"), 18)
    batch, labels = images.train_batch(torch.arange(18), dice())
    assert torch.equal(batch.mean((2, 3)).argmax(1), torch.where(labels == 1, 0, 2))
    assert sorted(label for _, labels in images.test_batches(9) for label in labels.tolist()) == [0, 1]
    fake[1]["validation"] = Rows(fake[1]["train"][:4])
    assert hub("some/thing", 8).train_count == 20


def test_a_data_set_that_does_not_fit_is_refused(fake, monkeypatch):
    module, parts = fake
    monkeypatch.setattr(Rows, "features", {"text": Column()})
    with pytest.raises(ValueError, match="'some/thing' has no column of images, but text; one of Image is needed"):
        hub("some/thing", 8)
    parts["other"] = parts.pop("train")
    with pytest.raises(ValueError, match="'some/thing' has no part 'train', but other"):
        hub("some/thing", 8)

    def offline(name):
        raise ConnectionError("no network\nand a second line")

    module.load_dataset = offline
    with pytest.raises(ValueError, match=r"'some/thing' cannot be had \(no network\); a public one"):
        hub("some/thing", 8)


def test_lazily_read_images_are_the_same_at_every_call(tmp_path):
    images = folder(write(tmp_path, size=(30, 20)), 8)
    assert isinstance(images, image_files._Lazy)
    one, other = (images.train_batch(torch.arange(5), dice())[0] for _ in range(2))
    assert torch.equal(one, other)
