"""Learn from the user's own stream: a folder of text, or JSONL with text and label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.options import DeviceName, Encoder, File, JsonTarget, Number, Quick, Seed

if TYPE_CHECKING:
    from everlearn.cli.output import Output
    from everlearn.learn import Learner


@dataclass(frozen=True)
class Options:
    """Learn from a stream of your own and show what was learned and what was kept.

    A folder or file of text: a small model reads it document by document and scores every byte before it learns from
    it. A .jsonl file whose lines hold "text" and "label": a classifier answers every line before it learns it, and
    takes new labels at any time. Run the same command again after an interrupt: it goes on where it stopped.
    """

    path: Path
    """folder of text, a text file, or a .jsonl file"""
    state: Path = Path("memory")
    """folder of the memory; made when it is missing"""
    user: str = "me"
    """whose memory learns (text only)"""
    base: File = None
    """folder of the model to begin a new text memory with; without it a small one is trained here, in about a minute.
    Of a converted model: where its base is now, if it was moved"""
    labels: bool = False
    """the file holds lines with "text" and "label", whatever its name"""
    encoder: Encoder = None
    ledger: bool = False
    """keep features, label and id of every record, so that one can be forgotten by its id, a class by its name, and
    answers name the records that carried them (labels only; for a new state)"""
    half_life: Number = None
    """records after which a record counts half, for a world that changes; without it nothing fades (labels only; for a
    new state)"""
    device: DeviceName = "auto"
    seed: Seed = 0
    quick: Quick = False
    json: JsonTarget = None


def run(options: Options) -> int:
    """Learn, show the table, and write the JSON document where one was asked for."""
    from everlearn.cli.errors import resume_hint, same_command

    kept = f"what was learned is kept in {options.state}; to go on: {same_command('learn', options)}"
    with resume_hint(lambda: kept):
        _learn(options)
    return 0


def _learn(options: Options) -> None:
    """Learn a stream of records or of text, and say what is next."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import UserError, command
    from everlearn.cli.output import Output
    from everlearn.device import describe_device, device

    out = Output(options.json)
    if not options.path.exists():
        raise UserError(f"{options.path} does not exist; give a folder of text, a text file or a .jsonl file")
    workspace.few_threads(options.state)
    out.say(describe_device(*device(options.device)))
    labels = options.labels or options.path.suffix == ".jsonl"
    if not labels and (options.encoder or options.ledger or options.half_life is not None):
        raise UserError(
            f"--encoder, --ledger and --half-life are about labelled records, {options.path} is text; leave them out, "
            "or say --labels"
        )
    document = (_learn_labels if labels else _learn_text)(options, out)
    out.finish({**document, "state": str(options.state)})
    out.say(f"kept in {options.state}")
    verb, whose = ("predict", {}) if labels else ("eval", {"user": options.user})
    out.say(f"next: {command(verb, options.path, state=options.state, **whose)}")


def _learn_labels(options: Options, out: Output) -> dict[str, Any]:
    """Answer every record, then learn it."""
    from everlearn.cli import workspace
    from everlearn.cli.labels import learn_labels, read_records

    records = read_records(options.path)
    workspace.prepare(options.state, "labels")
    with workspace.sole_writer(options.state):
        return learn_labels(
            records,
            options.state,
            out,
            encoder=options.encoder,
            ledger=options.ledger,
            half_life=options.half_life,
        )


def _learn_text(options: Options, out: Output) -> dict[str, Any]:
    """Read every document of a folder once; measure the gain, and the damage to what the model knew."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import UserError
    from everlearn.cli.reading import read_documents, show, totals
    from everlearn.demo.corpus import user_text

    if options.path.is_dir() and options.path.resolve() in options.state.resolve().parents:
        raise UserError(f"--state {options.state} lies inside {options.path}, which is read; choose a folder elsewhere")
    text = user_text([options.path], smallest=2)
    for line in text.skipped:
        out.say(f"skipped: {line}")
    given = (options.state, options.user, options.base, options.device, options.seed, options.quick)
    with workspace.writing_reader(*given) as learner:
        rows = read_documents(learner, options.user, text.documents, out, again=False)
        kept = damage(learner, options.user)
    if rows:
        show(rows, out)
        total = totals(rows)
        out.say(f"all {total['bytes']:,} bytes: {total['frozen']:.3f} frozen, {total['learned']:.3f} while learning")
    out.say(
        f"what it knew before (held-out standard library): {kept['before']:.3f} bits per byte without this memory, "
        f"{kept['after']:.3f} with it ({kept['after'] - kept['before']:+.3f})"
    )
    return {"user": options.user, "documents": rows, "total": totals(rows), "kept": kept, "skipped": text.skipped}


def damage(learner: Learner, user: str, files: int = 4, length: int = 2_049) -> dict[str, float]:
    """Score held-out standard-library modules without and with a user's memory; bits per byte.

    Args:
        learner: nothing is learned.
        user: whose memory.
        files: how many modules.
        length: bytes of each.
    """
    from everlearn.demo.corpus import standard_library
    from everlearn.recipes import byte_reader

    _, heldout = standard_library(byte_reader.TRAIN_BYTES, 150_000)
    texts = [d.data[:length] for d in heldout if len(d.data) >= length][:files]
    means = {
        name: sum(learner.score(text, owner).bits_per_byte for text in texts) / len(texts)
        for name, owner in (("before", None), ("after", user))
    }
    return {**means, "files": len(texts)}
