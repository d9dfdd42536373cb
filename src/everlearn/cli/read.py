"""Read files into one user's memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from everlearn.cli.options import DeviceName, File, JsonTarget, Quick, Seed


@dataclass(frozen=True)
class Options:
    """Read files, in the order given, into one user's memory; every chunk is kept before the next is read."""

    files: tyro.conf.Positional[list[Path]]
    """text files (UTF-8)"""
    state: Path = Path("memory")
    """folder of the memories; made when it is missing"""
    user: str = "me"
    """whose memory learns"""
    base: File = None
    """folder of the model to begin a new state with; without it a small one is trained here, in about a minute. Of a
    converted model: where its base is now, if it was moved"""
    guard: File = None
    """a general text that must stay readable: what a document taught is shrunk, or taken back, where this text costs
    more than 0.05 bits per byte above the model as trained"""
    device: DeviceName = "auto"
    seed: Seed = 0
    quick: Quick = False
    json: JsonTarget = None


def run(options: Options) -> int:
    """Read the files and show what each cost."""
    from everlearn.cli.errors import resume_hint, same_command

    again = same_command("read", options)
    with resume_hint(lambda: f"what was read is kept in {options.state}; to go on: {again}"):
        _read(options)
    return 0


def _read(options: Options) -> None:
    """Read, show the table, and write the JSON document where one was asked for."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import UserError, check_files, command
    from everlearn.cli.output import Output
    from everlearn.cli.reading import read_documents, show, totals
    from everlearn.demo.corpus import user_text
    from everlearn.device import describe_device, device
    from everlearn.learn import ProbeGuard

    out = Output(options.json)
    check_files("read", options.files)
    workspace.few_threads(options.state)
    out.say(describe_device(*device(options.device)))
    text = user_text(options.files, smallest=2)
    for line in text.skipped:
        out.say(f"skipped: {line}")
    probe = None if options.guard is None else user_text([options.guard], smallest=2).documents[0].data
    given = (options.state, options.user, options.base, options.device, options.seed, options.quick)
    with workspace.writing_reader(*given) as learner:
        if probe is not None and learner.archive is not None:
            raise UserError(f"{options.state} has an archive, where no document spoils another; leave out --guard")
        if not learner.model.memories():
            out.say("nothing in this model learns while it reads: each text is scored, and leaves nothing behind")
        if probe is not None:
            learner.guard = ProbeGuard(learner.model, probe)
        rows = read_documents(learner, options.user, text.documents, out, again=True)
    show(rows, out)
    out.finish({"user": options.user, "documents": rows, "total": totals(rows), "state": str(options.state)})
    out.say(f"kept in {options.state}")
    out.say(f"next: {command('eval', options.files[0], state=options.state, user=options.user)}")
