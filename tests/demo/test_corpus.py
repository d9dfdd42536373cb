import hashlib
import json
import os
import platform
from pathlib import Path

import pytest
import sklearn

from everlearn.demo import corpus
from everlearn.demo.corpus import (
    PACKAGES,
    Document,
    fingerprint,
    standard_library,
    unseen_files,
    user_text,
    validation_files,
)
from everlearn.recipes import byte_reader


@pytest.fixture(scope="module")
def library():
    return standard_library(train_bytes=300_000, heldout_bytes=50_000)


@pytest.fixture(scope="module")
def unseen(library):
    return unseen_files(library[0], 8)


def test_training_sample_is_large_enough_and_whole_files(library):
    train, heldout = library
    assert 300_000 <= sum(len(d.data) for d in train) < 300_000 + corpus.LARGEST_MODULE
    assert 50_000 <= sum(len(d.data) for d in heldout) < 50_000 + corpus.LARGEST_MODULE
    folder = Path(json.__file__).parent.parent
    for document in train[:3]:
        assert (folder / document.name.partition("/")[2]).read_bytes() == document.data


def test_no_module_is_both_trained_on_and_held_out(library):
    train, heldout = library
    assert not {d.name for d in train} & {d.name for d in heldout}
    assert not {d.data for d in train} & {d.data for d in heldout}
    assert not [d.name for d in train + heldout if "/test" in d.name or "idlelib" in d.name]


def test_a_larger_sample_begins_with_the_smaller_one(library):
    larger, _ = standard_library(train_bytes=400_000, heldout_bytes=50_000)
    assert larger[: len(library[0])] == library[0]
    assert fingerprint(larger) != fingerprint(library[0])


def test_the_held_out_tenth_is_a_tenth_of_the_paths():
    names = [corpus._Source(f"package/module_{i}.py", Path()) for i in range(5_000)]
    share = sum(corpus._order(name) % 10 == 0 for name in names) / len(names)
    # four standard deviations of a fair draw: sqrt(0.1 * 0.9 / 5000) = 0.0042
    assert abs(share - 0.1) < 4 * 0.0042


def test_unseen_files_come_in_turns_from_packages_that_are_not_ours(unseen):
    assert [d.name.split("/")[0] for d in unseen] == list(PACKAGES)
    assert all(len(d.data) >= 8_193 for d in unseen)
    assert "everlearn" not in PACKAGES


def test_unseen_and_validation_files_never_overlap(library, unseen):
    everything = unseen_files(library[0], 40)
    validation = validation_files(library[0], 24)
    assert everything[:8] == unseen
    assert not {d.name for d in everything} & {d.name for d in validation}


def test_an_unseen_file_that_was_trained_on_is_passed_over(library, unseen):
    copied = Document("copy", unseen[0].data[: len(unseen[0].data) // 2])
    again = unseen_files([*library[0], copied], 8)
    assert unseen[0].name not in {d.name for d in again}
    assert again[1:] == unseen[1:]


def test_too_little_text_says_what_is_missing(library):
    with pytest.raises(ValueError, match=r"too few training sources.*at least 900000000"):
        standard_library(train_bytes=900_000_000)
    with pytest.raises(ValueError, match=r"got [0-9]+ of 100000;.*--text"):
        unseen_files(library[0], 100_000)


def test_a_table_of_numbers_is_no_text_to_read():
    assert not corpus._is_prose_or_code(b"x = [" + b"0.125, -3.5, " * 100 + b"]")
    assert corpus._is_prose_or_code(b"def add(left, right):\n    return left + right\n" * 20)


def test_fingerprint_sees_names_and_the_border_between_documents():
    one, two = Document("a", b"xy"), Document("b", b"z")
    assert fingerprint([one, two]) == fingerprint([one, two])
    prints = {fingerprint(d) for d in ([one, two], [two, one], [Document("a", b"x"), Document("b", b"yz")], [one])}
    assert len(prints) == 4


LINE = "a sentence that is long enough to be read\n"


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_user_files_are_read_as_they_are(tmp_path):
    file = write(tmp_path / "ä.txt", ("ä" + LINE * 40).encode())
    text = user_text([file])
    assert text.documents == [Document(str(file), file.read_bytes())]
    assert text.skipped == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty: got 0 bytes"),
        (b"\x00\x01" * 900, "binary: got bytes that are not UTF-8"),
        (b"caf\xe9 " * 900, "binary: got bytes that are not UTF-8"),
        (b"short", "too short: got 5 bytes, at least 1025"),
    ],
)
def test_unusable_files_get_one_clear_line(tmp_path, data, message):
    file = write(tmp_path / "file", data)
    with pytest.raises(ValueError, match=message) as error:
        user_text([file])
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_giant_one(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        user_text([tmp_path / "nothing"])
    giant = write(tmp_path / "giant", b"")
    os.truncate(giant, corpus.LARGEST_TEXT + 1)
    with pytest.raises(ValueError, match="too large"):
        user_text([giant])


def test_a_folder_reads_what_it_can_and_names_what_it_skipped(tmp_path):
    write(tmp_path / "b/two.txt", LINE.encode() * 40)
    write(tmp_path / "a.txt", LINE.encode() * 50)
    write(tmp_path / "image.bin", b"\x00" * 2_000)
    write(tmp_path / "note.txt", b"hi")
    write(tmp_path / ".git/object", LINE.encode() * 50)
    text = user_text([tmp_path])
    assert [Path(d.name).name for d in text.documents] == ["a.txt", "two.txt"]
    assert [line.split(": got")[0] for line in text.skipped] == [
        f"{tmp_path / '.git'} is hidden",
        f"{tmp_path / 'image.bin'} is binary",
        f"{tmp_path / 'note.txt'} is too short",
    ]


def test_a_folder_without_text_is_refused(tmp_path):
    write(tmp_path / "image.bin", b"\x00" * 2_000)
    with pytest.raises(ValueError, match=r"no usable text: got 0 files \(1 skipped, first: .*image.bin is binary"):
        user_text([tmp_path])


DATA_PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_data_page_tells_the_digits_by_their_hash():
    digits = Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"
    assert hashlib.sha256(digits.read_bytes()).hexdigest() in DATA_PAGE.read_text()


def test_the_data_page_names_every_package():
    assert f"other packages: {', '.join(PACKAGES)} |" in DATA_PAGE.read_text()


@pytest.mark.skipif(platform.python_version() != "3.11.7", reason="the sample depends on the Python version")
def test_the_data_page_tells_the_sample_by_its_fingerprint():
    for part in (*standard_library(), *standard_library(byte_reader.TRAIN_BYTES, 150_000)):
        size = sum(len(document.data) for document in part)
        assert f"| {len(part)} | {size:,} | `{fingerprint(part)}` |" in DATA_PAGE.read_text()
