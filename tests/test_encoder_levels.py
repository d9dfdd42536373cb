"""The benchmarks of moving encoders and of prompts: what they ask, what they restore, and the tables by hand."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import encoder_levels
import prompts
from encoder_levels import Measured
from encoder_ways import PACES, WAYS, Texts, answer, every_record, learn, measure, score, search, thinned

from everlearn.continual.strategies.in_context import InContext
from everlearn.continual.strategies.nearest_neighbours import NearestNeighbours
from everlearn.continual.strategies.text_module import TextModule, UpperBlocks
from everlearn.continual.streams import Split, class_incremental
from everlearn.continual.text_sets import TextSet
from everlearn.evals.class_incremental.scenario import Scenario
from tests.pretrained import tokenizer

WORDS = ("the cat sat", "the dog sat on the mat", "a ship sailed", "over the sea", "by the cat", "the mat")
WHERE = {"commit": "abc", "machine": "one thread of X", "torch": "2", "date": "2026-01-01"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder, own = tmp_path_factory.mktemp("encoder"), tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(own), hidden_size=8, num_hidden_layers=len(PACES), num_attention_heads=2)
        config.intermediate_size, config.max_position_embeddings = 12, 64
        model = BertModel(config)
    for parameter in model.parameters():
        parameter.data *= 10 if parameter.ndim == 2 else 1
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    all_texts = [f"{WORDS[i % 6]} {WORDS[(i // 6) % 6]}" for i in range(60)]
    module = TextModule(folder, lambda rows: [all_texts[i] for i in rows.tolist()])
    blocks = UpperBlocks(module, 60, len(PACES)).requires_grad_(False)
    y = torch.tensor([(i % 6) // 2 for i in range(60)])
    parts = [Split(rows, y[rows]) for rows in torch.arange(60).split([36, 12, 12])]
    scenario = Scenario("six", ("a", "b", "c"), *parts, per_experience=2, batch_size=10)
    return Texts(scenario, blocks, blocks(torch.arange(60)))


def test_levels_that_stand_still_answer_as_the_frozen_encoder_does(texts):
    still, frozen = (measure(WAYS[way], texts, 0.0, 0.1, 0, refresh=True) for way in ("levels", "frozen"))
    assert {key: still[key] for key in ("final", "macro", "task_a")} == {
        key: frozen[key] for key in ("final", "macro", "task_a")
    }
    assert still["refreshed"] == still["final"] and still["turned"] == pytest.approx(1) and len(still["task_a"]) == 2


@pytest.mark.parametrize("way", [key for key in WAYS if key != "frozen"])
def test_what_moves_turns_the_features_and_leaves_the_encoder_as_it_was(texts, way):
    before = {name: p.clone() for name, p in texts.blocks.named_parameters()}
    # so small an encoder under so small a read-out has small gradients
    row = measure(WAYS[way], texts, 100.0, 0.1, 0, refresh=True)
    assert row["turned"] < 0.9999 and 0 <= row["final"] <= 1
    assert ("refreshed" in row) == (way in ("levels", "one_rate"))
    assert all(torch.equal(p, before[name]) for name, p in texts.blocks.named_parameters())


def test_a_head_answers_by_itself_and_a_memory_with_the_shrinkage_asked_for(texts):
    stream = WAYS["levels"].stream(texts.scenario, 0)
    strategy, _ = learn(WAYS["levels"], texts, 0.1, stream, None)
    x = texts.scenario.test.x
    kept, phi = strategy.memory.shrinkage, strategy.features(x)
    strategy.memory.shrinkage = 0.7
    expected = torch.tensor(strategy.memory.predict(phi))
    strategy.memory.shrinkage = kept
    assert torch.equal(answer(WAYS["levels"], strategy, x, 0.7), expected) and strategy.memory.shrinkage == kept
    by_head = (phi @ strategy.readout[0].mT + strategy.readout[1]).argmax(1)
    assert torch.equal(answer(WAYS["fine_tuned"], strategy, x, 0.7), by_head)


def test_the_bound_answers_from_features_that_are_all_of_today(texts):
    stream = WAYS["joint"].stream(texts.scenario, 0)
    strategy, _ = learn(WAYS["joint"], texts, 100.0, stream, None)
    records, labels = every_record(stream)
    assert len(records) == 36
    sums = strategy.memory.statistics.sums
    for c in range(3):
        expected = strategy.features(records[labels == c]).double().sum(0)
        torch.testing.assert_close(sums[c], expected, rtol=0, atol=1e-3)


def test_settings_are_searched_on_a_share_of_each_class_and_on_validation_records(texts):
    split = Split(torch.arange(7), torch.tensor([0, 1, 0, 0, 1, 0, 0]))
    assert thinned(split, 3).x.tolist() == [0, 1, 5]
    asked = dataclasses.replace(texts.scenario, test=Split(torch.zeros(0, dtype=torch.long), torch.zeros(0)))
    found = search(WAYS["levels"], dataclasses.replace(texts, scenario=asked), 0.0, 0.1, 3)
    frozen = WAYS["frozen"].build(texts, 0.0)
    part, validation = thinned(texts.scenario.train, 3), texts.scenario.validation
    frozen.observe(part.x, part.y)
    expected = score(answer(WAYS["frozen"], frozen, validation.x, 0.1), validation.y)
    assert found == {"eta": 0.0, "score": expected}
    # three of four right; by class 1 and 1/2
    assert score(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 1])) == pytest.approx((0.75 + 0.75) / 2)


def test_the_table_of_encoders_says_what_two_rows_say():
    row = {"macro": 0.5, "bytes": 2e6, "learning": 7.0}
    pair = [row | {"final": 0.8, "task_a": [0.9, 0.7]}, row | {"final": 0.9, "task_a": [0.8, 0.6]}]
    better = [one | {"final": one["final"] + gain, "turned": 0.5} for one, gain in zip(pair, (0.02, 0.04), strict=True)]
    better[0]["refreshed"] = 0.91
    tried = [(0.003, 0.7), (0.01, 0.9), (0.1, 0.9)]
    made = {
        "frozen": Measured([(0.0, 0.85)], pair, WHERE),
        "levels": Measured(tried, better, WHERE),
        "joint": Measured(tried, [], WHERE),
    }
    lines = encoder_levels.table(made).splitlines()
    assert lines[2] == (
        "| encoder frozen, streaming LDA | **0**: 85.0 | 2 | 85.0 ± 7.1 |  "
        "| 85.0 ± 7.1, 65.0 ± 7.1 |  |  | 2 MB | 7 s |"
    )
    assert lines[3] == (
        "| levels every 1, 4, 16 batches, LDA | 0.003: 70.0, **0.01**: 90.0, 0.1: 90.0 | 2 | 88.0 ± 8.5 | +3.0 ± 1.4 "
        "| 85.0 ± 7.1, 65.0 ± 7.1 | 91.0 | 60.0° | 2 MB | 7 s |"
    )
    assert lines[4].endswith("0.1: 90.0 | 0 |  |  |  |  |  |  |  |") and "commit abc" in lines[-1]


class Pick:
    """Scores labels by their length; the longest wins."""

    max_tokens = 100

    def length(self, text):
        return len(text)

    def __call__(self, prompt, labels):
        return torch.tensor([float(len(label)) for label in labels])


def numbers():
    x = torch.arange(8)
    y = torch.tensor([0, 0, 1, 1, 0, 1, 1, 1])
    features = torch.tensor([[0.0], [0.1], [1.0], [1.1], [0.2], [0.52], [0.8], [1.2]])
    stream = class_incremental(Split(x[:4], y[:4]), Split(x[4:], y[4:]), 2, 0)
    return prompts.Texts(stream, tuple("abcdefgh"), features, ("longest", "short"))


def test_prompts_are_asked_what_a_vote_is_and_a_random_label_is_counted_out():
    texts = numbers()
    found = prompts.measure(texts, Pick(), 3)
    # the nearest three of records 4 to 7: 1 0 2, 1 2 0, 2 3 1, 3 2 1; both labels in each; the longest name wins
    assert found["prompts"] == [0.25] and found["vote"] == [0.75]
    assert found["random"] == [0.5] and found["shown"] == [1.0]
    assert found["labels"] == [2.0] and found["unlike"] == [[0.25, 0.75, 4]] and found["classes"] == [2]
    # the nearest two have both labels for record 5 alone, and then the first class wins both ways
    two = prompts.measure(texts, Pick(), 2)
    assert two["prompts"] == two["vote"] == [0.75] and two["unlike"] == [[0.0, 0.0, 1]] and two["random"] == [0.875]
    assert prompts.measure(texts, Pick(), 1)["unlike"] == [[0]]


def test_as_many_texts_of_each_class_are_asked():
    texts = numbers()
    (experience,) = texts.stream.experiences
    assert prompts.asked(texts.stream.test, [experience]).y.sort().values.tolist() == [0, 1, 1, 1]
    test = Split(torch.arange(500), torch.arange(500) % 2)
    some = prompts.asked(test, [experience])
    assert len(some.y) == prompts.ASKED and torch.bincount(some.y).tolist() == [100, 100]


def test_numbers_of_a_set_stand_for_its_texts_and_features(monkeypatch, tmp_path):
    rows = tuple((f"text {i}", f"some_{i % 3}") for i in range(9))
    made = TextSet("made", rows, rows[:3], rows[3:6])
    monkeypatch.setattr(prompts, "read_texts", lambda name, folder: made)
    texts = prompts.numbered("banking", tmp_path, lambda words: torch.tensor([[float(w[5:])] for w in words]))
    assert texts.read(texts.stream.test.x) == ["text 3", "text 4", "text 5"] and texts.names[0] == "some 0"
    assert texts.encode(texts.stream.test.x).flatten().tolist() == [3.0, 4.0, 5.0]


def test_the_table_of_prompts_says_what_a_row_says():
    row = {"k": 4, "prompts": [0.5], "vote": [0.75], "shown": [1.0], "random": [0.4], "labels": [2.0], "where": WHERE}
    row |= {"unlike": [[0.25, 0.5, 8]], "asked": [20], "seconds_each": [0.123], "classes": [11]}
    text = prompts.table([row], "tiny")
    assert "| 11 | 4 | 50.0 | 75.0 | 40.0 | 100.0 | 8: 25, 50 | 0.12 |" in text
    assert "any class at random is right in 9.1 percent" in text and "--model tiny" in text


def test_both_ways_learn_the_same_records():
    texts = numbers()
    by_prompts = InContext(texts.encode, texts.read, texts.names, Pick(), k=1)
    by_vote = NearestNeighbours(texts.encode, 2, k=1)
    for experience in texts.stream.experiences:
        for strategy in (by_prompts, by_vote):
            strategy.observe(experience.records.x, experience.records.y)
    test = texts.stream.test.x
    assert torch.equal(by_prompts.predict(test), by_vote.predict(test))
