"""The measured result as a picture: Monday's digits after each day, and bits per byte by position."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from everlearn.continual.streams import DAYS
from everlearn.demo.differences import Results, present
from everlearn.demo.labels import METHODS, READERS, Label
from everlearn.demo.phrases import positions
from everlearn.memory.files import atomic_write

FONT_SIZE = 8.5
PANEL_INCHES = (4.9, 3.7)
# what stands out is drawn wider; the rest is context
LOUD = ("fine_tune", "cms", "precision", "frozen", "learning", "control")


@dataclass(frozen=True)
class Palette:
    """Colours by role, as six-digit hex."""

    ink: str = "#22252a"
    muted: str = "#6b7078"
    grid: str = "#e3e2dd"
    grey: str = "#8f949c"
    blue: str = "#1f6fb5"
    green: str = "#2a7f50"
    orange: str = "#c2541a"

    def __getitem__(self, role: str) -> str:
        """Return the colour of a role."""
        return str(asdict(self)[role])


# stands for the page's own colours: `svg` puts a variable of the style sheet in the place of each
PLACEHOLDERS = Palette(*(f"#0{i}0{i}0{i}" for i in range(1, 8)))


def write_picture(results: Results, path: Path) -> bool:
    """Write the picture of all that was measured as a PNG; False, and no file, where nothing was.

    Args:
        results: what the demo measured; a scene that is missing leaves its panel out.
        path: the file to write.
    """
    panels = [_DRAW[scene] for scene in _DRAW if _rows(results, scene)]
    if not panels:
        return False
    with matplotlib.rc_context(_style(Palette())):
        layout = ConstrainedLayoutEngine(wspace=0.06)
        figure = Figure(figsize=(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1]), dpi=160, layout=layout)
        for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes, results, Palette(), title=True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    atomic_write(path, buffer.getvalue(), private=False)
    return True


def svg(results: Results, scene: str) -> str:
    """Draw one scene, "digits" or "reading", as an SVG whose colours are variables of the page's style sheet.

    Returns:
        the SVG element, or nothing where the scene was not measured.
    """
    if not _rows(results, scene):
        return ""
    with matplotlib.rc_context(_style(PLACEHOLDERS) | {"svg.fonttype": "none", "svg.hashsalt": scene}):
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        _DRAW[scene](figure.subplots(), results, PLACEHOLDERS, title=False)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for role, colour in asdict(PLACEHOLDERS).items():
        text = text.replace(colour, f"var(--{role})")
    # the page sets the size, and no style or id may leak into it; what is referred to is salted by the scene
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", text)


def draw_week(axes: Axes, results: Results, palette: Palette, title: bool) -> None:
    """Draw how many of Monday's digits each method reads right after each day, with its spread over seeds."""
    digits = results["digits"]
    rows = _rows(results, "digits")
    for i, label in enumerate(rows):
        row = digits[label.key]
        # side by side, so that no bar hides another
        places = [day + 0.025 * (i - (len(rows) - 1) / 2) for day in range(len(row["after_day"]))]
        spread = [100 * (s or 0) for s in row.get("after_day_sd") or [0] * len(places)]
        _line(axes, label, palette, places, [100 * share for share in row["after_day"]], spread)
    _name_lines(axes, rows, palette, [100 * digits[label.key]["after_day"][-1] for label in rows], (-2, 102))
    axes.set_ylim(-4, 104)
    axes.set_xticks(range(len(DAYS)), [day[:3] for day in DAYS])
    axes.set_yticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    axes.set_xlabel("evening")
    if title:
        seeds = f" ({digits['seeds']} seeds, bars: one standard deviation)" if present(digits, "seeds") else ""
        axes.set_title(f"Monday's digits read right{seeds}", loc="left", fontsize=FONT_SIZE + 1)


def draw_reading(axes: Axes, results: Results, palette: Palette, title: bool) -> None:
    """Draw bits per byte by position in a file for every reader, the mean over files."""
    reading = results["reading"]
    rows = _rows(results, "reading")
    values = [reading[label.key] for label in rows]
    for label, row in zip(rows, values, strict=True):
        _line(axes, label, palette, list(range(len(row))), row, None)
    low, high = min(map(min, values)), max(map(max, values))
    margin = 0.06 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)
    _name_lines(axes, rows, palette, [row[-1] for row in values], (low - margin / 2, high + margin / 2))
    axes.set_xticks(
        range(len(reading["buckets"])), [positions(*bucket).replace(" to ", "\nto ") for bucket in reading["buckets"]]
    )
    axes.set_xlabel("bytes of the file read so far")
    if title:
        files = f" (mean of {len(reading['files'])} files)" if present(reading, "files") else ""
        axes.set_title(f"Bits per byte of an unseen file, lower is better{files}", loc="left", fontsize=FONT_SIZE + 1)


_DRAW = {"digits": draw_week, "reading": draw_reading}


def _rows(results: Results, scene: str) -> list[Label]:
    if scene == "digits":
        return [label for label in METHODS if present(results, f"digits.{label.key}.after_day")]
    return [label for label in READERS if present(results, f"reading.{label.key}")]


def _line(
    axes: Axes, label: Label, palette: Palette, x: Sequence[float], y: Sequence[float], spread: Sequence[float] | None
) -> None:
    loud = label.key in LOUD
    axes.errorbar(
        x,
        y,
        yerr=spread,
        color=palette[label.colour],
        linestyle=label.dash,
        marker=label.marker,
        markersize=4 if loud else 3,
        linewidth=1.8 if loud else 1.0,
        elinewidth=0.8,
        capsize=1.5,
        zorder=3 if loud else 2,
    )


def _name_lines(
    axes: Axes, rows: Sequence[Label], palette: Palette, ends: Sequence[float], limits: tuple[float, float]
) -> None:
    """Write each line's name at its right end, pushed apart where two would touch."""
    low, high = limits
    places = spread_out(ends, (high - low) / 18, low, high)
    for label, end, place in zip(rows, ends, places, strict=True):
        axes.annotate(
            label.name,
            xy=(1, end),
            xytext=(1.05, place),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            va="center",
            color=palette[label.colour],
            fontweight="bold" if label.key in LOUD else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": palette["grey"], "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def spread_out(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move numbers as little as possible until neighbours differ by `gap`, keeping their order.

    Args:
        values: where the labels would like to be.
        gap: the least distance between two of them.
        low, high: they stay within these while there is room; without room they start at `low`.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    # pool neighbours that are too close: each pool sits at the mean of what its members want
    pools: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        wish, size = values[i] - rank * gap, 1
        while pools and pools[-1][0] > wish:
            other, others = pools.pop()
            wish, size = (wish * size + other * others) / (size + others), size + others
        pools.append((wish, size))
    flat = [max(low, min(wish, high - (len(values) - 1) * gap)) for wish, size in pools for _ in range(size)]
    placed = [0.0] * len(values)
    for rank, i in enumerate(order):
        placed[i] = flat[rank] + rank * gap
    return placed


def _style(palette: Palette) -> Any:
    return {
        "font.size": FONT_SIZE,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": palette.grid,
        "axes.edgecolor": palette.grey,
        "axes.labelcolor": palette.muted,
        "axes.titlecolor": palette.ink,
        "text.color": palette.ink,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
    }
