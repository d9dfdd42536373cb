"""Ratios that a loaded machine does not spoil: all subjects in turn, round after round, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """How many times the baseline's time one subject took.

    Args:
        median: of the ratios of the rounds.
        low, high: the smallest and the largest of them.
        best: smallest time of the subject by the smallest of the baseline.
    """

    median: float
    low: float
    high: float
    best: float

    @classmethod
    def of(cls, own: Sequence[float], base: Sequence[float]) -> Ratio:
        """Compare two subjects that were timed in the same rounds."""
        ratios = [a / b for a, b in zip(own, base, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios), min(own) / min(base))


def interleave(runs: Mapping[str, Run], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Time every run once in each round, after one round that warms up.

    On a CPU the clock counts the time that this process computed, so that others who share the machine disturb it
    less; with more than one thread it adds them up. On a GPU it is the wall's, and waits until the device is done.

    Args:
        runs: name -> what is timed.
        rounds: how often (>= 1).
        device: on which they run.
    Returns:
        name -> seconds of every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = now(device)
            run()
            if turn:
                seconds[name].append(now(device) - start)
    return seconds


def now(device: torch.device) -> float:
    """Return the time in seconds on the clock of a device."""
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
