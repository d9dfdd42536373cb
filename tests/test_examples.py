"""The examples run as the reader would run them, and what they claim comes out."""

import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def run(name: str, *words: object) -> str:
    """Run an example in this process, which has loaded the libraries already; return what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(FOLDER / name), *map(str, words)])
        patch.syspath_prepend(str(FOLDER))
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    return printed.getvalue()


def run_alone(name: str, *words: object) -> str:
    """Run an example as its reader would."""
    done = subprocess.run(
        [sys.executable, FOLDER / name, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]


@pytest.mark.slow
def test_a_stream_is_remembered():
    before, after, restarted = numbers(r"(\d\.\d+)", run_alone("00_remember_a_stream.py"))
    assert after < before
    assert restarted == after


def test_a_cms_in_your_network_follows_its_rule():
    said = run("01_cms_in_your_network.py")
    new, later = numbers(r"error (\S+) when", said), numbers(r"new, (\S+) after", said)
    assert len(new) == len(later) == 3
    # each new rule is a surprise, and is learned
    assert all(late < early for early, late in zip(new, later, strict=True))


def test_a_new_class_at_any_time_and_one_image_forgotten():
    said = run_alone("02_new_class.py")
    shares = numbers(r"reads (\S+)%", said)
    assert numbers(r"knows +(\d+) digits", said) == [2, 4, 6, 8, 10]
    assert shares[-1] > 90
    assert said.strip().endswith("equals one that never saw it: True")


def test_a_new_defect_is_noticed_and_learned_while_the_line_goes_on():
    said = run("06_new_defect.py")
    shares = dict(re.findall(r"(\w+(?: edge)?) +read as (?:\w+ ?)+: (\d+)%", said))
    unknown = numbers(r"read as unknown: (\d+)%", said)
    assert unknown[0] > 90
    assert set(shares) == {"good", "scratch", "spot", "dark edge"} and min(map(int, shares.values())) > 75


def test_intents_give_reasons_and_a_record_is_taken_back():
    said = run("07_intents.py")
    assert "knows crash, refund\nknows crash, delivery, refund" in said
    assert "'my parcel is late' is delivery" in said and "parcel" in said.split("because of")[1].splitlines()[0]
    assert "delivery has 2 records: delivery" in said


def test_three_machines_become_one_that_saw_everything():
    said = run("08_fleet.py")
    *apart, merged = numbers(r"reads (\S+)% of all", said)
    assert len(apart) == 3 and max(apart) < 50 and merged > 90
    assert said.strip().endswith("the same: True")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    assert run("tiny_llama.py", folder) == f"wrote {folder}\n"
    return folder


def test_your_model_learns_your_notes(llama):
    """The folder that the helper wrote stands for any model; without it the example makes the same one."""
    before, after, again, nobody = numbers(r": +(\d\.\d+)", run("03_your_model.py", llama))
    assert after < before - 0.05
    assert again == after
    assert nobody == before


@pytest.mark.slow
def test_two_users_learn_apart():
    said = run_alone("04_two_users.py")
    table = [numbers(r"(\d\.\d+)", line) for line in said.splitlines() if "memory of" in line]
    nobody, ada, bob = table
    assert ada[0] < bob[0] < nobody[0]
    assert bob[1] < ada[1] < nobody[1]
    assert "files of memories: 2, and 1 after" in said
    assert said.strip().endswith("the same, bit for bit: True")


@pytest.mark.slow
def test_one_document_is_rolled_back(llama):
    said = run_alone("05_roll_back_one_document.py", llama)
    known, taken_back = numbers(r": +(\d\.\d+)", said)
    assert known < taken_back
    assert said.strip().endswith("bit for bit: True")


def test_the_notebook_prints_what_is_stored_in_it(tmp_path, monkeypatch):
    """Its cells run in order, in one namespace and an empty folder; numbers may differ as another machine rounds."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((FOLDER / "your_model.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
        stored = "".join(line for output in cell["outputs"] for line in output["text"])
        number_in = r"\d+\.\d+"
        assert re.sub(number_in, "#", printed.getvalue()) == re.sub(number_in, "#", stored)
        assert numbers(f"({number_in})", printed.getvalue()) == pytest.approx(
            numbers(f"({number_in})", stored), abs=0.1
        )
        assert cell["execution_count"] == number + 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_a_screen_and_says_how_to_run_it(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text


def test_every_example_is_run_here():
    here = Path(__file__).read_text()
    assert not [path.name for path in FOLDER.glob("*.py") if not re.search(rf'run(_alone)?\("{path.name}"', here)]
