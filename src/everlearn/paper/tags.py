"""Where an equation of a paper lives in the code: the tags in brackets that docstrings carry.

A tag is the paper's short name, then kinds and numbers, as `_FORMS` below shows; "ours; " before it marks a step that
the paper only suggests. NL is arXiv 2512.24695 and its numbering, Titans arXiv 2501.00663, Miras arXiv 2504.13173.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAPERS = ("NL", "Titans", "Miras")
KINDS = ("eq", "alg", "def", "sec", "fig", "tab")

_BRACKET = re.compile(rf"\[(?:ours; )?({'|'.join(PAPERS)})\b([^\]]*)\]")
_BEGINS = ("[ours;", *(f"[{paper}" for paper in PAPERS))
_ITEM = re.compile(rf"(?:({'|'.join(KINDS)})\. )?(\d+(?:\.\d+)*)(?:-(\d+))?")
_FORMS = "[NL eq. 71], [NL eq. 64-65, 92], [NL def. 2, eq. 71]"


@dataclass(frozen=True, order=True)
class Tag:
    """One numbered object of a paper, and the docstring that names it.

    Args:
        label: the object, such as "NL eq. 71".
        path: the file.
        line: where the module, class or function begins.
        name: its name; of a method, with its class.
    """

    label: str
    path: Path
    line: int
    name: str


def labels(text: str) -> list[str]:
    """Read every tag of a docstring; a range names each of its numbers.

    Args:
        text: any text; what stands outside brackets that begin with the short name of a paper is ignored.
    Raises:
        ValueError: a bracket begins like a tag and is none.
    """
    found = []
    for paper, body in _BRACKET.findall(" ".join(text.split())):
        kind = None
        for item in body.split(","):
            match = _ITEM.fullmatch(item.strip())
            kind = match[1] or kind if match else None
            if match is None or kind is None:
                raise ValueError(f"tag [{paper}{body}] does not parse at {item.strip()!r}; write it like {_FORMS}")
            numbers = [match[2]] if match[3] is None else _span(f"[{paper}{body}]", match[2], match[3])
            found += [f"{paper} {kind}. {number}" for number in numbers]
    return found


def scan(root: Path) -> list[Tag]:
    """Collect the tags of every docstring under a folder of Python files, sorted.

    Args:
        root: the folder; in each file the docstrings of the module, its classes and its functions count.
    Raises:
        ValueError: a tag does not parse; the message names the file and the line.
    """
    found = set()
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        # parsing is what costs time, and most files carry no tag
        if not any(begin in source for begin in _BEGINS) or not _BRACKET.search(" ".join(source.split())):
            continue
        for name, node in _documented(ast.parse(source), ""):
            line = 1 if isinstance(node, ast.Module) else node.lineno
            try:
                tags = labels(ast.get_docstring(node) or "")
            except ValueError as error:
                raise ValueError(f"{path}:{line}: {error}") from error
            found |= {Tag(label, path, line, name or path.stem) for label in tags}
    return sorted(found)


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Walk everything that may carry a docstring, with its dotted name inside the module."""
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child, f"{name}.{child.name}".lstrip("."))


def _span(tag: str, first: str, last: str) -> list[str]:
    """Write out a range of whole numbers that counts up."""
    if not first.isdigit() or int(first) >= int(last):
        raise ValueError(f"tag {tag} has the range {first}-{last}, which does not count up; write it like {_FORMS}")
    return [str(number) for number in range(int(first), int(last) + 1)]
