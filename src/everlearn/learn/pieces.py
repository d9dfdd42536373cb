"""Reading users' texts side by side, piece by piece, and what the end of a text leaves of it for each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from everlearn.learn.documents import EVENT, archived, steps_of, turned
from everlearn.learn.guard import Guard, GuardEvent
from everlearn.learn.memories import Memories
from everlearn.learn.score import Score
from everlearn.learn.spans import Rows
from everlearn.learn.stream import End, Step, read
from everlearn.memory.in_state import SLOTS, open_document, without_slots
from everlearn.memory.state import ModelState, concat_rows


@dataclass(frozen=True)
class Ended:
    """What the end of a text, or of a piece of one, left.

    Args:
        state: to be committed, [1, ...].
        steps: level name -> 1 where it stepped because the text is over.
        event: what a guard did.
        dropped: documents that left the archive.
    """

    state: ModelState
    steps: dict[str, int] = field(default_factory=dict)
    event: GuardEvent | None = None
    dropped: tuple[str, ...] = ()


def end_of_text(
    memories: Memories,
    guard: Guard | None,
    users: Sequence[str],
    before: Sequence[ModelState],
    batch: ModelState,
    event: str | None,
) -> list[Ended]:
    """End the text of every row.

    Args:
        memories: of all users.
        guard: asked about each row; None asks nobody.
        users: whose rows these are.
        before: what they read from, [1, ...] each, with their documents named where that has a use.
        batch: after the text, one row each.
        event: what the end is; None where the text goes on.
    """
    rows = [batch.rows([i]) for i in range(len(users))]
    if event is None:
        return [Ended(row) for row in rows]
    archives = [memories.archive(user) if event == EVENT else None for user in users]
    found: list[Ended] = []
    if any(archives):
        for archive, row, old in zip(archives, rows, before, strict=True):
            document = open_document(old)
            assert archive is not None and document is not None
            state, steps, dropped = archived(memories, archive, row, document.name)
            found.append(Ended(state, steps, None, dropped))
        return found
    batch, updates = memories.reader.tick(batch, event)
    for i, old in enumerate(before):
        state, did = batch.rows([i]), None
        if guard is not None:
            state, did = guarded(guard, old, state)
        found.append(Ended(state if event == EVENT else turned(state, old), steps_of(updates, i), did))
    return found


def guarded(guard: Guard, before: ModelState, after: ModelState) -> tuple[ModelState, GuardEvent | None]:
    """Ask a guard about what the levels learned; slots stay as they are."""
    state, event = guard(without_slots(before), without_slots(after))
    slots = {SLOTS: after.memory[SLOTS]} if SLOTS in after.memory else {}
    return replace(state, memory=state.memory | slots), event


def read_pieces(
    memories: Memories,
    texts: Mapping[str, ModelState],
    rows: Rows,
    *,
    guard: Guard | None,
    step: Step | None,
    end: End,
    event: str,
) -> Iterator[tuple[dict[str, Score], dict[str, ModelState]]]:
    """Read rows in pieces that close one chunk each; nothing is committed here.

    Args:
        memories: of all users.
        texts: user -> the state to read from, in the order of the rows.
        rows: the texts.
        guard: see `end_of_text`.
        step: see `learn.read`.
        end: see `learn.read`.
        event: what the end of the texts is.
    Yields:
        each user's score of the piece, and the state to commit before the next.
    """
    users, before, reader = list(texts), list(texts.values()), memories.reader
    batch = concat_rows(before, memories.fresh)
    waiting = batch.context.get("open")
    start, stop = 0, reader.chunk_size + 1 - (int(waiting["count"].max()) if waiting else 0)
    while start < rows.length:
        last, piece = stop >= rows.length, rows.piece(start, stop)
        report, batch = read(
            reader,
            piece.ids,
            batch,
            piece.real,
            skip=piece.skip,
            chunk_size=reader.chunk_size,
            end=end if last else "open",
            step=step,
        )
        ends = end_of_text(memories, guard, users, before, batch, event if last and end != "open" else None)
        scores = {
            user: Score(
                report.nll[i][piece.shown[i]].cpu() / math.log(2),
                _sum({level: int(steps[i]) for level, steps in report.steps.items()}, ends[i].steps),
                reader.count_bytes(piece.ids[i][piece.shown[i]]).cpu(),
                ends[i].event,
                dropped=ends[i].dropped,
            )
            for i, user in enumerate(users)
        }
        yield scores, {user: ended.state for user, ended in zip(users, ends, strict=True)}
        start, stop = stop, stop + reader.chunk_size


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """Add two counts of steps; what never stepped is left out."""
    both = {level: a.get(level, 0) + b.get(level, 0) for level in (*a, *b)}
    return {level: count for level, count in both.items() if count}
