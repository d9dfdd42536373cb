"""Run again what RESULTS.md claims, and write its tables: `python benchmarks/results.py [--fast]`.

Every row is kept in `results/rows/` as soon as it is measured, so an interrupted run goes on where it stopped; delete
a file to measure that row again. `--fast` reads with one base model instead of three.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import tables
import torch
import toys
from rows import ROOT, SEEDS, Row, row

import everlearn
from everlearn.demo import digits, reading, restart
from everlearn.demo.base import load_or_train
from everlearn.demo.corpus import standard_library, unseen_files
from everlearn.learn import read
from everlearn.memory.files import atomic_write
from everlearn.models import Decoder, load_model
from everlearn.models.text import encode
from everlearn.recipes import byte_reader

PAGE = ROOT / "RESULTS.md"


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="one base model instead of three")
    fast = parser.parse_args().fast
    torch.set_num_threads(1)
    seeds = SEEDS[:1] if fast else SEEDS
    rows = {"digits": row("digits", lambda: digits.run(5))}
    rows["reading"] = [row(f"reading-{seed}", lambda seed=seed: read_with(seed)) for seed in seeds]
    rows["restart"] = row("restart", kill_often)
    rows["cost"] = row("cost", cost)
    for name, measure in (("capacity", toys.capacity), ("saturation", toys.saturation), ("overlap", toys.overlap)):
        rows[name] = row(name, measure)
    for page in (PAGE, ROOT / "README.md"):
        atomic_write(page, tables.write(page.read_text(), rows).encode(), private=False)
        print(f"wrote {page}")


def base(seed: int) -> Path:
    """Return the folder of the base model of a seed; it is trained when it is missing."""
    folder = ROOT / "results" / f"base-{seed}"
    load_or_train(folder, seed=seed)
    return folder


def read_with(seed: int) -> Row:
    """Read eight unseen files with the base model of one seed, in every way."""
    model, about = load_model(base(seed))
    known, heldout = standard_library(byte_reader.TRAIN_BYTES, 150_000)
    results, _ = reading.run(model, reading.Texts(known, heldout, unseen_files(known, 8)), lambda _: None)
    return {**results, "base": about}


def kill_often(times: int = 5) -> Row:
    """Kill the reading process twice in each of several files."""
    known, _ = standard_library(byte_reader.TRAIN_BYTES)
    same, lost, kills = [], [], 0
    for document in unseen_files(known, times):
        with tempfile.TemporaryDirectory() as folder:
            result = restart.run(base(0), document.data[: reading.LENGTH], Path(folder), lambda _: None)
        same.append(result["restart"]["identical"] and result["rollback"]["identical"])
        lost += result["restart"]["lost_tokens_each"]
        kills += result["restart"]["kills"]
    return {"runs": times, "kills": kills, "identical": sum(same), "most_lost": max(lost)}


def cost(rounds: int = 7, length: int = 4_097) -> Row:
    """Time one row of text read frozen, learning, and with a durable commit per chunk; interleaved in one process."""
    model, _ = load_model(base(0))
    known, _ = standard_library(byte_reader.TRAIN_BYTES)
    text = unseen_files(known, 1)[0].data[:length]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "frozen": lambda _: everlearn.Learner(model).score(text),
            "pieces": lambda _: in_pieces(model, text),
            "learning": lambda _: everlearn.Learner(model).read(text, user="ada"),
            "durable": lambda n: everlearn.Learner(model, f"{folder}/{n}").read(text, user="ada"),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for n in range(rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way(n)
                times[name].append((time.perf_counter() - start) / length * 1e6)
    return {name: {"median": statistics.median(t), "min": min(t), "max": max(t)} for name, t in times.items()}


def in_pieces(model: Decoder, text: bytes) -> None:
    """Read a text frozen, as many bytes at a time as learning does."""
    state = model.initial_state(1).detach()
    for piece in encode(text).split(model.config.chunk_size):
        _, state = read(model, piece[None], state, chunk_size=model.config.chunk_size, learn=False)


if __name__ == "__main__":
    main()
