"""What a way of reading gains, what it keeps, and what it damages: on documents one by one, and on a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from everlearn.evals.tokens import Tokens, bits_per_byte
from everlearn.evals.ways import Way

Make = Callable[[], Way]


def by_position(nll: Tensor, document: Tokens, buckets: Sequence[tuple[int, int]]) -> list[float]:
    """Return bits per byte of ranges of positions.

    Args:
        nll: of every token but the first, [T - 1] nats.
        document: the T tokens.
        buckets: half-open ranges of positions in tokens; the first token, which nothing predicts, is never counted.
    Raises:
        ValueError: a range holds no scored token or reaches beyond the document.
    """
    means = []
    for start, end in buckets:
        if not 0 <= start < end <= len(document) or end < 2:
            raise ValueError(
                f"positions {start} to {end} do not fit in a document of {len(document)} tokens; "
                "0 <= start < end <= its length is needed; choose other positions or a longer document"
            )
        first = max(start, 1)
        means.append(bits_per_byte(nll[first - 1 : end - 1], document.bytes[first:end]))
    return means


def read_apart(make: Make, documents: Sequence[Tokens], buckets: Sequence[tuple[int, int]]) -> list[list[float]]:
    """Read each document with a fresh way; return bits per byte by position, one row for each document."""
    return [by_position(make().read(document.ids), document, buckets) for document in documents]


def late(way: Way, text: Tokens) -> float:
    """Score a text without learning; return the bits per byte of its second half."""
    half = len(text) // 2
    return by_position(way.score(text.ids), text, [(half, len(text))])[0]


def controls(
    make: Make, read: Sequence[Tokens], asked: Sequence[Tokens], buckets: Sequence[tuple[int, int]]
) -> list[list[float]]:
    """Learn from one document, then score another without learning: is a gain more than having learned anything at all?

    Args:
        make: gives a fresh way.
        read: the documents that are learned from.
        asked: for each of them the text that is scored.
        buckets: see `by_position`.
    Returns:
        bits per byte by position of what is asked, one row for each pair.
    """
    rows = []
    for document, text in zip(read, asked, strict=True):
        way = make()
        way.read(document.ids)
        rows.append(by_position(way.score(text.ids), text, buckets))
    return rows


@dataclass(frozen=True)
class StreamReport:
    """What a stream of documents did.

    Every change is in bits per byte against the model that read nothing, below 0 is better; texts are never part of
    the stream, and are scored after `end_document`, so with what persists.

    Args:
        online: bits per byte of every document of the stream while it was read.
        learned: domain -> change on its held-out text after its own (last) document.
        kept: domain -> change on the same text after the whole stream.
        general: change on the general text after every document.
        other: name -> change on further texts after the whole stream.
        state_bytes: what the way carries at the end.
    """

    online: list[float]
    learned: dict[str, float]
    kept: dict[str, float]
    general: list[float]
    other: dict[str, float]
    state_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)


def run_stream(
    way: Way,
    fresh: Mapping[str, float],
    documents: Sequence[tuple[str, Tokens]],
    heldout: Mapping[str, Tokens],
    general: str,
    others: Sequence[str] = (),
) -> StreamReport:
    """Read a stream of documents from changing domains in one pass, and see what is learned, kept and damaged.

    Args:
        way: fresh; it learns.
        fresh: name of a text -> bits per byte of the untaught model on it (`late`).
        documents: (domain, document) in order.
        heldout: name -> text; it holds every domain, `general` and `others`.
        general: the text that shows damage to what was known before.
        others: further texts that are scored at the end.
    """

    def change(name: str) -> float:
        return late(way, heldout[name]) - fresh[name]

    online, damage, learned = [], [], {}
    for domain, document in documents:
        online += by_position(way.read(document.ids), document, [(0, len(document))])
        way.end_document()
        damage.append(change(general))
        learned[domain] = change(domain)
    kept = {domain: change(domain) for domain in learned}
    return StreamReport(online, learned, kept, damage, {name: change(name) for name in others}, way.state_bytes())
