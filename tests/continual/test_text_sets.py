"""Text sets as their files say; a validation set is carved without looking at the test rows."""

import csv
import json
import sys
from types import ModuleType

import pytest

from everlearn.continual.text_sets import TextSet, banking, clinc, clinc_mixed, dbpedia


def write(folder, name, label, rows):
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([("text", label), *rows])


@pytest.fixture
def clinc_folder(tmp_path):
    data = {
        "train": [["pay it", "pay"], ["fly me", "fly"]],
        "val": [["pay now", "pay"]],
        "test": [["pay it", "pay"], ["to Rome", "fly"]],
        "oos_train": [["what is love", "oos"]],
        "oos_val": [],
        "oos_test": [["who am i", "oos"], ["why", "oos"]],
    }
    (tmp_path / "data_full.json").write_text(json.dumps(data))
    (tmp_path / "domains.json").write_text(json.dumps({"bank": ["pay"], "travel": ["fly"]}))
    (tmp_path / "inca_klda_split.json").write_text(
        json.dumps({"train": [["test", 1], ["val", 0]], "test": [["train", 0]]})
    )
    return tmp_path


def test_clinc_is_read_as_it_is_split(clinc_folder):
    found = clinc(clinc_folder)
    assert found.train == (("pay it", "pay"), ("fly me", "fly")) and found.validation == (("pay now", "pay"),)
    assert found.labels == ("fly", "pay") and found.domains == {"bank": ("pay",), "travel": ("fly",)}
    assert found.unknown == {"train": ("what is love",), "validation": (), "test": ("who am i", "why")}
    assert found.leaked() == (0,) and found.without_leaks().test == (("to Rome", "fly"),)
    assert found.refitted().train == (*found.train, ("pay now", "pay")) and found.refitted().validation == ()


def test_the_mixed_split_rebuilds_rows_by_their_places(clinc_folder):
    found = clinc_mixed(clinc_folder)
    assert found.train == (("to Rome", "fly"), ("pay now", "pay")) and found.test == (("pay it", "pay"),)
    assert found.name != clinc(clinc_folder).name


@pytest.mark.parametrize(("load", "label"), [(banking, "category"), (dbpedia, "label")])
def test_a_tenth_of_every_class_is_carved_whatever_the_order_of_the_file(tmp_path, load, label):
    rows = [(f"{name} text {i}", name) for name, count in (("big", 40), ("small", 5)) for i in range(count)]
    write(tmp_path, "test.csv", label, [("never seen", "big")])
    write(tmp_path, "train.csv", label, rows)
    found = load(tmp_path)
    assert sorted(found.train + found.validation) == sorted(rows) and found.test == (("never seen", "big"),)
    assert [sum(name == which for _, name in found.validation) for which in ("big", "small")] == [4, 1]
    write(tmp_path, "train.csv", label, rows[::-1])
    again = load(tmp_path)
    assert set(again.validation) == set(found.validation) and again.train == found.train[::-1]
    # the same text twice is never on both sides
    write(tmp_path, "train.csv", label, rows + rows)
    twice = load(tmp_path)
    assert not set(twice.train) & set(twice.validation) and len(twice.train + twice.validation) == 90


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data_full.json is missing; give the folder"):
        clinc(tmp_path)
    with pytest.raises(ValueError, match=r"train.csv is missing; give the folder"):
        banking(tmp_path)
    (tmp_path / "data_full.json").write_text("{")
    with pytest.raises(ValueError, match=r"data_full.json is not JSON"):
        clinc(tmp_path)
    write(tmp_path, "train.csv", "topic", [("a", "b")])
    with pytest.raises(ValueError, match=r"has the columns \['text', 'topic'\], and needs text and label"):
        dbpedia(tmp_path)


class Part(list):
    """Rows with the names of a numbered column."""

    def __init__(self, rows, column, names):
        super().__init__(rows)
        self.features = {column: type("Names", (), {"names": names})}


def test_the_hub_gives_the_same_sets(monkeypatch):
    hub = ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", hub)
    rows = [{"text": "pay it", "intent": 1}, {"text": "why", "intent": 0}]
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        if "clinc" in name:
            return {part: Part(rows, "intent", ["oos", "pay"]) for part in ("train", "validation", "test")}
        if "banking" in name:
            return {part: Part([{"text": "hi", "label": 0}], "label", ["greet"]) for part in ("train", "test")}
        return {part: [{"text": f"{part} {i}", "l2": "Place"} for i in range(1_500)] for part in ("train", "test")}

    hub.load_dataset = load_dataset
    found = clinc()
    assert found.train == (("pay it", "pay"),) and found.unknown["test"] == ("why",)
    assert banking().test == (("hi", "greet"),)
    assert (len(dbpedia().train), len(dbpedia().test)) == (1_350, 1_000)
    assert asked[0] == ("clinc/clinc_oos", "plus")

    def unreachable(name, config):
        raise OSError("no route\nto the host")

    hub.load_dataset = unreachable
    with pytest.raises(ValueError, match=r"PolyAI/banking77 cannot be loaded from the hub \(no route\); give a folder"):
        banking()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets, or give a folder"):
        banking()


def test_a_set_of_its_own_has_no_leak():
    assert TextSet("own", (("a", "x"),), (), (("b", "x"),)).leaked() == ()
