"""The figures of the optimizers, from measured rows: by step and by CPU time."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SHOWN_VIT = ("adamw", "adamw-wd3", "preconditioned", "dgd_adamw", "muon", "m3", "m3_fast")


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figures whose rows are there; return their files."""
    import matplotlib

    matplotlib.use("Agg")
    written = []
    if "vision" in found:
        lines = {key: found["vision"][key] for key in SHOWN_VIT if key in found["vision"]}
        written.append(curves(lines, "test loss [nats]", folder / "optimizers_vit.png"))
    if "language" in found:
        written.append(curves(found["language"], "nats per byte, 16 KB of unseen text", folder / "optimizers_lm.png"))
    if "noise" in found:
        written.append(noise(found, folder / "optimizers_noise.png"))
    return written


def mean_curve(runs: list[Row], column: int) -> list[float]:
    """Return the mean over seeds of a column of the curves, by step."""
    return [
        statistics.fmean(points) for points in zip(*[[p[column] for p in run["curve"]] for run in runs], strict=True)
    ]


def curves(lines: dict[str, Row], what: str, file: Path) -> Path:
    """Draw the loss by step and by CPU time; the band is the lowest and the highest of the seeds."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for number, line in enumerate(lines.values()):
        runs, colour = line["runs"], f"C{number}"
        loss = mean_curve(runs, 2)
        ends = [
            [pick(point) for point in zip(*[[p[2] for p in r["curve"]] for r in runs], strict=True)]
            for pick in (min, max)
        ]
        for axis, column in zip(axes, (0, 1), strict=True):
            at = mean_curve(runs, column)
            axis.plot(at, loss, color=colour, marker="o", markersize=2.5, label=f"{line['title']}, {line['lr']:g}")
            axis.fill_between(at, *ends, color=colour, alpha=0.12, linewidth=0)
    axes[0].set_yscale("log")
    axes[0].set_ylabel(f"{what}")
    axes[0].set_xlabel("step")
    axes[1].set_xlabel("CPU time of the steps [s], one thread of a shared machine")
    axes[1].legend(fontsize=7)
    return save(figure, file)


def noise(found: dict[str, Any], file: Path) -> Path:
    """Draw the test accuracy by step, for each share of wrong labels."""
    from matplotlib import pyplot

    shares = list(next(iter(found["noise"].values())))
    figure, axes = pyplot.subplots(1, 1 + len(shares), figsize=(12, 3.8), sharey=True)
    for number, key in enumerate(found["noise"]):
        line = found["vision"][key]
        parts = [line["runs"], *(found["noise"][key][share] for share in shares)]
        for axis, runs in zip(axes, parts, strict=True):
            accuracy = [100 * value for value in mean_curve(runs, 3)]
            axis.plot(
                mean_curve(runs, 0), accuracy, color=f"C{number}", marker="o", markersize=2.5, label=line["title"]
            )
    for axis, share in zip(axes, ["0", *shares], strict=True):
        axis.set_title(f"{100 * float(share):.0f} % of the labels wrong", fontsize=9)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(60, 100)
    axes[0].set_ylabel("test images read right [%], mean of 5 seeds")
    axes[0].legend(fontsize=7)
    return save(figure, file)


def save(figure: Any, file: Path) -> Path:
    """Write a figure without what changes from run to run."""
    figure.tight_layout()
    figure.savefig(file, dpi=130, metadata={"Software": None})
    return file
