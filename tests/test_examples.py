"""The examples run as the reader would run them, and what they claim comes out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, FOLDER / name], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]


@pytest.mark.slow
def test_a_stream_is_remembered():
    before, after, restarted = numbers(r"(\d\.\d+)", run("00_remember_a_stream.py"))
    assert after < before
    assert restarted == after


def test_a_cms_in_your_network_follows_its_rule():
    said = run("01_cms_in_your_network.py")
    new, later = numbers(r"error (\S+) when", said), numbers(r"new, (\S+) after", said)
    assert len(new) == len(later) == 3
    # each new rule is a surprise, and is learned
    assert all(late < early for early, late in zip(new, later, strict=True))


def test_a_new_class_at_any_time_and_one_image_forgotten():
    said = run("02_new_class.py")
    shares = numbers(r"reads (\S+)%", said)
    assert numbers(r"knows +(\d+) digits", said) == [2, 4, 6, 8, 10]
    assert shares[-1] > 90
    assert said.strip().endswith("equals one that never saw it: True")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_a_screen_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text


def test_every_example_is_run_here():
    here = Path(__file__).read_text()
    assert not [path.name for path in FOLDER.glob("*.py") if f'run("{path.name}")' not in here]
