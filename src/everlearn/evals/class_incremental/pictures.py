"""Pictures of strategies along the stream: what is kept of the first task, and accuracy against what it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everlearn.evals.class_incremental.economics import Course, course, duration
from everlearn.evals.class_incremental.tables import Row, size

TOGETHER = 10  # curves that one picture can tell apart; more get a panel each
LEAST = 1e-3  # a clock near zero still has a place on a logarithmic axis [s]
ACROSS = 6  # panels beside each other

Curve = tuple[Sequence[float], Sequence[float]]  # from left to right, upwards


def kept(rows: Mapping[str, Sequence[Row]], path: Path, title: str) -> None:
    """Draw the accuracy on the first task's classes after each experience, mean over the orders, as PNG.

    Args:
        rows: strategy -> what `protocol.measure` returned for each order of arrival.
        path: of the picture.
        title: above it.
    """
    curves: dict[str, Curve] = {}
    for name, found in rows.items():
        means = [100 * statistics.mean(values) for values in zip(*(row["task_a"] for row in found), strict=True)]
        curves[name] = (range(1, len(means) + 1), means)
    across, upwards = "experiences learned", "accuracy on the first one's classes, %"
    if len(curves) > TOGETHER:
        ends = {name: f"{values[-1]:.0f} % at the end" for name, (_, values) in curves.items()}
        _one_panel_each(curves, ends, path, title, across, upwards, log=False)
    else:
        _together([(curves, across, False)], path, title, upwards)


def costs(rows: Mapping[str, Sequence[Row]], path: Path, title: str) -> None:
    """Draw the accuracy on all classes so far against the seconds spent and the bytes held by then, as PNG.

    Every point is an experience, mean over the orders. See `economics.spent` for the seconds.

    Args:
        rows, path, title: see `kept`.
    """
    courses = {_named(name, course(found)): course(found) for name, found in rows.items()}
    seconds: dict[str, Curve] = {}
    held: dict[str, Curve] = {}
    for name, run in courses.items():
        seen = [100 * share for share in run.seen]
        seconds[name] = ([max(LEAST, spent) for spent in run.seconds], seen)
        held[name] = ([max(1.0, count) / 2**20 for count in run.bytes], seen)
    across, upwards = "CPU seconds so far", "accuracy on all classes so far, %"
    if len(courses) > TOGETHER:
        ends = {name: f"{duration(run.seconds[-1])}, {size(int(run.bytes[-1]))}" for name, run in courses.items()}
        _one_panel_each(seconds, ends, path, title, across, upwards, log=True)
    else:
        _together([(seconds, across, True), (held, "state, MB", True)], path, title, upwards)


def _named(name: str, run: Course) -> str:
    """Return what stands beside a curve: one whose time of solving is unknown says so."""
    return name if run.complete else f"{name} (learning alone)"


def _together(sides: Sequence[tuple[Mapping[str, Curve], str, bool]], path: Path, title: str, upwards: str) -> None:
    """Draw few curves in one colour each: for each side the curves, the name of its axis, and whether that is log."""
    pyplot = _pyplot()
    # a side is as wide as the legend beside the last one lets it be
    figure, every = pyplot.subplots(
        1, len(sides), figsize=(3 + 5 * len(sides), 4.5), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (curves, across, log) in zip(every[0], sides, strict=True):
        for name, (x, y) in curves.items():
            axes.plot(x, y, marker="o", markersize=3, label=name)
        axes.set(xlabel=across, ylim=(_bottom(curves), 101), xscale="log" if log else "linear")
        axes.spines[["top", "right"]].set_visible(False)
    every[0][0].set_ylabel(upwards)
    figure.suptitle(title)
    every[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _one_panel_each(
    curves: Mapping[str, Curve],
    ends: Mapping[str, str],
    path: Path,
    title: str,
    across: str,
    upwards: str,
    *,
    log: bool,
) -> None:
    """Draw many curves: each has a panel, in which the others are grey; a line below its name says how it ended."""
    pyplot = _pyplot()
    down = math.ceil(len(curves) / ACROSS)
    figure, every = pyplot.subplots(
        down, ACROSS, figsize=(2.1 * ACROSS, 1.75 * down + 0.6), layout="constrained", sharex=True, sharey=True
    )
    panels = list(every.flat)
    for axes, (name, (x, y)) in zip(panels, curves.items(), strict=False):
        for other in curves.values():
            axes.plot(*other, color="0.87", linewidth=0.6)
        axes.plot(x, y, color="C0", marker="o", markersize=2.5)
        axes.set_title(f"{name}\n{ends[name]}", fontsize="small")
        axes.set(ylim=(_bottom(curves), 101), xscale="log" if log else "linear")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes in panels[len(curves) - ACROSS : len(curves)]:
        axes.tick_params(labelbottom=True)
    figure.suptitle(title)
    figure.supxlabel(across)
    figure.supylabel(upwards)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _bottom(curves: Mapping[str, Curve]) -> int:
    """Return where the axis of percents begins: a ten below all curves."""
    return max(0, 10 * math.floor(min(min(values) for _, values in curves.values()) / 10 - 0.5))


def _pyplot() -> Any:
    """Return matplotlib's pyplot, which draws into files alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
