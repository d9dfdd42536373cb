"""Real text on every machine: Python's own sources to learn from, other packages' files to read."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import re
import string
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ASCII_LETTERS = string.ascii_letters.encode()
# what this project needs at run time, so every installation has it; never everlearn itself
PACKAGES = ("jinja2", "matplotlib", "numpy", "rich", "scipy", "sklearn", "torch", "tyro")
# tests, demonstration programs, generated tables and bundled copies of somebody else's files
SKIPPED_FOLDERS = re.compile(
    r"\..*|config-.*|__pycache__|tests?|testing|turtledemo|idlelib|lib2to3|encodings|pydoc_data|ensurepip"
    r"|lib-dynload|(site|dist)-packages|_?vendor|vendored|externals"
)
UNSEEN_BYTES = 8_193
LARGEST_UNSEEN = 131_072
# so that no single module fills the sample
LARGEST_MODULE = 32_768
LARGEST_TEXT = 67_108_864
LONG_LINE = 24
COPIED_SHARE = 0.2
LETTER_SHARE = 2 / 3


@dataclass(frozen=True)
class Document:
    """One file as bytes; `name` says where it is from, such as "numpy/lib/_npyio_impl.py"."""

    name: str
    data: bytes


@dataclass(frozen=True)
class UserText:
    """The user's own files, and a line for each file of a folder that was passed over, with the reason."""

    documents: list[Document]
    skipped: list[str]


def standard_library(
    train_bytes: int = 1_000_000, heldout_bytes: int = 100_000
) -> tuple[list[Document], list[Document]]:
    """Pick whole modules of Python's standard library to train on, and others to keep back.

    A module belongs to the held-out tenth when the SHA-256 of its path says so; the order within each part is that
    of the same hash. The pick depends on the Python version and on nothing else.

    Args:
        train_bytes: take training modules until they hold at least this much.
        heldout_bytes: the same for the held-out modules.
    Returns:
        training documents and held-out documents; no module is in both.
    Raises:
        ValueError: this Python carries too few sources (some minimal installations remove them).
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(_python_files(folder, 1_024, LARGEST_MODULE), key=_order)
    train = _until([path for path in modules if _order(path) % 10 != 0], folder, train_bytes)
    heldout = _until([path for path in modules if _order(path) % 10 == 0], folder, heldout_bytes)
    for part, wanted, documents in (("training", train_bytes, train), ("held-out", heldout_bytes, heldout)):
        found = sum(len(document.data) for document in documents)
        if found < wanted:
            raise ValueError(
                f"the standard library in {folder} has too few {part} sources: got {found} bytes, at least {wanted} "
                "are needed; install Python with its sources, or pass your own files with --text"
            )
    return train, heldout


def unseen_files(known: Sequence[Document], count: int = 8) -> list[Document]:
    """Pick files of other installed packages that a model trained on `known` has not seen.

    The pick was fixed before any result: a hash of each path puts eight tenths of the files here and two tenths
    into `validation_files`; within each package the lowest hash comes first, and the packages take turns.

    Args:
        known: the training documents; a file that repeats a fifth of its long lines from them is passed over.
        count: how many files; each holds at least 8,193 bytes, so that byte 8,192 can be scored.
    Raises:
        ValueError: fewer than `count` such files are installed.
    """
    return _pick(known, count, frozenset(range(2, 10)))


def validation_files(known: Sequence[Document], count: int = 8) -> list[Document]:
    """Pick files for choosing settings, by the rule of `unseen_files`; the two picks never share a file."""
    return _pick(known, count, frozenset((0, 1)))


def user_text(paths: Iterable[Path | str], smallest: int = 1_025) -> UserText:
    """Read the user's own text: files, packed (.gz) or not, or folders that are searched for readable text.

    Args:
        paths: files and folders. A file named here must be usable; inside a folder what is not is named and skipped.
        smallest: bytes that a text must hold to be worth reading.
    Raises:
        ValueError: a path is missing, empty, binary, too short or too large, or a folder holds nothing usable.
    """
    documents: list[Document] = []
    skipped: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            documents.append(_read(path, smallest))
            continue
        found = 0
        for file in _visible_files(path, skipped):
            try:
                documents.append(_read(file, smallest))
                found += 1
            except ValueError as error:
                skipped.append(str(error).split(";")[0])
        if not found:
            reasons = f" ({len(skipped)} skipped, first: {skipped[0]})" if skipped else ""
            raise ValueError(
                f"the folder {path} holds no usable text: got 0 files{reasons}; "
                f"UTF-8 text of at least {smallest} bytes is needed; name such a file or another folder"
            )
    return UserText(documents, skipped)


def fingerprint(documents: Iterable[Document]) -> str:
    """Return a SHA-256 over names and contents: the identity of a sample, to be printed beside its results."""
    digest = hashlib.sha256()
    for document in documents:
        for part in (document.name.encode(), document.data):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


@dataclass(frozen=True, order=True)
class _Source:
    """A file on disk and its name relative to the folder that it was found under, with forward slashes."""

    name: str
    path: Path


def _python_files(folder: Path, smallest: int, largest: int) -> Iterator[_Source]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not SKIPPED_FOLDERS.fullmatch(name)]
        for name in names:
            path = Path(parent, name)
            # _sysconfigdata_*.py holds this machine's build settings
            source = name.endswith(".py") and not name.startswith(("test_", "_sysconfigdata"))
            if source and smallest <= path.stat().st_size <= largest:
                yield _Source(path.relative_to(folder).as_posix(), path)


def _order(source: _Source) -> int:
    return int.from_bytes(hashlib.sha256(source.name.encode()).digest()[:8], "big")


def _until(sources: list[_Source], folder: Path, wanted: int) -> list[Document]:
    documents, total = [], 0
    for source in sources:
        if total >= wanted:
            break
        documents.append(Document(f"{folder.name}/{source.name}", source.path.read_bytes()))
        total += len(documents[-1].data)
    return documents


def _pick(known: Sequence[Document], count: int, buckets: frozenset[int]) -> list[Document]:
    lines = _long_lines(document.data for document in known)
    queues = [_candidates(package, buckets, lines) for package in PACKAGES]
    picked: list[Document] = []
    while queues and len(picked) < count:
        for queue in list(queues):
            document = next(queue, None)
            if document is None:
                queues.remove(queue)
            elif len(picked) < count:
                picked.append(document)
    if len(picked) < count:
        raise ValueError(
            f"too few unseen files are installed: got {len(picked)} of {count}; Python files of at least "
            f"{UNSEEN_BYTES} bytes in {', '.join(PACKAGES)} are used; install those packages or pass --text"
        )
    return picked


def _candidates(package: str, buckets: frozenset[int], lines: frozenset[bytes]) -> Iterator[Document]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    sources = [_Source(f"{package}/{s.name}", s.path) for s in _python_files(folder, UNSEEN_BYTES, LARGEST_UNSEEN)]
    for source in sorted(sources, key=_order):
        if _order(source) % 10 not in buckets:
            continue
        data = source.path.read_bytes()
        own = _long_lines([data])
        if is_text(data) and _is_prose_or_code(data) and len(own & lines) < COPIED_SHARE * max(1, len(own)):
            yield Document(source.name, data)


def _is_prose_or_code(data: bytes) -> bool:
    # tables of numbers would flatter whatever learns while it reads
    ink = b"".join(data.split())
    return sum(ink.count(letter) for letter in ASCII_LETTERS) >= LETTER_SHARE * len(ink)


def _long_lines(texts: Iterable[bytes]) -> frozenset[bytes]:
    stripped = (line.strip() for text in texts for line in text.splitlines())
    return frozenset(line for line in stripped if len(line) >= LONG_LINE)


def _visible_files(folder: Path, skipped: list[str]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        skipped.append(f"{shown(error.filename)} cannot be read: got {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        hidden = sorted(name for name in folders + names if name.startswith("."))
        skipped += [f"{shown(Path(parent, name))} is hidden" for name in hidden]
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        skipped += [f"{shown(Path(parent, f))} is a link to a folder" for f in folders if Path(parent, f).is_symlink()]
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def shown(path: Path | str) -> str:
    """Write a path as one line that a terminal can show: what is not printable becomes its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def _read(path: Path, smallest: int) -> Document:
    name = shown(path)
    try:
        if not path.is_file():
            what = "something that is no file" if path.exists() else "no such file or folder"
            raise ValueError(f"{name} is not there: got {what}; UTF-8 text is read; check the path")
        size = path.stat().st_size
        if size > LARGEST_TEXT:
            raise ValueError(f"{name} is too large: got {size} bytes, at most {LARGEST_TEXT} are read; split the file")
        data = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: got {error.strerror}; a readable file is needed; check it") from error
    if not data:
        raise ValueError(f"{name} is empty: got 0 bytes, at least {smallest} are needed; name another file")
    if not is_text(data):
        raise ValueError(f"{name} is binary: got bytes that are not UTF-8 text; save it as UTF-8 or leave it out")
    if len(data) < smallest:
        raise ValueError(
            f"{name} is too short: got {len(data)} bytes, at least {smallest} are needed; join it with other files"
        )
    return Document(name, data)


def _unpacked(path: Path) -> bytes:
    """Return the content of a gzip file, never more than may be read."""
    try:
        with gzip.open(path) as file:
            data = file.read(LARGEST_TEXT + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{shown(path)} is damaged: got no whole gzip file ({error}); pack the text again") from None
    if len(data) > LARGEST_TEXT:
        raise ValueError(
            f"{shown(path)} is too large: got more than {LARGEST_TEXT} bytes unpacked, which is the most; split it"
        )
    return data


def is_text(data: bytes) -> bool:
    """Tell whether the bytes are UTF-8 text: no zero byte, nothing that fails to decode."""
    if b"\0" in data:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
