"""The drawing: nothing overlaps, every label fits, and every component and flow is there."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch import nn

from everlearn.levels import Level, NestedSystem, describe
from everlearn.models import Decoder, preset

SVG = "{http://www.w3.org/2000/svg}"
LEVELS = [Level("fast", 64), Level("mid", 256), Level("slow", 1024), Level("last", "session")]


def adamw(model: nn.Module) -> NestedSystem:
    return describe(model, torch.optim.AdamW(model.parameters()))


def long_names() -> nn.Module:
    inner = nn.ModuleDict({f"WWWWWWWW_mmmmmmmm_{n}": nn.LayerNorm(2) for n in range(9)})
    return nn.ModuleDict({"a_name_that_is_longer_than_most": nn.ModuleList([inner, nn.LSTM(2, 3)])})


SYSTEMS = {
    "delta_net": lambda: adamw(Decoder(preset("delta_net", levels=LEVELS))),
    "transformer++": lambda: adamw(Decoder(preset("transformer++"))),
    "frozen": lambda: describe(Decoder(preset("delta_net"))),
    "long names": lambda: adamw(long_names()),
    "no level": lambda: describe(nn.ReLU()),
}


@pytest.fixture(params=SYSTEMS)
def system(request) -> NestedSystem:
    return SYSTEMS[request.param]()


def rectangles(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Return (left, top, right, bottom) of every rectangle; the first is the page."""
    found = []
    for node in root.iter(f"{SVG}rect"):
        x, y, width, height = (float(node.get(name)) for name in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a, b) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def labels(root: ET.Element) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return every label with its place, measured by another library in the widest font of the list."""
    found = []
    for node in root.iter(f"{SVG}text"):
        size, anchor = float(node.get("font-size")), node.get("text-anchor")
        font = FontProperties(family="DejaVu Sans", weight=node.get("font-weight"), size=size)
        width = TextPath((0, 0), node.text, prop=font).get_extents().width
        x, y = float(node.get("x")), float(node.get("y"))
        left = x - width if anchor == "end" else x
        found.append((node.text, (left, y - size * 0.75, left + width, y + size * 0.25)))
    return found


def test_boxes_lie_in_their_bands_and_nothing_overlaps(system):
    root = ET.fromstring(system.svg())
    page, *others = rectangles(root)
    bands = [r for r in others if not any(r is not other and inside(r, other) for other in others)]
    boxes = [r for r in others if r not in bands]
    assert len(bands) == system.depth and len(boxes) == len(system.components)
    assert all(inside(r, page) for r in others)
    assert not any(overlap(a, b) for group in (bands, boxes) for a, b in combinations(group, 2))


def test_every_label_fits_and_covers_no_other(system):
    root = ET.fromstring(system.svg())
    page, *others = rectangles(root)
    found = labels(root)
    for text, place in found:
        assert inside(place, page), text
        for rectangle in others:
            assert inside(place, rectangle) or not overlap(place, rectangle) or inside(rectangle, place), text
    for (one, a), (two, b) in combinations(found, 2):
        assert not overlap(a, b), (one, two)


def test_every_component_and_every_flow_between_levels_is_drawn(system):
    root = ET.fromstring(system.svg())
    texts = [node.text for node in root.iter(f"{SVG}text")]
    for component in system.components:
        assert component.name in texts and component.kind in texts
    for level in system.levels:
        assert f"level {level.number}: {level.title}" in texts
    drawn = set()
    for node in root.iter(f"{SVG}path"):
        if (about := node.find(f"{SVG}title")) is not None:
            kind, *pairs = about.text.splitlines()
            drawn |= {(kind, *pair.split(" -> ")) for pair in pairs}
    assert drawn == {(flow.kind, flow.source, flow.target) for flow in system.flows()}


def test_arrows_run_beside_the_bands_and_end_at_their_level():
    system = SYSTEMS["delta_net"]()
    root = ET.fromstring(system.svg())
    _, *others = rectangles(root)
    bands = [r for r in others if not any(r is not other and inside(r, other) for other in others)]
    level = {component.name: component.level for component in system.components}
    lanes = set()
    for node in root.iter(f"{SVG}path"):
        if (about := node.find(f"{SVG}title")) is None:
            continue
        x, start, lane, end = map(float, re.match(r"M (\S+) (\S+) H (\S+) V (\S+)", node.get("d")).groups())
        source, target = about.text.splitlines()[1].split(" -> ")
        for name, y in ((source, start), (target, end)):
            _, top, right, bottom = bands[level[name] - 1]
            assert top < y < bottom and right == pytest.approx(x)
        assert lane > x and lane not in lanes
        lanes.add(lane)
    assert len(lanes) == 7  # four starts, conditioning of the first level, gradient and step


def test_text_is_escaped():
    model = nn.ModuleDict({"a<b&c": nn.Linear(1, 1)})
    assert "a&lt;b&amp;c" in describe(model).svg()


def test_a_name_may_hold_what_xml_may_not():
    model = nn.ModuleDict({"a\x01b\x1b": nn.Linear(2, 3)})
    drawn = describe(model).svg()
    ET.fromstring(drawn)
    assert "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}" in drawn
