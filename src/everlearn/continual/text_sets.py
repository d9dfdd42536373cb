"""The three text benchmarks of class-incremental learning, from a folder or from the hub."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Rows = tuple[tuple[str, str], ...]  # (text, label)
CARVED = 10  # one row in so many is for validation where a set brings none


@dataclass(frozen=True)
class TextSet:
    """Labelled texts.

    Args:
        name: of the set and of the split.
        train: rows to learn.
        validation: rows to choose settings on.
        test: rows to measure on, once.
        domains: domain -> its labels, or {} where there are none.
        unknown: "train", "validation" and "test" -> texts of no class, for asking whether a text is of any.
    """

    name: str
    train: Rows
    validation: Rows
    test: Rows
    domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return all labels of the training rows, sorted; a class is a place in this list."""
        return tuple(sorted({label for _, label in self.train}))

    def leaked(self) -> tuple[int, ...]:
        """Return the test rows whose text is also a training or validation text."""
        learned = {text for text, _ in (*self.train, *self.validation)}
        return tuple(i for i, (text, _) in enumerate(self.test) if text in learned)

    def without_leaks(self) -> TextSet:
        """Return the set less the test rows that are learned."""
        leaked = set(self.leaked())
        return replace(self, test=tuple(row for i, row in enumerate(self.test) if i not in leaked))

    def refitted(self) -> TextSet:
        """Return the set with the validation rows among those to learn; nothing may be chosen on it any more."""
        return replace(self, train=self.train + self.validation, validation=())


def clinc(source: Path | str | None = None) -> TextSet:
    """Return CLINC150 in its official split: 15,000, 3,000 and 4,500 rows of 150 intents in ten domains.

    Args:
        source: folder with `data_full.json` and `domains.json`; None loads "clinc/clinc_oos" from the hub.
    Raises:
        ValueError: not such a folder, or the hub cannot be read.
    """
    if source is None:
        return _clinc_of_the_hub()
    data = _json(source, "data_full.json")
    domains = {domain: tuple(labels) for domain, labels in _json(source, "domains.json").items()}
    train, validation, test = (tuple((text, label) for text, label in data[part]) for part in ("train", "val", "test"))
    parts = {"train": "oos_train", "validation": "oos_val", "test": "oos_test"}
    unknown = {part: tuple(text for text, _ in data[name]) for part, name in parts.items()}
    return TextSet("CLINC150", train, validation, test, domains, unknown)


def clinc_mixed(source: Path | str) -> TextSet:
    """Return the split of CLINC150 by the authors of InCA and KLDA: 10,500 and 750 rows.

    It deals rows of the official training, validation and test sets anew, so what was chosen or learned on the one
    split must never be measured on the other. There is no validation set; choose settings elsewhere.

    Args:
        source: folder with `data_full.json` and `inca_klda_split.json`.
    Raises:
        ValueError: not such a folder.
    """
    data, split = _json(source, "data_full.json"), _json(source, "inca_klda_split.json")
    train, test = (tuple(tuple(data[part][row]) for part, row in split[name]) for name in ("train", "test"))
    return TextSet("CLINC150, InCA/KLDA split", train, (), test)


def banking(source: Path | str | None = None) -> TextSet:
    """Return Banking77: 10,003 and 3,080 rows of 77 intents; a tenth of the former is for validation.

    Args:
        source: folder with `train.csv` and `test.csv`; None loads "PolyAI/banking77" from the hub.
    Raises:
        ValueError: not such a folder, or the hub cannot be read.
    """
    if source is None:
        parts = _hub("PolyAI/banking77", None)
        named = [_named(parts[name], "label") for name in ("train", "test")]
        rows = [tuple((row["text"], label) for row, label in part) for part in named]
    else:
        rows = [_csv(source, f"{part}.csv", "category") for part in ("train", "test")]
    return _carved("Banking77", *rows)


def dbpedia(source: Path | str | None = None) -> TextSet:
    """Return DBpedia's classes of the second level: 10,000 and 1,000 rows of 70 classes of very different size.

    Eleven test texts are also training texts; see `TextSet.without_leaks`. From the hub 10,000 and 1,000 rows are
    chosen by a hash of the text, which are not those of the folder.

    Args:
        source: folder with `train.csv` and `test.csv`; None loads "DeveloperOats/DBPedia_Classes" from the hub.
    Raises:
        ValueError: not such a folder, or the hub cannot be read.
    """
    if source is None:
        parts = _hub("DeveloperOats/DBPedia_Classes", None)
        found = [tuple((row["text"], row["l2"]) for row in parts[name]) for name in ("train", "test")]
        rows = [tuple(sorted(part, key=_hash)[:count]) for part, count in zip(found, (10_000, 1_000), strict=True)]
    else:
        rows = [_csv(source, f"{part}.csv", "label") for part in ("train", "test")]
    return _carved("DBpedia70", *rows)


TEXT_SETS: dict[str, Callable[[Path | str | None], TextSet]] = {"clinc": clinc, "banking": banking, "dbpedia": dbpedia}


def _carved(name: str, train: Rows, test: Rows) -> TextSet:
    """Take a tenth of the training rows of every class for validation, at least one, by a hash of the text."""
    ranked: dict[str, list[tuple[str, str]]] = {}
    for row in dict.fromkeys(train):
        ranked.setdefault(row[1], []).append(row)
    chosen = {row for rows in ranked.values() for row in sorted(rows, key=_hash)[: max(1, len(rows) // CARVED)]}
    kept = tuple(row for row in train if row not in chosen)
    return TextSet(name, kept, tuple(row for row in train if row in chosen), test)


def _hash(row: tuple[str, str]) -> str:
    """Return what decides where a row goes; the order of a file does not."""
    return hashlib.sha256(row[0].encode()).hexdigest()


def _json(source: Path | str, name: str) -> Any:
    """Read a JSON file of a folder."""
    file = Path(source) / name
    if not file.is_file():
        raise ValueError(f"{file} is missing; give the folder that holds it, or leave the folder out to ask the hub")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); copy the data set again") from None


def _csv(source: Path | str, name: str, label: str) -> Rows:
    """Read the columns "text" and `label` of a CSV file of a folder."""
    file = Path(source) / name
    if not file.is_file():
        raise ValueError(f"{file} is missing; give the folder that holds it, or leave the folder out to ask the hub")
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if not {"text", label} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{file} has the columns {reader.fieldnames}, and needs text and {label}; use another file"
            )
        return tuple((row["text"], row[label]) for row in reader)


def _hub(name: str, config: str | None) -> Any:
    """Load a data set of the hub, which is downloaded once and kept in the cache of Hugging Face."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(
            f"loading {name} from the hub needs the package datasets; pip install datasets, or give a folder"
        ) from None
    try:
        return load_dataset(name, config)
    except (OSError, ValueError) as error:
        why = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ValueError(f"{name} cannot be loaded from the hub ({why}); give a folder that holds the data") from None


def _named(part: Any, column: str) -> list[tuple[Any, str]]:
    """Return every row with the name of its class, which the hub numbers."""
    names: Sequence[str] = part.features[column].names
    return [(row, names[row[column]]) for row in part]


def _clinc_of_the_hub() -> TextSet:
    """Load CLINC150 from the hub, whose rows of no class are among the others."""
    parts = _hub("clinc/clinc_oos", "plus")
    rows = {name: [(row["text"], label) for row, label in _named(parts[name], "intent")] for name in parts}
    known = {name: tuple(row for row in part if row[1] != "oos") for name, part in rows.items()}
    unknown = {name: tuple(text for text, label in part if label == "oos") for name, part in rows.items()}
    return TextSet("CLINC150", known["train"], known["validation"], known["test"], {}, unknown)
