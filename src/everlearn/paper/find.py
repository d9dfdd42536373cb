"""Find equations: what a reader asks for, where it stands in the code, and which tests hold it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from everlearn.paper.equations import EQUATIONS, order
from everlearn.paper.tags import KINDS, PAPERS, Tag

_WORD = re.compile(
    rf"(?P<paper>{'|'.join(PAPERS)})\b"
    rf"|(?P<kind>{'|'.join(KINDS)})[a-z]*\.?"
    r"|(?P<first>\d{1,9}(?:\.\d{1,9})*)(?:\s*-\s*(?P<last>\d{1,9}))?(?![\w-])"
    r"|and\b|[,;]",
    re.IGNORECASE,
)
_FORMS = "a number (71), a range (64-65), 'alg 1', 'def 2', 'Titans 13', or a word such as momentum"


@dataclass(frozen=True)
class Found:
    """One equation of the list, or several that share everything else.

    Args:
        labels: such as ("NL eq. 64", "NL eq. 65"), in the order of the papers.
        name: what it is.
        code: the docstrings of the package that carry its tag; none where it is still to come.
        tests: the docstrings of tests that do.
    """

    labels: tuple[str, ...]
    name: str
    code: tuple[Tag, ...]
    tests: tuple[Tag, ...]

    @property
    def title(self) -> str:
        """Write the labels as a tag does, "NL eq. 10-13, 33"."""
        return join(self.labels)


def ask(text: str) -> list[str]:
    """Read what somebody asks for, and return the labels of the list that it means, in the order of the papers.

    A number is an equation of NL unless words before it say otherwise; a range means those of its numbers that are
    on the list; words that are no numbers are looked for in the names.

    Args:
        text: such as "71", "eq. 64-65, 92", "(71)", "alg 1", "Titans 13", "Titans", "momentum", or "" for all.
    Raises:
        ValueError: nothing on the list is meant; the message names what is near.
    Example:
        >>> ask("Titans 13-14")
        ['Titans eq. 13', 'Titans eq. 14']
    """
    # brackets carry no meaning here, and dashes come in every length
    rest = plain = re.sub(r"[\[\](){}]", " ", re.sub(r"\s*[‐-―−]\s*", "-", text)).strip()  # noqa: RUF001
    papers, kinds = {name.lower(): name for name in PAPERS}, {name.lower(): name for name in KINDS}
    found: set[str] = set()
    paper, kind = "", ""
    while rest:
        match = _WORD.match(rest)
        if match is None:
            return _named(text, plain.split())
        rest = rest[match.end() :].lstrip()
        if match["paper"]:
            paper, kind = papers[match["paper"].lower()], ""
        elif match["kind"]:
            kind = kinds[match["kind"].lower()]
        elif match["first"]:
            found |= _numbered(f"{paper or 'NL'} {kind or 'eq'}.", match["first"], match["last"])
    if not found and (paper or kind or not plain):  # a paper or a kind without a number means all of it
        found = {label for label in EQUATIONS if label.startswith(paper) and (not kind or f" {kind}. " in label)}
    return sorted(found, key=order) if found else _named(text, plain.split())


def look_up(wanted: Iterable[str], code: Sequence[Tag], tests: Sequence[Tag]) -> list[Found]:
    """Find each equation in the code and in the tests.

    Args:
        wanted: labels of the list.
        code: the tags of the package, from `scan`.
        tests: the tags of the tests; none where they are not at hand.
    """
    return [
        Found(
            (label,),
            EQUATIONS[label],
            tuple(tag for tag in code if tag.label == label),
            tuple(tag for tag in tests if tag.label == label),
        )
        for label in wanted
    ]


def merge(found: Iterable[Found]) -> list[Found]:
    """Put neighbours into one that have the same name and stand in the same places."""

    def everything_else(one: Found) -> tuple[object, ...]:
        places = [[(tag.path, tag.line, tag.name) for tag in tags] for tags in (one.code, one.tests)]
        return one.labels[0].rsplit(" ", 1)[0], one.name, places

    merged = []
    for _, group in groupby(found, key=everything_else):
        same = list(group)
        labels = tuple(label for one in same for label in one.labels)
        merged.append(Found(labels, same[0].name, same[0].code, same[0].tests))
    return merged


def join(labels: Sequence[str]) -> str:
    """Write labels of one paper and kind as one, with ranges.

    Example:
        >>> join(["NL eq. 10", "NL eq. 11", "NL eq. 12", "NL eq. 33"])
        'NL eq. 10-12, 33'
    """
    runs: list[list[str]] = []
    for number in (label.rsplit(" ", 1)[1] for label in labels):
        if runs and number.isdigit() and runs[-1][-1].isdigit() and int(number) == int(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    series = labels[0].rsplit(" ", 1)[0]
    return f"{series} " + ", ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _named(text: str, words: Sequence[str]) -> list[str]:
    """Return the labels of the equations whose label and name hold every word."""
    found = [
        label for label, name in EQUATIONS.items() if all(word.lower() in f"{label} {name}".lower() for word in words)
    ]
    if not found or not re.search(r"\w", text):
        raise ValueError(f"nothing on the list is called {text.strip()!r}; give {_FORMS}; see all: everlearn paper")
    return found


def _numbered(series: str, first: str, last: str | None) -> set[str]:
    """Return the labels of one number, or those of a range that are on the list."""
    asked = f"{series} {first}" + (f"-{last}" if last else "")
    begin, end = order(f"{series} {first}"), order(f"{series} {last or first}")
    if end < begin:
        raise ValueError(f"the range {asked} does not count up; write it like {series} 64-65")
    found = {label for label in EQUATIONS if label.startswith(f"{series} ") and begin <= order(label) <= end}
    if not found:
        raise ValueError(f"{asked} is not on the list of equations; {_near(series, first)}; see all: everlearn paper")
    return found


def _near(series: str, number: str) -> str:
    """Name the equations of the list on both sides of a number, or what the list has instead."""
    same = [label for label in EQUATIONS if label.startswith(f"{series} ")]
    if not same:
        return f"it has {', '.join(dict.fromkeys(label.rsplit(' ', 1)[0] for label in EQUATIONS))}"
    here = order(f"{series} {number}")
    others = [x for x in EQUATIONS if x.startswith(f"{series.split()[0]} ") and x.split()[-1] == number]
    if others:  # the same number of another kind, such as a section
        return f"it has {', '.join(others)}"
    below, above = [x for x in same if order(x) < here], [x for x in same if order(x) > here]
    return f"the nearest on it: {', '.join(below[-1:] + above[:1])}"
