"""Reading that was interrupted goes on as if it had never stopped, and a document left open never runs into another."""

import pytest
from verbs_fixture import CHUNK, ONE, TWO, memory, stop_after

from everlearn.learn import Learner
from everlearn.memory.codec import digest, to_tensors
from everlearn.models import load_model

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.parametrize(("verb", "pieces"), [("read", 1), ("read", 16), ("learn", 15), ("learn", 29)])
def test_the_same_command_after_an_interrupt_is_never_having_stopped(verb, pieces, shell, monkeypatch):
    """15 pieces for the first file, 16 for the second: interrupted in one, between both, and in the other."""
    texts = [shell.folder / "texts"] if verb == "learn" else sorted((shell.folder / "texts").iterdir())
    command = [verb, *texts, "--base", shell.folder / "base"]
    whole = shell.json(*command, "--state", shell.folder / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, pieces)
        said = shell(*command, "--state", shell.folder / "cut", code=130)
    assert said.splitlines()[-1].startswith("everlearn: interrupted; what was ")
    assert f"to go on: everlearn {verb} {texts[0]}" in said
    resumed = shell.json(*command, "--state", shell.folder / "cut")
    assert memory(shell.folder / "cut") == memory(shell.folder / "whole")
    # `read` tells of all the files it was given, `learn` of those that are new
    expected = whole["documents"][verb == "learn" and pieces >= 15 :]
    assert [row["name"] for row in resumed["documents"]] == [own["name"] for own in expected]
    for row, own in zip(resumed["documents"], expected, strict=True):
        for key in ("bytes", "frozen", "learned"):
            assert row[key] == pytest.approx(own[key], abs=1e-6)


def test_a_resumed_document_says_where_it_goes_on(shell, monkeypatch):
    command = ["read", shell.folder / "texts/one.txt", "--state", shell.folder / "s", "--base", shell.folder / "base"]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell(*command, code=130)
    assert f"one.txt: resumed at byte {3 * CHUNK + 1} of {len(ONE)}" in shell(*command)


def test_an_interrupted_document_goes_on_before_a_new_one_is_read(shell, monkeypatch):
    """A file that sorts first appears while another is open: its bytes must not run into the open document."""
    texts, state = shell.folder / "texts", shell.folder / "s"
    command = ["learn", texts, "--state", state, "--base", shell.folder / "base"]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell(*command, code=130)
    (texts / "a first.txt").write_bytes(b"a file that came later, and stands before the others")
    document = shell.json(*command)
    names = [row["name"].rpartition("/")[2] for row in document["documents"]]
    assert names == ["one.txt", "a first.txt", "two.txt"]
    plain = Learner(load_model(shell.folder / "base")[0])
    for row, name in zip(document["documents"], names, strict=True):
        assert row["learned"] == pytest.approx(
            plain.read((texts / name).read_bytes(), user="me").bits_per_byte, abs=1e-6
        )


def test_a_finished_document_that_is_open_again_is_read_to_its_end_by_learn(shell, monkeypatch):
    """`learn` passes over what it knows, but what `read` has begun once more must not stay open behind its back."""
    state, one = ["--state", shell.folder / "s"], shell.folder / "texts/one.txt"
    shell("learn", shell.folder / "texts", *state, "--base", shell.folder / "base")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell("read", one, *state, code=130)
    (row,) = shell.json("learn", shell.folder / "texts", *state)["documents"]
    assert row["name"].endswith("one.txt")
    plain = Learner(load_model(shell.folder / "base")[0])
    scores = [plain.read(data, user="me") for data in (ONE, TWO, ONE)]
    assert row["learned"] == pytest.approx(scores[-1].bits_per_byte, abs=1e-6)


def test_the_same_file_twice_in_one_command_is_read_twice_also_after_an_interrupt(shell, monkeypatch):
    one, two = shell.folder / "texts/one.txt", shell.folder / "texts/two.txt"
    command = ["read", one, two, one, "--base", shell.folder / "base"]
    shell(*command, "--state", shell.folder / "whole")
    for pieces in (20, 33):
        with monkeypatch.context() as patch:
            stop_after(patch, pieces)
            shell(*command, "--state", shell.folder / f"cut{pieces}", code=130)
        shell(*command, "--state", shell.folder / f"cut{pieces}")
        assert memory(shell.folder / f"cut{pieces}") == memory(shell.folder / "whole")


def test_a_document_left_open_ends_before_a_list_begins_with_another(shell, monkeypatch):
    """`read one two three` stopped after the first, `read three` stopped inside, and then all of them once more."""
    one, two = shell.folder / "texts/one.txt", shell.folder / "texts/two.txt"
    state, base = shell.folder / "s", shell.folder / "base"
    (shell.folder / "three.txt").write_bytes(b"a third file that stands last in the list of files")
    command = ["read", one, two, shell.folder / "three.txt", "--state", state, "--base", base]
    for words, pieces in ((command, 15), (["read", shell.folder / "three.txt", "--state", state], 2)):
        with monkeypatch.context() as patch:
            stop_after(patch, pieces)
            shell(*words, code=130)
    document = shell.json(*command)
    assert [row["name"].rpartition("/")[2] for row in document["documents"]] == ["one.txt", "two.txt", "three.txt"]
    plain, three = Learner(load_model(base)[0]), (shell.folder / "three.txt").read_bytes()
    plain.read(ONE, user="me")
    plain.read(three[: 2 * CHUNK + 1], user="me", end="drop")
    for data in (ONE, TWO, three):
        plain.read(data, user="me")
    assert memory(state) == digest(to_tensors(plain.state("me")))


def test_an_interrupted_document_that_is_not_given_again_ends_where_it_stood(shell, monkeypatch):
    state, base = shell.folder / "s", shell.folder / "base"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        shell("read", shell.folder / "texts/one.txt", "--state", state, "--base", base, code=130)
    said = shell("read", shell.folder / "texts/two.txt", "--state", state)
    assert f"an interrupted document is not among these; it ends at byte {3 * CHUNK + 1}" in said
    plain = Learner(load_model(base)[0])
    plain.read(ONE[: 3 * CHUNK + 1], user="me", end="drop")
    plain.read(TWO, user="me")
    assert memory(state) == digest(to_tensors(plain.state("me")))
