"""A file of the records that a classifier has learned: what forgetting by id or by class and attribution need."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlearn.memory.class_statistics import DTYPE, Label

FORMAT = 1
LARGEST = 2**31 - 1  # steps of the grid that one number of a record holds
# what SQLite calls a refusal of the machine -> what the system calls it
ERRORS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_IOERR: errno.EIO,
}
TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE records (row INTEGER PRIMARY KEY, id TEXT NOT NULL, label TEXT NOT NULL, features BLOB NOT NULL,
                      added INTEGER NOT NULL, removed INTEGER);
CREATE INDEX by_id ON records (id);
CREATE INDEX by_label ON records (label);
"""


def record_ids(phi: Tensor, labels: Sequence[Label]) -> list[str]:
    """Name records by what they are: the same features under the same label have the same id, wherever learned.

    Args:
        phi: features on the grid of a memory, [B, D] float64.
        labels: B classes.
    """
    # adding zero makes -0 and 0 the same bytes
    rows = (phi.float() + 0.0).numpy()
    return [
        hashlib.blake2b(json.dumps(label).encode() + b"\0" + row.tobytes(), digest_size=8).hexdigest()
        for row, label in zip(rows, labels, strict=True)
    ]


class Ledger:
    """Records by id, with features and label, in one SQLite file. It stores examples: treat it as you treat them.

    The ledger and the file of the classifier's state are two files that always agree: what is added or removed is
    committed by `commit` under a number that goes into the state, and `settle` says that the state is written. A
    process that dies in between, or fails to write the state, leaves a ledger that is ahead, which `open_at` takes
    back.

    Args:
        path: the file; made when it is missing.
        dim: length of a record's features.
        resolution: grid that they lie on.
    Raises:
        ValueError: the file is no ledger, or one of other features.
    """

    def __init__(self, path: Path | str, dim: int, resolution: float) -> None:
        self.path, self.dim, self.resolution = Path(path), dim, resolution
        if not self.path.parent.is_dir():
            raise ValueError(f"the folder of the ledger {path} does not exist; make it: mkdir -p {self.path.parent}")
        try:
            self._file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise OSError(errno.EACCES, f"the ledger cannot be opened ({error})", str(self.path)) from None
        if not self._rows("SELECT 1 FROM sqlite_master"):
            kept = {"format": FORMAT, "dim": dim, "resolution": resolution, "generation": 0, "settled": 0}
            self._execute("BEGIN IMMEDIATE")
            for statement in TABLES.split(";")[:-1]:
                self._execute(statement)
            self._execute("INSERT INTO about VALUES (?, ?)", [(k, json.dumps(v)) for k, v in kept.items()])
            self._execute("COMMIT")
        found = self._about()
        if found.get("format") != FORMAT or (found["dim"], found["resolution"]) != (dim, resolution):
            raise ValueError(
                f"{path} is a ledger of format {found.get('format')}, dim {found.get('dim')} and resolution "
                f"{found.get('resolution')}, not of {FORMAT}, {dim} and {resolution}; use the encoder it was kept with"
            )
        self._file.execute("PRAGMA secure_delete = ON")
        self.generation = int(found["generation"])

    def __len__(self) -> int:
        """Return the number of records."""
        return int(self._one("SELECT count(*) FROM records WHERE removed IS NULL"))

    @property
    def nbytes(self) -> int:
        """Return the bytes of the file."""
        return int(self._one("PRAGMA page_count")) * int(self._one("PRAGMA page_size"))

    @property
    def counts(self) -> dict[Label, int]:
        """Return how many records there are of each class."""
        rows = self._rows("SELECT label, count(*) FROM records WHERE removed IS NULL GROUP BY label")
        return {self._json(label): count for label, count in rows}

    @property
    def checksum(self) -> str:
        """Return a sum over all ids: equal for the same records in any order."""
        rows = self._rows("SELECT id FROM records WHERE removed IS NULL")
        try:
            return f"{sum(int(one, 16) for (one,) in rows) % 2**64:016x}"
        except (TypeError, ValueError):
            raise self._damaged("an id is no number") from None

    @contextmanager
    def change(self) -> Iterator[None]:
        """Do all that happens inside or, where it raises, nothing of it; `commit` makes it last."""
        if not self._file.in_transaction:
            self._begin()
        self._file.execute("SAVEPOINT change")
        try:
            yield
        except BaseException:
            # where the disk is full, SQLite has undone all that was not committed, and `save` will refuse the rest
            if self._file.in_transaction:
                self._file.execute("ROLLBACK TO change")
                self._file.execute("RELEASE change")
            raise
        self._file.execute("RELEASE change")

    def add(self, phi: Tensor, labels: Sequence[Label]) -> list[str]:
        """Write records inside `change`; return their ids.

        Raises:
            ValueError: features too large for the ledger's numbers.
        """
        grid = (phi / self.resolution).round()
        if len(grid) and float(grid.abs().max()) > LARGEST:
            raise ValueError(
                f"features reach {float(phi.abs().max()):g}, the ledger holds up to {LARGEST * self.resolution:g}; "
                "scale them in the encoder"
            )
        ids = record_ids(phi, labels)
        packed = grid.to(torch.int32).numpy()
        rows = [
            (one, json.dumps(label), row.tobytes(), self.generation + 1)
            for one, label, row in zip(ids, labels, packed, strict=True)
        ]
        self._execute("INSERT INTO records (id, label, features, added) VALUES (?, ?, ?, ?)", rows)
        return ids

    def take(self, ids: Sequence[str]) -> tuple[Tensor, list[Label]]:
        """Mark one record for each id as removed, inside `change`; return the features and labels.

        Raises:
            ValueError: an id that no record has, or one asked for more often than it is there.
        """
        found = []
        for one in ids:
            query = "SELECT row, label, features FROM records WHERE id = ? AND removed IS NULL LIMIT 1"
            rows = self._rows(query, (one,))
            if not rows:
                raise ValueError(
                    f"the ledger {self.path} holds no record {one!r} (any more), of {len(self):,}; give an id that "
                    "learn returned; nothing was forgotten"
                )
            self._execute("UPDATE records SET removed = ? WHERE row = ?", [(self.generation + 1, rows[0][0])])
            found.append(rows[0])
        labels = [self._json(row[1]) for row in found]
        return self._features(ids, labels, [row[2] for row in found]), labels

    def id_counts(self, ids: Sequence[str]) -> dict[str, int]:
        """Return how many records each of some ids has."""
        query = "SELECT count(*) FROM records WHERE id = ? AND removed IS NULL"
        return {one: int(self._rows(query, (one,))[0][0]) for one in set(ids)}

    def of_class(self, label: Label) -> tuple[list[str], Tensor]:
        """Return ids and features, [n, dim] float64, of all records of a class, in the order of their ids."""
        query = "SELECT id, features FROM records WHERE label = ? AND removed IS NULL ORDER BY id, row"
        rows = self._rows(query, (json.dumps(label),))
        ids = [row[0] for row in rows]
        return ids, self._features(ids, [label] * len(ids), [row[1] for row in rows])

    def closest(self, phi: Tensor, label: Label) -> tuple[str, float] | None:
        """Return the id of the class's record that is most like one, and the largest difference in a feature."""
        ids, features = self.of_class(label)
        if not ids:
            return None
        gaps = (features - phi).abs().amax(1)
        return ids[int(gaps.argmin())], float(gaps.min())

    def all(self) -> Iterator[tuple[Tensor, list[Label]]]:
        """Yield features and labels of all records, class by class."""
        for label in self.counts:
            ids, features = self.of_class(label)
            yield features, [label] * len(ids)

    def commit(self) -> int:
        """Make all changes last, under the next number; return it."""
        if not self._file.in_transaction:
            self._begin()
        self._note("generation", self.generation + 1)
        self._execute("COMMIT")
        self.generation += 1
        return self.generation

    def settle(self) -> None:
        """Say that the state of the last number is written: what was removed before it goes for good."""
        self._begin()
        self._execute("DELETE FROM records WHERE removed IS NOT NULL")
        self._note("settled", self.generation)
        self._execute("COMMIT")

    def open_at(self, generation: int, checksum: str) -> None:
        """Take back what was committed after a state of this number, when its writer never wrote the next state.

        Raises:
            ValueError: the two files are not of one moment.
        """
        # what was removed by a save is gone once it has settled, and can be put back until then
        if int(self._about()["settled"]) <= generation < self.generation:
            self._begin()
            self._execute("DELETE FROM records WHERE added > ?", [(generation,)])
            self._execute("UPDATE records SET removed = NULL WHERE removed > ?", [(generation,)])
            self.generation = generation
            self._note("generation", generation)
            self._execute("COMMIT")
        if (self.generation, self.checksum) != (generation, checksum):
            raise ValueError(
                f"the ledger {self.path} is of save {self.generation}, the state of save {generation}, or they hold "
                "other records; use a ledger and a state that were copied together"
            )

    def close(self) -> None:
        """Let go of the file; what was not committed is undone."""
        self._file.close()

    def _features(self, ids: Sequence[str], labels: Sequence[Label], blobs: Sequence[bytes]) -> Tensor:
        """Return stored features as [n, dim] float64; refuse those that are not what their ids were made of."""
        if any(not isinstance(blob, bytes) or len(blob) != 4 * self.dim for blob in blobs):
            raise self._damaged("features of another length")
        rows = np.frombuffer(b"".join(blobs), dtype=np.int32).reshape(len(blobs), self.dim)
        features = torch.from_numpy(rows.astype(np.float64)).to(DTYPE) * self.resolution
        if record_ids(features, labels) != list(ids):
            raise self._damaged("features that do not fit their id")
        return features

    def _about(self) -> dict[str, Any]:
        return {name: self._json(value) for name, value in self._rows("SELECT name, value FROM about")}

    def _note(self, name: str, value: int) -> None:
        self._execute("UPDATE about SET value = ? WHERE name = ?", [(json.dumps(value), name)])

    def _begin(self) -> None:
        """Take the file for changes; refuse one that somebody else has changed since it was opened."""
        self._execute("BEGIN IMMEDIATE")
        if (found := int(self._about()["generation"])) != self.generation:
            self._execute("ROLLBACK")
            raise ValueError(
                f"the ledger {self.path} is of save {found}, it was opened at save {self.generation}: another "
                "classifier has written it; load its state again, Classifier.load(path, ledger=...)"
            )

    def _one(self, query: str) -> Any:
        return self._rows(query)[0][0]

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Return what a query finds; what SQLite cannot read is a ValueError."""
        try:
            return self._file.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None

    def _json(self, text: str) -> Any:
        """Return what a cell holds."""
        try:
            return json.loads(text)
        except (TypeError, ValueError):
            raise self._damaged("a cell that is no JSON") from None

    def _damaged(self, why: str) -> ValueError:
        """Return the error for a file that is not what was written."""
        return ValueError(
            f"{self.path} is no whole ledger of records ({why}); use a copy of it that was made with its state"
        )

    def _execute(self, statement: str, rows: Sequence[tuple[Any, ...]] = ((),)) -> None:
        """Run a statement that writes, for each row of values; what the disk refuses is an OSError."""
        try:
            for row in rows:
                self._file.execute(statement, row)
        except sqlite3.OperationalError as error:
            number = ERRORS.get(error.sqlite_errorcode & 0xFF)
            raise OSError(number, f"the ledger cannot be written ({error})", str(self.path)) from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None
