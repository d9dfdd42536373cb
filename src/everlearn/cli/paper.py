"""Show where an equation lives: what it is, the code that is this equation, and the tests that hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from everlearn.cli.options import JsonTarget
from everlearn.cli.output import Output

if TYPE_CHECKING:
    from everlearn.paper import Found, Tag


@dataclass(frozen=True)
class Options:
    """Show where an equation of the paper lives: file, line and name in the code, then in the tests.

    A number is an equation of Nested Learning (arXiv 2512.24695): 71, 64-65, "alg 1", "def 2"; Titans 13 is one of
    arXiv 2501.00663. Words are looked for in the names: momentum. Without a word, everything is listed.
    """

    equation: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[EQUATION ...]")] = ()
    """a number, a range, several of them, or words"""
    json: JsonTarget = None


def run(options: Options) -> int:
    """Print a title for each equation and a line for each place."""
    from everlearn.paper import ask, look_up, merge, scan

    output = Output(options.json)
    wanted = ask(" ".join(options.equation))
    package = Path(__file__).parents[1]
    tests = tests_of(package)
    found = look_up(wanted, scan(package), scan(tests) if tests else [])
    output.say("\n".join(lines(merge(found))))
    output.finish(
        {
            "equations": [
                {"label": one.title, "name": one.name, "code": places(one.code), "tests": places(one.tests)}
                for one in found
            ]
        }
    )
    return 0


def lines(found: Sequence[Found]) -> list[str]:
    """Write each equation's title, then its places as `file:line name`, so that an editor can open them."""
    shown: list[str] = []
    listed = False  # whether places stand above, which an empty line sets off
    for one in found:
        shown += [""] if shown and (listed or one.code) else []
        shown.append(f"{one.title}: {one.name}" if one.code else f"{one.title} to come: {one.name}")
        shown += [f"{place['path']}:{place['line']} {place['name']}" for place in places(one.code + one.tests)]
        listed = bool(one.code + one.tests)
    return shown


def places(tags: Sequence[Tag]) -> list[dict[str, str | int]]:
    """Write tags as a JSON document does; a path below the current folder is relative to it."""
    here = Path.cwd()
    return [
        {
            "path": str(tag.path.relative_to(here) if tag.path.is_relative_to(here) else tag.path),
            "line": tag.line,
            "name": tag.name,
        }
        for tag in tags
    ]


def tests_of(package: Path) -> Path | None:
    """Return the folder of the tests beside a package, or None where it was installed without them."""
    tests = package.parents[1] / "tests"
    return tests if package.parent.name == "src" and tests.is_dir() else None
