import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from demo_fixture import results
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from everlearn.demo.picture import Palette, draw_reading, draw_week, spread_out, svg, write_picture


def series(draw, numbers):
    axes = Figure().subplots()
    draw(axes, numbers, Palette(), title=True)
    return axes, [container.lines[0].get_ydata().tolist() for container in axes.containers]


def test_the_week_shows_the_numbers_and_their_spread():
    numbers = results()
    axes, lines = series(draw_week, numbers)
    assert lines[0] == pytest.approx([100 * share for share in numbers["digits"]["fine_tune"]["after_day"]])
    bars = axes.containers[0].lines[2][0].get_segments()
    spread = numbers["digits"]["fine_tune"]["after_day_sd"]
    assert [(top[1] - bottom[1]) / 200 for bottom, top in bars] == pytest.approx(spread)
    assert "5 seeds" in axes.get_title(loc="left")
    names = [text.get_text() for text in axes.texts]
    assert len(names) == 8 and {"CMS", "CMS, one rate", "Precision memory"} <= set(names)


def test_reading_shows_every_reader_by_position():
    numbers = results()
    axes, lines = series(draw_reading, numbers)
    assert lines[0] == numbers["reading"]["frozen"] and lines[-1] == numbers["reading"]["gzip"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        "1\nto 255",
        "256\nto 1,023",
        "1,024\nto 2,047",
        "2,048\nto 4,095",
        "4,096\nto 8,192",
    ]


def test_the_picture_has_a_panel_for_each_scene(tmp_path):
    both, one = tmp_path / "both.png", tmp_path / "one.png"
    assert write_picture(results(), both) and write_picture({"reading": results()["reading"]}, one)
    with Image.open(both) as wide, Image.open(one) as narrow:
        assert wide.width == 2 * narrow.width and wide.height == narrow.height
    assert not write_picture({}, tmp_path / "none.png") and not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("scene", ["digits", "reading"])
def test_the_drawing_is_valid_and_takes_its_colours_from_the_page(scene):
    drawing = svg(results(), scene)
    ElementTree.fromstring(drawing)
    assert "#0" not in drawing.replace('xlink:href="#', "").replace("url(#", "")
    assert {"var(--blue)", "var(--orange)", "var(--green)", "var(--muted)"} <= set(
        drawing.replace(";", '"').split('"')
    ) | {f"var(--{role})" for role in ("blue", "orange", "green", "muted") if f"var(--{role})" in drawing}
    assert svg(results(), scene) == drawing
    assert svg({}, scene) == ""


def test_labels_move_as_little_as_possible_by_hand():
    # two labels at one place part evenly; a far one stays where it is
    assert spread_out([5.0, 5.0, 20.0], 2.0, 0.0, 30.0) == [4.0, 6.0, 20.0]
    assert spread_out([0.0, 0.0], 2.0, 0.0, 30.0) == [0.0, 2.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_labels_never_touch_nor_change_their_order(values):
    placed = spread_out(values, 10.0, 0.0, 100.0)
    ranked = sorted(placed)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(ranked))
    assert min(placed) >= 0 and max(placed) <= 100 + 1e-9
    by_value = sorted(range(len(values)), key=lambda i: (values[i], placed[i]))
    assert [placed[i] for i in by_value] == ranked
