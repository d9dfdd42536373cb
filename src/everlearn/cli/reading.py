"""Reading documents into one user's memory: what `learn` and `read` share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from everlearn.cli.output import Output
from everlearn.cli.progress import Advance, progress

if TYPE_CHECKING:
    from everlearn.demo.corpus import Document
    from everlearn.learn import Learner, Score


def read_documents(
    learner: Learner, user: str, documents: Sequence[Document], out: Output, *, again: bool
) -> list[dict[str, Any]]:
    """Read documents one after another, each chunk committed before the next, and tell what each cost in bits.

    The notes committed with the memory hold a line for every document that was finished, how far the open one has
    come, and what a run of several has left; so the same call after an interrupt goes on where it stopped.

    Args:
        learner: with a store.
        user: whose memory learns.
        documents: in the order of reading; one that was interrupted comes first.
        out: where to say what happens.
        again: read documents that this memory has read before once more; without it equal ones are read once.
    Returns:
        a row for each document that this call read to its end: name, bytes, frozen and learned bits per byte.
    """
    _drop_foreign(learner, user, documents, out)
    wanted = _wanted(learner, user, documents, again)
    why = "before the interrupt, skipped" if again else "before, skipped (`everlearn read` reads it again)"
    for document in (d for d in documents if d not in wanted):
        out.say(f"{document.name}: read {why}")
    total = sum(len(d.data) for d in wanted)
    rows = []
    with progress(f"Reading {len(wanted)} document{'s' * (len(wanted) != 1)} for {user}", total=total) as advance:
        for i, document in enumerate(wanted):
            left = [_key(d) for d in wanted[i + 1 :]]
            run = {"documents": _run_key(documents), "left": left} if again and left else None
            rows.append(_read_one(learner, user, document, out, advance, run))
    return rows


def _wanted(learner: Learner, user: str, documents: Sequence[Document], again: bool) -> list[Document]:
    """Return what is to be read, in order: what an interrupted run left, or all that is new or asked for again."""
    once = {_key(d): d for d in reversed(documents)}
    finished, opened, run = _finished(learner, user), _open_key(learner, user), learner.notes(user).get("run")
    if not again:
        wanted = [d for d in documents if d is once[_key(d)] and (_key(d) not in finished or _key(d) == opened)]
    elif run and run["documents"] == _run_key(documents):
        wanted = [once[key] for key in run["left"]]
    else:
        wanted = list(documents)
    # an open document goes on before anything else is read: it would run into the next one's bytes
    place = next((i for i, d in enumerate(wanted) if _key(d) == opened), 0)
    return [*wanted[place : place + 1], *wanted[:place], *wanted[place + 1 :]]


def _read_one(
    learner: Learner, user: str, document: Document, out: Output, advance: Advance, run: dict[str, Any] | None
) -> dict[str, Any]:
    """Read one document from where it stopped to its end; return its row. `run` is what is left after it."""
    size, key = len(document.data), _key(document)
    start = learner.position(user) if _open_key(learner, user) == key else 0
    progress_note = learner.notes(user).get("open") or {"document": key, "bits": 0.0, "scored": 0}
    if start:
        out.say(f"{document.name}: resumed at byte {start:,} of {size:,}")
    if size <= learner.chunk_size:
        out.say(
            f"{document.name}: {size} bytes, less than a chunk of {learner.chunk_size}; nothing would be learned yet"
        )
    frozen = learner.score(document.data).bits_per_byte
    done = start

    def note(scores: dict[str, Score]) -> dict[str, Any]:
        nonlocal done, progress_note
        bits = scores[user].bits
        scored = ~bits.isnan()
        done += len(bits)
        progress_note = {
            "document": key,
            "bits": progress_note["bits"] + float(bits[scored].sum()),
            "scored": progress_note["scored"] + int(scored.sum()),
        }
        if done < size:
            return learner.notes(user) | {"open": progress_note}
        row = {"name": document.name, "bytes": size, "frozen": frozen, "learned": _mean(progress_note)}
        finished = _finished(learner, user) | {key: row}
        return learner.notes(user) | {"open": None, "documents": finished, "run": run}

    advance(start)
    for scores in learner.stream({user: document.data[start:]}, note=note):
        advance(len(scores[user].bits), document.name)
    return _finished(learner, user)[key]


def _drop_foreign(learner: Learner, user: str, documents: Iterable[Document], out: Output) -> None:
    """End a document that was interrupted and is not among those to be read now."""
    if learner.position(user) and _open_key(learner, user) not in {_key(d) for d in documents}:
        out.say(f"an interrupted document is not among these; it ends at byte {learner.position(user):,}")
        learner.close(user, learner.notes(user) | {"open": None})


def _finished(learner: Learner, user: str) -> dict[str, Any]:
    """Return the rows of the documents that were read to their end, by the hash of their content."""
    return learner.notes(user).get("documents", {})


def _open_key(learner: Learner, user: str) -> str | None:
    note = learner.notes(user).get("open")
    return note["document"] if note else None


def _key(document: Document) -> str:
    return hashlib.sha256(document.data).hexdigest()


def _run_key(documents: Sequence[Document]) -> str:
    return hashlib.sha256("".join(map(_key, documents)).encode()).hexdigest()


def _mean(note: dict[str, Any]) -> float:
    return note["bits"] / note["scored"] if note["scored"] else float("nan")


def show(
    rows: Sequence[dict[str, Any]],
    out: Output,
    title: str = "bits per byte, each byte scored before anything was learned from it",
    learned: str = "learning",
) -> None:
    """Print one line for each document and one for all of them."""
    from rich.table import Table

    table = Table(title=title)
    for column in ("document", "bytes", "frozen", learned, "saved"):
        table.add_column(column, justify="left" if column == "document" else "right")
    for row in rows:
        cells = (
            row["name"],
            f"{row['bytes']:,}",
            f"{row['frozen']:.3f}",
            f"{row['learned']:.3f}",
            f"{row['frozen'] - row['learned']:+.3f}",
        )
        table.add_row(*cells)
    out.console().print(table)


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return bytes and byte-weighted means over the rows."""
    size = sum(row["bytes"] for row in rows)
    mean = {way: sum(row[way] * row["bytes"] for row in rows) / size if size else None for way in ("frozen", "learned")}
    return {"documents": len(rows), "bytes": size, **mean}
