"""Look after a classifier: its classes, what it forgets, what it takes over, how sure it is."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError, command
from everlearn.cli.labels import kept, open_classifier, read_records, read_text
from everlearn.layout import CLASSIFIER

if TYPE_CHECKING:
    from everlearn.cli.memory import Options
    from everlearn.cli.output import Output
    from everlearn.continual import Classifier


def run(options: Options, out: Output) -> dict[str, Any]:
    """Do what `memory` was asked for, on a state that holds a classifier.

    Raises:
        UserError: an action that is about memories of text, or one that lacks what it needs.
    """
    from everlearn.cli import workspace

    actions = {"list": _show, "show": _show, "forget": _forget, "merge": _merge, "calibrate": _calibrate}
    if options.action not in actions:
        raise UserError(
            f"{options.state} holds a classifier, not memories of text; {options.action} is about those, give another "
            f"--state, or copy the folder"
        )
    if options.user is not None or options.document is not None or options.other is not None:
        raise UserError(f"{options.state} holds one classifier for all; leave out --user, --other and --document")
    if options.action in ("merge", "calibrate") and options.file is None:
        what = "the folder of another state" if options.action == "merge" else "a .jsonl file with text and label"
        raise UserError(f"memory {options.action} needs {what}; see: everlearn memory --help")
    writes = options.action not in ("list", "show")
    with workspace.sole_writer(options.state) if writes else nullcontext():
        classifier, notes = open_classifier(options.state, make=False, write=writes, encoder=options.encoder)
        document = actions[options.action](options, classifier, notes, out)
        if writes:
            classifier.save(options.state / CLASSIFIER, notes)
            out.say(f"kept in {options.state}")
    following = ("memory", "show") if writes else ("predict", "FILE")
    out.say(f"next: {command(*following, state=options.state)}")
    return document


def _show(options: Options, classifier: Classifier, notes: dict[str, Any], out: Output) -> dict[str, Any]:
    """Name the classes and how much each has learned."""
    from rich.table import Table
    from rich.text import Text

    counts = classifier.counts
    table = Table(title=f"{len(counts)} classes in {options.state}")
    table.add_column("class")
    table.add_column("records", justify="right")
    for label, count in counts.items():
        table.add_row(Text(str(label)), f"{count:,.6g}")
    out.console().print(table)
    out.say(f"{sum(counts.values()):,g} records, {kept(classifier, options.state)}")
    encoder, half_life = classifier.encoder.settings(), classifier.memory.half_life
    out.say(f"encoder: {notes.get('encoder', encoder['kind'])}")
    if half_life is not None:
        out.say(f"half-life: {half_life:g} records")
    calibration = classifier.calibration
    if calibration is not None:
        out.say(f"calibrated: temperature {calibration.temperature:.2f}, unknown by {calibration.score}")
    return {
        "classes": [[label, count] for label, count in counts.items()],
        "keeps_ledger": classifier.keeps_ledger,
        "encoder": encoder,
        "half_life": half_life,
        "calibration": calibration.to_json() if calibration is not None else None,
    }


def _forget(options: Options, classifier: Classifier, notes: dict[str, Any], out: Output) -> dict[str, Any]:
    """Forget the records of a file, records by id, or a class."""
    given = [options.file is not None, bool(options.record), options.class_ is not None]
    if sum(given) != 1:
        raise UserError(
            "memory forget needs one of: a .jsonl file with the records to forget, --record ID, --class LABEL"
        )
    before = sum(classifier.counts.values())
    if options.file is not None:
        records = read_records(options.file)
        classifier.forget([text for text, _ in records], [label for _, label in records])
    elif options.record:
        classifier.forget_records(options.record)
    else:
        names = {str(label): label for label in classifier.labels}
        assert options.class_ is not None
        # a name that no class has goes on as it is, and the classifier says so
        classifier.forget_class(names.get(options.class_, options.class_))
    gone = before - sum(classifier.counts.values())
    out.say(f"forgot {gone:,} record{'s' * (gone != 1)}; exported copies and backups are not reached")
    return {"forgotten": gone, "classes": len(classifier.labels)}


def _merge(options: Options, classifier: Classifier, notes: dict[str, Any], out: Output) -> dict[str, Any]:
    """Take over what another state has learned, and which streams it has seen."""
    from everlearn.cli import workspace

    assert options.file is not None
    other = options.file
    if other.resolve() == options.state.resolve():
        raise UserError(f"{other} is the state itself; give the folder of another one")
    if not other.is_dir() or workspace.kind_of(other) != "labels":
        raise UserError(f"{other} holds no classifier; give the folder of a state that learned labelled records")
    with workspace.sole_writer(other):
        theirs, their_notes = open_classifier(other, make=False, write=True)
        for kind in ("streams", "begun"):
            mine, more = notes.get(kind, {}), their_notes.get(kind, {})
            if mine.keys() & more.keys():
                raise UserError(
                    f"{other} and {options.state} have learned the same records of one file, which would then count "
                    "twice; merge states that learned different records"
                )
            notes[kind] = mine | more
        classifier.merge(theirs)
        count = sum(theirs.counts.values())
    out.say(f"merged {count:,} records of {len(theirs.labels)} classes; {other} is as it was")
    return {"from": str(other), "records": count, "classes": len(classifier.labels)}


def _calibrate(options: Options, classifier: Classifier, notes: dict[str, Any], out: Output) -> dict[str, Any]:
    """Choose temperature, score and threshold on labelled lines that were not learned."""
    assert options.file is not None
    records = read_records(options.file)
    unknown = _texts(options.unknown) if options.unknown is not None else None
    found = classifier.calibrate([text for text, _ in records], [label for _, label in records], unknown=unknown)
    report = found.report
    out.say(
        f"{report['records']:,} records: calibration error {100 * report['ece_before']:.1f} % before, "
        f"{100 * report['ece_after']:.1f} % at temperature {found.temperature:.2f}"
    )
    out.say(f"unknown by {found.score}: {100 * report['kept']:.1f} % of the known are kept")
    if unknown is not None:
        out.say(f"{100 * report['refused']:.1f} % of {len(unknown):,} unknown ones are told, on these very texts")
    return found.to_json()


def _texts(path: Path) -> list[str]:
    """Read texts of no class: one per line, or .jsonl with "text"."""
    if path.suffix == ".jsonl":
        return [text for text, _ in read_records(path, labelled=False)]
    return [line for line in read_text(path, "one text per line").split("\n") if line.strip()]
