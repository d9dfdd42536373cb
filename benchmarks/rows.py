"""Measured rows, kept on the disk: an interrupted run goes on where it stopped."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from everlearn.memory.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "results" / "rows"
SEEDS = (0, 1, 2)
Row = dict[str, Any]


def row(name: str, measure: Callable[[], Row]) -> Row:
    """Return a measured row from its file, or measure it and keep it with where and when."""
    file = ROWS / f"{name}.json"
    if not file.exists():
        print(f"measuring {name} ...", flush=True)
        start, worked = time.perf_counter(), time.process_time()
        result = measure()
        seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - worked}
        kept = {"result": result, **seconds, "where": where()}
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(kept).encode())
    kept = json.loads(file.read_text())
    return {**kept["result"], "where": kept["where"]}


def where() -> dict[str, str]:
    """Return the commit, the machine and the date of a measurement."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "commit": commit.strip(),
        "machine": f"one thread of {model}",
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
