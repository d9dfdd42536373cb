"""List, show, compare, export, import and forget memories; merge and calibrate classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from everlearn.cli.errors import UserError, command
from everlearn.cli.options import Encoder, File, JsonTarget, Text
from everlearn.layout import USERS

if TYPE_CHECKING:
    from everlearn.cli.output import Output

SHOWN = 12  # rows of a table; the JSON document has all


@dataclass(frozen=True)
class Options:
    """Look after the memories in a state folder.

    list shows all users, show one of them, diff how far a memory is from the model as trained or from another user's,
    export writes one memory into FILE, import takes it from there, forget removes it, or one document of it. A memory
    says things about what its user has read; treat its file as you treat the text.
    """

    action: tyro.conf.Positional[Literal["list", "show", "diff", "export", "import", "forget", "merge", "calibrate"]]
    """what to do"""
    file: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[PATH]", help_behavior_hint="")] = None
    """the file of export, import and calibrate, the records to forget, or the folder to merge"""
    state: Path = Path("memory")
    """folder of the memories"""
    user: Text = None
    """whose memory"""
    other: Text = None
    """diff: the user to compare with; without it, the model as trained"""
    document: Text = None
    """forget and diff: one document, by the name that show gives"""
    record: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID ...", help_behavior_hint="")] = ()
    """forget: records by the ids that learn --json gave; it takes a state that was begun with --ledger"""
    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="LABEL", help_behavior_hint="")] = None
    """forget: a whole class; it takes a state that was begun with --ledger"""
    unknown: File = None
    """calibrate: a file of texts of no class, one per line or as .jsonl"""
    encoder: Encoder = None
    replace: bool = False
    """export and import: write over what is there"""
    base: File = None
    """where the base of a converted model is now, if it was moved"""
    json: JsonTarget = None


def run(options: Options) -> int:
    """Do it, and write the JSON document where one was asked for."""
    from everlearn.cli import workspace
    from everlearn.cli.output import Output

    out = Output(options.json)
    if workspace.kind_of(options.state) != "text":
        from everlearn.cli import class_memory

        out.finish(class_memory.run(options, out))
        return 0
    if options.action in ("merge", "calibrate") or options.record or options.class_ is not None:
        raise UserError(
            f"{options.state} holds memories of text; merging, calibrating, records and classes are about a "
            "classifier, give its --state"
        )
    if options.action != "list" and options.user is None:
        raise UserError(f"memory {options.action} needs to know whose memory; give --user NAME")
    if options.document is not None and options.action not in ("forget", "diff"):
        raise UserError(f"memory {options.action} is about all of a user; leave out --document, or forget or diff one")
    if (options.file is None) == (options.action in ("export", "import")):
        needs = "needs a file" if options.file is None else "takes no file"
        raise UserError(f"memory {options.action} {needs}; see: everlearn memory --help")
    actions = {
        "list": _list,
        "show": _show,
        "diff": _diff,
        "export": _export,
        "import": _import,
        "forget": _forget if options.document is None else _forget_document,
    }
    out.finish(actions[options.action](options, out))
    return 0


def _list(options: Options, out: Output) -> dict[str, Any]:
    """Show every user; the model is not loaded."""
    from rich.table import Table
    from rich.text import Text

    from everlearn.cli.kept import summary

    rows = sorted((summary(file) for file in (options.state / USERS).glob("*.safetensors")), key=lambda r: r["user"])
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
    from everlearn.cli.kept import summary

    row = summary(_file(options))
    out.say(f"{row['user']}: {row['tokens_seen']:,} tokens seen, {row['bytes'] / 1024:,.0f} KB")
    for document in row["documents"]:
        out.say(
            f"  {document['name']}: {document['bytes']:,} bytes, {document['frozen']:.3f} frozen, "
            f"{document['learned']:.3f} bits per byte while it was learned"
        )
    if row["open"]:
        out.say("  one document was interrupted and is open; read it again to go on")
    for kept in row["archived"]:
        earlier = ", and the version before it" if kept["versions"] > 1 else ""
        out.say(f"  archived: {kept['name']}, {kept['bytes'] / 1024:,.1f} KB{earlier}")
    if row["slots"]:
        held = ", ".join(f"{kept['slots']:,} of {kept['name']}" for kept in row["slots"])
        out.say(f"  slots: {sum(kept['slots'] for kept in row['slots']):,} tokens of text, as they stood: {held}")
        out.say("  slots contain the text itself; whoever has this file can read it")
    out.say(f"next: {command('memory', 'diff', state=options.state, user=options.user)}")
    return row


def _diff(options: Options, out: Output) -> dict[str, Any]:
    """Show how far a memory is from the model as trained, or from another user's, matrix by matrix."""
    from everlearn.cli import workspace
    from everlearn.cli.kept import find_document
    from everlearn.learn.changes import changes

    assert options.user is not None
    learner = workspace.open_user(options.state, options.user, "cpu", options.base)
    if options.other is not None and not learner.knows(options.other):
        raise UserError(f"{options.state} holds no memory of user {options.other!r} to compare with; see: memory list")
    other = None if options.other is None else learner.state(options.other)
    whose, state, against = options.user, learner.state(options.user), options.other or "the model as trained"
    archive = learner.user_archive(options.user)
    names = archive.names() if archive else []
    if options.document is not None:
        name = find_document(names, options.document, options.user)
        assert archive is not None
        whose, state = f"what {name} taught {options.user}", archive.state(name)
    found = {name: rows[0] for name, rows in changes(learner.model, state, other).items()}
    _show_norms(found, f"{whose} against {against}: norm of the difference, largest first", out)
    archived = {}
    if archive is not None and options.document is None and options.other is None:
        for name in names:
            taught = changes(learner.model, archive.state(name))
            archived[name] = _levels({part: rows[0] for part, rows in taught.items()})
            norms = "; ".join(f"{level}: {norm:.4f}" for level, norm in archived[name].items())
            out.say(f"archived: {name}: {norms}")
    out.say(
        f"next: {command('memory', 'export', f'{options.user}.safetensors', state=options.state, user=options.user)}"
    )
    whole = {"user": options.user, "other": options.other, "document": options.document}
    return {**whole, "levels": _levels(found), "matrices": found, "archived": archived}


def _show_norms(found: dict[str, float], title: str, out: Output) -> None:
    """Print the largest norms, and one for each level."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    table.add_column("level and matrix")
    table.add_column("norm", justify="right")
    for name, norm in sorted(found.items(), key=lambda item: -item[1])[:SHOWN]:
        table.add_row(Text(name), f"{norm:.4f}")
    out.console().print(table)
    if len(found) > SHOWN:
        out.say(f"and {len(found) - SHOWN} more; --json FILE writes all")
    out.say("; ".join(f"{level}: {norm:.4f} in all" for level, norm in _levels(found).items()))


def _levels(found: dict[str, float]) -> dict[str, float]:
    """Return the norm over all matrices of each level."""
    levels: dict[str, float] = {}
    for name, norm in found.items():
        level = name.partition("/")[2].partition(".")[0]
        levels[level] = (levels.get(level, 0.0) ** 2 + norm**2) ** 0.5
    return levels


def _export(options: Options, out: Output) -> dict[str, Any]:
    """Copy one memory, with its archive and slots, into a file."""
    from everlearn.memory.files import atomic_write
    from everlearn.store.carry import pack

    assert options.file is not None and options.user is not None
    if options.file.exists() and not options.replace:
        raise UserError(f"{options.file} exists; choose another name, or give --replace to write over it")
    _file(options)
    data = pack(options.state / USERS, options.user)
    atomic_write(options.file, data)
    out.say(f"wrote {options.file}, {len(data) / 1024:,.0f} KB; it belongs to this model alone")
    out.say(f"next: {command('memory', 'import', options.file, state=options.state, user='NAME')}")
    return {"user": options.user, "file": str(options.file), "bytes": len(data)}


def _import(options: Options, out: Output) -> dict[str, Any]:
    """Take one memory from a file, under the name that is given."""
    from everlearn.cli import workspace
    from everlearn.store import FolderStore
    from everlearn.store.carry import take_in, unpack

    assert options.file is not None and options.user is not None
    with workspace.sole_writer(options.state):
        learner = workspace.open_reader(options.state, "cpu", options.base)
        store = learner.store
        assert isinstance(store, FolderStore)
        if store.path(options.user).exists() and not options.replace:
            raise UserError(f"user {options.user!r} has a memory already; choose another --user, or give --replace")
        state, meta, entries = unpack(store, options.file)
        if entries and learner.archive is None:
            raise UserError(
                f"{options.file} holds {len(entries)} archived documents, and {options.state} keeps no archive; import "
                "it where one is kept: everlearn convert MODEL OUT --archive"
            )
        take_in(store, options.user, state, meta.get("notes", {}), entries)
    documents = f", {len(entries)} archived document{'s' * (len(entries) != 1)}" if entries else ""
    out.say(f"kept in {options.state} as the memory of {options.user} (it was {meta['user']}'s){documents}")
    out.say(f"next: {command('memory', 'show', state=options.state, user=options.user)}")
    return {"user": options.user, "from": meta["user"], "file": str(options.file), "documents": len(entries)}


def _forget(options: Options, out: Output) -> dict[str, Any]:
    """Remove one memory; the model is not needed."""
    from everlearn.cli import workspace
    from everlearn.store.folder import forget

    assert options.user is not None
    with workspace.sole_writer(options.state):
        if not forget(options.state / USERS, options.user):
            raise UserError(f"{options.state} holds no memory of user {options.user!r}; see: {_list_command(options)}")
    out.say(f"forgot {options.user}: all files are removed; exported copies and backups are not reached")
    out.say(f"next: {_list_command(options)}")
    return {"user": options.user, "forgotten": True}


def _forget_document(options: Options, out: Output) -> dict[str, Any]:
    """Remove what is kept of one document of a user."""
    from everlearn.cli import workspace
    from everlearn.cli.kept import document_names, find_document, forgotten_notes

    assert options.user is not None and options.document is not None
    with workspace.sole_writer(options.state):
        learner = workspace.open_user(options.state, options.user, "cpu", options.base)
        if learner.archive is None and learner.slots is None:
            raise UserError(
                f"{options.state} keeps one memory for all documents, from which one cannot be subtracted; convert the "
                "model with --archive, or go back to a copy from before it"
            )
        name = find_document(document_names(learner, options.user), options.document, options.user)
        learner.forget_document(options.user, name, forgotten_notes(learner, options.user, name))
    stays = "" if learner.archive is not None else "; what the levels learned from it cannot be subtracted and stays"
    out.say(f"forgot {name} of {options.user}{stays}; exported copies and backups are not reached")
    out.say(f"next: {command('memory', 'show', state=options.state, user=options.user)}")
    return {"user": options.user, "document": name, "forgotten": True, "levels_keep_it": learner.archive is None}


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
