"""Rows of many strategies and seeds: each is kept as soon as it is measured, and several run at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from everlearn.continual.strategies.table import TABLE
from everlearn.evals.class_incremental.protocol import Row, floor, measure
from everlearn.evals.class_incremental.scenario import STREAMS, Scenario
from everlearn.memory.files import atomic_write

FLOOR = "joint probe"


@dataclass(frozen=True)
class Job:
    """One row.

    Args:
        strategy: name in the table, or `FLOOR`.
        settings: of the strategy; of the floor {"strength": C}.
        stream: a key of `STREAMS`.
        seed: of the stream and of the strategy.
    """

    strategy: str
    settings: Mapping[str, Any]
    stream: str
    seed: int

    def file(self, folder: Path, scenario: str) -> Path:
        """Return where the row is kept: another data set, encoder or setting is another row.

        Args:
            folder: of the rows.
            scenario: what tells data and features apart.
        """
        named = json.dumps([scenario, self.strategy, dict(self.settings), self.stream, self.seed], sort_keys=True)
        return folder / f"{self.strategy.replace(' ', '-')}-{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"


def run_jobs(
    jobs: Sequence[Job],
    scenario: Scenario,
    folder: Path,
    *,
    fingerprint: str,
    workers: int = 1,
    on_row: Callable[[Job], None] = lambda job: None,
) -> list[Row]:
    """Measure what is missing and return a row for each job.

    Args:
        jobs: in the order of the rows.
        scenario: data and features.
        folder: where rows are kept; made when it is missing.
        fingerprint: what tells this scenario's data and features from others.
        workers: processes at a time, with one thread each, >= 1; results do not depend on it.
        on_row: called after each job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [job.file(folder, fingerprint) for job in jobs]
    missing = {file: job for file, job in zip(files, jobs, strict=True) if not file.exists()}
    for file, job in zip(files, jobs, strict=True):
        if file not in missing:
            on_row(job)
    if workers == 1 or len(missing) < 2:
        for file, job in missing.items():
            _keep(file, job, _measure(job, scenario))
            on_row(job)
    else:
        # a fork would copy threads that torch has started in the middle of their work
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (scenario,)) as pool:
            futures = {pool.submit(_in_worker, job): file for file, job in missing.items()}
            for future in as_completed(futures):
                file = futures[future]
                _keep(file, missing[file], future.result())
                on_row(missing[file])
    return [json.loads(file.read_text())["row"] for file in files]


def _measure(job: Job, scenario: Scenario) -> Row:
    """Measure one job."""
    stream = STREAMS[job.stream](scenario, job.seed)
    if job.strategy == FLOOR:
        return floor(stream, job.settings["strength"])
    strategy = TABLE[job.strategy].build(job.settings, scenario.dim, len(scenario.labels), job.seed)
    return measure(strategy, stream, scenario.batch_size, leaked=scenario.leaked)


def _keep(file: Path, job: Job, row: Row) -> None:
    """Write one row, with what it is a row of."""
    about = {"strategy": job.strategy, "settings": dict(job.settings), "stream": job.stream, "seed": job.seed}
    atomic_write(file, json.dumps({"job": about, "row": row}).encode(), private=False)


_here: list[Scenario] = []  # of a worker: sent once instead of with every job


def _begin(scenario: Scenario) -> None:
    """Prepare a worker."""
    torch.set_num_threads(1)
    _here.append(scenario)


def _in_worker(job: Job) -> Row:
    """Measure one job in a worker."""
    return _measure(job, _here[0])
