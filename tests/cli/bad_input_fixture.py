"""Run a command that must fail in one line and change nothing, or one that must succeed."""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path

from everlearn.cli.main import main

TEXT = "def hello(world):\n    return world\n" * 3
LINE = '{"text": "a b", "label": "x"}\n'
OTHER = '{"text": "c d", "label": "y"}\n'


def snapshot() -> dict[str, str]:
    """Return every path below the working folder with its content; an empty lock says nothing."""
    found = {}
    for path in Path().rglob("*"):
        content = path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else str(path.lstat().st_mode).encode()
        if path.name != ".lock":
            found[str(path)] = hashlib.sha256(content).hexdigest()
    return found


def refused(capsys, *words: str, code: int = 2) -> str:
    """Run a command that must fail; return its one line."""
    before = snapshot()
    assert main(list(words)) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("everlearn: ")]
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    assert "EVERLEARN_DEBUG" not in lines[0]
    assert snapshot() == before
    return lines[0]


def taken(capsys, *words: str) -> str:
    """Run a command that must succeed; return what it printed."""
    assert main(list(words)) == 0
    return capsys.readouterr().out


def text_words(verb: str, *words: str) -> list[str]:
    return [verb, *words, "--state", "S", "--base", "base"]


def copy(made: Path, kind: str) -> Path:
    return Path(shutil.copytree(made / kind, "S"))
