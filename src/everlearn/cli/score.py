"""Tell how well text is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from everlearn.cli.options import DeviceName, File, JsonTarget, Text


@dataclass(frozen=True)
class Options:
    """Tell how well files are predicted, in bits per byte; nothing is learned and nothing is written."""

    files: tyro.conf.Positional[list[Path]]
    """text files (UTF-8), or folders of them"""
    state: Path = Path("memory")
    """folder of the memories"""
    user: Text = None
    """whose memory to use; without it, the model as it was trained"""
    base: File = None
    """folder of a trained model, to use it without a state; or where the base of a converted one is now, if it moved"""
    device: DeviceName = "auto"
    json: JsonTarget = None


def run(options: Options) -> int:
    """Score every file and print one line for each."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import check_files, command
    from everlearn.cli.output import Output
    from everlearn.demo.corpus import user_text
    from everlearn.device import describe_device, device

    out = Output(options.json)
    check_files("score", options.files)
    workspace.few_threads(options.state)
    out.say(describe_device(*device(options.device)))
    text = user_text(options.files, smallest=2)
    for line in text.skipped:
        out.say(f"skipped: {line}")
    learner = workspace.open_user(options.state, options.user, options.device, options.base)
    rows: list[dict[str, Any]] = []
    for document in text.documents:
        score = learner.score(document.data, options.user)
        rows.append(
            {
                "name": document.name,
                "bytes": len(document.data),
                "tokens": len(score.bits),
                "bits_per_byte": score.bits_per_byte,
                "read_with": score.readers,
            }
        )
    _show(rows, out.console())
    for row in rows:
        if row["read_with"]:
            said = ", ".join(f"{name} ({count})" for name, count in row["read_with"].items())
            out.say(f"{row['name']}: chunks after the first were read with {said}")
    whose = "the model as trained" if options.user is None else f"the memory of {options.user}"
    total = sum(row["bits_per_byte"] * row["bytes"] for row in rows) / sum(row["bytes"] for row in rows)
    out.say(f"all of it: {total:.3f} bits per byte with {whose}; nothing was learned")
    out.finish({"user": options.user, "documents": rows, "bits_per_byte": total})
    if options.base is not None and not options.state.is_dir():
        out.say(f"next: {command('read', *options.files, base=options.base)}")
    elif options.user is None:
        out.say(f"next: {command('read', *options.files, state=options.state)}")
    else:
        out.say(f"next: {command('memory', 'show', state=options.state, user=options.user)}")
    return 0


def _show(rows: list[dict[str, Any]], console: Any) -> None:
    """Print the table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="bits per byte, nothing learned here")
    for column in ("document", "bytes", "tokens", "bits per byte"):
        table.add_column(column, justify="left" if column == "document" else "right")
    for row in rows:
        cells = (Text(row["name"]), f"{row['bytes']:,}", f"{row['tokens']:,}", f"{row['bits_per_byte']:.3f}")
        table.add_row(*cells)
    console.print(table)
