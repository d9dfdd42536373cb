"""Reading documents into one user's memory: what `learn` and `read` share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
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
    come, and how many documents of this list are done; so a run that was stopped anywhere goes on where it stopped.

    Args:
        learner: with a store.
        user: whose memory learns.
        documents: in the order of reading.
        out: where to say what happens.
        again: read documents that this memory has read before once more, in exactly this order; otherwise each is
            read once, an interrupted one first.
    Returns:
        a row for each document read to its end: name, bytes, frozen and learned bits per byte, and "guard" where one
        changed what it taught. With `again` the documents that an interrupted run of the same list has finished are
        among them.
    """
    wanted, done = (_in_order if again else _unread)(learner, user, documents)
    how = "before the interrupt, skipped" if again else "before, skipped (`everlearn read` reads it again)"
    for document in wanted[:done] if again else [d for d in documents if d not in wanted]:
        out.say(f"{document.name}: read {how}")
    _end_interrupted(learner, user, documents, wanted[done:], out)
    rows = [_finished(learner, user)[_key(d)] for d in wanted[:done]]
    left, total = len(wanted) - done, sum(len(d.data) for d in wanted[done:])
    with progress(f"Reading {left} document{'s' * (left != 1)} for {user}", total=total) as advance:
        for number in range(done, len(wanted)):
            plans = [_plan(wanted, n) if again else None for n in (number, number + 1)]
            rows.append(_read_one(learner, user, wanted[number], plans, out, advance))
    return rows


def _in_order(learner: Learner, user: str, documents: Sequence[Document]) -> tuple[list[Document], int]:
    """Return all documents, and how many of them a run of the same list finished before it was stopped."""
    plan = learner.notes(user).get("plan") or {}
    done = plan.get("done", 0)
    return list(documents), done if plan == _plan(documents, done) else 0


def _unread(learner: Learner, user: str, documents: Sequence[Document]) -> tuple[list[Document], int]:
    """Return the documents that were never read to their end, each content once, an interrupted one first."""
    finished, opened = _finished(learner, user), _open_key(learner, user)
    unread: dict[str, Document] = {}
    for document in documents:
        if (key := _key(document)) not in finished or key == opened:
            unread.setdefault(key, document)
    return sorted(unread.values(), key=lambda d: _key(d) != opened), 0


def _plan(documents: Sequence[Document], done: int) -> dict[str, Any] | None:
    """Return the note that `done` documents of this list are finished; None when all are."""
    if done == len(documents):
        return None
    return {"documents": hashlib.sha256("".join(map(_key, documents)).encode()).hexdigest(), "done": done}


def _read_one(
    learner: Learner, user: str, document: Document, plans: Sequence[Any], out: Output, advance: Advance
) -> dict[str, Any]:
    """Read one document from where it stopped to its end; return its row. `plans`: the notes while and after."""
    from everlearn.cli.kept import document_name, what_happened
    from everlearn.learn import Tokens

    size, key = len(document.data), _key(document)
    name = document_name(document.name, key)
    tokens = learner.whole(document.data)
    count = len(tokens.ids)
    start = learner.position(user) if _open_key(learner, user) == key else 0
    before = int(learner.model.count_bytes(tokens.ids[:start]).sum())
    progress_note = learner.notes(user).get("open") or {
        "document": key,
        "name": name,
        "bits": 0.0,
        "scored": 0,
        "steps": {},
    }
    if start:
        out.say(f"{document.name}: resumed at byte {before:,} of {size:,}")
    frozen = learner.score(document.data).bits_per_byte
    done = start

    def note(scores: dict[str, Score]) -> dict[str, Any]:
        nonlocal done, progress_note
        bits, sizes = scores[user].bits, scores[user].num_bytes
        scored = ~bits.isnan()
        done += len(bits)
        steps = dict(progress_note.get("steps", {}))
        for level, number in scores[user].steps.items():
            steps[level] = steps.get(level, 0) + number
        progress_note = {
            "document": key,
            "name": name,
            "bits": progress_note["bits"] + float(bits[scored].sum()),
            "scored": progress_note["scored"] + int(scored.sum() if sizes is None else sizes[scored].sum()),
            "steps": steps,
        }
        if done < count:
            return learner.notes(user) | {"open": progress_note, "plan": plans[0]}
        row = {"name": document.name, "bytes": size, "frozen": frozen, "learned": _mean(progress_note)}
        row["steps"] = steps
        if (event := scores[user].event) is not None:
            row["guard"] = dataclasses.asdict(event)
        finished = _finished(learner, user) | {key: row}
        return learner.notes(user) | {"open": None, "plan": plans[1], "documents": finished}

    advance(before)
    left = Tokens(tokens.ids[start:], tokens.skip[start:])
    for scores in learner.stream({user: left}, name=name, note=note):
        sizes = scores[user].num_bytes
        advance(0 if sizes is None else int(sizes.sum()), document.name)
        if (event := scores[user].event) is not None:
            out.say(f"{document.name}: {event}")
        for dropped in scores[user].dropped:
            out.say(f"the archive is full: what {dropped} taught was dropped")
    for line in what_happened(learner, document.name, count, progress_note["steps"]):
        out.say(line)
    return _finished(learner, user)[key]


def _end_interrupted(
    learner: Learner, user: str, documents: Sequence[Document], wanted: Sequence[Document], out: Output
) -> None:
    """End a document that was interrupted unless it is the next to be read: nothing else may be added to it."""
    from everlearn.models import Decoder
    from everlearn.models.alphabet import BYTES

    key = _open_key(learner, user)
    if key is None or (wanted and key == _key(wanted[0])):
        return
    where = "not the next one here" if key in map(_key, documents) else "not among these"
    unit = "byte" if isinstance(learner.model, Decoder) and learner.model.alphabet is BYTES else "token"
    out.say(f"an interrupted document is {where}; it ends at {unit} {learner.position(user):,}")
    learner.close(user, learner.notes(user) | {"open": None, "plan": None})


def _finished(learner: Learner, user: str) -> dict[str, Any]:
    """Return the rows of the documents that were read to their end, by the hash of their content."""
    return learner.notes(user).get("documents", {})


def _open_key(learner: Learner, user: str) -> str | None:
    note = learner.notes(user).get("open")
    return note["document"] if note else None


def _key(document: Document) -> str:
    return hashlib.sha256(document.data).hexdigest()


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
    from rich.text import Text

    table = Table(title=title)
    for column in ("document", "bytes", "frozen", learned, "saved"):
        table.add_column(column, justify="left" if column == "document" else "right")
    for row in rows:
        cells = (
            Text(row["name"]),
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
