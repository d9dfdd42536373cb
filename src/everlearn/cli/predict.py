"""Answer with labels; nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everlearn.cli.options import JsonTarget


@dataclass(frozen=True)
class Options:
    """Label texts with a classifier that `learn` made; nothing is learned."""

    path: str
    """a .jsonl file with "text" on every line, a text file with one text per line, or - for standard input"""
    state: Path = Path("memory")
    """folder of the memory"""
    top: int = 1
    """how many labels to show, best first"""
    json: JsonTarget = None


def run(options: Options) -> int:
    """Print a label and its text for each text."""
    from everlearn.cli.errors import UserError
    from everlearn.cli.labels import open_classifier, read_records, read_text
    from everlearn.cli.output import Output
    from everlearn.cli.workspace import kind_of

    out = Output(options.json)
    if kind_of(options.state) != "labels":
        raise UserError(f"{options.state} holds a memory of text, which has no labels; see: everlearn eval --help")
    if options.path.endswith(".jsonl"):
        texts = [text for text, _ in read_records(Path(options.path), labelled=False)]
    else:
        content = read_text(None if options.path == "-" else Path(options.path), "one text per line")
        texts = [line for line in content.split("\n") if line.strip()]
    if not texts:
        raise UserError(f"{options.path} holds no text; give one text per line")
    classifier, _ = open_classifier(options.state, make=False)
    answers = classifier.predict(texts, top_k=options.top)
    for text, answer in zip(texts, answers, strict=True):
        labels = ", ".join(str(label) if options.top == 1 else f"{label} {share:.2f}" for label, share in answer)
        out.say(f"{labels}\t{text}")
    out.finish(
        {"answers": [{"text": t, "labels": [[lb, s] for lb, s in a]} for t, a in zip(texts, answers, strict=True)]}
    )
    return 0
