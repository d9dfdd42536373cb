"""Scene 3: a killed reader against one that never stopped, and a roll-back against its snapshot."""

import contextlib
import io

import pytest

import everlearn
from everlearn.demo import reader_process, restart
from everlearn.memory.state import ModelState, take_level
from everlearn.models import save_model
from tests.tiny import TEXT, byte_model

LENGTH = 80


@pytest.fixture
def base(tmp_path):
    save_model(byte_model(num_layers=1), tmp_path / "base")
    return tmp_path / "base"


class Finished:
    """A process that has written its lines and ended."""

    def __init__(self, text: str, returncode: int = 0) -> None:
        self.stdout, self.returncode = io.StringIO(text), returncode

    def wait(self) -> int:
        return self.returncode


def test_positions_are_what_the_process_says_and_its_failure_is_not_silent():
    assert list(restart._positions(Finished("at 0\nat 5\nat 90\n"))) == [0, 5, 90]
    positions = restart._positions(Finished("at 0\n", returncode=3))
    assert next(positions) == 0
    with pytest.raises(RuntimeError, match="failed with exit code 3"):
        next(positions)


def test_a_roll_back_is_checked_against_both_states(tmp_path, monkeypatch):
    """True as it is; False when the snapshot is not restored, when too much is, and when nothing ever moved."""
    model = byte_model(num_layers=1).float()
    assert restart._rollback(model, TEXT, tmp_path / "a")

    def nothing(state: ModelState, snapshot: ModelState, level: str) -> ModelState:
        return state

    def everything(state: ModelState, snapshot: ModelState, level: str) -> ModelState:
        return take_level(take_level(state, snapshot, level), snapshot, "slow")

    for number, wrong in enumerate((nothing, everything)):
        monkeypatch.setattr("everlearn.learn.learner.take_level", wrong)
        assert not restart._rollback(model, TEXT, tmp_path / f"b{number}")
    monkeypatch.undo()
    monkeypatch.setattr(everlearn.learn.Learner, "read", lambda self, *_, **__: self._commit({"ada": self.fresh}, None))
    assert not restart._rollback(model, TEXT, tmp_path / "c")


def test_states_are_compared_to_the_last_bit():
    state = byte_model(num_layers=1).initial_state(1)
    assert restart._same(state, state.map(lambda t: t.clone()))
    assert not restart._same(state, state.map(lambda t: t + 1e-15 if t.is_floating_point() else t))


def read_here(monkeypatch, kills: list[int]) -> None:
    """Let the reader run in this process: killed means that the piece after the last position is never committed."""

    class Killed(BaseException):
        pass

    def positions(file, store, base):
        lines: list[int] = []
        target = kills.pop(0) if kills else None

        def say(line, flush):
            lines.append(int(line.removeprefix("at ")))
            if target is not None and lines[-1] >= target:
                raise Killed

        monkeypatch.setattr(reader_process, "print", say, raising=False)
        with contextlib.suppress(Killed):
            reader_process.main(file, store, base)
        return lines

    class Reader:
        def __init__(self, *arguments):
            self.arguments = arguments

        def __enter__(self):
            return iter(positions(*self.arguments))

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(restart, "_reader", Reader)


def test_two_kills_lose_the_chunk_in_flight_and_nothing_else(base, tmp_path, monkeypatch):
    """80 bytes in chunks of 4: killed when 2/5 and 4/5 are computed, at bytes 33 and 65, of which 29 and 61 count.

    The first call of the reader is the one that never stops, so it has no target.
    """
    folder, words = tmp_path / "scene", []
    folder.mkdir()
    text = (TEXT * 2)[:LENGTH]
    kills = [10**9, 32, 64]
    read_here(monkeypatch, kills)
    results = restart.run(base, text, folder, words.append)
    assert len(words) == restart.PARTS
    assert results["restart"] == {
        "identical": True,
        "kills": 2,
        "killed_at": 65,
        "resumed_at": 61,
        "lost_tokens": 4,
        "lost_tokens_each": [4, 4],
    }
    assert results["rollback"] == {"level": "fast", "identical": True}


def test_another_outcome_is_not_called_identical(base, tmp_path, monkeypatch):
    """A reader that starts with a memory, or that ends with another, is found out."""
    for number, first in enumerate((3, 0)):
        folder = tmp_path / f"scene{number}"
        folder.mkdir()
        read_here(monkeypatch, [10**9, 32, 64])
        finish = restart._finish

        def wrong(file, store, base, first=first, finish=finish):
            start = finish(file, store, base)
            if not first and store.name == "killed":
                everlearn.Learner(everlearn.models.load_model(base)[0], store).read("more", user="ada", end="open")
            return start or first

        with monkeypatch.context() as patch:
            patch.setattr(restart, "_finish", wrong)
            results = restart.run(base, (TEXT * 2)[:LENGTH], folder, lambda word: None)
        assert not results["restart"]["identical"]


@pytest.mark.slow
def test_a_real_process_is_killed_twice_and_goes_on(base, tmp_path):
    """Five processes import torch, about ten seconds."""
    folder = tmp_path / "scene"
    folder.mkdir()
    results = restart.run(base, TEXT * 20, folder, lambda word: None)
    assert results["restart"]["identical"] and results["rollback"]["identical"]
    assert all(lost <= 8 for lost in results["restart"]["lost_tokens_each"])
