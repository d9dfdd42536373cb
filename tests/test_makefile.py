"""What make does before there is an environment: one clear line for a wrong Python, and no half-made stamp."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # make hands its own flags to what it starts, and this test may have been started by make
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *words], cwd=clone, env=env, capture_output=True, text=True)


def test_a_missing_python_is_named(clone):
    done = make(clone, "demo", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert done.stderr.startswith("There is no 'no-such-python'; name a Python 3.11 or newer")


def test_an_old_python_is_refused(clone):
    """The check runs on a real interpreter that is told to be 3.10."""
    disguise = 'import sys; sys.version_info = (3, 10, 4); sys.version = "3.10.4 x"; exec(sys.argv[1])'
    old = script(clone / "old", f"""exec {sys.executable} -c '{disguise}' "$2" """)
    done = make(clone, "test", f"PYTHON={old}")
    assert done.returncode != 0
    assert done.stderr.startswith(f"everlearn needs Python 3.11 or newer, and '{old}' is 3.10.4; name another")


def test_a_python_without_venv_gets_the_package_to_install(clone):
    disguise = 'import sys; sys.modules["ensurepip"] = None; exec(sys.argv[1])'
    bare = script(clone / "bare", f"""exec {sys.executable} -c '{disguise}' "$2" """)
    done = make(clone, "test", f"PYTHON={bare}")
    assert done.returncode != 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"sudo apt install python{version}-venv" in done.stderr


@pytest.mark.parametrize(("torch_index", "flag"), [("", ""), ("https://x.y/cpu", "--index-url https://x.y/cpu ")])
def test_an_installation_that_breaks_leaves_no_stamp_and_says_its_size_first(clone, torch_index, flag):
    pip = script(clone / "pip", 'echo "pip $*"; case "$*" in *torch*) exit 0;; *) exit 1;; esac')
    python = script(
        clone / "python",
        f'[ "$1" = -c ] && exit 0; mkdir -p .venv/bin && cp {pip} .venv/bin/python',
    )
    done = make(clone, "test", f"PYTHON={python}", f"TORCH_INDEX={torch_index}")
    assert done.returncode != 0
    assert not (clone / ".venv" / ".installed").exists()
    told = [line for line in done.stdout.splitlines() if line.startswith(("Creating", "pip "))]
    assert told[0].startswith("Creating .venv. This downloads about ")
    pin = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    assert told[1:] == [f"pip -m pip install {flag}{pin}", "pip -m pip install -q -c constraints.txt -e .[dev]"]
