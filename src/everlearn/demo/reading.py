"""Scene 2: Ada and Bob read different files, and what each has read helps that one alone."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from everlearn.demo.corpus import Document
from everlearn.evals.dynamic_evaluation import dynamic_evaluation
from everlearn.evals.ngram import ByteNgram
from everlearn.evals.positions import Bucket, gzip_bits
from everlearn.learn import Learner, read
from everlearn.memory.state import ModelState, with_layers
from everlearn.models import Decoder
from everlearn.models.text import encode
from everlearn.recipes import byte_reader

LENGTH = 8_193
PARTS = 9  # how often `run` calls `step`
EDGES = (1, 256, 1024, 2048, 4096, 8193)
HELDOUT_LENGTH, HELDOUT_FILES = 2_049, 8
NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{5,}")
OCCURRENCES = 5


@dataclass(frozen=True)
class Texts:
    """What is read, and what was known before.

    Args:
        known: the documents that the model was trained on.
        heldout: documents of the same kind that it has not seen.
        files: what is read now, one per reader; at least two.
    """

    known: Sequence[Document]
    heldout: Sequence[Document]
    files: Sequence[Document]


def run(model: Decoder, texts: Texts, step: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read every file in every way and measure it.

    All rows are read in one batch; row i is the reader of file i, and the next row is its Bob.

    Args:
        model: with levels, trained on `texts.known`.
        texts: see `Texts`.
        step: called with a word when a part is done.
    Returns:
        results: the numbers under "reading" in the demo's JSON.
        pictures: {"bytes": ...} for the page.
    """
    length = min(LENGTH, *(len(d.data) for d in texts.files))
    ids = _rows(texts.files, length)
    frozen = _frozen(model, ids)
    step("frozen")
    learning, opened = _learn(model, ids)
    step("learning")
    control = _frozen(model, ids, _memory_of(model, opened, shift=1))
    step("control")
    one_rate_model = model.with_levels(byte_reader.ONE_RATE)
    one_rate, one_rate_opened = _learn(one_rate_model, ids)
    step("one rate")
    all_weights = dynamic_evaluation(model, ids, eta=byte_reader.ALL_WEIGHTS_ETA)[0] / math.log(2)
    step("all weights")
    ways = {
        "frozen": frozen,
        "learning": learning,
        "control": control,
        "one_rate": one_rate,
        "all_weights": all_weights,
    }
    ways |= _ngrams(texts, length)
    step("yardsticks")
    results = _by_bucket(ways, texts.files, length)
    results |= _kept(model, texts, ids, opened, ways)
    results["one_rate_kept"] = _kept(one_rate_model, texts, ids, one_rate_opened, ways | {"learning": one_rate})["kept"]
    # a level restarts after its document, so what was read until here is the same with and without restarts
    no_restart = model.with_levels([replace(level, reset=None) for level in model.config.levels])
    results["no_restart_kept"] = _kept(no_restart, texts, ids, opened, ways)["kept"]
    resets = [level.reset for level in model.config.levels]
    restarting = model.with_levels(
        [replace(level, reset=reset) for level, reset in zip(byte_reader.ONE_RATE, resets, strict=True)]
    )
    results["one_rate_restart_kept"] = _kept(restarting, texts, ids, one_rate_opened, ways)["kept"]
    results["levels"] = {
        "learning": [level.to_dict() for level in model.config.levels],
        "one_rate": [level.to_dict() for level in byte_reader.ONE_RATE],
    }
    step("damage")
    results["names"] = repeated_names(texts, length, frozen, learning)
    step("names")
    results["isolation"] = {"identical": rows_never_mix(model, texts.files)}
    results["files"] = [d.name for d in texts.files]
    step("isolation")
    saved = (frozen - learning)[0].nan_to_num()
    page = {"name": texts.files[0].name, "text_bytes": ids[0].tolist(), "saved_bits": saved.tolist()}
    return results, {"bytes": page}


def rows_never_mix(model: Decoder, files: Sequence[Document], length: int = 1_025) -> bool:
    """Tell whether Ada's scores stay bit-identical when Bob reads something else beside her."""
    scores = []
    for other in (files[1].data[:length], files[1].data[:length][::-1]):
        both = Learner(model).read({"ada": files[0].data[:length], "bob": other})
        scores.append(both["ada"].bits)
    return torch.equal(scores[0][1:], scores[1][1:])


def _rows(documents: Sequence[Document], length: int) -> Tensor:
    """Return the first bytes of each document, [B, length]."""
    return torch.stack([encode(d.data[:length]) for d in documents])


def _read(model: Decoder, ids: Tensor, state: ModelState, **options: Any) -> tuple[Tensor, ModelState]:
    """Read rows; return bits per byte, [B, T], and the state."""
    report, state = read(model, ids, state, chunk_size=model.config.chunk_size, **options)
    return report.nll / math.log(2), state


def _frozen(model: Decoder, ids: Tensor, state: ModelState | None = None) -> Tensor:
    """Score rows with a memory that does not change; bits, [B, T]."""
    return _read(model, ids, state or _fresh(model, len(ids)), learn=False)[0]


def _learn(model: Decoder, ids: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
    """Read and learn; return bits, [B, T], and the state with its document still open."""
    return _read(model, ids, state or _fresh(model, len(ids)))


def _fresh(model: Decoder, rows: int) -> ModelState:
    return model.initial_state(rows).detach()


def _close(model: Decoder, state: ModelState) -> ModelState:
    """End every row's document without learning from its last, unfinished chunk."""
    return model.tick(state.new_segment(), "document")[0].detach()


def _memory_of(model: Decoder, state: ModelState, shift: int = 0) -> ModelState:
    """Return fresh streams that hold what the rows have learned; `shift` hands each row's memory to another."""
    rows = state.rows([(i + shift) % state.batch_size for i in range(state.batch_size)])
    return with_layers(_fresh(model, state.batch_size), {name: rows.layer(name) for name in model.memories()})


def _ngrams(texts: Texts, length: int) -> dict[str, Tensor]:
    """Score the files by an order-5 n-gram, frozen and online, trained on what the model was trained on."""
    known = ByteNgram(order=5)
    for document in texts.known:
        known.train(document.data)
    rows: dict[str, list[Tensor]] = {"ngram": [], "ngram_online": []}
    for document in texts.files:
        for name, learn in (("ngram", False), ("ngram_online", True)):
            rows[name].append(torch.as_tensor(known.copy().bits(document.data[:length], learn=learn)))
    return {name: torch.stack(bits) for name, bits in rows.items()}


def _buckets(length: int) -> list[Bucket]:
    """Return half-open ranges of positions, ever wider, up to `length`; byte 0 has no prediction and is left out."""
    edges = [edge for edge in EDGES if edge < length] + [length]
    return list(itertools.pairwise(edges))


def _by_bucket(ways: dict[str, Tensor], files: Sequence[Document], length: int) -> dict[str, Any]:
    """Average bits per byte over the files, by position: mean and standard deviation over files."""
    buckets = _buckets(length)
    rows = {name: torch.stack([bits[:, a:b].mean(1) for a, b in buckets], 1) for name, bits in ways.items()}
    rows["gzip"] = torch.tensor([gzip_bits(d.data[:length], buckets) for d in files])
    results: dict[str, Any] = {"buckets": [[a, b] for a, b in buckets]}
    for name, row in rows.items():
        spread = row.std(0).tolist() if len(row) > 1 else [None] * len(buckets)
        results |= {name: row.mean(0).tolist(), f"{name}_sd": spread}
    results["per_file"] = {name: row.tolist() for name, row in rows.items()}
    return results


def _kept(model: Decoder, texts: Texts, ids: Tensor, opened: ModelState, ways: dict[str, Tensor]) -> dict[str, Any]:
    """Measure what reading A and then B costs on the old text, and what is left of A.  (A, B, A)

    Row i has read file i and now reads the next row's file; each document is closed, so levels that restart with a
    document have done so. The late bytes of A are those of the last bucket.
    """
    known = [d for d in texts.heldout if len(d.data) >= HELDOUT_LENGTH][:HELDOUT_FILES]
    old = _rows(known, HELDOUT_LENGTH)
    after = _close(model, _learn(model, ids.roll(-1, 0), _close(model, opened))[1])
    before_old, after_old = (_on_all(model, old, state) for state in (_fresh(model, len(ids)), after))
    late = slice(*_buckets(ids.shape[1])[-1])
    first, again, frozen = (
        bits[:, late].mean(1) for bits in (ways["learning"], _frozen(model, ids, after), ways["frozen"])
    )
    return {
        "kept": {**_change(before_old, after_old), "files": len(known)},
        "first_again": {**_change(first, again), "frozen": float(frozen.mean())},
    }


def _change(before: Tensor, after: Tensor) -> dict[str, float | None]:
    """Return two means over readers, [B] each, and the spread of what changed within each reader."""
    spread = float((after - before).std()) if len(before) > 1 else None
    return {"before": float(before.mean()), "after": float(after.mean()), "change_sd": spread}


def _on_all(model: Decoder, texts: Tensor, state: ModelState) -> Tensor:
    """Score every text with every row's memory; mean bits for each row, [B]."""
    rows, count = state.batch_size, len(texts)
    each = state.rows([i for i in range(rows) for _ in range(count)])
    return _frozen(model, texts.repeat(rows, 1), each)[:, 1:].reshape(rows, -1).mean(1)


def repeated_names(texts: Texts, length: int, frozen: Tensor, learning: Tensor) -> dict[str, Any]:
    """Follow names that the training text does not hold from their first to their fifth occurrence.

    Args:
        texts: names are identifiers of six characters or more in the files.
        length: bytes of each file that were read.
        frozen: bits of each byte, [B, length].
        learning: likewise.
    Returns:
        "frozen" and "learning": mean bits per byte of a name at each occurrence; "count": how many names;
        "extra_sd": spread over files of how much more a name gains when learning.
    """
    known = {name for document in texts.known for name in NAME.findall(document.data)}
    rows: dict[str, list[Tensor]] = {"frozen": [], "learning": []}
    for i, document in enumerate(texts.files):
        spans = [places for name, places in _places(document.data[:length]).items() if name not in known]
        often = [places[:OCCURRENCES] for places in spans if len(places) >= OCCURRENCES]
        for way, bits in (("frozen", frozen), ("learning", learning)):
            each = [[float(bits[i, a:b].mean()) for a, b in places] for places in often]
            rows[way].append(torch.tensor(each).reshape(-1, OCCURRENCES))
    count = sum(map(len, rows["frozen"]))
    if not count:
        return {"count": 0}
    saved = {way: torch.stack([r.mean(0)[0] - r.mean(0)[-1] for r in each if len(r)]) for way, each in rows.items()}
    extra = saved["learning"] - saved["frozen"]
    means = {way: torch.cat(each).mean(0).tolist() for way, each in rows.items()}
    return {**means, "count": count, "extra_sd": float(extra.std()) if len(extra) > 1 else None}


def _places(data: bytes) -> dict[bytes, list[tuple[int, int]]]:
    """Return where each name of six characters or more stands; byte 0 has no prediction and is left out."""
    places: dict[bytes, list[tuple[int, int]]] = {}
    for match in NAME.finditer(data):
        if match.start() > 0:
            places.setdefault(match.group(), []).append(match.span())
    return places
