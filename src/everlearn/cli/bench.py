"""Measure how fast the presets are, beside a plain Transformer of the same size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from everlearn.cli.options import DeviceName, JsonTarget, Quick


@dataclass(frozen=True)
class Options:
    """Measure the presets beside a plain Transformer of the same width, depth and number of parameters.

    Training step, peak memory, decoding at two contexts, each without and with levels that learn, and the op against
    its own matrix products. All ratios are taken in turn within one process; about ten minutes on one core.
    """

    what: tyro.conf.Positional[Literal["speed"]]
    """what to measure"""
    presets: tuple[str, ...] = ()
    """names of presets; all of them when left out"""
    device: DeviceName = "auto"
    rounds: int = 7
    """how often everything is timed"""
    threads: int = 1
    """threads of the CPU; the clock adds up the time of all"""
    quick: Quick = False
    json: JsonTarget = None


def run(options: Options) -> int:
    """Measure, print the tables, and write the JSON document where one was asked for."""
    import torch

    from everlearn.cli.output import Output
    from everlearn.device import describe_device, device
    from everlearn.evals.speed import QUICK, Sizes, markdown, measure
    from everlearn.models.presets import PRESETS, preset

    if options.threads < 1:
        raise ValueError(f"--threads is {options.threads}; give a whole number of at least 1")
    names = options.presets or tuple(PRESETS)
    for name in names:
        preset(name)  # an unknown one is refused before anything is measured
    torch.set_num_threads(options.threads)
    out = Output(options.json)
    chosen, reason = device(options.device)
    out.say(describe_device(chosen, reason))
    sizes, rounds = (QUICK, min(3, options.rounds)) if options.quick else (Sizes(), options.rounds)
    report = measure(names, sizes, chosen, rounds=rounds, on_part=lambda line: out.say(f"measuring {line} ..."))
    out.say()
    out.say(markdown(report))
    out.finish(report.to_dict())
    out.say("next: everlearn describe")
    return 0
