"""Measure how fast the presets are, or what continual learners keep of a stream of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from everlearn.cli.options import DeviceName, File, JsonTarget, Text, Whole


@dataclass(frozen=True)
class Options:
    """Measure the speed of the presets, or what continual learners keep of a stream of classes.

    speed: training step, peak memory, decoding at two contexts, each without and with levels that learn, and the op
    against its own matrix products, beside a plain Transformer of the same size. All ratios are taken in turn within
    one process; about ten minutes on one core.

    clinc, banking, dbpedia, digits, images: classes arrive a few at a time, every record once. Settings are chosen on
    validation records with the same number of candidates for every strategy, all of which are printed; then each
    strategy is measured on the test records, beside a probe that is trained anew each time. A second table says what
    accuracy costs: CPU seconds and bytes at which each equals a reference. Interrupted, the same command goes on.
    clinc-mixed is the split of other authors, never to be compared with clinc. images: any folder with one subfolder of
    images for each class, or with such folders named train and test.
    """

    what: tyro.conf.Positional[Literal["speed", "clinc", "clinc-mixed", "banking", "dbpedia", "digits", "images"]]
    """what to measure"""
    presets: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """speed: names of presets; all of them when left out"""
    rounds: int = 7
    """speed: how often everything is timed"""
    threads: int = 1
    """speed: threads of the CPU; the clock adds up the time of all"""
    data: File = None
    """texts: folder of the data set; without it, it is loaded from the hub. images: their folder"""
    encoder: Text = None
    """a model's name on the hub or its folder. texts: sentence-transformers/all-MiniLM-L6-v2 when left out, or hashed
    for counts of letters that need no model. images: random features of the pixels when left out"""
    side: Whole = None
    """images without a model: height and width that they are brought to; 32 when left out"""
    strategies: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """classes: names of strategies, or all; a quick choice of each family when left out"""
    stream: str = "tasks"
    """classes: tasks (some at a time, dealt at random), domains (one domain after the other), single (one at a time),
    joint (all at once), uneven (seven groups, each half of what is left), returning (0.3 of a class's records come with
    later ones), repeats (0.3 of the records come again), wrong-10, wrong-20 (that many percent have a wrong label) or
    epochs-5 (each group five times)"""
    per_experience: Whole = None
    """classes: how many arrive at a time; when left out, that of the data set, or a fifth of the classes of images"""
    misspelt: float = 0.0
    """texts: share of the training texts that get a typing error"""
    reference: Text = None
    """classes: the strategy whose accuracy the others' cost is compared at; streaming_lda, or else the one that ends
    best, when left out"""
    margin: float = 1.0
    """classes: points of accuracy by which another may stay below the reference"""
    seeds: int = 3
    """classes: orders of arrival"""
    workers: int = 1
    """classes: processes at a time"""
    out: Path = Path("bench")
    """classes: folder of features, rows and pictures"""
    device: DeviceName = "auto"
    quick: bool = False
    """speed: smaller sizes and fewer rounds. classes: one order, and the first settings of each strategy, not chosen"""
    json: JsonTarget = None


def run(options: Options) -> int:
    """Measure, print the tables, and write the JSON document where one was asked for."""
    if options.what == "speed":
        _speed(options)
    else:
        from everlearn.cli import class_bench

        class_bench.run(options)
    return 0


def _speed(options: Options) -> None:
    """Measure the presets."""
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
