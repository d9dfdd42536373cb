"""The page about the JSON names every key that the demo's results hold, and no other: made up here, real when slow."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from demo_fixture import results

from everlearn.demo.labels import METHODS, READERS

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "demo_json.md"


def keys(value, path=""):
    """Yield dotted paths to everything that is not a dictionary."""
    if not isinstance(value, dict):
        yield path
        return
    for key, item in value.items():
        yield from keys(item, f"{path}.{key}" if path else key)


def generic(path):
    methods = "|".join(label.key for label in METHODS)
    readers = "|".join(label.key for label in READERS)
    path = re.sub(rf"^digits\.raw_pixels\.({methods})\..*", "digits.raw_pixels.<method>", path)
    path = re.sub(rf"^digits\.({methods})\.", "digits.<method>.", path)
    # what is documented as a whole: its own keys depend on what was chosen
    for whole in ("digits.<method>.settings", "digits.raw_pixels.joint", "digits.joint.candidates"):
        path = whole if path.startswith(f"{whole}.") else path
    path = "digits.data.features" if path.startswith("digits.data.features.") else path
    path = re.sub(rf"^reading\.per_file\.({readers})$", "reading.per_file.<reader>", path)
    return re.sub(rf"^reading\.({readers})(_sd)?$", r"reading.<reader>\2", path)


def documented():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), flags=re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


def test_every_key_is_documented_and_every_documented_key_exists():
    assert documented() == {generic(path) for path in keys(results())}


# what readers of the JSON may rely on, in every version
METHOD_KEYS = ("final", "final_sd", "task_a", "task_a_sd", "stores_kb", "stores_images")
PROMISED = {
    *(f"digits.{label.key}.{key}" for label in METHODS for key in METHOD_KEYS),
    *(f"reading.{label.key}" for label in READERS),
    *(
        "digits.joint.final",
        "digits.reverse_difference",
        "reading.buckets",
        "reading.kept.before",
        "reading.kept.after",
    ),
    *("restart.identical", "rollback.identical", "seconds"),
}


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """Run the demo as a user would, in a folder of its own; return its numbers and its folder."""
    folder = tmp_path_factory.mktemp("quick") / "demo"
    command = [sys.executable, "-m", "everlearn", "demo", "--quick", "--out", str(folder), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


@pytest.mark.slow
def test_a_real_run_holds_what_is_documented_and_what_is_promised(quick_run):
    numbers, _ = quick_run
    found = set(keys(numbers))
    assert {generic(path) for path in found} == documented()
    assert found >= PROMISED
    assert all(len(numbers["reading"][label.key]) == len(numbers["reading"]["buckets"]) for label in READERS)


@pytest.mark.slow
def test_a_real_run_is_exact_where_it_claims_to_be_and_leaves_a_page(quick_run):
    numbers, folder = quick_run
    assert numbers["restart"]["identical"] and numbers["rollback"]["identical"]
    assert numbers["reading"]["isolation"]["identical"]
    # before any memory the old text costs the same, whatever learns afterwards
    before = {
        numbers["reading"][key]["before"]
        for key in ("kept", "one_rate_kept", "no_restart_kept", "one_rate_restart_kept")
    }
    assert len(before) == 1
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("1. A week", "2. Ada", "3. Pull", "What this does not show"))
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_promised_is_documented():
    assert set(keys(results())) >= PROMISED


def test_the_page_lists_the_methods_and_readers():
    text = PAGE.read_text()
    for labels in (METHODS, READERS):
        assert {label.key for label in labels} <= set(re.findall(r"`(\w+)`", text))
