"""A stream of labelled texts: what `learn`, `predict` and `eval` share."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError
from everlearn.cli.output import Output
from everlearn.cli.progress import progress
from everlearn.layout import CLASSIFIER, LEDGER

if TYPE_CHECKING:
    from everlearn.continual import Classifier
    from everlearn.continual.features import Encoder

Record = tuple[str, str | int]
BATCH, FEATURES = 100, 2_000


def read_records(path: Path, *, labelled: bool = True) -> list[Record]:
    """Read a .jsonl file whole before anything is learned from it.

    Args:
        path: one JSON object per line with "text" and, where `labelled`, "label"; empty lines are passed over.
        labelled: False takes lines without a label, which becomes "".
    Raises:
        UserError: a line that is not such an object, by its number; or no line at all.
    """
    # JSON text may hold the other characters at which splitlines() would cut, such as U+2028
    lines = read_text(path, "one JSON object per line").split("\n")
    records = [_record(path, number, line, labelled) for number, line in enumerate(lines, 1) if line.strip()]
    if not records:
        raise UserError(f'{path} is empty; give one JSON object per line, such as {{"text": "...", "label": "..."}}')
    return records


def read_text(path: Path | None, what: str) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Args:
        path: the file; None reads standard input.
        what: what it should hold, for the error.
    Raises:
        UserError: the file is something else.
    """
    try:
        text = sys.stdin.read() if path is None else path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path or 'standard input'} is not UTF-8 text; save it as UTF-8 with {what}") from None
    return text.removeprefix("\ufeff")


def is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can hold a text: JSON may smuggle in half of a surrogate pair, as \\ud800."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _record(path: Path, number: int, line: str, labelled: bool) -> Record:
    """Check one line."""
    example = '{"text": "...", "label": "..."}'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} line {number} is not JSON ({error}); write it as {example}; nothing was learned"
        ) from None
    wanted = ("text", "label") if labelled else ("text",)
    if not isinstance(record, dict) or any(key not in record for key in wanted):
        raise UserError(f"{path} line {number} lacks {' or '.join(wanted)}; write it as {example}; nothing was learned")
    text, label = record["text"], record.get("label", "")
    if not isinstance(text, str) or not text.strip() or not is_unicode(text):
        raise UserError(
            f"{path} line {number}: text must be a string of valid Unicode that is not empty, got {_shown(text)}; "
            "nothing was learned"
        )
    if isinstance(label, bool) or not isinstance(label, str | int) or (labelled and not str(label).strip()):
        raise UserError(
            f"{path} line {number}: label must be text or a whole number, got {_shown(label)}; nothing was learned"
        )
    if not is_unicode(str(label)):
        raise UserError(f"{path} line {number}: label is not valid Unicode, got {_shown(label)}; nothing was learned")
    return text, label


def _shown(value: Any) -> str:
    """Return a value as an error can show it."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def learn_labels(
    records: Sequence[Record],
    folder: Path,
    out: Output,
    *,
    encoder: str | None = None,
    ledger: bool = False,
    half_life: float | None = None,
) -> dict[str, Any]:
    """Answer each record, then learn it; go on where an earlier run of the same stream, or of its beginning, stopped.

    The classifier and how far each stream has come are one file, written after every batch, so that no record is
    learned twice and none is lost but those of the batch in flight. A file that has grown is the same stream.

    Args:
        records: what is learned.
        folder: of the state.
        out: where to say it.
        encoder: see `open_classifier`.
        ledger: keep the records; only for a state that is begun here, or keeps them already.
        half_life: of a state that is begun here, or the one that it has.
    """
    classifier, notes = open_classifier(
        folder, make=True, write=True, encoder=encoder, ledger=ledger, half_life=half_life
    )
    ids: list[str] = []
    finished, begun = notes.get("streams", {}), notes.get("begun", {})
    known, answers = _longest_beginning(records, finished | begun)
    if len(answers) == len(records):
        out.say("this stream was learned before; nothing is learned twice")
    elif answers:
        out.say(f"resumed at record {len(answers) + 1:,} of {len(records):,}")
    # an interrupt must not leave the ledger's file locked by a change that was never committed
    with _closing(classifier), progress("Answering, then learning", total=len(records)) as advance:
        advance(len(answers))
        for start in range(len(answers), len(records), BATCH):
            batch = records[start : start + BATCH]
            texts, labels = [text for text, _ in batch], [label for _, label in batch]
            guesses = classifier.predict(texts) if classifier.labels else [None] * len(batch)
            answers = answers + [int(guess == label) for guess, label in zip(guesses, labels, strict=True)]
            ids += classifier.learn(texts, labels)
            begun = {key: given for key, given in begun.items() if key != known}
            known = _stream_key(records[: len(answers)])
            if len(answers) == len(records):
                finished = finished | {known: answers}
            else:
                begun = begun | {known: answers}
            classifier.save(folder / CLASSIFIER, notes | {"streams": finished, "begun": begun})
            advance(len(batch), f"{len(classifier.labels)} labels")
        summary = summarise(records, answers, classifier, folder, out)
    return summary | ({"ids": ids} if classifier.ledger is not None else {})


@contextmanager
def _closing(classifier: Classifier) -> Iterator[None]:
    """Let go of the ledger at the end, whatever the end is; what was not committed is undone."""
    try:
        yield
    finally:
        if classifier.ledger is not None:
            classifier.ledger.close()


def _longest_beginning(records: Sequence[Record], streams: dict[str, list[int]]) -> tuple[str, list[int]]:
    """Find the longest known stream that these records begin with; return its key and its answers, or "" and none."""
    matching = [(key, given) for key, given in streams.items() if _stream_key(records[: len(given)]) == key]
    return max(matching, key=lambda found: len(found[1]), default=("", []))


def _stream_key(records: Sequence[Record]) -> str:
    """Return the hash that names a stream."""
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


def summarise(
    records: Sequence[Record], answers: Sequence[int], classifier: Classifier, folder: Path, out: Output
) -> dict[str, Any]:
    """Say how the answers improved along the stream, and how the first records fare now."""
    from rich.table import Table

    quarters = [answers[len(answers) * i // 4 : len(answers) * (i + 1) // 4] for i in range(4)]
    shares = [sum(q) / len(q) if q else None for q in quarters]
    table = Table(title="answered right before it was learned, by quarter of the stream")
    for column in ("first", "second", "third", "last", "all"):
        table.add_column(column, justify="right")
    whole = sum(answers) / len(answers)
    table.add_row(*("-" if s is None else f"{100 * s:.1f} %" for s in (*shares, whole)))
    out.console().print(table)
    size = classifier.nbytes["state"] // 1024
    out.say(
        f"{len(classifier.labels)} labels, {sum(classifier.counts.values()):,g} records, {kept(classifier, folder)}"
    )
    return {
        "records": len(records),
        "labels": len(classifier.labels),
        "accuracy": whole,
        "accuracy_by_quarter": shares,
        "stores_kb": size,
    }


def kept(classifier: Classifier, folder: Path) -> str:
    """Say how much the state in a folder keeps, and of what."""
    examples = "no text"
    if classifier.keeps_ledger:
        size = (folder / LEDGER).stat().st_size // 1024
        examples = f"and a ledger of {size:,} KB: features, label and id of every record, no text"
    return f"{classifier.nbytes['state'] // 1024:,} KB kept, {examples}"


def open_classifier(
    folder: Path,
    *,
    make: bool,
    write: bool = False,
    encoder: str | None = None,
    ledger: bool = False,
    half_life: float | None = None,
) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier of a state folder and the notes saved with it.

    Args:
        folder: of the state.
        make: begin one where there is none.
        write: open its ledger too, if it keeps one; the caller holds the folder.
        encoder: folder or name of a sentence encoder; None takes the one in the notes, or hashed words for a new one.
        ledger: a new one keeps a ledger, and one that was begun must keep one.
        half_life: of a new one; one that was begun must have it.
    Raises:
        UserError: there is none, or it was begun in another way.
    """
    from everlearn.continual import Classifier, HashedText
    from everlearn.continual.classifier_file import read_state
    from everlearn.memory.precision import PrecisionMemory

    path = folder / CLASSIFIER
    if path.exists():
        _, meta = read_state(path)
        if ledger and "ledger" not in meta:
            raise UserError(f"{folder} was begun without --ledger, so it misses its records; choose a new --state")
        begun = meta["memory"].get("half_life")
        if half_life is not None and half_life != begun:
            raise UserError(f"{folder} was begun with half-life {begun}, not {half_life}; choose a new --state")
        place = encoder or meta["notes"].get("encoder")
        keeps = folder / LEDGER if write and "ledger" in meta else None
        classifier, notes = Classifier.load_with_notes(path, _sentences(place), ledger=keeps)
        return classifier, notes | ({"encoder": encoder} if encoder is not None else {})
    if not make:
        raise UserError(f"{folder} holds no classifier yet; make one: everlearn learn FILE.jsonl --state {folder}")
    features = _sentences(encoder) or HashedText(FEATURES)
    memory = PrecisionMemory(features.dim, half_life=half_life)
    made = Classifier(features, memory, ledger=folder / LEDGER if ledger else None)
    notes = {} if encoder is None else {"encoder": encoder}
    if ledger:
        # before the first record: what a killed process has left in a ledger is told by the state beside it
        made.save(path, notes)
    return made, notes


def _sentences(place: str | None) -> Encoder | None:
    """Return the sentence encoder of a folder or a name, or None for none."""
    if place is None:
        return None
    from everlearn.continual.encoders import HFEncoder

    return HFEncoder(place)
