"""Ways to learn a stream of texts by an encoder that moves or stands still, and how each of them is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.continual.strategies.base import best_seen, loss_over_seen
from everlearn.continual.strategies.cms import step_levels
from everlearn.continual.strategies.cms_encoder import CMSEncoder, ModuleLevels
from everlearn.continual.strategies.cms_one_rate import one_rate_levels
from everlearn.continual.strategies.precision import Precision
from everlearn.continual.strategies.text_module import UpperBlocks, last_mlps
from everlearn.continual.streams import Split, Stream
from everlearn.evals.class_incremental.scenario import Scenario, joint, tasks
from everlearn.levels.clock import Level
from everlearn.memory.precision import PrecisionMemory

Row = dict[str, Any]
Levels = Callable[[float], tuple[Level, ...]]
Learner = CMSEncoder | Precision

BATCH = 10
PACES = (1, 4, 16)  # batches between two steps of a level, the last block's first
SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# chosen for masked fine-tuning of a linear head on the same features (`everlearn bench banking`)
READOUT_LR = 3e-3
WARMUP = 1_000  # records
SEARCHED = 3  # one training record in so many is learned while step sizes are searched


@dataclass
class Texts:
    """What every way reads.

    Args:
        scenario: whose records are row numbers of the texts, train first, then validation, then test.
        blocks: the encoder from its last blocks on.
        frozen: features of all rows by the encoder as it was, [N, D].
    """

    scenario: Scenario
    blocks: UpperBlocks
    frozen: Tensor


@dataclass(frozen=True)
class Way:
    """One row of the table.

    Args:
        title: what it is, in a few words.
        build: (texts, eta) -> the strategy.
        etas: step sizes among which validation records choose.
        stream: how the records arrive.
        rewrites: whether the memory is written again at the end, with every record: no stream allows it.
        by_head: whether the linear read-out that teaches the encoder also answers, instead of the memory.
    """

    title: str
    build: Callable[[Texts, float], Learner]
    etas: tuple[float, ...]
    stream: Callable[[Scenario, int], Stream] = tasks
    rewrites: bool = False
    by_head: bool = False


def plain(eta: float) -> tuple[Level, ...]:
    """Return levels that all step on every batch at the same rate: fine-tuning."""
    return tuple(Level(f"every_{n}", BATCH, eta) for n in PACES)


def moved(levels: Levels, texts: Texts, eta: float, **options: Any) -> CMSEncoder:
    """Return an encoder whose last MLPs are levels, under a precision memory."""
    clock, dim = levels(eta), texts.blocks.dim
    matrices = {level.name: names for level, names in zip(clock, last_mlps(texts.blocks, len(clock)), strict=True)}
    stacked = ModuleLevels(texts.blocks, matrices, clock, chunk_size=BATCH)
    memory = PrecisionMemory(dim)
    settings = {"readout_lr": READOUT_LR, **options}
    return CMSEncoder(stacked, dim, len(texts.scenario.labels), memory, **settings)


def frozen(texts: Texts, eta: float) -> Precision:
    """Return the precision memory of the encoder as it was."""
    return Precision(lambda rows: texts.frozen[rows], PrecisionMemory(texts.frozen.shape[1]))


_stepped: Levels = partial(step_levels, batch_size=BATCH, steps=PACES)
_one_rate: Levels = partial(one_rate_levels, batch_size=BATCH, steps=PACES)
# what stands still after a hundred steps, or need not be followed by sums, may move further
ETAS, LARGER = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2)

WAYS: dict[str, Way] = {
    "frozen": Way("encoder frozen, streaming LDA", frozen, (0.0,)),
    "levels": Way("levels every 1, 4, 16 batches, LDA", partial(moved, _stepped), ETAS),
    "one_rate": Way("control: one rate, LDA", partial(moved, _one_rate), ETAS),
    "warmup": Way("all move in the first 1,000 records, LDA", partial(moved, plain, warmup=WARMUP), LARGER),
    "fine_tuned": Way("all move, masked loss, a linear head answers", partial(moved, plain), ETAS, by_head=True),
    "joint": Way(
        "bound: all classes shuffled, LDA on what became of them",
        partial(moved, plain, loss=loss_over_seen),
        LARGER,
        stream=joint,
        rewrites=True,
    ),
}


def search(way: Way, texts: Texts, eta: float, shrinkage: float, seed: int) -> Row:
    """Learn a third of the stream's records and ask the validation records.

    Returns:
        "eta", and "score", the mean of the accuracy over records and over classes.
    """
    whole = texts.scenario.for_choosing()
    scenario = replace(whole, train=thinned(whole.train, SEARCHED))
    strategy, _ = learn(way, texts, eta, way.stream(scenario, seed), None)
    answers = answer(way, strategy, scenario.test.x, shrinkage)
    return {"eta": eta, "score": score(answers, scenario.test.y)}


def search_shrinkage(texts: Texts) -> Row:
    """Learn all records by the encoder as it was, whose sums know no order, and ask the validation records.

    Returns:
        "scores": (shrinkage, score) for each.
    """
    scenario, way = texts.scenario.for_choosing(), WAYS["frozen"]
    strategy = frozen(texts, 0.0)
    strategy.observe(scenario.train.x, scenario.train.y)
    tried = [(size, answer(way, strategy, scenario.test.x, size)) for size in SHRINKAGES]
    return {"scores": [(size, score(got, scenario.test.y)) for size, got in tried]}


def measure(way: Way, texts: Texts, eta: float, shrinkage: float, seed: int, *, refresh: bool = False) -> Row:
    """Learn the stream and ask the test records.

    Args:
        way: which.
        texts: what it reads.
        eta: step size.
        shrinkage: of the memory.
        seed: of the stream.
        refresh: also ask after the memory was written again with every record: what stale sums cost.
    Returns:
        "final", "macro", "task_a", "learning" seconds of the processor, "bytes", "turned": the mean cosine between the
        features of the test records now and before; "refreshed".
    """
    stream = way.stream(texts.scenario, seed)
    strategy, row = learn(way, texts, eta, stream, shrinkage)
    x, y = texts.scenario.test.x, texts.scenario.test.y
    got = answer(way, strategy, x, shrinkage)
    row |= {"final": share(got == y), "macro": macro(got, y), "bytes": strategy.stores_bytes()}
    if isinstance(strategy, CMSEncoder):
        row["turned"] = F.cosine_similarity(strategy.features(x), texts.frozen[x]).mean().item()
        # elsewhere no sum is stale, or none is asked
        if refresh and strategy.warmup is None and not way.by_head and not way.rewrites:
            strategy.rewrite(*every_record(stream))
            row["refreshed"] = share(answer(way, strategy, x, shrinkage) == y)
    return row


def learn(way: Way, texts: Texts, eta: float, stream: Stream, shrinkage: float | None) -> tuple[Learner, Row]:
    """Let a way learn a stream once, and ask for the first classes after each experience if a shrinkage is given.

    Returns:
        strategy: after the stream, and after the memory was written again where the way does that.
        row: "task_a", "learning".
    """
    strategy = way.build(texts, eta)
    of_a = (stream.test_experience == 0).nonzero().squeeze(1)
    learning, task_a = 0.0, []
    for experience in stream.experiences:
        start = time.process_time()
        for x, y in experience.batches(BATCH):
            strategy.observe(x, y)
        learning += time.process_time() - start
        if shrinkage is not None:
            answers = answer(way, strategy, stream.test.x[of_a], shrinkage)
            task_a.append(share(answers == stream.test.y[of_a]))
    if way.rewrites and isinstance(strategy, CMSEncoder):
        strategy.rewrite(*every_record(stream))
    return strategy, {"task_a": task_a, "learning": learning}


def answer(way: Way, strategy: Learner, x: Tensor, shrinkage: float) -> Tensor:
    """Return the answers with a shrinkage, which a memory may change at any time and a head does without, [B]."""
    phi = strategy.features(x) if isinstance(strategy, CMSEncoder) else strategy.encode(x)
    if way.by_head and isinstance(strategy, CMSEncoder):
        weight, bias = strategy.readout
        return best_seen(phi @ weight.mT + bias, strategy.seen)
    before, strategy.memory.shrinkage = strategy.memory.shrinkage, shrinkage
    scores = strategy.memory.scores(phi)
    strategy.memory.shrinkage = before
    return torch.tensor(strategy.memory.labels)[scores.argmax(1)]


def thinned(split: Split, every: int) -> Split:
    """Return one record in so many of each class, the first included."""
    places = [(split.y == c).nonzero().squeeze(1)[::every] for c in split.y.unique()]
    return split.take(torch.cat(places).sort().values)


def every_record(stream: Stream) -> tuple[Tensor, Tensor]:
    """Return all that a stream brings, at once."""
    parts = [experience.records for experience in stream.experiences]
    return torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])


def share(yes: Tensor) -> float:
    """Return the share that is true."""
    return yes.double().mean().item()


def score(got: Tensor, y: Tensor) -> float:
    """Return what decides between settings."""
    return (share(got == y) + macro(got, y)) / 2


def macro(got: Tensor, y: Tensor) -> float:
    """Return the accuracy with every class weighing as much as another."""
    return torch.stack([(got == y)[y == c].double().mean() for c in y.unique()]).mean().item()
