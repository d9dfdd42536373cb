"""The recipes of small tasks: what they return at tiny sizes, and what a delta memory learns and attention does not."""

import math

import pytest

from everlearn.evals.tasks import LANGUAGES
from everlearn.models.presets import PRESETS
from everlearn.recipes import sentences
from everlearn.recipes.small_tasks import (
    LANGUAGE_TRAINING,
    TASKS,
    language,
    late,
    model,
    passkey_by_length,
    recall_by_lag,
)
from everlearn.train import TrainConfig
from everlearn.train.tasks import TaskTraining

TINY = TaskTraining(steps=2, rows=2, length=12, warmup=1)


def test_every_task_is_there_once_and_every_preset_can_be_asked():
    assert list(TASKS) == [*LANGUAGES, "recall", "passkey"]
    for name in PRESETS:
        built = model(name, 4, 1, seed=0)
        assert not built.config.levels and built.config.vocab_size == 4 and len(built.blocks) == 1


def test_a_language_is_asked_at_every_span():
    row = language("parity", "delta_net", 0, TINY)
    assert all(0 <= share <= 1 for share in (*row["by_position"], *row["whole"]))
    assert len(row["by_position"]) == len(row["constant"]) == len(row["whole"]) == 3
    assert row == language("parity", "delta_net", 0, TINY) != language("parity", "delta_net", 1, TINY)


def test_recall_and_passkey_are_asked_by_lag_and_by_length():
    row = recall_by_lag("transformer++", 0, TINY)
    assert len(row["by_lag"]) == 4 and math.isnan(row["by_lag"][3]), "no key of 12 tokens is 17 tokens old"
    row = passkey_by_length("delta_net", 0, TINY, lengths=(12, 30), rows=3)
    assert row["lengths"] == [12, 30] and len(row["digits"]) == len(row["keys"]) == 2
    assert late([9.0] * 30 + [1.0] * 10 + [2.0] * 10) == 1.5


def test_a_rare_sentence_is_watched_beside_a_common_one(monkeypatch):
    all_rare = sentences.rare
    monkeypatch.setattr(sentences, "rare", lambda thing: all_rare(thing)[-1:])
    training = TrainConfig(steps=2, batch_size=2, length=32, warmup=1)
    row = sentences.surprise("delta_net", 0, training)
    pair = row["pair"]
    assert len(pair["common"]["text"]) == len(pair["rare"]["text"]) and pair["common"]["text"] != pair["rare"]["text"]
    for kind in ("untrained", "trained"):
        assert set(row[kind]) == {"common", "rare"}
        # a step of at most 0.3 for each of three matrices in two layers
        assert all(0 < found["levels"] <= 0.3 * math.sqrt(6) + 1e-6 for found in row[kind].values())


@pytest.mark.slow
def test_parity_generalises_to_four_times_the_length_and_the_controls_do_not():
    """Attention, and gated DeltaNet with its alpha (I - eta k k^T) and eta <= 1, cannot flip a sign."""
    scores = {
        name: [language("parity", name, seed)["by_position"][2] for seed in range(3)]
        for name in ("delta_net", "gated_delta_net", "transformer++")
    }
    print("parity at 81-160:", scores)
    assert sum(score >= 0.99 for score in scores["delta_net"]) >= 2, scores
    assert max(scores["gated_delta_net"] + scores["transformer++"]) < 0.65, scores


@pytest.mark.slow
def test_sixteen_keys_are_recalled_in_context():
    scores = [recall_by_lag("delta_net", seed)["accuracy"] for seed in range(3)]
    print("recall of 16 keys:", scores)
    assert sum(score >= 0.98 for score in scores) >= 2, scores


def test_strings_are_trained_on_no_longer_than_forty_symbols():
    assert LANGUAGE_TRAINING.length == 40 and LANGUAGE_TRAINING.first_length is None
