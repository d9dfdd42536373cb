"""What the documents say is there: links, files, commands, examples, equations; and what may not be written is not."""

from __future__ import annotations

import contextlib
import doctest
import functools
import importlib
import re
import shlex
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import everlearn
from everlearn.cli import docs as cli_docs
from everlearn.cli.main import VERBS, overview, parse
from everlearn.paper import EQUATIONS, Tag, index, labels, scan

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "everlearn"
TOP = ("src", "docs", "tests", "examples", "benchmarks", ".ci")

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(PACKAGE.rglob("*.md"))]
GUIDES = [path for path in DOCUMENTS if path == ROOT / "README.md" or ROOT / "docs" / "guide" in path.parents]
MODULES = sorted(PACKAGE.rglob("*.py"))

# what everlearn sets out to implement of the papers
WANTED = labels(
    "[NL eq. 6, 10-13, 33, 42-44, 46-52, 56-57, 64-68, 70-75, 83-88, 90-97, 101-105, 113-121, alg. 1] [Titans eq. 8-31]"
)
# what of it, and of the rest of the list in paper/equations.py, has no code yet: this may only shrink
TO_COME = ("[NL sec. 7.3]",)


@dataclass(frozen=True)
class Block:
    """One fenced block of a document; `skip` is the reason in an HTML comment `skip: ...` on the line before it."""

    line: int
    language: str
    text: str
    skip: str


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str) -> list[Block]:
    found, lines = [], text.splitlines()
    pattern = re.compile(r"(?:<!-- skip: (?P<skip>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
    for match in pattern.finditer("\n".join(lines) + "\n"):
        line = text[: match.start("text")].count("\n") + 1
        found.append(Block(line, match["language"], match["text"], match["skip"] or ""))
    return found


def prose(text: str) -> str:
    """Return the text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def missing_paths(path: Path) -> list[str]:
    """Return the paths in inline code that look like files of the project and are none."""
    bands = {child.name for child in PACKAGE.iterdir() if child.is_dir()}
    missing = []
    for word in inline_code(path.read_text(encoding="utf-8")):
        if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)+/?", word):
            continue
        first = word.split("/")[0]
        if first in TOP or (first in bands and word.endswith((".py", ".md"))):
            homes = (ROOT, path.parent, PACKAGE)
            missing += [] if any((home / word).exists() for home in homes) else [word]
    return missing


def commands(path: Path) -> list[str]:
    """Return every command line of ours that a document shows: in shell blocks, after `$ `, and in inline code."""
    text = path.read_text(encoding="utf-8")
    lines = inline_code(text)
    for block in blocks(text):
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.language in ("bash", "sh") or line.startswith("$ "):
                lines.append(line.removeprefix("$ "))
    ours = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\S*python3? -m |\S*/)?(everlearn|make)(?= |$)")
    return [line[ours.match(line).start(1) :] for line in map(str.strip, lines) if ours.match(line)]


@functools.cache
def help_of(verb: str) -> str:
    return parse(verb, ["--help"])[1]


@functools.cache
def tags_below(folder: Path) -> list[Tag]:
    return list(scan(folder))


def command_faults(line: str) -> list[str]:
    """Say what in a command line does not exist: its verb, one of its options, or a target of make."""
    program, *words = shlex.split(line, comments=True)
    if program == "make":
        targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
        named = [
            word for word in words if "=" not in word and not word.startswith(("-", ".")) and word not in ("&&", "|")
        ]
        return [f"make {word}" for word in named[:1] if word not in targets]
    if not words or words[0].startswith("<"):
        return []
    shown = overview() if words[0] not in VERBS else help_of(words[0])
    faults = [] if words[0] in VERBS or words[0].startswith("-") else [words[0]]
    options = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return faults + [name for name in options if not re.search(rf"{re.escape(name)}(?![\w-])", shown)]


def test_the_checks_themselves_see_what_is_wrong(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One page\n[a](#one-page) [b](#no) [c](no.md) [d](https://x.y)\n"
        "`src/no.py` `levels/no.py` `levels/clock.py`\n`everlearn fly` `everlearn --version` `make fly`\n"
        "```bash\nA=1 python -m everlearn doctor --jason \\\n x # --no\n```\n"
        "```text\n$ everlearn doctor --json -\neverlearn fly\n```\n"
        "<!-- skip: needs a GPU -->\n```python\n1 / 0\n```\n"
    )
    assert broken_links(page) == ["#no", "no.md"]
    assert missing_paths(page) == ["src/no.py", "levels/no.py"]
    assert [command_faults(line) for line in commands(page)] == [["fly"], [], ["make fly"], ["--jason"], []]
    assert blocks(page.read_text())[-1] == Block(15, "python", "1 / 0\n", "needs a GPU")


@pytest.mark.parametrize("path", DOCUMENTS, ids=short)
def test_every_link_leads_somewhere(path):
    assert broken_links(path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=short)
def test_every_file_that_is_named_exists(path):
    assert missing_paths(path) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=short)
def test_every_command_and_option_that_is_shown_exists(path):
    faults = {line: command_faults(line) for line in commands(path)}
    assert {line: wrong for line, wrong in faults.items() if wrong} == {}


@pytest.mark.parametrize("path", GUIDES, ids=short)
def test_every_python_block_runs(path, tmp_path, monkeypatch):
    """The blocks of one page run in order, in one namespace and an empty folder, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language == "python" and not block.skip:
            # the empty lines make a traceback name the line of the page
            exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), namespace)


def test_every_page_of_the_guide_is_in_its_index():
    index = ROOT / "docs" / "guide" / "README.md"
    linked = set(re.findall(r"\]\(([\w.\-]+\.md)\)", index.read_text(encoding="utf-8")))
    pages = {path.name for path in index.parent.glob("*.md")} - {index.name}
    assert linked >= pages, "link them in docs/guide/README.md"


def test_the_page_of_commands_is_what_the_commands_say():
    assert (ROOT / cli_docs.PAGE).read_text(encoding="utf-8") == cli_docs.render(), "run `make docs`"


def module_named(word: str) -> bool:
    """Tell whether a word names a module of ours: by its path, or dotted, where what follows may be a class."""
    if word.startswith("everlearn."):
        parts = word.split(".")[1:]
        return any((PACKAGE.joinpath(*parts[:n]).with_suffix(".py")).is_file() for n in range(1, len(parts) + 1))
    return "/" in word and any((home / word).exists() for home in (PACKAGE, ROOT))


def test_every_deviation_names_the_module_where_it_lives():
    page = ROOT / "docs" / "deviations.md"
    if not page.is_file():
        pytest.skip("docs/deviations.md is not written yet")
    rows = re.findall(r"^\|(?![\s:|-]+\|$).*\|$", page.read_text(encoding="utf-8"), re.M)
    for row in rows[1:]:
        assert any(map(module_named, re.findall(r"`([^`]+)`", row))), f"no module of ours in: {row}"


def test_a_module_is_recognised_by_path_and_by_name():
    assert all(map(module_named, ["levels/clock.py", "everlearn.levels.clock", "everlearn.levels.clock.Level"]))
    assert not any(map(module_named, ["levels/no.py", "everlearn.no", "clock", "eta"]))


def test_the_list_of_equations_holds_what_we_set_out_to_implement():
    assert set(WANTED) <= set(EQUATIONS), "name them in paper/equations.py"


def test_every_equation_of_the_list_has_code_or_is_to_come():
    tagged, to_come = {tag.label for tag in tags_below(PACKAGE)}, set(labels(" ".join(TO_COME)))
    assert to_come <= set(EQUATIONS)
    missing, written = set(EQUATIONS) - to_come - tagged, to_come & tagged
    assert not missing, "no docstring of src/everlearn carries their tags"
    assert not written, "they have code now: remove them from TO_COME"


def test_every_equation_in_the_code_is_on_the_list():
    unknown = {
        f"{tag.label} ({short(tag.path)}:{tag.line})" for tag in tags_below(PACKAGE) if tag.label not in EQUATIONS
    }
    assert not unknown, "say in paper/equations.py what they are"


def test_the_page_of_equations_is_what_the_tags_say():
    assert (ROOT / cli_docs.INDEX).read_text(encoding="utf-8") == index.render(ROOT), "run `make docs`"


def test_every_equation_in_the_code_is_mentioned_by_a_test():
    """A test mentions an equation by a tag in its docstring or in that of its class or module."""
    tested = {tag.label for tag in tags_below(ROOT / "tests")}
    untested = {f"{tag.label} ({short(tag.path)}:{tag.line})" for tag in tags_below(PACKAGE) if tag.label not in tested}
    assert not untested


@pytest.mark.parametrize("path", [p for p in MODULES if ">>> " in p.read_text(encoding="utf-8")], ids=short)
def test_the_examples_in_docstrings_run(path):
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def tracked_files() -> list[Path]:
    """Return the files under version control; those of the source archive where there is no repository."""
    names: list[str] = []
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, check=True
        )
        names = done.stdout.decode().splitlines()
    files = [ROOT / name for name in names] or [path for top in TOP for path in (ROOT / top).rglob("*")]
    return [path for path in files if path.is_file() and path != Path(__file__)]


FORBIDDEN = {
    "unfinished work": r"\b(TODO|FIXME|XXX)\b|NotImplementedError",
    "a path of one machine": r"(?<![\w.$}])/(work|home|root|Users|opt|mnt|var/lib)/",
    "a package host": r"pypi\.org|pythonhosted\.org|artifactory|extra-index-url|find-links",
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_file_contains(kind):
    pattern, found = re.compile(FORBIDDEN[kind]), []
    for path in tracked_files():
        with contextlib.suppress(UnicodeDecodeError):  # pictures and other binary files
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [f"{short(path)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if pattern.search(line)]
    assert not found, kind


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert everlearn.__version__ == version
    assert re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_direct_dependency_is_pinned_for_development():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[><=~\[ ]", requirement)[0].lower() for requirement in ranges}
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pins


def test_a_tag_in_prose_reads_like_a_tag_in_code():
    for path in DOCUMENTS:
        labels(prose(path.read_text(encoding="utf-8")).replace("](", "] ("))
