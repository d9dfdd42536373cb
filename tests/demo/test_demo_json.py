"""The page about the JSON names every key that the demo's results hold, and no other."""

import re
from pathlib import Path

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
    path = re.sub(rf"^reading\.per_file\.({readers})$", "reading.per_file.<reader>", path)
    return re.sub(rf"^reading\.({readers})(_sd)?$", r"reading.<reader>\2", path)


def documented():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), flags=re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


def test_every_key_is_documented_and_every_documented_key_exists():
    assert documented() == {generic(path) for path in keys(results())}


def test_the_page_lists_the_methods_and_readers():
    text = PAGE.read_text()
    for labels in (METHODS, READERS):
        assert {label.key for label in labels} <= set(re.findall(r"`(\w+)`", text))
