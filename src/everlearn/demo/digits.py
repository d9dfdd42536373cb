"""A week of new digits: five days, two digits a day, each image seen once; what does each method keep?"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from everlearn.continual.metrics import Report, report, run_stream
from everlearn.continual.strategies.base import TakesBoundaries
from everlearn.continual.strategies.cms import CMSHead
from everlearn.continual.streams import DAYS, Split, Stream, digits, week_of_digits
from everlearn.demo.digits_methods import (
    BATCH_SIZE,
    CHOSEN,
    CHOSEN_ON_RAW_PIXELS,
    JOINT_MODELS,
    METHODS,
    SEARCHED,
    Features,
    Settings,
    random_features,
    raw_pixels,
)
from everlearn.memory.precision import PrecisionMemory

Progress = Callable[[int, int, str], None]
# chosen before any result was seen
PICTURE_RULE = "the first test image, in the order of the data set's split, whose digit came on Monday of seed 0"


def run(seeds: int = 5, progress: Progress | None = None) -> dict[str, Any]:
    """Let every method learn the same weeks and measure what it keeps.

    A seed deals the digits to the days, orders the images and starts the networks; split and features stay the same.
    Settings were chosen on validation images by `benchmarks/tune_digits.py`.

    Args:
        seeds: how many weeks, 0 to seeds - 1.
        progress: called as progress(done, total, what comes next).
    Returns:
        What stands under `digits` in the demo's JSON; accuracies are fractions, 1 KB is 1,024 bytes, `_sd` is the
        standard deviation over seeds (None for one seed). Per method: `final`, `task_a` (Monday's digits at the end),
        `after_day` (Monday's digits after each day), `final_macro`, `average_incremental`, `forgetting`,
        `backward_transfer`, `plasticity`, `stores_kb`, `stores_images`, `needs_boundaries`, and `masked`: whether its
        loss leaves the classes alone that a batch does not contain. For the CMS and its control also `levels_moved`:
        how far the level that moved most is from its start, relative to the start; and `searched`: the accuracy on
        validation images of each step size that was tried before.
    Raises:
        ValueError: fewer than one seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds {seeds} gives no week to measure; give a number >= 1, such as 5")
    start = time.perf_counter()
    train, validation, test = digits()
    features, pixels = random_features(), raw_pixels()
    weeks = [week_of_digits(seed, train, test) for seed in range(seeds)]
    raw = ["nearest_mean", "precision"]
    names = [*METHODS, "all data at once", "raw pixels", "reverse and forget"]
    steps = iter(range(len(names)))

    def tell(what: str) -> None:
        if progress:
            progress(next(steps), len(names), what)

    results: dict[str, Any] = {}
    answers: dict[str, list[list[int]]] = {}
    for name in METHODS:
        tell(name)
        results[name], answers[name] = _measure(name, CHOSEN[name], features, weeks)
    tell("all data at once")
    results["joint"] = joint(features, CHOSEN, seeds, train, validation, test)
    tell("raw pixels")
    results["raw_pixels"] = {name: _measure(name, CHOSEN_ON_RAW_PIXELS[name], pixels, weeks)[0] for name in raw}
    results["raw_pixels"]["joint"] = joint(pixels, CHOSEN_ON_RAW_PIXELS, seeds, train, validation, test)
    tell("reverse and forget")
    results["reverse_difference"] = max(reverse_difference(week, features) for week in weeks)
    results["forget_difference"] = max(forget_difference(week, features) for week in weeks)
    results["picture"] = _picture(weeks[0], answers)
    results["seeds"] = seeds
    results["data"] = {
        "days": list(DAYS),
        "digits_of_the_days": [[list(day.classes) for day in week.experiences] for week in weeks],
        "train_images": len(train.y),
        "validation_images": len(validation.y),
        "test_images": len(test.y),
        "train_images_kb": train.x.numel() * train.x.element_size() / 1024,
        "batch_size": BATCH_SIZE,
        "features": features.settings(),
    }
    results["seconds"] = time.perf_counter() - start
    return results


def joint(
    features: Features, chosen: dict[str, Settings], seeds: int, train: Split, validation: Split, test: Split
) -> dict[str, Any]:
    """Train the ordinary way: all data at once on the same features, by the better of two models.

    Validation images choose between tuned logistic regression and a tuned MLP; it is a yardstick, not a bound.
    """
    x, inside, outside = (features(part.x).numpy() for part in (train, validation, test))
    scores: dict[str, tuple[list[float], list[float]]] = {}
    for name, make in JOINT_MODELS.items():
        pairs = []
        for seed in range(seeds):
            with warnings.catch_warnings():
                # the number of epochs was chosen on validation data, so stopping there is no failure to converge
                warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
                model = make(chosen[name], seed).fit(x, train.y.numpy())
            pairs.append((model.score(inside, validation.y.numpy()), model.score(outside, test.y.numpy())))
        scores[name] = ([v for v, _ in pairs], [t for _, t in pairs])
    best = max(scores, key=lambda name: sum(scores[name][0]))
    return {
        **_mean_and_sd("final", scores[best][1]),
        "which": best,
        "candidates": {
            name: {**_mean_and_sd("validation", v), **_mean_and_sd("final", t)} for name, (v, t) in scores.items()
        },
    }


def reverse_difference(week: Stream, features: Features) -> float:
    """Return the largest difference of any test score, relative to the largest, between a week and its reverse."""
    forwards, backwards = _remember(week, features), _remember(week.reversed(), features)
    return _difference(forwards, backwards, features(week.test.x))


def forget_difference(week: Stream, features: Features) -> float:
    """Return that difference between forgetting Monday's first image after the week and never having seen it."""
    records = week.experiences[0].records
    forgot = _remember(week, features)
    forgot.remove(features(records.x[:1]), records.y[:1])
    never = _empty_memory(features)
    for i, day in enumerate(week.experiences):
        skip = 1 if i == 0 else 0
        never.write(features(day.records.x[skip:]), day.records.y[skip:])
    return _difference(forgot, never, features(week.test.x))


def _measure(
    name: str, settings: Settings, features: Features, weeks: list[Stream]
) -> tuple[dict[str, Any], list[list[int]]]:
    """Return a method's row over all weeks, and its answers in the first one, [days, test images]."""
    reports, answers, kept, moved = [], [], [], []
    for seed, week in enumerate(weeks):
        strategy = METHODS[name](features, settings, seed)
        answers.append(run_stream(strategy, week, BATCH_SIZE))
        reports.append(report(answers[-1], week.test.y, week.test_experience))
        kept.append(strategy.stores_bytes() / 1024)
        if isinstance(strategy, CMSHead):
            moved.append(max(strategy.moved().values()))
    row = _row(reports) | {
        "stores_kb": max(kept),
        "stores_images": strategy.stores_images,
        "needs_boundaries": isinstance(strategy, TakesBoundaries),
        "masked": name == "fine_tune_masked" or settings.get("loss") == "batch",
        "settings": settings,
    }
    if moved:
        row["levels_moved"] = statistics.mean(moved)
        row["searched"] = [
            {"eta": eta, "validation": mean, "validation_sd": spread} for eta, mean, spread in SEARCHED[name]
        ]
    return row, answers[0].tolist()


def _row(reports: list[Report]) -> dict[str, Any]:
    """Return means and standard deviations over seeds."""
    monday = [r.retention[:, 0].tolist() for r in reports]
    row: dict[str, Any] = _mean_and_sd("task_a", [days[-1] for days in monday])
    row["after_day"], row["after_day_sd"] = [], []
    for day in zip(*monday, strict=True):
        row["after_day"].append(statistics.mean(day))
        row["after_day_sd"].append(_sd(day))
    for field in ("final", "final_macro", "average_incremental", "forgetting", "backward_transfer", "plasticity"):
        row |= _mean_and_sd(field, [vars(r)[field] for r in reports])
    return row


def _mean_and_sd(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean under `name` and the standard deviation under `name_sd`."""
    return {name: statistics.mean(values), f"{name}_sd": _sd(values)}


def _sd(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, None for one sample; equal values give exactly 0."""
    return statistics.stdev(values) if len(values) > 1 else None


def _empty_memory(features: Features) -> PrecisionMemory:
    """Return a precision memory with the chosen settings."""
    return PrecisionMemory(features.dim, **CHOSEN["precision"])


def _remember(week: Stream, features: Features) -> PrecisionMemory:
    """Return what a week leaves in a precision memory."""
    memory = _empty_memory(features)
    for day in week.experiences:
        for x, y in day.batches(BATCH_SIZE):
            memory.write(features(x), y)
    return memory


def _difference(one: PrecisionMemory, other: PrecisionMemory, phi: Tensor) -> float:
    """Return the largest difference of two memories' scores, relative to the largest score."""
    a, b = one.scores(phi), other.scores(phi)
    return float((a - b).abs().max() / a.abs().max())


def _picture(week: Stream, answers: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Return one Monday image and what every method reads in it every evening."""
    index = int((week.test_experience == 0).nonzero()[0])
    return {
        "rule": PICTURE_RULE,
        "pixels": week.test.x[index].tolist(),
        "label": int(week.test.y[index]),
        "days": list(DAYS),
        "answers": {name: [evening[index] for evening in days] for name, days in answers.items()},
    }
