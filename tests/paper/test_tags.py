"""The scanner of equation tags."""

from pathlib import Path

import pytest

from everlearn.paper import Tag, labels, scan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One step.  [NL eq. 71]", ["NL eq. 71"]),
        ("[NL def. 2, eq. 71]", ["NL def. 2", "NL eq. 71"]),
        ("[NL eq. 10-12, 33]", ["NL eq. 10", "NL eq. 11", "NL eq. 12", "NL eq. 33"]),
        ("[NL sec. 7.3]", ["NL sec. 7.3"]),
        ("[ours; NL eq. 47, 68] and [ours]", ["NL eq. 47", "NL eq. 68"]),
        ("[Titans eq. 13-14] and\n    [NL eq.\n    5]", ["Titans eq. 13", "Titans eq. 14", "NL eq. 5"]),
        ("shapes [B, T, H, D], a list [1, 2] and [NLP]", []),
    ],
)
def test_a_tag_names_every_number(text, expected):
    assert labels(text) == expected


@pytest.mark.parametrize(
    "text", ["[NL 71]", "[NL eq 71]", "[NL eqs. 71]", "[NL eq. 71, alpha]", "[NL eq. 9-3]", "[NL eq. 9-9]", "[NL]"]
)
def test_a_broken_tag_is_an_error_that_shows_the_form(text):
    with pytest.raises(ValueError, match=r"\[NL eq. 71\]"):
        labels(text)


def test_scan_names_file_line_and_method(tmp_path: Path):
    file = tmp_path / "one.py"
    file.write_text(
        '"""Module.  [NL def. 2]"""\n\n\nclass A:\n    """Class."""\n\n    def f(self):\n        """F.  [NL eq. 7]"""\n'
    )
    assert scan(tmp_path) == [Tag("NL def. 2", file, 1, "one"), Tag("NL eq. 7", file, 7, "A.f")]


def test_scan_reads_a_tag_that_a_line_break_divides(tmp_path: Path):
    file = tmp_path / "one.py"
    file.write_text('"""A module that suggests more than it takes from the paper [ours;\nNL eq. 47]."""\n')
    assert scan(tmp_path) == [Tag("NL eq. 47", file, 1, "one")]


def test_scan_says_where_a_broken_tag_stands(tmp_path: Path):
    (tmp_path / "one.py").write_text('def f():\n    """F.  [NL 7]"""\n')
    with pytest.raises(ValueError, match=r"one\.py:1: tag \[NL 7\]"):
        scan(tmp_path)
