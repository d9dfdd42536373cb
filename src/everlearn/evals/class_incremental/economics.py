"""What accuracy costs: seconds and bytes along the stream, and where each strategy equals a named one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from everlearn.evals.class_incremental.tables import Row, needs, percent, size

FIRST_CHOICE = "streaming_lda"


@dataclass(frozen=True)
class Course:
    """A strategy along the stream, after each experience: means over the orders of arrival.

    Args:
        seen: accuracy on all classes so far, as shares.
        seconds: processor time spent so far on learning and on solving what answers; see `spent`.
        bytes: of its state.
        complete: whether the time of solving is known; without it the seconds are a lower bound.
    """

    seen: tuple[float, ...]
    seconds: tuple[float, ...]
    bytes: tuple[float, ...]
    complete: bool


@dataclass(frozen=True)
class Equal:
    """Where a strategy first reaches the accuracy of another and holds it to the end of the stream.

    Args:
        orders: orders of arrival in which it does.
        of: orders of arrival.
        experience: after which it does, counted from 1; the latest among the orders. None where it never does.
        seconds: what it had spent by then, the mean over those orders; see `spent`.
        bytes: of its state by then, the most among those orders.
    """

    orders: int
    of: int
    experience: int | None = None
    seconds: float | None = None
    bytes: int | None = None


def spent(row: Row) -> list[float]:
    """Return the processor time until a strategy could answer after each experience [s].

    Some learn record by record and answer at once, others gather sums or records and solve when they are asked: both
    count. Answering itself does not. A row without the time of solving gives that of learning alone.
    """
    return [learning + solving for learning, solving in zip(row["seconds"], _solving(row), strict=True)]


def _solving(row: Row) -> Sequence[float]:
    """Return the time of solving, zeros for a row that was measured without it."""
    return row.get("solving_seconds") or [0.0] * len(row["seconds"])


def course(rows: Sequence[Row]) -> Course:
    """Return the means over the rows of a strategy, one for each order of arrival, all of equal length."""
    return Course(
        _means([row["seen"] for row in rows]),
        _means([spent(row) for row in rows]),
        _means([row["bytes"] for row in rows]),
        all("solving_seconds" in row for row in rows),
    )


def _means(columns: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the mean of each place."""
    return tuple(statistics.mean(values) for values in zip(*columns, strict=True))


def held_from(seen: Sequence[float], bar: Sequence[float]) -> int | None:
    """Return the first place from which no accuracy falls below the bar any more; None where the last one does.

    Args:
        seen: accuracy on all classes so far after each experience.
        bar: what is to be reached after each; it falls as classes come, as every accuracy does.
    Example:
        >>> held_from([0.9, 0.7, 0.8, 0.8], [0.8, 0.8, 0.8, 0.7])
        2
    """
    below = [place for place, (got, asked) in enumerate(zip(seen, bar, strict=True)) if got < asked]
    place = below[-1] + 1 if below else 0
    return place if place < len(seen) else None


def equal(rows: Sequence[Row], reference: Sequence[Row], margin: float) -> Equal:
    """Say where a strategy reaches another's accuracy and holds it, and what it had spent by then.

    Args:
        rows: of the strategy, one for each order of arrival.
        reference: rows of the other for the same orders.
        margin: share by which it may stay below, such as 0.01.
    """
    found = []
    for row, other in zip(rows, reference, strict=True):
        # as the accuracies are quotients, a bar may come out a rounding above the very same number
        place = held_from(row["seen"], [share - margin - 1e-9 for share in other["seen"]])
        if place is not None:
            found.append((place + 1, spent(row)[place], row["bytes"][place]))
    if not found:
        return Equal(0, len(rows))
    experience, seconds, held = zip(*found, strict=True)
    return Equal(len(found), len(rows), max(experience), statistics.mean(seconds), max(held))


def reference_of(rows: Mapping[str, Sequence[Row]]) -> str:
    """Return whom the others are compared with unless somebody is named: streaming LDA, else who ends best."""
    if FIRST_CHOICE in rows:
        return FIRST_CHOICE
    return max(rows, key=lambda name: statistics.mean(row["seen"][-1] for row in rows[name]))


def economics(rows: Mapping[str, Sequence[Row]], reference: str, margin: float) -> dict[str, Any]:
    """Return the courses and where each equals the reference, as JSON can hold it.

    Args:
        rows: strategy -> what `protocol.measure` returned for each order of arrival.
        reference: one of the strategies.
        margin: share by which the others may stay below it.
    """
    return {
        "reference": reference,
        "margin": margin,
        "courses": {name: asdict(course(found)) for name, found in rows.items()},
        "equal": {name: asdict(equal(found, rows[reference], margin)) for name, found in rows.items()},
    }


def markdown(rows: Mapping[str, Sequence[Row]], reference: str, margin: float) -> str:
    """Write one line for each strategy: what the stream costs it, and where it equals the reference.

    Args:
        rows, reference, margin: see `economics`.
    """
    heads = ["strategy", "average", f"equals {reference} from", "CPU until then", "state then"]
    heads += ["CPU, whole stream", "times the reference's", "state at the end", "needs"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    own = course(rows[reference])
    for name, found in rows.items():
        whole = course(found)
        at_least = "" if whole.complete else "≥ "
        comparable = whole.complete and own.complete and own.seconds[-1] > 0
        cells = [
            percent([statistics.mean(row["seen"]) for row in found]),
            *_until(equal(found, rows[reference], margin), len(whole.seen), at_least),
            at_least + duration(whole.seconds[-1]),
            f"{whole.seconds[-1] / own.seconds[-1]:.3g}" if comparable else "",
            size(max(row["bytes"][-1] for row in found)),
            needs(found[0]),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _until(where: Equal, experiences: int, at_least: str) -> tuple[str, str, str]:
    """Write where a strategy equals the reference, and what it had spent."""
    if where.experience is None or where.seconds is None or where.bytes is None:
        return "not reached", "", ""
    some = f", in {where.orders} of {where.of} orders" if where.orders < where.of else ""
    place = f"{where.experience} of {experiences}{some}"
    return place, at_least + duration(where.seconds), size(where.bytes)


def duration(seconds: float) -> str:
    """Write seconds with two digits at least that say something.

    Example:
        >>> [duration(0.0123), duration(1.25), duration(321.4)]
        ['0.012 s', '1.2 s', '321 s']
    """
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
