"""Small tasks for every preset: the same sizes, steps and rates, and what is measured after training.

A model has 64 features and two heads of 32. The settings come from a prototype in which the delta rule was looked at
most, and were not searched again; every preset gets the same. `python benchmarks/small_tasks.py` runs them over seeds
and writes their tables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from everlearn.evals.tasks import LAGS, LANGUAGES, Answers, Task, answer, lags, passkey, recall
from everlearn.models import Decoder, preset
from everlearn.train.tasks import TaskTraining, train_task

Result = dict[str, Any]
SPANS = ((1, 40), (41, 80), (81, 160))  # positions: as trained, twice and four times as far
LANGUAGE_TRAINING = TaskTraining(steps=450, rows=12, length=40, lr=4e-3)
RECALL_TRAINING = TaskTraining(steps=220, rows=16, length=64, lr=1e-2)
PASSKEY_TRAINING = TaskTraining(steps=1000, rows=8, length=256, first_length=32, lr=4e-3)
PASSKEY_LENGTHS = (256, 1024, 2048, 4096, 8192)
LAYERS = {"parity": 1, "recall": 1}  # the others have two


def model(name: str, vocab_size: int, layers: int, seed: int) -> Decoder:
    """Return an untrained model of a preset, 64 features wide, without levels: the tasks ask for its mixer."""
    torch.manual_seed(seed)
    sizes = {"dim": 64, "num_heads": 2, "hidden_dim": 128}
    return Decoder(preset(name, levels=(), vocab_size=vocab_size, num_layers=layers, **sizes))


def trained(name: str, task: Task, layers: int, training: TaskTraining, seed: int) -> tuple[Decoder, Any, list[float]]:
    """Train a preset on a task; return it, the generator of what it has not seen, and the loss of every step."""
    net, generator = model(name, task.vocab_size, layers, seed), torch.Generator().manual_seed(seed)
    return net, generator, train_task(net, task.draw, task.answers, training, generator)


def language(which: str, name: str, seed: int, training: TaskTraining = LANGUAGE_TRAINING) -> Result:
    """Train on strings of up to 40 symbols and ask for strings of 160.

    Args:
        which: a key of `evals.tasks.LANGUAGES`.
        name: of the preset.
        seed: of the weights, the strings and the order.
        training: see `TaskTraining`.
    Returns:
        "by_position": accuracy at positions 1-40, 41-80 and 81-160; "constant": the same of the best constant answer;
        "whole": share of strings without an error, of 40, 80 and 160 symbols; "loss": the mean of the last 20 steps.
    """
    task = LANGUAGES[which]
    net, generator, losses = trained(name, task, LAYERS.get(which, 2), training, seed)
    asked = answer(net, task, rows=64, length=SPANS[-1][1], generator=generator, at_once=64)
    whole = [answer(net, task, rows=64, length=b, generator=generator, at_once=64).rows_right() for _, b in SPANS]
    return {
        "by_position": [asked.between(*span) for span in SPANS],
        "constant": [asked.constant(*span) for span in SPANS],
        "whole": whole,
        "loss": late(losses),
    }


def recall_by_lag(name: str, seed: int, training: TaskTraining = RECALL_TRAINING) -> Result:
    """Train recall of sixteen keys and ask by how long ago a key was last seen.

    Returns:
        "accuracy": of 64 rows; "by_lag": the same for each of `LAGS`; "loss": the mean of the last 20 steps.
    """
    task = recall()
    net, generator, losses = trained(name, task, LAYERS["recall"], training, seed)
    asked = answer(net, task, rows=64, length=training.length, generator=generator, at_once=64)
    ago = lags(asked.examples.tokens)
    groups = [asked.accuracy((ago >= first) & (ago <= last)) for first, last in LAGS]
    return {"accuracy": asked.accuracy(), "by_lag": groups, "loss": late(losses)}


def passkey_by_length(
    name: str,
    seed: int,
    training: TaskTraining = PASSKEY_TRAINING,
    lengths: tuple[int, ...] = PASSKEY_LENGTHS,
    rows: int = 32,
) -> Result:
    """Train to find four digits in up to 256 tokens of noise, and look for them in up to 8,192.

    Returns:
        "digits": accuracy per digit at each length; "keys": share of whole keys; "no_needle": accuracy per digit at
        the trained length where the key was left out; "loss": the mean of the last 20 steps.
    """
    task = passkey()
    net, generator, losses = trained(name, task, 2, training, seed)

    def ask(which: Task, length: int) -> Answers:
        return answer(net, which, rows=rows, length=length, generator=generator, at_once=4)

    asked = [ask(task, length) for length in lengths]
    return {
        "lengths": list(lengths),
        "digits": [found.accuracy() for found in asked],
        "keys": [found.rows_right() for found in asked],
        "no_needle": ask(passkey(needle=False), lengths[0]).accuracy(),
        "loss": late(losses),
    }


def late(losses: list[float]) -> float:
    """Return the mean of the last 20 losses."""
    return sum(losses[-20:]) / len(losses[-20:])


TASKS: dict[str, Callable[[str, int], Result]] = {
    **{which: partial(language, which) for which in LANGUAGES},
    "recall": recall_by_lag,
    "passkey": passkey_by_length,
}
