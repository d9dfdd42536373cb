"""Measure what a classifier takes to learn, to solve and to answer, without its encoder.

    python benchmarks/classifier_speed.py [--threads 2] [--rounds 5]

Features are random and of unit size. Rounds are interleaved and the best of each is printed, beside the bare product
phi^T phi of as many records in one piece, which no exact second moment can do without: half of it, as it is symmetric.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import RawPixels
from everlearn.continual.serving import Serving

BATCH, CLASSES, RECORDS = 64, 150, 2_048
DIMS = (512, 768, 2_000)  # HashedText, two layers of a sentence encoder, the command line's default


def main() -> None:
    """Print one row for each size of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, batches of {BATCH}, {CLASSES} classes, best of {options.rounds} rounds")
    heads = (("dim", 6), ("learn/s", 9), ("product/s", 10), ("solve ms", 9), ("p50 of 1, ms", 13), ("of 64, ms", 10))
    print(" ".join(f"{head:>{width}}" for head, width in (*heads, ("state KB", 9))))
    for dim in DIMS:
        print(row(dim, options.rounds), flush=True)


def row(dim: int, rounds: int) -> str:
    """Measure one size."""
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
    one, many = median(made, phi, 1), median(made, phi, BATCH)
    size = made.nbytes["state"] // 1024
    rates = f"{RECORDS / best['learn']:>9,.0f} {RECORDS / best['product']:>10,.0f} {1e3 * best['solve']:>9.0f}"
    return f"{dim:>6} {rates} {1e3 * one:>13.3f} {1e3 * many:>10.3f} {size:>9,}"


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
