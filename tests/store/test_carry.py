"""All that is kept of a user: carried in one file, taken in, removed to the last byte, also when that is cut short."""

import os
import shutil

import pytest
import torch

import everlearn
from everlearn.learn import Archive, Learner
from everlearn.memory import SlotMemory, codec
from everlearn.memory.in_state import SLOTS
from everlearn.store.carry import pack, take_in, unpack
from everlearn.store.folder import FolderStore, documents_of, file_of, forget
from tests import tiny
from tests.tiny import byte_model, fingerprint

NUMBERS, TEXT = b"1 2 3 4 5 6 7 8 9 10", tiny.TEXT[:22]
HOW = {"archive": Archive, "slots": SlotMemory(key_dtype=torch.float64)}


def learner(folder, model=None, **how) -> Learner:
    return everlearn.Learner(model or byte_model(), folder, **(how or HOW))


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """Ada has read two documents, one of them twice; bob has read one."""
    folder = tmp_path_factory.mktemp("users")
    reader = learner(folder)
    for name, text in (("cats", TEXT), ("numbers", NUMBERS), ("cats", TEXT[::-1])):
        for _ in reader.stream({"ada": text}, name=name, note=lambda scores: {"pages": 3}):
            pass
    reader.read(NUMBERS, "bob", name="numbers")
    return folder


@pytest.fixture
def folder(users, tmp_path):
    return shutil.copytree(users, tmp_path / "users")


def tree(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(a: Learner, user: str, b: Learner, other: str) -> None:
    """Compare all that two learners keep of two users."""
    assert fingerprint(a.state(user)) == fingerprint(b.state(other))
    assert a.notes(user) == b.notes(other)
    assert a.documents(user) == b.documents(other)
    entries = [
        [codec.digest(e.to_tensors()) for e in each.user_archive(name).entries()]
        for each, name in ((a, user), (b, other))
    ]
    assert entries[0] == entries[1]


def test_one_file_carries_all_that_is_kept_of_a_user(folder, tmp_path):
    (tmp_path / "ada").write_bytes(pack(folder, "ada"))
    there = learner(tmp_path / "other")
    state, meta, entries = unpack(there.store, tmp_path / "ada")
    assert (meta["user"], meta["notes"], [entry.name for entry in entries]) == (
        "ada",
        {"pages": 3},
        ["numbers", "cats"],
    )
    take_in(there.store, "eve", state, meta["notes"], entries)
    same(learner(folder), "ada", learner(tmp_path / "other"), "eve")
    assert [d.versions for d in learner(tmp_path / "other").documents("eve")] == [1, 2]
    # what the user had before is replaced, and nobody else's
    take_in(there.store, "bob", state, meta["notes"], entries[:1])
    assert [document.name for document in learner(tmp_path / "other").documents("bob")] == ["numbers", "cats"]
    assert learner(tmp_path / "other").user_archive("bob").names() == ["numbers"]


def test_without_an_archive_it_is_the_user_s_own_file(tmp_path):
    learner(tmp_path, slots=HOW["slots"]).read(TEXT, "ada")
    assert pack(tmp_path, "ada") == file_of(tmp_path, "ada").read_bytes()


def test_a_file_that_is_damaged_or_another_model_s_is_not_taken_in(folder, tmp_path):
    path, data = tmp_path / "ada", pack(folder, "ada")
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="was changed after it was saved"):
        unpack(learner(folder).store, path)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is the memory of another model"):
        unpack(learner(tmp_path / "x", byte_model(hidden_dim=6)).store, path)
    store = learner(tmp_path / "y").store
    lying = FolderStore(store.folder, store.fingerprint, learner(tmp_path / "x", byte_model(hidden_dim=6)).fresh)
    with pytest.raises(ValueError, match="does not fit this model"):
        unpack(lying, path)
    tensors, meta = codec.load_tensors(path)
    foreign = {name: t.flatten()[:1] if name.endswith("fast.up/left") else t for name, t in tensors.items()}
    assert any(tensor.ndim == 1 and name.startswith("documents/0/now") for name, tensor in foreign.items())
    codec.save_tensors(path, foreign, meta)
    with pytest.raises(ValueError, match="archived document 'numbers' does not fit this model"):
        unpack(store, path)
    for wrong in (["cats"], [{"order": 1}]):
        codec.save_tensors(path, tensors, meta | {"documents": wrong})
        with pytest.raises(ValueError, match="does not say which documents it holds"):
            unpack(store, path)
    plain = everlearn.Learner(byte_model(), tmp_path / "plain")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="holds slots, which this learner does not read"):
        unpack(plain.store, path)


def needles(folder) -> list[bytes]:
    """Return bytes that tell what ada has read: her slots' tokens and keys, and numbers of her archive."""
    own = learner(folder).state("ada").memory[SLOTS]
    entry = learner(folder).user_archive("ada").entry("cats").to_tensors()
    found = [codec.raw_bytes(own["tokens"])[:40], codec.raw_bytes(own["keys"])[:64], b"cats", b'\\"ada\\"']
    return [*found, *(codec.raw_bytes(t)[:24] for t in entry.values() if t.numel() >= 24)]


def test_forgetting_a_user_leaves_no_byte_and_touches_nobody_else(folder):
    """Also what a killed writer has left of the user's files; the names of files are hashes."""
    file = file_of(folder, "ada")
    leftover = file.with_name(f".{file.name}.abcdefgh.tmp")
    shutil.copy(file, leftover)
    shutil.copy(file, documents_of(folder, "ada") / ".x.safetensors.abcdefgh.tmp")
    searched, before = needles(folder), tree(folder)
    assert len(searched) > 5
    assert all(any(needle in data for data in before.values()) for needle in searched)
    assert forget(folder, "ada") and not forget(folder, "ada")
    after = tree(folder)
    assert not any(needle in data for data in after.values() for needle in searched)
    assert after == {path: before[path] for path in after} and len(after) == 2
    assert not any(file.stem in path for path in after)
    assert [document.name for document in learner(folder).documents("bob")] == ["numbers"]


def test_forgetting_a_document_leaves_no_byte_of_it(folder):
    reader = learner(folder)
    words = codec.raw_bytes(reader.state("ada").memory[SLOTS]["tokens"][0, :10])
    entry = reader.user_archive("ada").entry("cats").to_tensors()
    numbers = [codec.raw_bytes(t)[:24] for t in entry.values() if t.numel() >= 24]
    searched, before = [words, b"cats", *numbers], tree(folder)
    assert all(any(needle in data for data in before.values()) for needle in searched)
    assert reader.forget_document("ada", "cats")
    assert not any(needle in data for data in tree(folder).values() for needle in searched)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_removal(n: int, patch) -> None:
    """Die after the n-th file that is removed."""
    unlink, left = os.unlink, n

    def dying(*arguments, **options):
        nonlocal left
        unlink(*arguments, **options)
        left -= 1
        if left == 0:
            raise Killed

    patch.setattr(os, "unlink", dying)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_forgetting_that_was_cut_short_leaves_the_user_known_until_all_is_gone(n, folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_removal(n, patch)
        forget(folder, "ada")
    assert file_of(folder, "ada").exists() == (n < 3)  # two documents, then the file itself
    assert forget(folder, "ada") == (n < 3)
    assert list(learner(folder).known_users()) == ["bob"] and not documents_of(folder, "ada").exists()


def test_taking_in_that_was_cut_short_is_done_again(folder, tmp_path, monkeypatch):
    (tmp_path / "ada").write_bytes(pack(folder, "ada"))
    replace = os.replace
    for n in range(3):
        there, left = learner(tmp_path / f"{n}"), n
        there.read(NUMBERS, "eve", name="old")
        state, meta, entries = unpack(there.store, tmp_path / "ada")

        def dying(*arguments, **options):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            replace(*arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", dying)
            take_in(there.store, "eve", state, meta["notes"], entries)
        take_in(there.store, "eve", state, meta["notes"], entries)
        same(learner(folder), "ada", learner(tmp_path / f"{n}"), "eve")


def test_a_document_s_forgetting_that_was_cut_short_is_done_again(folder, monkeypatch):
    """The archive lets go first; the name is known until its slots are gone, too."""
    reader = learner(folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_removal(1, patch)
        reader.forget_document("ada", "cats")
    again = learner(folder)
    assert [(d.name, d.versions, d.slots > 0) for d in again.documents("ada")] == [
        ("numbers", 1, True),
        ("cats", 0, True),
    ]
    assert again.forget_document("ada", "cats") and not again.forget_document("ada", "cats")
    assert [document.name for document in learner(folder).documents("ada")] == ["numbers"]


@pytest.mark.parametrize("when", [0, 1])
def test_a_roll_back_that_was_cut_short_goes_back_by_one_reading(when, folder, monkeypatch):
    """Its two writes are the user's file and the document's; done again, no more than one reading is taken back."""
    replace, left, reader = os.replace, when, learner(folder)
    first = [d.slots for d in reader.documents("ada")]

    def dying(*arguments, **options):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        replace(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", dying)
        reader.roll_back_document("ada", "cats")
    again = learner(folder)
    again.roll_back_document("ada", "cats")
    names = {d.name: (d.versions, d.slots) for d in learner(folder).documents("ada")}
    assert names == {"cats": (1, len(TEXT) - 1), "numbers": (1, first[0])}
