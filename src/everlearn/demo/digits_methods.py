"""The methods of the week of digits, and the settings that validation data chose for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from everlearn.continual.features import RandomReLU, RawPixels
from everlearn.continual.strategies import fine_tune_masked as masked
from everlearn.continual.strategies.base import (
    Strategy,
    linear_head,
    loss_over_batch,
    loss_over_seen,
    mlp_head,
)
from everlearn.continual.strategies.cms import CMSHead, step_levels
from everlearn.continual.strategies.cms_one_rate import one_rate_levels
from everlearn.continual.strategies.ewc import EWC
from everlearn.continual.strategies.fine_tune import FineTune
from everlearn.continual.strategies.nearest_mean import NearestMean
from everlearn.continual.strategies.precision import Precision
from everlearn.continual.strategies.replay import Replay
from everlearn.memory.precision import PrecisionMemory

NUM_CLASSES = 10
# 1,077 images make 270 batches, so that the slowest level of the CMS, every 64 steps, changes four times
BATCH_SIZE = 4
# 20 images per class: 13 KB as bytes, far less than the precision memory takes
REPLAY_CAPACITY = 200

Features = RandomReLU | RawPixels
Settings = dict[str, Any]
HEADS = {"linear": linear_head, "mlp": mlp_head}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
LOSSES = {"seen": loss_over_seen, "batch": loss_over_batch}


def random_features() -> RandomReLU:
    """Return the features that every method reads: 500 random ReLU features of 64 pixels from 0 to 16."""
    return RandomReLU(64, 500, scale=1 / 16)


def raw_pixels() -> RawPixels:
    """Return the pixels themselves, from 0 to 1."""
    return RawPixels(64, scale=1 / 16)


def fine_tune(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return fine-tuning; settings: head, optimizer, lr."""
    return FineTune(features, _head(features, settings, seed), NUM_CLASSES, _optimizer(settings))


def fine_tune_masked(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return label-masked fine-tuning; settings: head, optimizer, lr."""
    return masked.fine_tune_masked(features, _head(features, settings, seed), NUM_CLASSES, _optimizer(settings))


def ewc(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return elastic weight consolidation; settings: head, optimizer, lr, strength."""
    head = _head(features, settings, seed)
    return EWC(features, head, NUM_CLASSES, _optimizer(settings), strength=settings["strength"])


def replay(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return replay of 200 images; settings: head, optimizer, lr, practice."""
    head = _head(features, settings, seed)
    return Replay(
        features,
        head,
        NUM_CLASSES,
        _optimizer(settings),
        capacity=REPLAY_CAPACITY,
        practice=settings["practice"],
        seed=seed,
    )


def nearest_mean(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return the nearest class mean, which has nothing to choose and nothing random."""
    return NearestMean(features, features.dim, NUM_CLASSES)


def cms(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return a CMS head with levels every 1, 4, 16 and 64 steps; settings: loss, eta, hidden."""
    return _cms_head(features, settings, seed, step_levels)


def cms_one_rate(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return the CMS's control, all levels on every step at matched rates; settings as for `cms`."""
    return _cms_head(features, settings, seed, one_rate_levels)


def precision(features: Features, settings: Settings, seed: int) -> Strategy:
    """Return the precision memory; settings: shrinkage. Nothing in it is random but the features."""
    return Precision(features, PrecisionMemory(features.dim, shrinkage=settings["shrinkage"]))


def logistic_regression(settings: Settings, seed: int) -> Any:
    """Return scikit-learn's logistic regression, for all data at once; settings: C."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=settings["C"], max_iter=1000)


def mlp(settings: Settings, seed: int) -> Any:
    """Return scikit-learn's MLP, for all data at once; settings: hidden, alpha, epochs."""
    from sklearn.neural_network import MLPClassifier

    # the epochs are a setting that validation chose, so stopping there is no failure to converge
    return MLPClassifier(
        settings["hidden"],
        alpha=settings["alpha"],
        learning_rate_init=3e-3,
        max_iter=settings["epochs"],
        n_iter_no_change=settings["epochs"],
        random_state=seed,
    )


# chosen on validation images by `python benchmarks/tune_digits.py`, sixteen settings per method
CHOSEN: dict[str, Settings] = {
    "fine_tune": {"head": "linear", "optimizer": "sgd", "lr": 0.1},
    "fine_tune_masked": {"head": "linear", "optimizer": "sgd", "lr": 0.01},
    "ewc": {"head": "linear", "optimizer": "sgd", "lr": 0.1, "strength": 1},
    "replay": {"head": "linear", "optimizer": "adam", "lr": 0.01, "practice": 160},
    "nearest_mean": {},
    "cms": {"loss": "batch", "eta": 0.003, "hidden": 32},
    "cms_one_rate": {"loss": "batch", "eta": 0.003, "hidden": 32},
    "precision": {"shrinkage": 0.0251},
    "logistic regression": {"C": 1.0},
    "MLP": {"hidden": 256, "alpha": 0.3, "epochs": 60},
}
CHOSEN_ON_RAW_PIXELS: dict[str, Settings] = {
    "nearest_mean": {},
    "precision": {"shrinkage": 0.3981},
    "logistic regression": {"C": 30.0},
    "MLP": {"hidden": 256, "alpha": 0.001, "epochs": 60},
}

# how that search went for the CMS and its control, with the other settings as chosen: per step size, the share of
# validation images read right, mean and standard deviation over five class orders
SEARCHED: dict[str, list[tuple[float, float, float]]] = {
    "cms": [(0.001, 0.5504, 0.0401), (0.003, 0.6267, 0.0391), (0.01, 0.6074, 0.0821), (0.03, 0.5593, 0.1393)],
    "cms_one_rate": [(0.001, 0.5504, 0.0401), (0.003, 0.6259, 0.0387), (0.01, 0.6074, 0.0821), (0.03, 0.5630, 0.1162)],
}

Method = Callable[[Features, Settings, int], Strategy]
METHODS: dict[str, Method] = {
    "fine_tune": fine_tune,
    "fine_tune_masked": fine_tune_masked,
    "ewc": ewc,
    "replay": replay,
    "nearest_mean": nearest_mean,
    "cms": cms,
    "cms_one_rate": cms_one_rate,
    "precision": precision,
}
JOINT_MODELS: dict[str, Callable[[Settings, int], Any]] = {"logistic regression": logistic_regression, "MLP": mlp}


def _head(features: Features, settings: Settings, seed: int) -> torch.nn.Module:
    """Return the head that the settings name."""
    return HEADS[settings["head"]](features.dim, NUM_CLASSES, seed)


def _optimizer(settings: Settings) -> Callable[..., torch.optim.Optimizer]:
    """Return the optimizer that the settings name, waiting for its parameters."""
    return partial(OPTIMIZERS[settings["optimizer"]], lr=settings["lr"])


def _cms_head(features: Features, settings: Settings, seed: int, levels: Callable) -> CMSHead:
    """Return a CMS head with the given kind of levels."""
    return CMSHead(
        features,
        features.dim,
        NUM_CLASSES,
        levels(settings["eta"], BATCH_SIZE),
        batch_size=BATCH_SIZE,
        # the levels' own rate: with a rate of its own, validation turns the levels off and leaves a linear classifier
        readout_lr=settings["eta"],
        loss=LOSSES[settings["loss"]],
        hidden_dim=settings["hidden"],
        seed=seed,
    )
