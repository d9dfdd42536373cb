"""Folders of images: every file in one part, the same parts each time, and a clear line for what cannot be dealt."""

from collections import Counter

import pytest
import torch

from everlearn.continual.image_files import cut_out
from everlearn.continual.image_sets import image_folder

Image = pytest.importorskip("PIL.Image")


def write(place, counts):
    """Write so many images of each class; all differ."""
    for number, (name, count) in enumerate(counts.items()):
        (place / name).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (4, 4), (n, number, 7)).save(place / name / f"{n}.png")
    return place


def counts(rows):
    return dict(Counter(label for _, label in rows))


def test_each_class_is_dealt_seven_to_one_to_two_and_each_file_once(tmp_path):
    found = image_folder(write(tmp_path / "set", {"a": 20, "b": 10, "c": 3}))
    assert (counts(found.train), counts(found.validation), counts(found.test)) == (
        {"a": 14, "b": 7, "c": 1},
        {"a": 2, "b": 1, "c": 1},
        {"a": 4, "b": 2, "c": 1},
    )
    files = [file for file, _ in (*found.train, *found.validation, *found.test)]
    assert sorted(files) == sorted((tmp_path / "set").rglob("*.png")) and found.labels == ("a", "b", "c")
    assert all(file.parent.name == label for file, label in found.test) and found.name == "set"
    assert image_folder(tmp_path / "set") == found and found.leaked() == ()


def test_parts_of_the_folder_are_kept_apart(tmp_path):
    write(tmp_path / "train", {"a": 16, "b": 2})
    write(tmp_path / "test", {"a": 3, "b": 1})
    found = image_folder(tmp_path)
    assert counts(found.train) == {"a": 14, "b": 1} and counts(found.validation) == {"a": 2, "b": 1}
    assert {file.parent.parent.name for file, _ in found.test} == {"test"} and counts(found.test) == {"a": 3, "b": 1}
    write(tmp_path / "val", {"a": 2, "b": 2})
    chosen = image_folder(tmp_path)
    assert counts(chosen.train) == {"a": 16, "b": 2} and counts(chosen.validation) == {"a": 2, "b": 2}
    assert chosen.test == found.test


def test_a_part_for_validation_measures_where_there_is_no_other(tmp_path):
    write(tmp_path / "train", {"a": 8, "b": 8})
    write(tmp_path / "valid", {"a": 1, "b": 1})
    found = image_folder(tmp_path)
    assert {file.parent.parent.name for file, _ in found.test} == {"valid"} and counts(found.validation)["a"] == 1


def test_test_images_that_are_learned_too_are_known_by_their_bytes(tmp_path):
    write(tmp_path / "train", {"a": 4, "b": 4})
    write(tmp_path / "test", {"b": 1})
    (tmp_path / "test" / "a").mkdir()
    for n in range(2):
        Image.new("RGB", (4, 4), (200 + n, 0, 7)).save(tmp_path / "test" / "a" / f"{n}.png")
    # the one of b is the first of its class, the others are new
    assert image_folder(tmp_path).leaked() == (2,)


def test_what_other_systems_leave_behind_is_no_image(tmp_path):
    write(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "._1.png").write_bytes(b"resource fork")
    (tmp_path / ".cache").mkdir()
    assert image_folder(tmp_path).labels == ("a", "b")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: None, "holds none of the subfolders that stand for classes; at least 2 are needed"),
        (lambda place: write(place, {"a": 5}), "holds only 'a' of the subfolders"),
        (
            lambda place: write(place, {"a": 5, "b": 2}),
            r"class 'b' in .*b has 2 images; at least 3 are needed, to",
        ),
        (lambda place: write(place, {"a": 5, "b": 1}), "has 1 image; at least 3"),
        (lambda place: write(place, {"a": 5, "b": 0}), "b holds no image; a class needs files that end"),
        (
            lambda place: [write(place / "train", {"a": 3, "b": 1}), write(place / "test", {"a": 1, "b": 1})],
            "has 1 image; at least 2 are needed, to learn and to choose on",
        ),
        (
            lambda place: [write(place / "train", {"a": 3, "b": 3}), write(place / "test", {"a": 1, "c": 1})],
            "train holds a class 'b' that .*test lacks; both need the same classes",
        ),
        (
            lambda place: [write(place / "train", {"a": 3, "b": 3}), write(place / "test", {"a": 1, "b": 1, "c": 1})],
            "test holds a class 'c' that .*train lacks",
        ),
    ],
)
def test_folders_that_cannot_be_dealt_are_refused_in_one_line(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        image_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing is no folder; images are read from one with a subfolder"):
        image_folder(tmp_path / "nothing")


def test_without_a_margin_only_what_is_longer_is_cut():
    """A ramp of 16 x 8: at size 8 columns 4 to 11 stay."""
    ramp = (torch.arange(16) * 16).to(torch.uint8).expand(1, 8, 16)
    middle = cut_out(ramp, 8, None, margin=1.0)
    torch.testing.assert_close(middle[0], (torch.arange(4, 12) * 16 / 127.5 - 1).expand(8, 8), rtol=0, atol=1e-5)
