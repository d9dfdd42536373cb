"""`everlearn bench clinc` and its like: choose settings on validation records, then measure once on test records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError, resume_hint
from everlearn.cli.output import Output

if TYPE_CHECKING:
    from everlearn.cli.bench import Options
    from everlearn.evals.class_incremental import Scenario

# what a first run measures: quick ones, one of each family
DEFAULT = (
    "fine_tune",
    "fine_tune_masked",
    "ewc",
    "replay",
    "cms",
    "nearest_mean",
    "streaming_lda",
    "relu_lda",
    "ranpac",
)


def run(options: Options) -> None:
    """Measure strategies on one data set, print the table, draw the picture, and write JSON where it was asked for."""
    import torch

    torch.set_num_threads(1)
    out = Output(options.json)
    names = _checked(options)
    scenario, fingerprint = _load(options, out)
    folder = options.out / options.what
    say = f"rows are kept in {folder}; the same command goes on where it stopped"
    with resume_hint(lambda: say):
        document = _measure(options, names, scenario, fingerprint, folder, out)
    out.finish(document)
    out.say(f"rows and picture: {folder}")


def _checked(options: Options) -> tuple[str, ...]:
    """Refuse what does not exist before anything is loaded."""
    from everlearn.continual.strategies.table import TABLE
    from everlearn.evals.class_incremental import STREAMS

    names = options.strategies or DEFAULT
    names = tuple(TABLE) if names == ("all",) else names
    unknown = [name for name in names if name not in TABLE]
    if unknown:
        raise UserError(f"unknown strategy {unknown[0]!r}; give all, or some of {', '.join(TABLE)}")
    if options.stream not in STREAMS:
        raise UserError(f"unknown stream {options.stream!r}; give one of {', '.join(STREAMS)}")
    for name, value in (("seeds", options.seeds), ("workers", options.workers)):
        if value < 1:
            raise UserError(f"--{name} is {value}; give a whole number of at least 1")
    return names


def _load(options: Options, out: Output) -> tuple[Scenario, str]:
    """Return the scenario, and what tells its data and features from others."""
    import json

    from everlearn.cli.progress import progress
    from everlearn.continual.feature_cache import FeatureCache
    from everlearn.evals.class_incremental import encoded, load, read_texts
    from everlearn.memory.codec import digest

    if options.what == "digits":
        scenario = load("digits", None, None)
    else:
        texts = read_texts(options.what, options.data)
        encoder = _encoder(options)
        with progress("Encoding texts", total=len(texts.train + texts.validation + texts.test)) as advance:
            encode = FeatureCache(encoder, options.out / "features", on_texts=advance)
            scenario = encoded(options.what, texts, encode, misspelt=options.misspelt)
    parts = {"train": scenario.train, "validation": scenario.validation, "test": scenario.test}
    tensors = {f"{name}.{part}": value for name, split in parts.items() for part, value in vars(split).items()}
    counts = ", ".join(f"{len(split.y):,} {name}" for name, split in parts.items())
    out.say(f"{scenario.name}: {len(scenario.labels)} classes, {counts} records of {scenario.dim} features")
    return scenario, digest(tensors, json.dumps([scenario.name, scenario.per_experience, scenario.batch_size]))


def _encoder(options: Options) -> Any:
    """Return the encoder that was asked for."""
    from everlearn.continual.encoders import HFEncoder
    from everlearn.continual.features import HashedText

    return HashedText() if options.encoder == "hashed" else HFEncoder(options.encoder, device=_device(options))


def _device(options: Options) -> Any:
    """Return where the encoder runs."""
    from everlearn.device import device

    return device(options.device)[0]


def _measure(
    options: Options, names: tuple[str, ...], scenario: Scenario, fingerprint: str, folder: Path, out: Output
) -> dict[str, Any]:
    """Choose, measure, and show."""
    from everlearn.cli.progress import progress
    from everlearn.evals.class_incremental import markdown
    from everlearn.evals.class_incremental.choose import candidates, choose
    from everlearn.evals.class_incremental.runs import FLOOR, Job, run_jobs
    from everlearn.evals.class_incremental.tables import picture

    every = (*names, FLOOR)
    common: dict[str, Any] = {"fingerprint": fingerprint, "workers": options.workers}
    # settings for the standard stream serve the others: those ask what happens without a new search
    with progress("Choosing settings", total=sum(len(candidates(name)) for name in every)) as advance:
        tried = choose(every, scenario, "tasks", folder / "rows", on_row=lambda job: advance(1, job.strategy), **common)
    chosen = {name: pairs[0][0] for name, pairs in tried.items()}
    for name in names:
        out.say(f"{name}: " + ", ".join(f"{_short(settings)} {100 * score:.2f}" for settings, score in tried[name]))
    jobs = [Job(name, chosen[name], options.stream, seed) for name in every for seed in range(options.seeds)]
    with progress("Measuring", total=len(jobs)) as advance:
        rows = run_jobs(jobs, scenario, folder / "rows", on_row=lambda job: advance(1, job.strategy), **common)
    found = {name: [row for job, row in zip(jobs, rows, strict=True) if job.strategy == name] for name in every}
    floors = found.pop(FLOOR)
    title = f"{scenario.name}, stream {options.stream}, {options.seeds} orders"
    out.say(f"\n{title}\n\n{markdown(found, floors)}\n")
    picture(found, folder / f"{options.stream}.png", title)
    return {
        "scenario": scenario.name,
        "stream": options.stream,
        "seeds": options.seeds,
        "chosen": {name: dict(settings) for name, settings in chosen.items()},
        "tried": {name: [[dict(settings), score] for settings, score in pairs] for name, pairs in tried.items()},
        "rows": found,
        "floor": floors,
    }


def _short(settings: Any) -> str:
    """Write settings in a few characters."""
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "nothing to choose"
