"""The page is read back as a browser would: its text, its runs, its requests."""

import html
import io
import os
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from demo_fixture import pictures, results
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from everlearn.cli.main import parse
from everlearn.demo.page import answer_grid, render, runs, shaded_text, unbroken, write_page
from everlearn.demo.summary import summary_table

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Balanced(HTMLParser):
    """Collect the text, and fail on a tag that does not close what is open."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read(page):
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return " ".join("".join(parser.text).split())


@pytest.fixture(scope="module")
def page():
    return render(results(), pictures())


def test_the_page_leads_with_the_pictures_and_ends_with_the_next_command(page):
    text = read(page)
    order = [
        "One image from Monday",
        "Ada's file, package/buffer.py",
        "1. A week",
        "2. Ada and Bob",
        "3. Pull the plug",
    ]
    order += ["What this does not show", "everlearn learn PATH --state DIR"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_it_makes_no_request_and_holds_every_variable_it_uses(page):
    # names of XML vocabularies are not fetched; everything else would be
    addresses = set(re.findall(r'(?:https?:)?//[^\s"\'<>)]+', page)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert addresses == set()
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", page)
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used <= set(re.findall(r"(--[\w-]+):", page))


def test_ids_are_unique_and_every_reference_resolves(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {(i, "") for i in ids} | {("", i) for i in ids}


def test_every_sentence_stands_on_the_page_once(page):
    text = read(page)
    for start in (
        "Over the week,",
        "At bytes 4,096 to 8,192",
        "The paper's own part, the CMS, ends",
        "The level of the CMS that moved most",
        "Room: precision memory stores",
        "Damage beside gain",
        "Part of that difference is by design",
        "Damage: with the",
    ):
        assert text.count(start) == 1


def test_reversed_numbers_reverse_the_page(page):
    new = results()
    reading = new["reading"]
    for table in (reading, reading["per_file"]):
        table["frozen"], table["learning"] = table["learning"], table["frozen"]
    new["digits"]["cms"], new["digits"]["precision"] = new["digits"]["precision"], new["digits"]["cms"]
    new["restart"]["identical"] = False
    reversed_text, text = read(render(new, pictures())), read(page)
    for before, after in (
        ("learning saves 0.53, or 18 %", "learning costs 0.53, or 22 % more"),
        ("ends the week with 24.3 %", "ends the week with 96.7 %"),
        ("that is bit-identical to a run", "that is not the same as a run"),
    ):
        assert before in text and before not in reversed_text
        assert after in reversed_text and after not in text


def test_files_of_the_users_own_were_not_chosen_by_us(page):
    own = results()
    own["reading"]["own_text"] = True
    assert "chosen by a fixed hash" in page and "chosen by a fixed hash" not in render(own, pictures())


def test_a_number_stays_with_its_unit(page):
    assert unbroken("5.0 % of 67 KB, not 3 bytes") == "5.0\xa0% of 67\xa0KB, not 3 bytes"
    assert "19.6\xa0%" in page and "19.6 %" not in page


def test_the_table_names_its_columns_by_first_and_last_byte(page):
    columns = re.findall(r'<th scope="col">([\d,]+ to [\d,]+)</th>', page)
    assert columns == ["1 to 255", "256 to 1,023", "1,024 to 2,047", "2,048 to 4,095", "4,096 to 8,192"]


def test_the_next_commands_exist_with_these_options(page):
    shown = [html.unescape(line).split() for line in re.findall(r'<pre class="command">(.*?)</pre>', page)]
    assert [command[:2] for command in shown] == [["everlearn", "learn"], ["everlearn", "demo"]]
    learn, _ = parse("learn", shown[0][2:])
    assert (str(learn.path), str(learn.state)) == ("PATH", "DIR")
    # the words around the second command name one more option
    demo, _ = parse("demo", [*shown[1][2:], "--out", "DIR"])
    assert ([str(path) for path in demo.text], str(demo.out)) == (["FILE", "FILE"], "DIR")
    assert "<code>--out DIR</code>" in page


def test_a_full_disk_leaves_the_old_page_whole(tmp_path, monkeypatch):
    write_page(results(), pictures(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"index.html", "picture.png"}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_page({"reading": results()["reading"]}, {}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("scene", ["digits", "reading", "restart", "rollback"])
def test_one_scene_alone_makes_a_page(tmp_path, scene):
    path = write_page({scene: results()[scene]}, {}, tmp_path)
    text = read(path.read_text(encoding="utf-8"))
    headings = {"digits": "1. A week", "reading": "2. Ada", "restart": "3. Pull", "rollback": "3. Pull"}
    assert {title for title in ("1. A week", "2. Ada", "3. Pull") if title in text} == {headings[scene]}
    assert (tmp_path / "picture.png").exists() == (scene in ("digits", "reading"))


def test_nothing_measured_still_makes_a_page():
    assert "What this does not show" in read(render({}, {}))
    broken = {"digits": {"cms": {"final": None, "after_day": None}}, "reading": {"frozen": None, "buckets": []}}
    assert "What this does not show" in read(render(broken, {}))


def test_a_single_run_has_no_spread_to_show():
    new = results()
    for row in new["digits"].values():
        if isinstance(row, dict):
            row |= {"final_sd": None, "after_day_sd": None}
    assert "(one run, spread unknown)" in read(render(new, pictures()))


def test_names_and_text_from_outside_are_escaped():
    evil = "<script>alert(1)</script>&"
    new, shown = results(), pictures()
    new["reading"]["files"] = [evil]
    new["digits"]["joint"]["which"] = evil
    data = evil.encode()
    shown["bytes"] = {"name": evil, "text_bytes": list(data), "saved_bits": [0.0] * len(data)}
    page = render(new, shown)
    assert "<script" not in page
    assert page.count(html.escape(evil, quote=False)) >= 3


def test_wrong_answers_differ_by_more_than_colour():
    grid = answer_grid(pictures()["digit"])
    rows = {label.key: answers for label, answers in grid.rows}
    assert rows["fine_tune"] == [(0, True), (3, False), (5, False), (7, False), (9, False)]
    page = render({}, {"digit": pictures()["digit"]})
    # eight methods on five evenings; each answer says right or wrong to those who cannot see its colour
    assert page.count('<span class="hidden">right</span>') == 23
    assert page.count('<span class="hidden">wrong</span>') == 17


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.floats(-9, 9)), max_size=40))
def test_runs_keep_the_text_and_never_repeat_a_shade(pairs):
    data, saved = bytes(b for b, _ in pairs), [s for _, s in pairs]
    merged = runs(data, saved)
    assert "".join(text for _, text in merged) == data.decode("utf-8", "replace")
    assert all(a != b for (a, _), (b, _) in pairwise(merged))


def test_shades_by_hand():
    # the dash is three bytes, which saved 0.6 bits each: 1.8 together
    data = "ab—cde".encode()
    saved = [0.4, -0.5, 0.6, 0.6, 0.6, 4.0, -2.0, -7.0]
    assert runs(data, saved) == [("", "a"), ("c1", "b"), ("s2", "—"), ("s3", "c"), ("c2", "d"), ("c3", "e")]


def test_a_long_file_shows_both_ends_and_says_what_lies_between():
    shown = shaded_text(pictures()["bytes"])
    first, last = ("".join(text for _, text in part) for part in (shown.first, shown.last))
    assert (len(first.encode()), len(last.encode())) == (3_000, 1_500)
    assert (shown.first_title, shown.last_title) == (
        "The first 3,000 bytes",
        "The last 1,500, after 3,692 bytes not shown",
    )
    short = shaded_text({"name": "a", "text_bytes": [65] * 100, "saved_bits": [0.0] * 100})
    assert (short.last, short.first_title) == ([], "All 100 bytes")


def test_the_terminal_gets_one_table():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(results()))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "Monday's digits Mon evening Fri evening all ten, Fri stores" in lines
    assert "Precision memory 99.9 % 97.8 % 96.7 ± 0.5 % 4,120 KB" in lines
    assert "Bits per byte at 1 to 255 4,096 to 8,192 spread, last" in lines
    assert "Learning 3.78 2.41 ± 0.31" in lines
    assert "Text it knew before 2.610 after 2.650 +0.040" in lines
    assert "the same, one rate before 2.610 after 2.920 +0.310" in lines
    assert "Fine-tuning, masked 99.1 % 71.0 % 81.2 ± 2.1 % 3 KB" in lines
    assert "Rolled back identical" in lines
    assert summary_table({}).row_count == 0
