"""What `everlearn eval --ppl` shows: a model, frozen and learning, beside compressors and an n-gram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError
from everlearn.cli.output import Output
from everlearn.layout import BASE, RUN

if TYPE_CHECKING:
    from everlearn.cli.eval import Options
    from everlearn.demo.corpus import Document
    from everlearn.learn import Learner

MOST = 16  # documents
COLUMNS = {
    "gzip": "gzip",
    "xz": "xz",
    "ngram_frozen": "n-gram",
    "ngram_learning": "n-gram, learning",
    "frozen": "frozen",
    "learning": "learning",
}


def measure(options: Options, out: Output) -> dict[str, Any]:
    """Print the table and return the JSON document."""
    from everlearn.cli import workspace
    from everlearn.demo.corpus import user_text
    from everlearn.evals.yardsticks import gzip_bits, trained_ngram, xz_bits

    if options.limit < 2:
        raise UserError(f"--limit {options.limit} is too small; give at least 2 bytes of each document")
    learner = workspace.open_base(options.base, options.device) if options.base else _of_state(options)
    text = user_text([options.path], smallest=2)
    for line in text.skipped:
        out.say(f"skipped: {line}")
    documents = cut(text.documents, options.limit)
    known = training_text(options.base if options.base else options.state / BASE, out)
    ngram = trained_ngram(known)
    rows = [_row(document, learner, ngram, bool(known)) for document in documents]
    joined = b"".join(document.data for document in documents)
    total = _total(rows) | {"gzip": gzip_bits(joined), "xz": xz_bits(joined)}
    _show([*rows, {"name": "together", **total}], out)
    tokens = total["frozen_bits"] / total["tokens"]
    out.say(
        f"perplexity frozen: {2 ** total['frozen']:.3f} per byte, {2**tokens:.3f} per token; "
        f"learning: {2 ** total['learning']:.3f} per byte"
    )
    if len(documents) < len(text.documents) or any(len(d.data) > options.limit for d in text.documents):
        out.say(
            f"measured on {len(documents)} of {len(text.documents)} documents, at most {options.limit:,} bytes of each"
        )
    out.say("nothing that was learned is kept")
    return {"documents": rows, "total": total, "perplexity_per_token": 2**tokens, "ngram_trained": bool(known)}


def cut(documents: Sequence[Document], limit: int) -> list[Document]:
    """Return the beginnings of at most `MOST` documents, spread over all, cut where a character ends."""
    from everlearn.demo.corpus import Document

    step = math.ceil(len(documents) / MOST)
    return [
        Document(d.name, d.data if len(d.data) <= limit else d.data[:limit].decode(errors="ignore").encode())
        for d in documents[::step]
    ]


def training_text(folder: Path, out: Output) -> list[bytes]:
    """Return what a model was trained on, where its folder says so and the files are as they were."""
    import hashlib

    from everlearn.demo.corpus import user_text
    from everlearn.train.config import RunConfig
    from everlearn.train.corpus import split
    from everlearn.train.folder import read_run

    if not (folder / RUN).is_file():
        out.say("the n-gram begins empty: the model's folder does not say what it was trained on")
        return []
    found = read_run(folder)
    texts: dict[str, bytes] = {}
    for file in found["data"]:
        if not Path(file["name"]).is_file():
            out.say(f"the n-gram begins empty: {file['name']}, on which the model was trained, is not there")
            return []
        data = user_text([file["name"]], smallest=1).documents[0].data
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            out.say(f"the n-gram begins empty: {file['name']}, on which the model was trained, has changed")
            return []
        texts[file["name"]] = data
    config = RunConfig.from_dict(found["config"])
    return [part.data for part in split(texts, config.valid_share).train]


def _of_state(options: Options) -> Learner:
    """Return a learner of the model of a state, which keeps nothing on disk."""
    from everlearn.cli import workspace
    from everlearn.learn import Learner

    return Learner(workspace.open_user(options.state, None, options.device).model)


def _row(document: Document, learner: Learner, ngram: Any, trained: bool) -> dict[str, Any]:
    """Measure one document every way; a new reader each time, so that no document helps another."""
    from everlearn.evals.yardsticks import counted, gzip_bits, xz_bits

    by_count = counted(ngram, document.data, trained=trained)
    score = learner.score(document.data)
    learning = learner.read(document.data, user="reader")
    learner.forget("reader")
    return {
        "name": document.name,
        "bytes": len(document.data),
        "tokens": int((~score.bits.isnan()).sum()),
        "frozen_bits": float(score.bits.nansum()),
        "gzip": gzip_bits(document.data),
        "xz": xz_bits(document.data),
        "ngram_frozen": by_count.frozen,
        "ngram_learning": by_count.learning,
        "frozen": score.bits_per_byte,
        "learning": learning.bits_per_byte,
    }


def _total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return sums, and means weighted by bytes."""
    sums = {name: sum(row[name] for row in rows) for name in ("bytes", "tokens", "frozen_bits")}
    means = {
        name: None if rows[0][name] is None else sum(row[name] * row["bytes"] for row in rows) / sums["bytes"]
        for name in ("ngram_frozen", "ngram_learning", "frozen", "learning")
    }
    return {**sums, **means}


def _show(rows: Sequence[dict[str, Any]], out: Output) -> None:
    """Print the table, without the columns that hold nothing."""
    from rich.table import Table
    from rich.text import Text

    columns = {key: title for key, title in COLUMNS.items() if rows[0][key] is not None}
    table = Table(title="bits per byte; each byte is scored before anything is learned from it")
    for column in ("document", "bytes", *columns.values()):
        table.add_column(column, justify="left" if column == "document" else "right")
    for row in rows:
        table.add_row(Text(Path(row["name"]).name), f"{row['bytes']:,}", *(f"{row[key]:.3f}" for key in columns))
    out.console().print(table)
