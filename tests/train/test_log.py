"""The log has each step once, whatever was interrupted; TensorBoard gets the same numbers where it is installed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from everlearn.train.log import Log, board, lines


class Board:
    """Notes what a `SummaryWriter` would be given."""

    def __init__(self, folder: str = "", purge_step: int = 0) -> None:
        self.folder, self.purge_step, self.noted = folder, purge_step, []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.noted.append((tag, scalar_value, global_step))

    def close(self) -> None:
        self.noted.append("closed")


def test_lines_of_later_steps_and_half_a_line_are_removed(tmp_path):
    log = Log(tmp_path, 0)
    for step in (1, 2, 2, 3):
        log.add(step, loss=step / 2)
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in lines(tmp_path / "log.jsonl")] == [1, 2, 2, 3]
    log = Log(tmp_path, 2)
    log.add(3, loss=9.0)
    log.close()
    assert lines(tmp_path / "log.jsonl") == [
        {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}
    ]  # fmt: skip


def test_a_line_is_on_the_disk_when_it_was_added(tmp_path):
    log = Log(tmp_path, 0)
    log.add(1, loss=0.5)
    assert lines(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.5}]
    log.close()


def test_the_board_gets_every_number(tmp_path, monkeypatch):
    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", Board, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    writer, said = board(tmp_path, 4)
    assert isinstance(writer, Board)
    assert (writer.folder, writer.purge_step, said) == (str(tmp_path / "tensorboard"), 5, "")
    log = Log(tmp_path, 4, writer)
    log.add(5, loss=0.5, lr=0.1)
    log.close()
    assert writer.noted == [("loss", 0.5, 5), ("lr", 0.1, 5), "closed"]


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert board(tmp_path, 0) == (
        None,
        f"tensorboard is not installed; the numbers go to {tmp_path / 'log.jsonl'} alone",
    )


def test_a_run_that_goes_on_leaves_one_curve_in_tensorboard(tmp_path):
    """Read back by TensorBoard itself: what came after the step from which the run went on is purged."""
    pytest.importorskip("tensorboard", reason="the extra `train` is not installed: pip install 'everlearn[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begun, values in ((0, {1: 0.5, 2: 0.25, 3: 8.0}), (2, {3: 0.125, 4: 0.0625})):
        writer, missing = board(tmp_path, begun)
        assert missing == ""
        log = Log(tmp_path, begun, writer)
        for step, value in values.items():
            log.add(step, bits_per_byte=value)
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("bits_per_byte")
    assert [(event.step, event.value) for event in events] == [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625)]
