"""Read files into one user's memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from everlearn.cli.options import DeviceName, JsonTarget, Quick, Seed


@dataclass(frozen=True)
class Options:
    """Read files, in the order given, into one user's memory; every chunk is kept before the next is read."""

    files: tyro.conf.Positional[list[Path]]
    """text files (UTF-8)"""
    state: Path = Path("memory")
    """folder of the memories; made when it is missing"""
    user: str = "me"
    """whose memory learns"""
    base: Path | None = None
    """folder of the model to begin a new state with; without it a small one is trained here, in about a minute"""
    device: DeviceName = "auto"
    seed: Seed = 0
    quick: Quick = False
    json: JsonTarget = None


def run(options: Options) -> int:
    """Read the files and show what each cost."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import resume_hint
    from everlearn.cli.output import Output
    from everlearn.cli.reading import read_documents, show, totals
    from everlearn.demo.corpus import user_text
    from everlearn.device import describe_device, device

    out = Output(options.json)
    workspace.few_threads()
    out.say(describe_device(*device(options.device)))
    text = user_text(options.files, smallest=2)
    for line in text.skipped:
        out.say(f"skipped: {line}")
    workspace.prepare(options.state, "text")
    command = f"everlearn read {' '.join(map(str, options.files))} --state {options.state} --user {options.user}"
    with (
        workspace.sole_writer(options.state),
        resume_hint(lambda: f"what was read is kept in {options.state}; to go on: {command}"),
    ):
        learner = workspace.open_reader(
            options.state, options.base, options.device, options.seed, options.quick, make=True
        )
        rows = read_documents(learner, options.user, text.documents, out, again=True)
    if rows:
        show(rows, out)
    out.finish({"user": options.user, "documents": rows, "total": totals(rows), "state": str(options.state)})
    out.say(f"kept in {options.state}")
    out.say(f"next: everlearn eval {options.files[0]} --state {options.state} --user {options.user}")
    return 0
