"""A folder of memories: what is damaged or foreign is refused in one line, and what was whole stays readable."""

from __future__ import annotations

import errno
import hashlib
import math
import random
from pathlib import Path

import pytest
import torch

import everlearn
from everlearn.levels import Level
from everlearn.memory import codec
from everlearn.models import Decoder, preset
from everlearn.store import FolderStore
from tests.memory.careless import sealed
from tests.memory.test_files_faults import full_at

TEXT = "to be or not to be, that is the question"


def make(dim: int = 8, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    levels = [Level("fast", 16, reset="document"), Level("slow", 32)]
    return Decoder(preset("delta_net", levels=levels, dim=dim, num_layers=1, num_heads=1, hidden_dim=8, chunk_size=16))


@pytest.fixture
def saved(tmp_path) -> Path:
    everlearn.Learner(make(), tmp_path).read(TEXT, user="ada")
    (file,) = tmp_path.glob("*.safetensors")
    return file


def refused(file: Path, data: bytes, match: str, user: str = "ada") -> None:
    file.write_bytes(data)
    with pytest.raises(ValueError, match=match) as error:
        everlearn.Learner(make(), file.parent).state(user)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == data


def test_every_truncation_is_refused(saved):
    data = saved.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1}:
        refused(saved, data[:length], "truncated|changed")
    refused(saved, data + b"x", "truncated")


def test_every_flipped_bit_is_refused_and_only_as_a_value_error(saved):
    data = saved.read_bytes()
    draw = random.Random(0)
    header = int.from_bytes(data[:8], "little") + 8
    places = [*range(8), *draw.sample(range(8, header), 120), *draw.sample(range(header, len(data)), 60)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        refused(saved, bytes(flipped), "truncated|changed|format|written by everlearn|belong|hash")


def test_nan_another_user_another_model_and_a_newer_format_are_refused(saved):
    tensors, meta = codec.load_tensors(saved)
    name = next(n for n, t in tensors.items() if t.is_floating_point())
    broken = tensors | {name: torch.full_like(tensors[name], math.nan)}
    refused(saved, sealed(broken, meta), "holds NaN")
    refused(saved, sealed(tensors, meta, 2), "format 2, this version reads up to 1; update everlearn")
    refused(saved, sealed(tensors, meta | {"model": "x"}), "memory of another model")
    refused(saved, sealed({n: torch.cat([t, t]) for n, t in tensors.items()}, meta), "has 2 rows, 1 needed")
    other = saved.with_name(f"{hashlib.sha256(b'bob').hexdigest()}.safetensors")
    refused(other, codec.encode(tensors, meta), "must not be renamed", user="bob")


def test_a_newer_format_says_so_even_when_it_hashes_other_things(saved):
    refused(saved, saved.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 7'), "format 7")


def test_what_could_not_be_read_again_is_never_written(saved):
    learner, data = everlearn.Learner(make(), saved.parent), saved.read_bytes()
    with pytest.raises(ValueError, match="was not saved"):
        learner.store.save("ada", learner.state("ada").map(lambda t: t / 0 if t.is_floating_point() else t), {})
    assert saved.read_bytes() == data


def test_one_users_damaged_file_is_nobody_elses_trouble(saved):
    saved.with_name("stray.safetensors").write_bytes(b"junk")
    learner = everlearn.Learner(make(), saved.parent)
    assert learner.knows("ada")
    assert not learner.knows("bob")
    with pytest.raises(ValueError, match=r"stray\.safetensors is truncated"):
        learner.known_users()
    codec.save_tensors(saved.with_name("stray.safetensors"), {"x": torch.zeros(1)}, {"kind": "classifier"})
    with pytest.raises(ValueError, match=r"stray\.safetensors is no user's memory"):
        learner.known_users()


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_at_any_moment_leaves_a_memory_that_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, call):
    """Each call that may fail is let fail once; then the disk has room, and reading goes on from what was kept."""
    everlearn.Learner(make(), tmp_path / "whole").read(TEXT, user="ada", end="open")
    whole = next((tmp_path / "whole").glob("*")).read_bytes()
    for n in range(1, 20):
        learner = everlearn.Learner(make(), tmp_path / str(n))
        with monkeypatch.context() as patch:
            full_at(call, n, patch)
            try:
                learner.read(TEXT, user="ada", end="open")
                failed = False
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failed = True
        for again in (learner, everlearn.Learner(make(), tmp_path / str(n))):
            if at := len(TEXT) - again.position("ada"):
                again.read(TEXT[-at:], user="ada", end="open")
        assert [path.read_bytes() for path in (tmp_path / str(n)).iterdir()] == [whole]
        if not failed:
            assert n > 3
            return
    raise AssertionError("the disk never had room")


def test_the_two_unicode_spellings_of_a_name_share_one_memory(tmp_path):
    learner = everlearn.Learner(make(), tmp_path)
    learner.read(TEXT, user="Zo\u00eb", end="open")
    learner.read(TEXT, user="Zoe\u0308", end="open")
    assert learner.position("Zo\u00eb") == 2 * len(TEXT)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="one user in several spellings"):
        learner.read({"Zo\u00eb": TEXT, "Zoe\u0308": TEXT})


def test_the_store_refuses_a_state_of_another_shape(saved):
    other = make(dim=16)
    store = FolderStore(saved.parent, make().fingerprint(), other.initial_state(1))
    with pytest.raises(ValueError, match="does not fit this model"):
        store.load("ada")
