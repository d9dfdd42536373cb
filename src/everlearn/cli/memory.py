"""List, show, compare, export, import and forget memories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from everlearn.cli.errors import UserError, command
from everlearn.cli.options import JsonTarget
from everlearn.layout import USERS

if TYPE_CHECKING:
    from everlearn.cli.output import Output

SHOWN = 12  # rows of a table; the JSON document has all


@dataclass(frozen=True)
class Options:
    """Look after the memories in a state folder.

    list shows all users, show one of them, diff how far a memory is from the model as trained or from another user's,
    export writes one memory into FILE, import takes it from there, forget removes it. A memory says things about what
    its user has read; treat its file as you treat the text.
    """

    action: tyro.conf.Positional[Literal["list", "show", "diff", "export", "import", "forget"]]
    """what to do"""
    file: tyro.conf.Positional[Path | None] = None
    """the file of export and import"""
    state: Path = Path("memory")
    """folder of the memories"""
    user: str | None = None
    """whose memory"""
    other: str | None = None
    """diff: the user to compare with; without it, the model as trained"""
    replace: bool = False
    """export and import: write over what is there"""
    base: Path | None = None
    """where the base of a converted model is now, if it was moved"""
    json: JsonTarget = None


def run(options: Options) -> int:
    """Do it, and write the JSON document where one was asked for."""
    from everlearn.cli import workspace
    from everlearn.cli.output import Output

    out = Output(options.json)
    if workspace.kind_of(options.state) != "text":
        raise UserError(f"{options.state} holds a classifier, not memories of text; give another --state")
    if options.action != "list" and options.user is None:
        raise UserError(f"memory {options.action} needs to know whose memory; give --user NAME")
    if (options.file is None) == (options.action in ("export", "import")):
        needs = "needs a file" if options.file is None else "takes no file"
        raise UserError(f"memory {options.action} {needs}; see: everlearn memory --help")
    actions = {
        "list": _list,
        "show": _show,
        "diff": _diff,
        "export": _export,
        "import": _import,
        "forget": _forget,
    }
    out.finish(actions[options.action](options, out))
    return 0


def _list(options: Options, out: Output) -> dict[str, Any]:
    """Show every user; the model is not loaded."""
    from rich.table import Table
    from rich.text import Text

    rows = sorted((_summary(file) for file in (options.state / USERS).glob("*.safetensors")), key=lambda r: r["user"])
    table = Table(title=f"{len(rows)} memor{'y' if len(rows) == 1 else 'ies'} in {options.state}")
    for column in ("user", "tokens seen", "documents", "size"):
        table.add_column(column, justify="left" if column == "user" else "right")
    for row in rows:
        table.add_row(
            Text(row["user"]), f"{row['tokens_seen']:,}", f"{len(row['documents'])}", f"{row['bytes'] / 1024:,.0f} KB"
        )
    out.console().print(table)
    if rows:
        out.say(f"next: {command('memory', 'show', state=options.state, user=rows[0]['user'])}")
    else:
        out.say(f"next: {command('read', 'FILE', state=options.state)}")
    return {"state": str(options.state), "users": rows}


def _show(options: Options, out: Output) -> dict[str, Any]:
    """Show one user; the model is not loaded."""
    row = _summary(_file(options))
    out.say(f"{row['user']}: {row['tokens_seen']:,} tokens seen, {row['bytes'] / 1024:,.0f} KB")
    for document in row["documents"]:
        out.say(
            f"  {document['name']}: {document['bytes']:,} bytes, {document['frozen']:.3f} frozen, "
            f"{document['learned']:.3f} bits per byte while it was learned"
        )
    if row["open"]:
        out.say("  one document was interrupted and is open; read it again to go on")
    out.say(f"next: {command('memory', 'diff', state=options.state, user=options.user)}")
    return row


def _diff(options: Options, out: Output) -> dict[str, Any]:
    """Show how far a memory is from the model as trained, or from another user's, matrix by matrix."""
    from rich.table import Table
    from rich.text import Text

    from everlearn.cli import workspace
    from everlearn.learn.changes import changes

    assert options.user is not None
    learner = workspace.open_user(options.state, options.user, "cpu", options.base)
    if options.other is not None and not learner.knows(options.other):
        raise UserError(f"{options.state} holds no memory of user {options.other!r} to compare with; see: memory list")
    other = None if options.other is None else learner.state(options.other)
    found = {name: rows[0] for name, rows in changes(learner.model, learner.state(options.user), other).items()}
    against = "the model as trained" if options.other is None else options.other
    table = Table(title=f"{options.user} against {against}: norm of the difference, largest first")
    table.add_column("level and matrix")
    table.add_column("norm", justify="right")
    for name, norm in sorted(found.items(), key=lambda item: -item[1])[:SHOWN]:
        table.add_row(Text(name), f"{norm:.4f}")
    out.console().print(table)
    if len(found) > SHOWN:
        out.say(f"and {len(found) - SHOWN} more; --json FILE writes all")
    levels: dict[str, float] = {}
    for name, norm in found.items():
        level = name.partition("/")[2].partition(".")[0]
        levels[level] = (levels.get(level, 0.0) ** 2 + norm**2) ** 0.5
    out.say("; ".join(f"{level}: {norm:.4f} in all" for level, norm in levels.items()))
    out.say(
        f"next: {command('memory', 'export', f'{options.user}.safetensors', state=options.state, user=options.user)}"
    )
    return {"user": options.user, "other": options.other, "levels": levels, "matrices": found}


def _export(options: Options, out: Output) -> dict[str, Any]:
    """Copy one memory into a file."""
    from everlearn.memory.files import atomic_write

    assert options.file is not None
    if options.file.exists() and not options.replace:
        raise UserError(f"{options.file} exists; choose another name, or give --replace to write over it")
    data = _file(options).read_bytes()
    atomic_write(options.file, data)
    out.say(f"wrote {options.file}, {len(data) / 1024:,.0f} KB; it belongs to this model alone")
    out.say(f"next: {command('memory', 'import', options.file, state=options.state, user='NAME')}")
    return {"user": options.user, "file": str(options.file), "bytes": len(data)}


def _import(options: Options, out: Output) -> dict[str, Any]:
    """Take one memory from a file, under the name that is given."""
    from everlearn.cli import workspace
    from everlearn.store import FolderStore

    assert options.file is not None and options.user is not None
    with workspace.sole_writer(options.state):
        learner = workspace.open_reader(options.state, "cpu", options.base)
        assert isinstance(learner.store, FolderStore)
        if learner.store.path(options.user).exists() and not options.replace:
            raise UserError(f"user {options.user!r} has a memory already; choose another --user, or give --replace")
        state, meta = learner.store.read(options.file)
        learner.store.save(options.user, state, meta.get("notes", {}))
    out.say(f"kept in {options.state} as the memory of {options.user} (it was {meta['user']}'s)")
    out.say(f"next: {command('memory', 'show', state=options.state, user=options.user)}")
    return {"user": options.user, "from": meta["user"], "file": str(options.file)}


def _forget(options: Options, out: Output) -> dict[str, Any]:
    """Remove one memory; the model is not needed."""
    from everlearn.cli import workspace
    from everlearn.store.folder import forget

    assert options.user is not None
    with workspace.sole_writer(options.state):
        if not forget(options.state / USERS, options.user):
            raise UserError(f"{options.state} holds no memory of user {options.user!r}; see: {_list_command(options)}")
    out.say(f"forgot {options.user}: the file is removed; exported copies and backups are not reached")
    out.say(f"next: {_list_command(options)}")
    return {"user": options.user, "forgotten": True}


def _list_command(options: Options) -> str:
    return command("memory", "list", state=options.state)


def _file(options: Options) -> Path:
    """Return the file of the user."""
    from everlearn.store.folder import file_of

    assert options.user is not None
    path = file_of(options.state / USERS, options.user)
    if not path.exists():
        raise UserError(f"{options.state} holds no memory of user {options.user!r}; see: {_list_command(options)}")
    return path


def _summary(file: Path) -> dict[str, Any]:
    """Return what a memory's file says of itself."""
    from everlearn.memory.codec import load_tensors

    tensors, meta = load_tensors(file)
    notes = meta.get("notes", {})
    return {
        "user": meta["user"],
        "tokens_seen": int(tensors["tokens_seen"][0]),
        "bytes": file.stat().st_size,
        "documents": list(notes.get("documents", {}).values()),
        "open": bool(notes.get("open")),
        "file": str(file),
    }
