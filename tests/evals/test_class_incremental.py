"""The protocol, on strategies whose numbers are known beforehand."""

import json
import time
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from everlearn.continual.features import HashedText
from everlearn.continual.image_sets import image_folder
from everlearn.continual.strategies.nearest_mean import NearestMean
from everlearn.continual.streams import Split
from everlearn.evals.class_incremental import (
    SCENARIOS,
    STREAMS,
    Scenario,
    encoded_images,
    floor,
    load,
    markdown,
    measure,
)
from everlearn.evals.class_incremental.tables import needs, size

CLASSES = 6


def records(per_class, seed=0, spread=0.05):
    """Gaussian classes around the corners of a simplex."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(CLASSES).repeat(per_class)
    return Split(torch.eye(CLASSES)[y] + spread * torch.randn(len(y), CLASSES, generator=draw), y)


@pytest.fixture
def scenario():
    names = tuple("abcdef")
    return Scenario("corners", names, records(20), records(4, 1), records(10, 2), 2, 5, domains=((0, 1, 2), (3, 4, 5)))


class Newest:
    """Answers with the class it heard last, and grows by a byte for each record."""

    stores_images = True

    def __init__(self):
        self.count, self.last, self.ends = 0, 0, 0

    def observe(self, x, y):
        self.count, self.last = self.count + len(y), int(y[-1])

    def end_of_task(self):
        self.ends += 1

    def predict(self, x):
        return torch.full((len(x),), self.last)

    def stores_bytes(self):
        return self.count


def test_a_strategy_that_knows_one_class_gets_what_that_is_worth(scenario):
    stream, strategy = STREAMS["tasks"](scenario, 0), Newest()
    row = measure(strategy, stream, scenario.batch_size)
    assert strategy.ends == 3 and row["needs_boundaries"] and row["stores_records"]
    assert row["bytes"] == [40, 80, 120] and row["seconds"] == sorted(row["seconds"])
    assert row["seen"] == [1 / 2, 1 / 4, 1 / 6] and row["final"] == pytest.approx(1 / 6)
    assert row["task_a"] == [1 / 2, 0, 0] and row["forgetting"] == 1 / 2 and row["plasticity"] == 1 / 2
    assert json.loads(json.dumps(row)) == row and row["retention"][0] == [1 / 2, None, None]


class Asking(Newest):
    """Answers with the number of the domain that it is told."""

    def predict_in(self, x, domain):
        return domain


def test_only_a_strategy_that_asks_for_domains_is_told_them(scenario):
    stream = STREAMS["tasks"](scenario, 0)
    told, other = measure(Asking(), stream, scenario.batch_size), measure(Newest(), stream, scenario.batch_size)
    right = (stream.test_experience == stream.test.y).double().mean().item()
    assert told["needs_oracle"] and told["final"] == pytest.approx(right)
    assert not other["needs_oracle"] and other["final"] == pytest.approx(1 / 6)


def test_the_nearest_mean_keeps_what_lies_apart(scenario):
    row = measure(NearestMean(lambda x: x, CLASSES, CLASSES), STREAMS["domains"](scenario, 1), 5)
    assert row["final"] == 1 and row["forgetting"] == 0 and len(row["retention"]) == 2 and not row["needs_boundaries"]


def test_leaked_records_are_left_out_of_one_number_alone(scenario):
    stream = STREAMS["tasks"](scenario, 0)
    row = measure(Newest(), stream, 5, leaked=())
    assert row["final_without_leaks"] == row["final"] and row["final_macro_without_leaks"] == row["final_macro"]
    newest = stream.experiences[-1].records.y[-1]
    right = (stream.test.y == newest).nonzero().flatten()[:5].tolist()
    without = measure(Newest(), stream, 5, leaked=tuple(right))
    assert without["final"] == 10 / 60 and without["final_without_leaks"] == pytest.approx(5 / 55)


def test_the_floor_is_a_probe_on_all_records_so_far(scenario):
    noisy = replace(scenario, train=records(20, spread=0.6), test=records(10, 2, spread=0.6))
    stream = STREAMS["tasks"](noisy, 0)
    row = floor(stream, 1.0)
    probe = LogisticRegression(C=1.0, max_iter=200).fit(noisy.train.x.numpy(), noisy.train.y.numpy())
    # the order of the records moves the solver's end by less than a record
    assert row["final"] == pytest.approx(probe.score(noisy.test.x.numpy(), noisy.test.y.numpy()), abs=0.02)
    assert row["forgetting"] > 0.02 and row["retention"][0][0] > row["retention"][2][0]
    alone = floor(STREAMS["single"](noisy, 0), 1.0)
    assert alone["retention"][0][0] == 1


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_brings_every_class(scenario, name):
    stream = STREAMS[name](scenario, 0)
    come = [c for experience in stream.experiences for c in experience.classes]
    assert len(come) == len(set(come)) == len(stream.test.y.unique())


def digits_like(scenario):
    """Ten classes, more than seven uneven experiences need."""
    y = torch.arange(10).repeat(5)
    data = Split(torch.eye(10)[y], y)
    return replace(scenario, labels=tuple("abcdefghij"), train=data, test=data)


def test_settings_are_chosen_on_validation_records(scenario):
    chosen = replace(scenario, leaked=(1,)).for_choosing()
    assert torch.equal(chosen.test.x, scenario.validation.x) and chosen.leaked == ()
    with pytest.raises(ValueError, match="has no validation records; choose settings on another"):
        replace(scenario, validation=Split(scenario.test.x[:0], scenario.test.y[:0])).for_choosing()
    with pytest.raises(ValueError, match="has no domains; choose another stream"):
        STREAMS["domains"](replace(scenario, domains=()), 0)


def test_texts_become_a_scenario(tmp_path):
    rows = "".join(f"text {c} number {i},topic {c}\n" for c in range(12) for i in range(10))
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(f"text,category\n{rows}")
    encoder = HashedText(16)
    found = load("banking", tmp_path, encoder)
    assert found.dim == 16 and len(found.labels) == 12 and found.per_experience == SCENARIOS["banking"].per_experience
    # every test text of this set is a training text too
    assert found.leaked == tuple(range(120))
    place = found.labels.index("topic 3")
    assert torch.equal(found.test.x[found.test.y == place][:1], encoder(["text 3 number 0"]))
    wrong = load("banking", tmp_path, encoder, misspelt=0.5)
    assert torch.equal(wrong.test.x, found.test.x) and not torch.equal(wrong.train.x, found.train.x)
    with pytest.raises(ValueError, match="holds texts, which need an encoder; give one"):
        load("banking", tmp_path, None)
    with pytest.raises(ValueError, match="the hub does not have the split"):
        load("clinc-mixed", None, encoder)


def test_digits_need_neither_files_nor_an_encoder():
    found = load("digits", None, None)
    assert found.dim == 500 and len(found.test.y) == 450 and len(STREAMS["tasks"](found, 0).experiences) == 5


def test_a_table_says_mean_spread_and_excess(scenario):
    streams = [STREAMS["tasks"](scenario, seed) for seed in (0, 1)]
    rows = {"newest": [measure(Newest(), stream, 5) for stream in streams]}
    rows["newest"][1]["final"] = rows["newest"][0]["final"] + 0.02
    floors = [floor(stream, 1.0) for stream in streams]
    table = markdown(rows, floors).splitlines()
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| newest | 17.7 ± 1.4 | ") and table[2].endswith("| records, boundaries |")
    assert [size(n) for n in (2_048, 3 * 2**20)] == ["2 KB", "3.0 MB"]
    # who is told the domain of what it answers says so in the table
    asking = markdown({"asking": [measure(Asking(), streams[0], 5)]}, floors[:1]).splitlines()[2]
    assert asking.endswith("| records, boundaries, each test record's domain |")
    nearest = measure(NearestMean(lambda x: x, CLASSES, CLASSES), streams[0], 5)
    assert needs(nearest) == "nothing"


class Sleeper(Newest):
    """Works for a while when it learns, and twice as long at the first question after that."""

    def __init__(self):
        super().__init__()
        self.ready = False

    def observe(self, x, y):
        super().observe(x, y)
        self.ready = False
        work(1)

    def predict(self, x):
        if not self.ready:
            work(2)
        self.ready = True
        return super().predict(x)


def work(units):
    end = time.process_time() + 0.002 * units
    while time.process_time() < end:
        pass


def test_what_is_solved_at_the_first_question_is_told_apart_from_answering(scenario):
    """Eight batches of learning and one solution for each experience: 16 ms and 4 ms of processor time."""
    row = measure(Sleeper(), STREAMS["tasks"](scenario, 0), 5)
    learned = [b - a for a, b in zip([0, *row["seconds"]], row["seconds"], strict=False)]
    solved = [b - a for a, b in zip([0, *row["solving_seconds"]], row["solving_seconds"], strict=False)]
    # a clock that is read ten times may see a little more than the work, never less
    assert all(0.016 <= part < 0.05 for part in learned) and all(0.004 <= part < 0.03 for part in solved)
    assert row["solving_seconds"][-1] <= row["answering_seconds"] < row["solving_seconds"][-1] + 0.1


def test_images_become_a_scenario(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate("abcdefg"):
        (tmp_path / name).mkdir()
        for n in range(10):
            image.new("RGB", (2, 2), (n, number, 0)).save(tmp_path / name / f"{n}.png")
    files = image_folder(tmp_path)
    found = encoded_images(files, lambda items: torch.tensor([[float(ord(file.parent.name))] for file in items]))
    assert found.labels == tuple("abcdefg") and found.per_experience == 1 and found.leaked == ()
    assert [len(part.y) for part in (found.train, found.validation, found.test)] == [49, 7, 14]
    for part in (found.train, found.validation, found.test):
        assert torch.equal(part.x[:, 0], part.y + float(ord("a")))
    assert len(STREAMS["tasks"](found.dealt(3), 0).experiences) == 3
    for wrong in (0, 8):
        with pytest.raises(ValueError, match=f"{wrong} classes at a time cannot .* the 7 of .*; give 1 to 7"):
            found.dealt(wrong)


def test_few_classes_make_as_many_uneven_experiences_as_there_are(scenario):
    assert len(STREAMS["uneven"](scenario, 0).experiences) == CLASSES
    assert len(STREAMS["uneven"](digits_like(scenario), 0).experiences) == 7
