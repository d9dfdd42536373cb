"""Choose every method's settings for the week of digits, on validation images, with the same search budget each.

    python benchmarks/tune_digits.py

Sixteen settings per method (nearest class mean has none), five class orders (seeds 100-104, not those of the demo),
final accuracy on the 270 validation images; the 450 test images are not touched. Logistic regression and the MLP
share the budget of "all data at once". Prints every setting with its mean and standard deviation, then the chosen
ones as they stand in `everlearn/demo/digits_methods.py`.
"""

from __future__ import annotations

import itertools
import pprint
import statistics
import warnings

import torch

from everlearn.continual.metrics import report, run_stream
from everlearn.continual.streams import Split, digits, week_of_digits
from everlearn.demo.digits_methods import (
    BATCH_SIZE,
    JOINT_MODELS,
    METHODS,
    Features,
    Settings,
    random_features,
    raw_pixels,
)

SEEDS = (100, 101, 102, 103, 104)


def grid(**choices: list) -> list[Settings]:
    """Return every combination, in order."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


HEAD = grid(head=["linear", "mlp"], optimizer=["sgd"], lr=[0.003, 0.01, 0.03, 0.1]) + grid(
    head=["linear", "mlp"], optimizer=["adam"], lr=[1e-4, 3e-4, 1e-3, 3e-3]
)
CMS_GRID = grid(loss=["seen", "batch"], eta=[0.001, 0.003, 0.01, 0.03], hidden=[16, 32])
SHRINKAGE = grid(shrinkage=[round(10 ** (-3 + i / 5), 4) for i in range(16)])
GRIDS: dict[str, list[Settings]] = {
    "fine_tune": HEAD,
    "fine_tune_masked": HEAD,
    "ewc": grid(head=["linear"], optimizer=["sgd"], lr=[0.03, 0.1], strength=[0.1, 1, 10, 100])
    + grid(head=["linear"], optimizer=["adam"], lr=[0.001, 0.01], strength=[1, 10, 100, 1000]),
    "replay": grid(head=["linear"], optimizer=["sgd"], lr=[0.1, 0.3], practice=[40, 160])
    + grid(head=["linear", "mlp"], optimizer=["adam"], lr=[0.003, 0.01, 0.03], practice=[40, 160]),
    "nearest_mean": [{}],
    "cms": CMS_GRID,
    "cms_one_rate": CMS_GRID,
    "precision": SHRINKAGE,
    "logistic regression": grid(C=[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]),
    "MLP": grid(hidden=[128, 256], alpha=[1e-3, 0.3], epochs=[30, 60]),
}


def score_strategy(name: str, settings: Settings, features: Features, train: Split, validation: Split) -> list[float]:
    """Return a strategy's final accuracy on validation data for each seed."""
    finals = []
    for seed in SEEDS:
        stream = week_of_digits(seed, train, validation)
        answers = run_stream(METHODS[name](features, settings, seed), stream, BATCH_SIZE)
        finals.append(report(answers, stream.test.y, stream.test_experience).final)
    return finals


def score_joint(name: str, settings: Settings, features: Features, train: Split, validation: Split) -> list[float]:
    """Return the validation accuracy, for each seed, of a model that sees all training data at once."""
    scores = []
    for seed in SEEDS:
        model = JOINT_MODELS[name](settings, seed).fit(features(train.x).numpy(), train.y.numpy())
        scores.append(model.score(features(validation.x).numpy(), validation.y.numpy()))
    return scores


def choose(name: str, features: Features, train: Split, validation: Split) -> Settings:
    """Print the whole search of one method and return its best settings; of equals the middle one wins."""
    score = score_joint if name in JOINT_MODELS else score_strategy
    results = []
    for settings in GRIDS[name]:
        scores = score(name, settings, features, train, validation)
        accuracy, spread = statistics.mean(scores), statistics.stdev(scores)
        print(f"{type(features).__name__:<10} {name:<20} {accuracy:.4f} ± {spread:.4f}  {settings}", flush=True)
        results.append((accuracy, settings))
    best = max(accuracy for accuracy, _ in results)
    equals = [settings for accuracy, settings in results if accuracy == best]
    return equals[len(equals) // 2]


def main() -> None:
    """Search on random features for all methods, and on raw pixels for those that the page shows there."""
    warnings.filterwarnings("ignore", message="Stochastic Optimizer")
    torch.set_num_threads(1)
    train, validation, _ = digits()
    chosen = {name: choose(name, random_features(), train, validation) for name in GRIDS}
    on_pixels = ["nearest_mean", "precision", *JOINT_MODELS]
    chosen_raw = {name: choose(name, raw_pixels(), train, validation) for name in on_pixels}
    pprint.pprint({"CHOSEN": chosen, "CHOSEN_ON_RAW_PIXELS": chosen_raw}, sort_dicts=False, width=120)


if __name__ == "__main__":
    main()
