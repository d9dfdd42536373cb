"""The figures of the stacking benchmark, from measured rows."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from stacking_checks import on_stream
from stacking_tables import NAMES, way_name

Row = dict[str, Any]
SHOWN = ("doyle", "darwin", "shakespeare")


def draw(runs: list[Row], folder: Path) -> list[Path]:
    """Write the figures whose rows are there; return their files."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"position": by_position, "damage": damage_and_gain, "size": size_and_gain}
    return [file for name, figure in figures.items() if (file := figure(runs, folder / f"stacking_{name}.png"))]


def mean(values: list[float]) -> float:
    """Return the mean over bases."""
    return statistics.fmean(values)


def by_position(runs: list[Row], file: Path) -> Path:
    """Draw bits per byte by position: frozen, learning, and what a document of another domain has taught."""
    from matplotlib import pyplot

    buckets = runs[0]["read"]["frozen"]["buckets"][:-1]
    middle = [(start + end) / 2 for start, end in buckets]
    figure, axes = pyplot.subplots(1, len(SHOWN), figsize=(11, 3.4))
    for axis, domain in zip(axes, SHOWN, strict=True):
        curves = {
            "frozen": [run["read"]["frozen"][domain] for run in runs],
            "learning, all MLPs": [run["read"]["mlp"][domain] for run in runs],
            "learning, all weights": [run["read"]["all"][domain] for run in runs],
            "control: read another domain": [[run["control"]["mlp"]["other"][domain]] for run in runs],
        }
        for (name, rows), style in zip(curves.items(), ("k-", "C0-", "C1--", "C3:"), strict=True):
            # the control was asked about the first document of each domain, so that is what every curve shows
            points = [mean([documents[0][i] for documents in rows]) for i in range(len(middle))]
            axis.plot(middle, points, style, marker="o", markersize=3, label=name)
        axis.set_title(NAMES[domain])
        axis.set_xlabel("position [tokens]")
    axes[0].set_ylabel("bits per byte")
    axes[-1].legend(fontsize=7)
    return _save(figure, file)


def damage_and_gain(runs: list[Row], file: Path) -> Path:
    """Draw the worst damage to what was known against the gain that is kept on Shakespeare."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(10, 5))
    for number, key in enumerate(runs[0]["stream"], 1):
        values = [on_stream(run, key) for run in runs]
        x, y = (mean([value[name] for value in values]) for name in ("kept", "worst"))
        axis.plot(x, y, "o", color="C0" if key.split(" x")[0] in OURS else "C1", label=f"{number} {way_name(key)}")
        axis.annotate(str(number), (x, y), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axis.set_xlabel("gain kept on Shakespeare at the end of the stream [bits per byte]")
    axis.set_ylabel("worst damage to the known book [bits per byte]")
    # a way that does no damage and one that does much are both to be seen
    axis.set_yscale("symlog", linthresh=0.05)
    axis.set_ylim(bottom=-0.005)
    axis.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left", title="blue: levels, orange: baselines")
    return _save(figure, file)


OURS = ("mlp", "mlp_mean", "mlp_mean_anchor", "last_down", "last_down_mean", "archive", "archive_small")


def size_and_gain(runs: list[Row], file: Path) -> Path | None:
    """Draw how much of the gain a stored state keeps, by its size."""
    from matplotlib import pyplot

    if not runs[0].get("compress"):
        return None
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for way, style in (("mlp", "C0o-"), ("last_down", "C2o-"), ("lora", "C1s"), ("all", "C3s")):
        if way not in runs[0]["compress"]:
            continue
        rows = [run["compress"][way] for run in runs]
        names = sorted(rows[0]["gain"], key=rows[0]["bytes"].__getitem__)
        sizes = [rows[0]["bytes"][name] / 1000 for name in names]
        gains = [mean([row["gain"][name] for row in rows]) for name in names]
        axis.plot(sizes, gains, style, label=way_name(way))
        for size, gain, name in zip(sizes, gains, names, strict=True):
            axis.annotate(name, (size, gain), fontsize=6, xytext=(3, 3), textcoords="offset points")
    axis.set_xscale("log")
    axis.set_xlabel("stored state [KB]")
    axis.set_ylabel("gain on another text of the domain [bits per byte]")
    axis.legend(fontsize=7)
    return _save(figure, file)


def _save(figure: Any, file: Path) -> Path:
    figure.tight_layout()
    figure.savefig(file, dpi=130, metadata={"Software": None})
    return file
