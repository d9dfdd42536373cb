"""The demo's page: one HTML file that needs nothing else, and one picture beside it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from everlearn.continual.streams import DAYS
from everlearn.demo import sentences, week_sentences
from everlearn.demo.differences import Results, present
from everlearn.demo.labels import METHODS, READERS, Label
from everlearn.demo.phrases import positions
from everlearn.demo.picture import svg, write_picture
from everlearn.memory.files import atomic_write

# bits that reading saved (or cost) on one character, at which its shade gets stronger
SHADES = (0.5, 1.5, 4.0)
SCENES = ("digits", "reading")
FIRST_BYTES, LAST_BYTES = 3_000, 1_500


def write_page(results: Results, pictures: dict[str, Any], out_dir: Path | str) -> Path:
    """Write `index.html` and `picture.png` into a folder, which is made where it is missing.

    Args:
        results: what the demo measured (docs/guide/demo_json.md); a scene that is missing is left out.
        pictures: "digit" and "bytes", as described there; either may be missing.
        out_dir: the folder.
    Returns:
        the path of `index.html`.
    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_picture(results, folder / "picture.png")
    page = folder / "index.html"
    atomic_write(page, render(results, pictures).encode(), private=False)
    return page


def render(results: Results, pictures: dict[str, Any]) -> str:
    """Return the page as one string of HTML; text from the results is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["unbroken"] = unbroken
    charts = {scene: Markup(drawing) if (drawing := svg(results, scene)) else None for scene in SCENES}
    return environment.get_template("page.html.j2").render(
        results=results,
        charts=charts,
        digit=answer_grid(pictures["digit"]) if pictures.get("digit") else None,
        shaded=shaded_text(pictures["bytes"]) if pictures.get("bytes") else None,
        week=week_table(results.get("digits") or {}),
        reading=reading_table(results.get("reading") or {}),
        plug=plug_facts(results),
        days=DAYS,
        say=sentences,
        say_week=week_sentences,
        positions=positions,
        present=present,
    )


def unbroken(text: str) -> str:
    """Keep every number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|[KM]B\b)", "\N{NO-BREAK SPACE}", text)


@dataclass(frozen=True)
class Row:
    """One line of a table; a cell is a number and its spread, as text, empty where nothing was measured."""

    name: str
    plain: str
    cells: list[tuple[str, str]]
    stores: str = ""
    images: str = ""


def week_table(digits: Results) -> list[tuple[str, list[Row]]]:
    """Return the first scene's rows in titled groups: Monday's digits after each day, all ten, what is stored."""
    groups = [
        ("", _week_rows(digits, plain=True)),
        ("The same on raw pixels", _week_rows(digits.get("raw_pixels", {}), plain=False)),
    ]
    return [(title, rows) for title, rows in groups if rows]


def _week_rows(methods: Results, plain: bool) -> list[Row]:
    """Return a row for each method that was measured, and one for all data at once on the same input."""
    rows = []
    for label in METHODS:
        if not present(methods, f"{label.key}.final"):
            continue
        row = methods[label.key]
        means = [*(row.get("after_day") or [None] * len(DAYS)), row["final"]]
        spread = [*(row.get("after_day_sd") or [None] * len(DAYS)), row.get("final_sd")]
        cells = [(_number(m, 100, 1), _number(s, 100, 1)) for m, s in zip(means, spread, strict=True)]
        stores = f"{row['stores_kb']:,.0f} KB" if present(row, "stores_kb") else ""
        images = ("yes" if row["stores_images"] else "no") if present(row, "stores_images") else ""
        rows.append(Row(label.name, label.plain if plain else "", cells, stores, images))
    if present(methods, "joint.final"):
        joint = methods["joint"]
        which = joint.get("which") or "trained once"
        explained = f"{which}, same features; a comparison, not a stream" if plain else which
        cells = [("", "")] * len(DAYS) + [(_number(joint["final"], 100, 1), _number(joint.get("final_sd"), 100, 1))]
        rows.append(Row("All data at once", explained, cells))
    return rows


def reading_table(reading: Results) -> list[Row]:
    """Return the second scene's rows: bits per byte in each bucket, with the spread over files."""
    rows = []
    for label in READERS:
        if reading.get(label.key):
            means = reading[label.key]
            spread = reading.get(f"{label.key}_sd") or [None] * len(means)
            cells = [(_number(m), _number(s)) for m, s in zip(means, spread, strict=True)]
            rows.append(Row(label.name, label.plain, cells))
    return rows


def plug_facts(results: Results) -> list[tuple[str, str]]:
    """Return the third scene's table: what was measured, and the value as text."""
    facts = []
    for path, fact in (
        ("restart.kills", "times killed"),
        ("restart.killed_at", "killed, the last time, at byte"),
        ("restart.resumed_at", "resumed at byte"),
        ("restart.lost_tokens", "bytes lost and read again"),
        ("restart.identical", "the rest identical, bit for bit"),
        ("rollback.identical", "the level that was rolled back identical, bit for bit"),
    ):
        if present(results, path):
            scene, key = path.split(".")
            value = results[scene][key]
            facts.append((fact, f"{value:,}" if key != "identical" else "yes" if value else "NO"))
    return facts


def _number(value: float | None, scale: float = 1, digits: int = 2) -> str:
    return f"{scale * value:.{digits}f}" if present({"value": value}, "value") and value is not None else ""


@dataclass(frozen=True)
class AnswerGrid:
    """One image as every method reads it each evening: `rows` holds, per method, (answer, right) for each day."""

    pixels: list[tuple[int, int, float]]
    label: int
    days: list[str]
    rows: list[tuple[Label, list[tuple[int, bool]]]]


def answer_grid(picture: Results) -> AnswerGrid:
    """Prepare the first picture; pixels become (column, row, darkness in [0, 1])."""
    pixels = [(i % 8, i // 8, value / 16) for i, value in enumerate(picture["pixels"]) if value > 0]
    answers = {label.key: picture["answers"].get(label.key) for label in METHODS}
    rows = [
        (label, [(int(answer), int(answer) == picture["label"]) for answer in answers[label.key]])
        for label in METHODS
        if answers[label.key]
    ]
    return AnswerGrid(pixels, picture["label"], picture["days"], rows)


@dataclass(frozen=True)
class ShadedText:
    """One file in one or two stretches, each with its title; a stretch is a list of (shade, text) runs."""

    name: str
    first_title: str
    first: list[tuple[str, str]]
    last_title: str
    last: list[tuple[str, str]]
    finding: str


def shaded_text(picture: Results) -> ShadedText:
    """Prepare the second picture: the beginning and the end of a file, characters grouped into runs of one shade."""
    data, saved = bytes(picture["text_bytes"]), picture["saved_bits"]
    whole = len(data) <= FIRST_BYTES + LAST_BYTES
    cut, resume = (len(data), len(data)) if whole else (FIRST_BYTES, len(data) - LAST_BYTES)
    return ShadedText(
        name=picture["name"],
        first_title=f"All {cut:,} bytes" if whole else f"The first {cut:,} bytes",
        first=runs(data[:cut], saved[:cut]),
        last_title=f"The last {LAST_BYTES:,}, after {resume - cut:,} bytes not shown",
        last=runs(data[resume:], saved[resume:]),
        finding=sentences.shading(picture),
    )


def runs(data: bytes, saved: Sequence[float]) -> list[tuple[str, str]]:
    """Merge neighbouring characters of one shade.

    Args:
        data: UTF-8 text; a broken byte shows as the replacement character.
        saved: bits saved on each byte, [len(data)]; the bytes of one character are added up.
    Returns:
        (shade, text): shade is "" for little change, "s1" to "s3" for saved, "c1" to "c3" for cost.
    """
    shaded = [(_shade(sum(saved[start:end])), text) for text, start, end in _characters(data)]
    return [(shade, "".join(text for _, text in group)) for shade, group in groupby(shaded, key=lambda pair: pair[0])]


def _characters(data: bytes) -> Iterator[tuple[str, int, int]]:
    decoder, start = codecs.getincrementaldecoder("utf-8")("replace"), 0
    for i in range(len(data)):
        text = decoder.decode(data[i : i + 1], final=i + 1 == len(data))
        if text:
            yield text, start, i + 1
            start = i + 1


def _shade(bits: float) -> str:
    strength = sum(abs(bits) >= edge for edge in SHADES)
    return f"{'s' if bits > 0 else 'c'}{strength}" if strength else ""
