"""The description of a model as a drawing: levels from fast to slow, and what passes between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from everlearn.levels.table import size, state, summary

if TYPE_CHECKING:
    from everlearn.levels.component import Component
    from everlearn.levels.system import NestedLevel, NestedSystem

FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
INK, FAINT, PAPER = "#1f2933", "#5f6c7b", "#ffffff"
FLOWS = {
    "context": ("#1d6fa5", "context flow: what a level compresses"),
    "conditioning": ("#7a8794", "conditioning: parameters make what a memory stores"),
    "start": ("#2f855a", "start: a memory begins as its parameters"),
    "gradient": ("#c05621", "gradient: into the optimizer's memory"),
    "step": ("#97266d", "step: back to the parameters"),
}
MARGIN, GAP, PAD, LINE, HEAD, LANE = 24, 12, 12, 16, 28, 16
NARROWEST = 700
UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Box:
    """A component at its place, in pixels."""

    component: Component
    lines: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Band:
    """A level at its place, in pixels."""

    level: NestedLevel
    boxes: tuple[Box, ...]
    inputs: tuple[str, ...]
    y: float
    height: float


@dataclass(frozen=True)
class Lane:
    """One arrow beside the bands, from a level to another; the components that it stands for are its tooltip."""

    kind: str
    source: int
    target: int
    about: str


def draw(system: NestedSystem) -> str:
    """Draw a nested system as SVG.

    Each level is a band, the fastest on top; its boxes are the components, with parameters and state. Arrows from the
    left are context flows; arrows on the right are knowledge that passes between levels, one for each kind and pair of
    levels, and the components behind an arrow stand in its tooltip.

    Args:
        system: what `describe` returned.
    """
    inputs = [text for level in system.levels for text in _inputs(level)]
    left = MARGIN + max(map(_width, inputs), default=0.0) + 40
    widest = max((_width(line) for c in system.components for line in _lines(c, system.context)), default=0.0)
    heading = [
        _width(f"level {v.number}: {v.title}", 13) + _width(_total(v, system.context)) + 40 for v in system.levels
    ]
    breadth = max(NARROWEST, widest + 4 * PAD, *heading) if heading else NARROWEST
    lanes = _lanes(system)
    bands = _bands(system, left, breadth, lanes)
    title, about = _title(system)
    width = max(left + breadth + (len(lanes) + 1) * LANE + MARGIN, 2 * MARGIN + max(_width(about), _width(title, 18)))
    bottom = bands[-1].y + bands[-1].height if bands else 80
    kinds = [kind for kind in FLOWS if kind == "context" or any(lane.kind == kind for lane in lanes)]
    height = bottom + 2 * MARGIN + 20 * len(kinds)
    svg = ET.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
    )
    svg.set("font-family", FONT)
    ET.SubElement(svg, "title").text = title
    ET.SubElement(svg, "desc").text = summary(system)
    _heads(svg)
    _rectangle(svg, 0, 0, width, height, PAPER, PAPER, 0)
    _text(svg, MARGIN, 34, title, 18, weight="bold")
    _text(svg, MARGIN, 56, about, 12, FAINT)
    for i, band in enumerate(bands):
        _draw_band(svg, band, left, breadth, _tint(i, len(bands)), system.context)
    _draw_lanes(svg, lanes, bands, left + breadth)
    _legend(svg, kinds, bottom + MARGIN + 12)
    ET.indent(svg)
    # a name may hold characters that no XML document may
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", ET.tostring(svg, encoding="unicode")) + "\n"


def _title(system: NestedSystem) -> tuple[str, str]:
    """Return the heading and the line below it."""
    name, _, about = summary(system).partition(": ")
    return name, about


def _lines(component: Component, context: int) -> tuple[str, ...]:
    """Return the lines of a component's box."""
    held = (
        f"state {state(component, context)}"
        if component.is_memory
        else f"{component.parameters:,} parameters, {size(component.parameter_bytes)}"
    )
    how = (component.rule,) if component.is_memory or component.rule == "frozen" else ()
    return component.name, component.kind, held, *how


def _head(level: NestedLevel) -> str:
    return f"level {level.number}: {level.title}"


def _inputs(level: NestedLevel) -> list[str]:
    return list(dict.fromkeys(component.context_flow for component in level.components))


def _total(level: NestedLevel, context: int) -> str:
    """Return what a level holds in all."""
    parts = [f"{level.parameters:,} parameters"] if level.parameters else []
    return ", ".join(parts + ([f"state {size(level.held(context))}"] if level.held(context) else []))


def _bands(system: NestedSystem, left: float, breadth: float, lanes: list[Lane]) -> list[Band]:
    """Place the levels below each other and the boxes of each in rows."""
    bands: list[Band] = []
    y = 76.0
    for level in system.levels:
        boxes: list[Box] = []
        x, top, tallest = left + PAD, y + HEAD, 0
        for component in level.components:
            lines = _lines(component, system.context)
            width, height = max(map(_width, lines)) + 2 * PAD, len(lines) * LINE + PAD
            if boxes and x + width > left + breadth - PAD:
                x, top, tallest = left + PAD, top + tallest + GAP, 0
            boxes.append(Box(component, lines, x, top, width, height))
            x, tallest = x + width + GAP, max(tallest, height)
        ends = sum((lane.source == level.number) + (lane.target == level.number) for lane in lanes)
        depth = max(top + tallest + PAD - y, HEAD + 12 * ends, HEAD + LINE * len(_inputs(level)))
        bands.append(Band(level, tuple(boxes), tuple(_inputs(level)), y, depth))
        y += depth + 14
    return bands


def _lanes(system: NestedSystem) -> list[Lane]:
    """Put the flows between the same two levels into one arrow; short ones run inside long ones."""
    level = {component.name: component.level for component in system.components}
    about: dict[tuple[str, int, int], list[str]] = {}
    for flow in system.flows():
        ends = level[flow.source], level[flow.target]
        if ends[0] != ends[1]:
            about.setdefault((flow.kind, *ends), []).append(f"{flow.source} -> {flow.target}")
    lanes = [Lane(kind, source, target, "\n".join(pairs)) for (kind, source, target), pairs in about.items()]
    return sorted(lanes, key=lambda lane: (abs(lane.source - lane.target), lane.source, lane.target, lane.kind))


def _draw_band(svg: ET.Element, band: Band, left: float, breadth: float, tint: str, context: int) -> None:
    """Draw a level: its heading, its boxes, and what flows into it from the left."""
    _rectangle(svg, left, band.y, breadth, band.height, tint, "#d5dce3", 6)
    _text(svg, left + PAD, band.y + 19, _head(band.level), 13, weight="bold")
    _text(svg, left + breadth - PAD, band.y + 19, _total(band.level, context), 12, FAINT, anchor="end")
    for box in band.boxes:
        edge = FLOWS["context"][0] if box.component.is_memory else "#b6c0ca"
        _rectangle(svg, box.x, box.y, box.width, box.height, PAPER, edge, 4)
        for i, line in enumerate(box.lines):
            weight, colour = ("bold", INK) if i == 0 else ("normal", FAINT)
            _text(svg, box.x + PAD, box.y + LINE * (i + 1), line, 12, colour, weight=weight)
    first = band.y + (band.height - LINE * (len(band.inputs) - 1)) / 2
    for i, text in enumerate(band.inputs):
        y = first + LINE * i
        _text(svg, left - 40, y + 4, text, 12, FLOWS["context"][0], anchor="end")
        _arrow(svg, f"M {left - 34:.1f} {y:.1f} H {left - 6:.1f}", "context")


def _draw_lanes(svg: ET.Element, lanes: list[Lane], bands: list[Band], right: float) -> None:
    """Draw the arrows between levels to the right of the bands, each at heights of its own."""
    counts = {band.level.number: 0 for band in bands}
    ends = {n: sum((lane.source == n) + (lane.target == n) for lane in lanes) for n in counts}
    by_number = {band.level.number: band for band in bands}

    def height(number: int) -> float:
        band = by_number[number]
        counts[number] += 1
        return band.y + band.height * counts[number] / (ends[number] + 1)

    for i, lane in enumerate(lanes):
        x, start, end = right + LANE * (i + 1), height(lane.source), height(lane.target)
        path = f"M {right:.1f} {start:.1f} H {x:.1f} V {end:.1f} H {right + 6:.1f}"
        ET.SubElement(_arrow(svg, path, lane.kind), "title").text = f"{lane.kind}\n{lane.about}"


def _legend(svg: ET.Element, kinds: list[str], y: float) -> None:
    for i, kind in enumerate(kinds):
        _arrow(svg, f"M {MARGIN} {y + 20 * i:.1f} h 30", kind)
        _text(svg, MARGIN + 44, y + 20 * i + 4, FLOWS[kind][1], 12, FAINT)


def _heads(svg: ET.Element) -> None:
    """Define an arrow head of each colour."""
    defs = ET.SubElement(svg, "defs")
    for kind, (colour, _) in FLOWS.items():
        marker = ET.SubElement(
            defs, "marker", id=kind, viewBox="0 0 8 8", refX="4", refY="4", markerWidth="7", markerHeight="7"
        )
        marker.set("orient", "auto")
        ET.SubElement(marker, "path", d="M 0 0 L 8 4 L 0 8 z", fill=colour)


def _arrow(svg: ET.Element, path: str, kind: str) -> ET.Element:
    line = ET.SubElement(svg, "path", d=path, fill="none", stroke=FLOWS[kind][0])
    line.set("stroke-width", "1.5")
    line.set("marker-end", f"url(#{kind})")
    return line


def _rectangle(
    svg: ET.Element, x: float, y: float, width: float, height: float, fill: str, stroke: str, radius: float
) -> None:
    corner = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    ET.SubElement(svg, "rect", corner, fill=fill, stroke=stroke, rx=f"{radius:g}")


def _text(
    svg: ET.Element,
    x: float,
    y: float,
    text: str,
    points: int,
    colour: str = INK,
    *,
    weight: str = "normal",
    anchor: str = "start",
) -> None:
    node = ET.SubElement(svg, "text", x=f"{x:.1f}", y=f"{y:.1f}", fill=colour)
    for name, value in (("font-size", str(points)), ("font-weight", weight), ("text-anchor", anchor)):
        node.set(name, value)
    node.text = text


def _width(text: str, points: int = 12) -> float:
    """Return a little more than the pixels that a text takes in bold DejaVu Sans, the widest font of the list."""
    return sum(map(_letter, text)) * points / 12


def _letter(letter: str) -> float:
    """Return the pixels of a letter at 12 px; five classes are enough for boxes that fit."""
    if letter in " .,:;|!'()[]-/ijlfrt_":
        return 6.1
    if letter in "mwMW%@":
        return 13.3
    return 10.6 if letter.isupper() or letter in "#+<=>^~&" else 8.7


def _tint(index: int, count: int) -> str:
    """Return a light colour, from warm for the fastest level to cool for the slowest."""
    share = index / max(1, count - 1)
    warm, cool = (254, 245, 231), (232, 241, 250)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(warm, cool, strict=True))
