"""The page of equations, on a small repository written here."""

import pytest

from everlearn.paper.index import Deviation, deviations, render

DEVIATIONS = """\
# Deviations

| what | here |
|---|---|
| Sum over the period [NL eq. 71] | a \\| b `levels/clock.py` |
| A name \\| with a bar | eq. 86 of [NL eq. 86] |
| The third alone [NL eq. 12] | `rules/momentum.py` |
| Not in the paper | `memory/precision.py` |
"""


@pytest.fixture
def root(tmp_path):
    for name, text in {
        "src/everlearn/gd.py": '"""Module."""\n\n\ndef gd():\n    """[NL eq. 1]"""\n',
        "src/everlearn/momentum.py": '"""[NL eq. 10-13]"""\n',
        "src/everlearn/cms.py": '"""Module.  [NL eq. 71]"""\n\n\nclass CMS:\n    """[NL eq. 71]"""\n',
        "tests/test_cms.py": '"""[NL eq. 71]"""\n',
        "docs/deviations.md": DEVIATIONS,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_row_links_the_files_and_names_what_carries_the_tag(root):
    rows = [line for line in render(root).splitlines() if line.startswith("| NL")]
    assert rows == [
        "| NL eq. 1 | gradient descent | [gd.py](../src/everlearn/gd.py): `gd` |  |  |",
        "| NL eq. 10-13 | momentum as a memory of gradients | [momentum.py](../src/everlearn/momentum.py) |  "
        "| The third alone |",
        "| NL eq. 71 | Continuum Memory System: when a level is updated, and by what "
        "| [cms.py](../src/everlearn/cms.py): `CMS` | [test_cms.py](../tests/test_cms.py) | Sum over the period |",
    ]


def test_what_has_no_code_is_listed_as_to_come(root):
    _, _, to_come = render(root).partition("## To come\n\n")
    assert "- NL eq. 33: momentum as a memory of gradients\n- NL eq. 42-44: Muon: " in to_come
    assert "NL eq. 71" not in to_come


def test_a_deviation_is_known_by_its_first_cell_and_every_equation_of_its_row():
    assert deviations(DEVIATIONS) == [
        Deviation("Sum over the period", frozenset({"NL eq. 71"})),
        Deviation("A name \\| with a bar", frozenset({"NL eq. 86"})),
        Deviation("The third alone", frozenset({"NL eq. 12"})),
    ]
