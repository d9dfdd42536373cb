"""A folder of memories: the user's name stands inside the file and nowhere else."""

import hashlib
import shutil

import pytest
import torch

from everlearn.levels import Level
from everlearn.memory.state import ModelState
from everlearn.models.text import encode
from everlearn.store import FolderStore
from tests.tiny import byte_model, fingerprint


def store(folder, **changes) -> FolderStore:
    model = byte_model(**changes)
    return FolderStore(folder, model.fingerprint(), model.initial_state(1))


def used(text: bytes = b"a text") -> ModelState:
    model = byte_model()
    return model(encode(text)[None], model.initial_state(1))[1].detach()


def test_what_is_saved_comes_back_with_its_notes(tmp_path):
    kept = store(tmp_path / "deep" / "folder")
    assert kept.load("ada") is None
    kept.save("ada", used(), {"read": ["one", 2, None]})
    found = store(tmp_path / "deep" / "folder").load("ada")
    assert found is not None
    assert fingerprint(found[0]) == fingerprint(used())
    assert found[1] == {"read": ["one", 2, None]}
    assert kept.load("bob") is None


@pytest.mark.parametrize("user", ["../../etc/passwd", "a/b", ".hidden", "con", "a b", "名前", "x" * 128, "-rf", "*"])
def test_a_name_never_becomes_a_file_name(user, tmp_path):
    kept = store(tmp_path)
    kept.save(user, used(), {})
    (file,) = tmp_path.iterdir()
    assert file.name == hashlib.sha256(user.encode()).hexdigest() + ".safetensors"
    assert kept.users() == [user]
    assert kept.load(user) is not None


@pytest.mark.parametrize("user", ["", "x" * 129, "a\nb", "tab\t", "\x00", "\u200e"])
def test_a_name_that_cannot_be_printed_is_refused(user, tmp_path):
    kept = store(tmp_path)
    for call in (lambda: kept.load(user), lambda: kept.save(user, used(), {})):
        with pytest.raises(ValueError, match="must have 1 to 128 printable characters"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_names_are_compared_in_their_composed_form(tmp_path):
    kept = store(tmp_path)
    kept.save("zoe\u0308", used(), {})
    assert kept.path("zoe\u0308") == kept.path("zo\u00eb") != kept.path("zoe")
    assert kept.load("zo\u00eb") is not None
    assert kept.users() == ["zo\u00eb"]


def test_users_are_sorted_and_each_has_one_file(tmp_path):
    kept = store(tmp_path)
    for user in ("bob", "Ada", "ada", "bob"):
        kept.save(user, used(), {})
    assert kept.users() == ["Ada", "ada", "bob"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_under_another_user_s_name_is_refused(tmp_path):
    kept = store(tmp_path)
    kept.save("ada", used(), {})
    shutil.copy(kept.path("ada"), kept.path("bob"))
    with pytest.raises(ValueError, match=r"does not belong to user 'bob'; a memory file must not be renamed"):
        kept.load("bob")
    assert kept.load("ada") is not None


def test_the_memory_of_another_model_is_refused(tmp_path):
    kept = store(tmp_path)
    kept.save("ada", used(), {})
    with pytest.raises(ValueError, match="is the memory of another model"):
        store(tmp_path, num_layers=1).load("ada")
    assert store(tmp_path, levels=[Level("fast", 8, 0.1), Level("slow", 16)]).load("ada")  # other rates are no other
    # even a fingerprint that lies does not bring in tensors that do not fit
    with pytest.raises(ValueError, match=r"is torch.float64 \(1, 8, 8\), the model has torch.float64 \(1, 6, 8\)"):
        FolderStore(tmp_path, kept.fingerprint, byte_model(hidden_dim=6).initial_state(1)).load("ada")


def test_damage_is_refused_and_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    kept = store(tmp_path)
    kept.save("ada", used(), {"n": 1})
    path, whole = kept.path("ada"), kept.path("ada").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            kept.save("ada", used(b"another text"), {"n": 2})
    found = kept.load("ada")
    assert found is not None and found[1] == {"n": 1}
    assert torch.equal(found[0].tokens_seen, torch.tensor([6]))
    for broken in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=path.name):
            kept.load("ada")
