"""Measure what a long stream does to a precision that is updated in place, against one solved from kept sums.

    python benchmarks/precision_drift.py [--writes 100000] [--dim 128]

Prints the largest relative error of P against a float64 inverse of the exact second moment.
"""

from __future__ import annotations

import argparse
import time

import torch

from everlearn.rules.least_squares import add_records, start_precision

RIDGE = 1.0


def records(count: int, dim: int) -> torch.Tensor:
    """Return correlated features with a condition number of about 10^6, [count, dim] float64."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -3, dim, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))[0]
    return torch.randn(count, dim, dtype=torch.float64, generator=generator) * scale @ basis


def main() -> None:
    """Run the stream in float32 and float64 and print one row per decade."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writes", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys = records(options.writes, options.dim)
    in_place = {dtype: start_precision(options.dim, RIDGE, dtype) for dtype in (torch.float32, torch.float64)}
    moment32 = torch.zeros(options.dim, options.dim)
    seconds = dict.fromkeys(in_place, 0.0)
    print(f"{'writes':>8} {'P float32':>12} {'P float64':>12} {'solved from float32 sums':>25}")
    for n, key in enumerate(keys, 1):
        for dtype, precision in in_place.items():
            start = time.perf_counter()
            in_place[dtype] = add_records(precision, key)
            seconds[dtype] += time.perf_counter() - start
        moment32 += torch.outer(key, key).float()
        if n in (100, 1000, 10_000, 100_000) or n == options.writes:
            exact = torch.linalg.inv(keys[:n].mT @ keys[:n] + RIDGE * torch.eye(options.dim, dtype=torch.float64))
            solved = torch.linalg.inv(moment32.double() + RIDGE * torch.eye(options.dim, dtype=torch.float64))
            errors = [(p.double() - exact).abs().max() / exact.abs().max() for p in (*in_place.values(), solved)]
            print(f"{n:>8} {errors[0]:>12.1e} {errors[1]:>12.1e} {errors[2]:>25.1e}", flush=True)
    for dtype, spent in seconds.items():
        print(f"{dtype}: {1e6 * spent / options.writes:.0f} us per write")


if __name__ == "__main__":
    main()
