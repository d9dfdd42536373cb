"""Answer with labels; nothing is learned."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.options import Encoder, JsonTarget

if TYPE_CHECKING:
    from everlearn.cli.output import Output
    from everlearn.continual.explain import Explanation

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Options:
    """Label texts with a classifier that `learn` made; nothing is learned."""

    path: str
    """a .jsonl file with "text" on every line, a text file with one text per line, or - for standard input"""
    state: Path = Path("memory")
    """folder of the memory"""
    top: int = 1
    """how many labels to show, best first"""
    unknown: bool = False
    """answer "unknown" where a text is of no known class; choose the threshold first: everlearn memory calibrate"""
    explain: bool = False
    """say why: the parts of the scores and, where the state keeps a ledger, the records that carried the answer"""
    encoder: Encoder = None
    json: JsonTarget = None


def run(options: Options) -> int:
    """Print a label and its text for each text."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import UserError, command
    from everlearn.cli.labels import open_classifier, read_records, read_text
    from everlearn.cli.output import Output

    out = Output(options.json)
    if workspace.kind_of(options.state) != "labels":
        raise UserError(f"{options.state} holds a memory of text, which has no labels; see: everlearn eval --help")
    if options.path.endswith(".jsonl"):
        texts = [text for text, _ in read_records(Path(options.path), labelled=False)]
    else:
        content = read_text(None if options.path == "-" else Path(options.path), "one text per line")
        texts = [line for line in content.split("\n") if line.strip()]
    if not texts:
        raise UserError(f"{options.path} holds no text; give one text per line")
    # the ledger is read as the state stands, so nobody may write meanwhile
    with workspace.sole_writer(options.state) if options.explain else nullcontext():
        classifier, _ = open_classifier(options.state, make=False, write=options.explain, encoder=options.encoder)
        if options.unknown and classifier.calibration is None:
            raise UserError(
                f"{options.state} has no threshold for what is unknown; choose one: "
                f"{command('memory', 'calibrate', 'VALIDATION.jsonl', state=options.state)}"
            )
        if options.unknown and UNKNOWN in classifier.labels:
            raise UserError(
                f"{options.state} has a class {UNKNOWN!r}, which could not be told from a text of no class; leave out "
                "--unknown, or learn that class under another label"
            )
        if options.top < 1:
            raise UserError(f"--top {options.top} asks for no label; give a number >= 1")
        found = classifier.explain(texts, top=options.top)
    for text, one in zip(texts, found, strict=True):
        show(text, one, options, out)
    out.finish({"answers": [document(text, one, options) for text, one in zip(texts, found, strict=True)]})
    return 0


def show(text: str, one: Explanation, options: Options, out: Output) -> None:
    """Print the labels of one text and, where it was asked for, why."""
    pairs = [(str(part.label), part.share) for part in one.classes]
    labels = ", ".join(label if options.top == 1 else f"{label} {share:.2f}" for label, share in pairs)
    out.say(f"{UNKNOWN if options.unknown and one.unknown else labels}\t{text}")
    if not options.explain:
        return
    for part in one.classes:
        out.say(
            f"  {part.label}: share {part.share:.2f}, score {part.score:.2f} = {part.evidence:.2f} for the text "
            f"{part.bias:+.2f} for the class, {part.records:,g} records"
        )
    if one.margin is not None:
        out.say(f"  margin to the second: {one.margin:.2f}")
    for record, share in one.records:
        out.say(f"  record {record} carried {share:.2f}")


def document(text: str, one: Explanation, options: Options) -> dict[str, Any]:
    """Return what --json says of one text."""
    found: dict[str, Any] = {"text": text, "labels": [[part.label, part.share] for part in one.classes]}
    if options.unknown:
        found |= {"unknown": one.unknown, "familiarity": one.familiarity}
    return found | ({"why": asdict(one)} if options.explain else {})
