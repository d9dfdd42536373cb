"""Settings chosen on validation records: the same number of candidates at most for every strategy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from everlearn.continual.strategies.table import TABLE
from everlearn.evals.class_incremental.protocol import Row
from everlearn.evals.class_incremental.runs import FLOOR, Job, run_jobs
from everlearn.evals.class_incremental.scenario import Scenario

# the probe of the floor is chosen as every strategy is
STRENGTHS = ({"strength": 0.003}, {"strength": 0.03}, {"strength": 0.3})
SEARCH_SEED = 100  # of the order of arrival; those of the tables count from 0


def candidates(strategy: str) -> Sequence[Mapping[str, Any]]:
    """Return the settings that are tried."""
    return STRENGTHS if strategy == FLOOR else TABLE[strategy].grid


def choose(
    strategies: Sequence[str],
    scenario: Scenario,
    stream: str,
    folder: Path,
    *,
    fingerprint: str,
    workers: int = 1,
    on_row: Callable[[Job], None] = lambda job: None,
) -> dict[str, list[tuple[Mapping[str, Any], float]]]:
    """Measure every candidate of every strategy once on validation records.

    Args:
        strategies: names in the table, or `FLOOR`.
        scenario, stream, folder, fingerprint, workers, on_row: see `run_jobs`; the test records are not used.
    Returns:
        strategy -> (settings, score), best first; the score is the mean of the accuracy over records and over classes,
        so that sets with classes of different size count both. Ties go to what stands first in the grid.
    Raises:
        ValueError: there are no validation records.
    """
    chosen_on = scenario.for_choosing()
    jobs = [Job(name, settings, stream, SEARCH_SEED) for name in strategies for settings in candidates(name)]
    named = f"validation {fingerprint}"
    rows = run_jobs(jobs, chosen_on, folder, fingerprint=named, workers=workers, on_row=on_row)
    found: dict[str, list[tuple[Mapping[str, Any], float]]] = {name: [] for name in strategies}
    for job, row in zip(jobs, rows, strict=True):
        found[job.strategy].append((job.settings, score(row)))
    # a stable sort keeps the order of the grid among equals
    return {name: sorted(tried, key=lambda pair: -pair[1]) for name, tried in found.items()}


def score(row: Row) -> float:
    """Return what decides between settings."""
    return statistics.mean((row["final"], row["final_macro"]))
