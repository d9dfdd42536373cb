"""Measure what a classifier takes to learn, to solve and to answer, without its encoder, for RESULTS.md.

    python benchmarks/classifier_speed.py [--threads 2] [--rounds 9]

Features are random and of unit size. Rounds are interleaved and the best of each counts, beside the bare product
phi^T phi of as many records in one piece, which no exact second moment can do without: half of it, as it is symmetric.
The row is kept in `results/rows/`; delete the file to measure again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rows import ROOT, Row, row
from tables import put, stamp

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import RawPixels
from everlearn.continual.serving import Serving
from everlearn.memory.files import atomic_write

PAGE = ROOT / "RESULTS.md"
BATCH, CLASSES, RECORDS = 64, 150, 2_048
DIMS = {512: "HashedText", 768: "two layers of a sentence encoder", 2_000: "the command line's hashed text"}


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = row(f"classifier-speed-{options.threads}", lambda: measure(options.threads, options.rounds))
    atomic_write(PAGE, put(PAGE.read_text(), "classifier-speed", lambda: table(found)).encode(), private=False)
    print(table(found))


def measure(threads: int, rounds: int) -> Row:
    """Return what every size of features takes."""
    return {"threads": threads, "rounds": rounds, "sizes": {str(dim): size(dim, rounds) for dim in DIMS}}


def size(dim: int, rounds: int) -> dict[str, float]:
    """Return the best seconds of learning, of the bare product and of solving, the median of an answer, and the KB."""
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(RECORDS, dim, generator=generator)
    labels = [f"class {i % CLASSES}" for i in range(RECORDS)]
    batches = [(phi[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, RECORDS, BATCH)]
    made, wide = Classifier(RawPixels(dim)), phi.double()
    best: dict[str, float] = {}
    # the first records bring the classes; what is measured then is a classifier in use
    made.learn(phi, labels)
    for _ in range(rounds):
        for name, work in {
            "learn": lambda: learn(made, batches),
            "product": lambda: wide.mT @ wide,
            "solve": lambda: made.memory.snapshot(),
        }.items():
            best[name] = min(best.get(name, float("inf")), seconds(work))
    answers = {"one": median(made, phi, 1), "many": median(made, phi, BATCH)}
    return best | answers | {"kb": made.nbytes["state"] / 1024}


def table(found: Row) -> str:
    """Write what was measured."""
    lines = [
        "| features | numbers | learned per second | bare product | solving, ms | answer to 1, ms | to 64, ms | KB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for dim, name in DIMS.items():
        at = found["sizes"][str(dim)]
        rates = f"{RECORDS / at['learn']:,.0f} | {RECORDS / at['product']:,.0f}"
        times = f"{1e3 * at['solve']:.0f} | {1e3 * at['one']:.2f} | {1e3 * at['many']:.2f}"
        lines.append(f"| {name} | {dim:,} | {rates} | {times} | {at['kb']:,.0f} |")
    facts = (
        f"{CLASSES} classes, batches of {BATCH}, wall clock, best of {found['rounds']} rounds; an answer is the median "
        f"of 300, once all is solved. {stamp(found, 'python benchmarks/classifier_speed.py')}"
    ).replace("one thread of", f"{found['threads']} threads of")
    return "\n".join([*lines, "", facts])


def learn(made: Classifier, batches: list[tuple[torch.Tensor, list[str]]]) -> None:
    """Learn all batches, summed to the last record."""
    for phi, labels in batches:
        made.learn(phi, labels)
    made.memory.statistics  # noqa: B018


def median(made: Classifier, phi: torch.Tensor, size: int, times: int = 300) -> float:
    """Return the median time of an answer to `size` items once all is solved."""
    with Serving(made) as serving:
        spent = sorted(seconds(lambda i=i: serving.predict(phi[i : i + size])) for i in range(times))
    return spent[times // 2]


def seconds(work: Callable[[], object]) -> float:
    """Time one piece of work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
