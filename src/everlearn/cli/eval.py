"""Measure a memory on text or labelled records, or a model beside simpler ones; nothing that is learned is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.options import DeviceName, Encoder, File, JsonTarget

if TYPE_CHECKING:
    from everlearn.cli.output import Output


@dataclass(frozen=True)
class Options:
    """Measure what a memory is worth on text or on labelled records; nothing is learned.

    With --ppl, measure a model on text: as it was trained, and learning while it reads, beside gzip, xz and an n-gram;
    what it learns there is thrown away.
    """

    path: Path
    """folder of text, a text file, or a .jsonl file with "text" and "label" """
    state: Path = Path("memory")
    """folder of the memory"""
    user: str = "me"
    """whose memory (text only)"""
    base: File = None
    """with --ppl the folder of a trained model, instead of a state; else where the base of a converted model is now, if
    it was moved"""
    ppl: bool = False
    """measure the model itself, in bits per byte and perplexity"""
    limit: int = 8192
    """bytes of each document that --ppl reads at most, of at most 16 documents"""
    encoder: Encoder = None
    device: DeviceName = "auto"
    json: JsonTarget = None


def run(options: Options) -> int:
    """Print the table and write the JSON document where one was asked for."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import UserError, command
    from everlearn.cli.output import Output
    from everlearn.device import describe_device, device
    from everlearn.layout import MARKER

    out = Output(options.json)
    workspace.few_threads(options.state)
    out.say(describe_device(*device(options.device)))
    if options.ppl:
        from everlearn.cli import perplexity

        out.finish(perplexity.measure(options, out))
        place = {"state": options.state} if options.base is None else {"base": options.base}
        out.say(f"next: {command('generate', 'PROMPT', **place)}")
        return 0
    if options.base is not None and workspace.is_ours(options.base) and not (options.state / MARKER).is_file():
        repair = command("eval", options.path, base=options.base, ppl=True)
        raise UserError(
            f"--base names a model, but without --ppl eval measures a memory, and {options.state} holds none; "
            f"to measure the model itself: {repair}"
        )
    labels = workspace.kind_of(options.state) == "labels"
    out.finish((_labels if labels else _text)(options, out))
    if labels:
        out.say(f"next: {command('predict', options.path, state=options.state)}")
    else:
        out.say(f"next: {command('generate', 'PROMPT', state=options.state, user=options.user)}")
    return 0


def _labels(options: Options, out: Output) -> dict[str, Any]:
    """Share of right answers, over all records and as a mean over labels."""
    from everlearn.cli.errors import UserError
    from everlearn.cli.labels import open_classifier, read_records

    if options.path.suffix != ".jsonl":
        raise UserError(
            f"{options.state} holds a classifier; give a .jsonl file with text and label, not {options.path}"
        )
    records = read_records(options.path)
    classifier, _ = open_classifier(options.state, make=False, encoder=options.encoder)
    right: dict[Any, list[bool]] = {}
    for (_, label), answer in zip(records, classifier.predict([text for text, _ in records]), strict=True):
        right.setdefault(label, []).append(answer == label)
    micro = sum(map(sum, right.values())) / len(records)
    macro = sum(sum(r) / len(r) for r in right.values()) / len(right)
    unknown = sorted(str(label) for label in right if label not in classifier.labels)
    out.say(
        f"{len(records):,} records: {100 * micro:.1f} % right, {100 * macro:.1f} % as a mean over {len(right)} labels"
    )
    if unknown:
        out.say(f"labels it has never learned: {', '.join(unknown)}")
    return {"records": len(records), "accuracy": micro, "accuracy_macro": macro, "labels_unknown": unknown}


def _text(options: Options, out: Output) -> dict[str, Any]:
    """Bits per byte of each document with the model as trained, and with the user's memory."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import UserError
    from everlearn.cli.reading import show, totals
    from everlearn.demo.corpus import user_text

    if options.path.suffix == ".jsonl":
        raise UserError(f"{options.state} holds a memory of text; give a folder or a text file, not {options.path}")
    text = user_text([options.path], smallest=2)
    for line in text.skipped:
        out.say(f"skipped: {line}")
    learner = workspace.open_user(options.state, options.user, options.device, options.base)
    rows: list[dict[str, Any]] = []
    for d in text.documents:
        frozen, learned = learner.score(d.data), learner.score(d.data, options.user)
        bits = {"frozen": frozen.bits_per_byte, "learned": learned.bits_per_byte}
        rows.append({"name": d.name, "bytes": len(d.data), **bits, "read_with": learned.readers})
    show(rows, out, title="bits per byte, nothing learned here", learned="with memory")
    return {"user": options.user, "documents": rows, "total": totals(rows)}
