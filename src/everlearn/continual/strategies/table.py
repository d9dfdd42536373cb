"""Every strategy by name: how it is built on features, and the settings among which validation data may choose.

Six settings at most for each, so that none was searched longer than another. A row gets features as they are, of about
unit size per number, in batches of `BATCH_SIZE`. To add a strategy, write its file and a row here. What needs the texts
themselves and a pretrained model is not here: `in_context.InContext`, and `cms_encoder.CMSEncoder` on a
`text_module.TextModule`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from everlearn.continual.strategies.base import (
    LOSSES,
    Strategy,
    as_features,
    linear_head,
    loss_over_batch,
    loss_over_seen,
    mlp_head,
    squared_error,
)
from everlearn.continual.strategies.cms import CMSHead, step_levels
from everlearn.continual.strategies.cms_encoder import CMSEncoder, ModuleLevels, ResidualMLPs
from everlearn.continual.strategies.cms_one_rate import one_rate_levels
from everlearn.continual.strategies.cms_owm import CMSWithOWM, UnitLevels, chain
from everlearn.continual.strategies.ewc import EWC
from everlearn.continual.strategies.expandable_head import ExpandableHead
from everlearn.continual.strategies.fine_tune import FineTune
from everlearn.continual.strategies.gaussian_replay import GaussianReplay
from everlearn.continual.strategies.hope_memory import HopeMemory
from everlearn.continual.strategies.joint import Joint, LogisticRegression
from everlearn.continual.strategies.klda import klda
from everlearn.continual.strategies.lwf import LwF
from everlearn.continual.strategies.meta_trained import Gated, MetaTrained, Rectified, seeded
from everlearn.continual.strategies.nearest_mean import NearestMean
from everlearn.continual.strategies.nearest_neighbours import NearestNeighbours
from everlearn.continual.strategies.owm_head import PreconditionedHead
from everlearn.continual.strategies.per_domain import OneModelPerDomain
from everlearn.continual.strategies.precision import Precision
from everlearn.continual.strategies.progressive import Progressive
from everlearn.continual.strategies.ranpac import ranpac
from everlearn.continual.strategies.records import Trainer
from everlearn.continual.strategies.replay import Replay
from everlearn.continual.strategies.retrain import RetrainEachTask, RetrainEvery
from everlearn.continual.strategies.si import SI
from everlearn.layers.cms import CMS
from everlearn.levels.clock import Level
from everlearn.memory.precision import PrecisionMemory, lda
from everlearn.rules import least_squares, owm

BATCH_SIZE = 10
BUDGET = 6

Settings = Mapping[str, Any]
Build = Callable[[Settings, int, int, int], Strategy]


@dataclass(frozen=True)
class Row:
    """One strategy.

    Args:
        build: (settings, dim, num_classes, seed) -> a fresh strategy that reads features [B, dim].
        grid: the settings to choose among, 1 to `BUDGET`.
    """

    build: Build
    grid: tuple[Settings, ...]


def grid(**choices: list[Any]) -> tuple[Settings, ...]:
    """Return every combination of the choices, in order."""
    return tuple(dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))


def _head(s: Settings, dim: int, classes: int, seed: int) -> nn.Module:
    """Return a linear head, or one with `hidden` units."""
    hidden = s.get("hidden", 0)
    return mlp_head(dim, classes, seed, hidden) if hidden else linear_head(dim, classes, seed)


def _sgd(s: Settings) -> partial[torch.optim.SGD]:
    return partial(torch.optim.SGD, lr=s["lr"])


def _adam(s: Settings) -> partial[torch.optim.Adam]:
    return partial(torch.optim.Adam, lr=s["lr"])


def _trainer(s: Settings, dim: int, classes: int, seed: int) -> Trainer:
    """Return the training of a fresh head: settings lr, epochs and, for an MLP, hidden."""
    return Trainer(partial(_head, s, dim, classes, seed), _adam(s), classes, epochs=s["epochs"], seed=seed)


def bytes_of_sums(dim: int, classes: int) -> int:
    """Return the bytes of streaming LDA's state, which replay gets as well."""
    return 8 * (dim * (dim + 1) // 2 + classes * (dim + 1))


def _replay(s: Settings, dim: int, classes: int, seed: int) -> Strategy:
    head, bound = _head(s, dim, classes, seed), bytes_of_sums(dim, classes)
    return Replay(as_features, head, classes, _sgd(s), max_bytes=bound, practice=s["practice"], seed=seed)


def _meta(kind: type[Rectified] | type[Gated], s: Settings, dim: int, classes: int, seed: int) -> Strategy:
    representation = seeded(kind, dim, s["hidden"], seed)
    return MetaTrained(as_features, representation, classes, lr=s["lr"], meta_lr=s["meta_lr"], seed=seed)


Levels = Callable[[float, int], tuple[Level, ...]]


def _cms(levels: Levels, s: Settings, dim: int, classes: int, seed: int) -> Strategy:
    return CMSHead(
        as_features,
        dim,
        classes,
        levels(s["eta"], BATCH_SIZE),
        batch_size=BATCH_SIZE,
        readout_lr=s["eta"],
        loss=loss_over_batch,
        hidden_dim=s["hidden"],
        seed=seed,
    )


def _cms_encoder(levels: Levels, s: Settings, dim: int, classes: int, seed: int) -> Strategy:
    clock = levels(s["eta"], BATCH_SIZE)
    module = ResidualMLPs(dim, s["hidden"], len(clock), seed)
    # the last block is the fastest, as the last blocks of a pretrained encoder are fine-tuned first
    order = range(len(clock) - 1, -1, -1)
    matrices = {level.name: (f"up.{i}.weight", f"down.{i}.weight") for level, i in zip(clock, order, strict=True)}
    stacked = ModuleLevels(module, matrices, clock, chunk_size=BATCH_SIZE)
    return CMSEncoder(stacked, dim, classes, PrecisionMemory(dim, shrinkage=0.01), readout_lr=s["readout_lr"])


def _cms_owm(levels: Levels, s: Settings, dim: int, classes: int, seed: int) -> Strategy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cms = CMS(dim, s["hidden"], levels(s["eta"], BATCH_SIZE), chunk_size=BATCH_SIZE)
    return CMSWithOWM(as_features, cms, chain(cms), dim, classes, ridge=s["ridge"])


def _cms_units(levels: Levels, s: Settings, dim: int, classes: int, seed: int) -> Strategy:
    units = UnitLevels(dim, s["units"], levels(s["eta"], BATCH_SIZE), chunk_size=BATCH_SIZE, seed=seed)
    return CMSWithOWM(as_features, units, units, units.size, classes, ridge=s["ridge"])


HEADS = grid(hidden=[0, 256], lr=[3e-4, 1e-3, 3e-3])
TRAINED = grid(hidden=[0, 512], lr=[1e-3], epochs=[5, 10, 20])
CMS_GRID = grid(eta=[1e-4, 3e-4, 1e-3], hidden=[32, 128])
CMS_ENCODER_GRID = grid(eta=[1e-3, 3e-3, 1e-2], readout_lr=[3e-4, 3e-3], hidden=[64])
CMS_OWM_GRID = grid(eta=[3e-4, 1e-3], ridge=[30.0, 100.0, 300.0], hidden=[32])
CMS_UNITS_GRID = grid(eta=[3e-4, 1e-3, 3e-3], ridge=[30.0, 100.0], units=[256])

TABLE: dict[str, Row] = {
    "fine_tune": Row(lambda s, d, c, seed: FineTune(as_features, _head(s, d, c, seed), c, _sgd(s)), HEADS),
    "fine_tune_mlp": Row(
        lambda s, d, c, seed: FineTune(as_features, _head(s, d, c, seed), c, _sgd(s)),
        grid(hidden=[256], lr=[1e-3, 3e-3, 1e-2, 3e-2]),
    ),
    "fine_tune_masked": Row(
        lambda s, d, c, seed: FineTune(as_features, _head(s, d, c, seed), c, _sgd(s), loss_over_batch), HEADS
    ),
    "expandable_head": Row(
        lambda s, d, c, seed: ExpandableHead(as_features, d, lr=s["lr"], imprint=s["imprint"], loss=loss_over_batch),
        grid(lr=[3e-4, 1e-3, 3e-3], imprint=[0.3, 1.0]),
    ),
    "ewc": Row(
        lambda s, d, c, seed: EWC(as_features, _head(s, d, c, seed), c, _sgd(s), strength=s["strength"]),
        grid(lr=[1e-3, 3e-3], strength=[1.0, 100.0, 1e4]),
    ),
    "si": Row(
        lambda s, d, c, seed: SI(as_features, _head(s, d, c, seed), c, _sgd(s), strength=s["strength"]),
        grid(lr=[1e-3, 3e-3], strength=[1.0, 10.0, 100.0]),
    ),
    "lwf": Row(
        lambda s, d, c, seed: LwF(as_features, _head(s, d, c, seed), c, _sgd(s), strength=s["strength"]),
        grid(lr=[1e-3, 3e-3], strength=[0.3, 1.0, 3.0]),
    ),
    "replay": Row(_replay, grid(lr=[1e-3, 3e-3, 1e-2], practice=[10, 40])),
    "gaussian_replay": Row(
        lambda s, d, c, seed: GaussianReplay(
            as_features, _head(s, d, c, seed), d, c, _sgd(s), practice=s["practice"], seed=seed
        ),
        grid(lr=[1e-3, 3e-3, 1e-2], practice=[10, 40]),
    ),
    "progressive": Row(
        lambda s, d, c, seed: Progressive(as_features, d, c, _sgd(s), hidden=s["hidden"], seed=seed),
        grid(lr=[1e-3, 3e-3, 1e-2], hidden=[32, 128]),
    ),
    "oml": Row(partial(_meta, Rectified), grid(lr=[3e-4, 1e-3, 3e-3], meta_lr=[3e-4, 1e-3], hidden=[256])),
    "anml": Row(partial(_meta, Gated), grid(lr=[3e-4, 1e-3, 3e-3], meta_lr=[3e-4, 1e-3], hidden=[64])),
    "owm": Row(
        lambda s, d, c, seed: PreconditionedHead(
            as_features, d, c, partial(owm, eta=s["eta"], kappa=s["kappa"]), LOSSES[s["loss"]]
        ),
        grid(loss=["seen"], eta=[0.1, 0.3, 1.0], kappa=[1.0, 10.0]),
    ),
    "owm_exact": Row(
        lambda s, d, c, seed: PreconditionedHead(
            as_features, d, c, partial(least_squares, ridge=s["ridge"], eta=s["eta"]), loss_over_seen
        ),
        grid(eta=[100.0, 200.0], ridge=[30.0, 100.0, 300.0]),
    ),
    "recursive_ridge": Row(
        lambda s, d, c, seed: PreconditionedHead(
            as_features, d, c, partial(least_squares, ridge=s["ridge"]), squared_error
        ),
        grid(ridge=[1.0, 3.0, 10.0, 30.0, 100.0, 300.0]),
    ),
    "nearest_mean": Row(lambda s, d, c, seed: NearestMean(as_features, d, c), ({},)),
    "streaming_lda": Row(
        lambda s, d, c, seed: Precision(as_features, PrecisionMemory(d, shrinkage=s["shrinkage"])),
        grid(shrinkage=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3]),
    ),
    "ranpac": Row(
        lambda s, d, c, seed: ranpac(as_features, d, **s, seed=seed),
        grid(features=[1000, 2000], shrinkage=[0.003, 0.01, 0.03]),
    ),
    "relu_lda": Row(
        lambda s, d, c, seed: ranpac(as_features, d, **s, readout=lda, seed=seed),
        grid(features=[2000, 4000], shrinkage=[0.003, 0.01, 0.03]),
    ),
    "klda": Row(
        lambda s, d, c, seed: klda(
            as_features,
            d,
            features=s["features"],
            gamma=s["gamma_dim"] / d,
            shrinkage=s["shrinkage"],
            seed=seed,
        ),
        grid(gamma_dim=[0.1, 0.3, 1.0], shrinkage=[0.01, 0.1], features=[2000]),
    ),
    "nearest_neighbours": Row(
        lambda s, d, c, seed: NearestNeighbours(as_features, c, k=s["k"]), grid(k=[1, 3, 5, 10, 20, 50])
    ),
    "hope_memory": Row(
        lambda s, d, c, seed: HopeMemory(as_features, d, c, **s),
        grid(own_row=[False, True], eta=[0.1, 0.3], alpha=[1.0])
        + grid(own_row=[False, True], eta=[0.3], alpha=[0.999]),
    ),
    "cms": Row(partial(_cms, step_levels), CMS_GRID),
    "cms_one_rate": Row(partial(_cms, one_rate_levels), CMS_GRID),
    "cms_encoder": Row(partial(_cms_encoder, step_levels), CMS_ENCODER_GRID),
    "cms_encoder_one_rate": Row(partial(_cms_encoder, one_rate_levels), CMS_ENCODER_GRID),
    "cms_owm": Row(partial(_cms_owm, step_levels), CMS_OWM_GRID),
    "cms_owm_one_rate": Row(partial(_cms_owm, one_rate_levels), CMS_OWM_GRID),
    "cms_units": Row(partial(_cms_units, step_levels), CMS_UNITS_GRID),
    "cms_units_one_rate": Row(partial(_cms_units, one_rate_levels), CMS_UNITS_GRID),
    "joint_logistic": Row(
        lambda s, d, c, seed: Joint(as_features, c, LogisticRegression(c, strength=s["strength"])),
        grid(strength=[0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
    ),
    "joint_mlp": Row(
        lambda s, d, c, seed: Joint(as_features, c, _trainer(s, d, c, seed)),
        grid(hidden=[512], lr=[3e-4, 1e-3], epochs=[5, 10, 20]),
    ),
    "retrain_each_task": Row(lambda s, d, c, seed: RetrainEachTask(as_features, c, _trainer(s, d, c, seed)), TRAINED),
    "retrain_every_k": Row(
        lambda s, d, c, seed: RetrainEvery(as_features, c, _trainer(s, d, c, seed), period=s["period"]),
        tuple({**s, "period": 1000} for s in TRAINED),
    ),
    "one_model_per_domain": Row(
        lambda s, d, c, seed: OneModelPerDomain(as_features, c, _trainer(s, d, c, seed)), TRAINED
    ),
}
