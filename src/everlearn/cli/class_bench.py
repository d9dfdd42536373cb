"""`everlearn bench clinc` and its like: choose settings on validation records, then measure once on test records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.class_data import load
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

    from everlearn.evals.class_incremental import STREAMS

    torch.set_num_threads(1)
    out = Output(options.json)
    names = _checked(options)
    scenario, fingerprint = load(options, out)
    STREAMS[options.stream](scenario, 0)  # one that cannot be made of these data is refused before settings are chosen
    folder = options.out / options.what
    if options.what == "images":
        folder /= scenario.name
    say = f"rows are kept in {folder}; the same command goes on where it stopped"
    with resume_hint(lambda: say):
        document = _measure(options, names, scenario, fingerprint, folder, out)
    out.finish(document)
    out.say(f"rows and pictures: {folder}")


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
    if options.reference is not None and options.reference not in names:
        raise UserError(f"--reference {options.reference!r} is not measured; give one of {', '.join(names)}")
    if not 0 <= options.margin < 100:
        raise UserError(f"--margin is {options.margin:g}; give points of accuracy from 0 to below 100, such as 1")
    return names


def _measure(
    options: Options, names: tuple[str, ...], scenario: Scenario, fingerprint: str, folder: Path, out: Output
) -> dict[str, Any]:
    """Choose, measure, and show."""
    from everlearn.cli.progress import progress
    from everlearn.evals.class_incremental.runs import FLOOR, Job, run_jobs

    every = (*names, FLOOR)
    common: dict[str, Any] = {"fingerprint": fingerprint, "workers": options.workers}
    tried = _tried(options, every, scenario, folder, common)
    chosen = {name: pairs[0][0] for name, pairs in tried.items()}
    for name in names:
        out.say(f"{name}: " + ", ".join(f"{_short(settings)}{_percent(score)}" for settings, score in tried[name]))
    seeds = 1 if options.quick else options.seeds
    jobs = [Job(name, chosen[name], options.stream, seed) for name in every for seed in range(seeds)]
    with progress("Measuring", total=len(jobs)) as advance:
        rows = run_jobs(jobs, scenario, folder / "rows", on_row=lambda job: advance(1, job.strategy), **common)
    found = {name: [row for job, row in zip(jobs, rows, strict=True) if job.strategy == name] for name in every}
    floors = found.pop(FLOOR)
    return {
        "scenario": scenario.name,
        "stream": options.stream,
        "misspelt": options.misspelt,
        "seeds": seeds,
        "per_experience": scenario.per_experience,
        "chosen": {name: dict(settings) for name, settings in chosen.items()},
        "tried": {name: [[dict(settings), score] for settings, score in pairs] for name, pairs in tried.items()},
        "economics": _show(options, found, floors, f"{scenario.name}, stream {options.stream}", folder, out),
        "rows": found,
        "floor": floors,
    }


def _tried(
    options: Options, every: tuple[str, ...], scenario: Scenario, folder: Path, common: dict[str, Any]
) -> dict[str, list[tuple[Any, float | None]]]:
    """Return strategy -> (settings, score), best first; --quick takes the first settings of each grid unmeasured."""
    from everlearn.cli.progress import progress
    from everlearn.evals.class_incremental.choose import candidates, choose

    if options.quick:
        return {name: [(candidates(name)[0], None)] for name in every}
    # settings for the standard stream serve the others: those ask what happens without a new search
    with progress("Choosing settings", total=sum(len(candidates(name)) for name in every)) as advance:
        tried = choose(every, scenario, "tasks", folder / "rows", on_row=lambda job: advance(1, job.strategy), **common)
    return {name: list(pairs) for name, pairs in tried.items()}


def _show(
    options: Options, found: dict[str, Any], floors: list[Any], about: str, folder: Path, out: Output
) -> dict[str, Any]:
    """Print both tables, draw both pictures, and return what accuracy costs."""
    from everlearn.evals.class_incremental import economics, markdown, pictures

    orders = len(floors)
    title = f"{about}, {orders} order{'s' if orders > 1 else ''}" + (", settings not chosen" if options.quick else "")
    out.say(f"\n{title}\n\n{markdown(found, floors)}\n")
    reference = options.reference or economics.reference_of(found)
    points = f"{options.margin:g} point{'' if options.margin == 1 else 's'}"
    out.say(f"What accuracy costs. Equal: from then on within {points} of {reference} on the classes so far.\n")
    out.say(economics.markdown(found, reference, options.margin / 100))
    if not all(economics.course(rows).complete for rows in found.values()):
        out.say("\n≥: measured before the time of solving was told apart from that of answering; learning alone")
    out.say()
    pictures.kept(found, folder / f"{options.stream}.png", title)
    pictures.costs(found, folder / f"{options.stream}-economics.png", title)
    return economics.economics(found, reference, options.margin / 100)


def _percent(score: float | None) -> str:
    """Write what settings got on validation records, where they were tried."""
    return f" {100 * score:.2f}" if score is not None else ""


def _short(settings: Any) -> str:
    """Write settings in a few characters."""
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "nothing to choose"
