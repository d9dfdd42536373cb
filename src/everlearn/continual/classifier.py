"""A classifier that takes new classes at any time, forgets a record exactly, merges, and comes back from a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from everlearn.continual.answers import answer
from everlearn.continual.classifier_file import KIND, check_encoder, read_state, short
from everlearn.continual.explain import Explanation, class_parts, margins, record_parts
from everlearn.continual.features import Encoder, encoder_from_settings
from everlearn.continual.ledger import Ledger, record_ids
from everlearn.continual.unknown import Calibration, calibrate
from everlearn.memory.class_statistics import Label, as_labels
from everlearn.memory.codec import save_tensors
from everlearn.memory.precision import PrecisionMemory
from everlearn.memory.readout import Snapshot


class Classifier:
    """Learn items under labels, one at a time or many, in any order; a label is new when it first appears.

    Nothing is stored but sums over features (see `PrecisionMemory`), so learning needs no second pass, no task id and
    no items kept. Forgetting an item therefore needs the item again. With a ledger, the features of every record are
    kept beside the sums: then a record can be forgotten by its id, a whole class can be, and an answer names the
    records that carried it. `predict`, `explain` and `save` learn nothing.

    Threads may share a classifier: what learns, forgets or merges goes one at a time, and `predict` answers from a
    snapshot. It solves a new one after something was learned; `serving.Serving` never waits for that either.

    Args:
        encoder: items -> features; it stays as it is. `features.HashedText` for text, `features.RandomReLU` for
            vectors, `encoders.HFEncoder` for a pretrained model, or one of your own that follows `features.Encoder`.
        memory: what learns, of the encoder's dim; None makes a `PrecisionMemory` with its defaults.
        ledger: file to keep every record's id, features and label in; None keeps no examples. It is committed by
            `save`, together with the state.
    Raises:
        ValueError: a memory of another dim, or a ledger of other records.
    Example:
        >>> from everlearn.continual.features import HashedText
        >>> classifier = Classifier(HashedText(64))
        >>> ids = classifier.learn(["refund my order", "the app crashes"], ["billing", "bug"])
        >>> ids = classifier.learn(["where is the parcel"], ["delivery"])
        >>> classifier.predict(["my parcel is late"])
        ['delivery']
    """

    def __init__(
        self, encoder: Encoder, memory: PrecisionMemory | None = None, *, ledger: Path | str | None = None
    ) -> None:
        memory = memory or PrecisionMemory(encoder.dim)
        if memory.dim != encoder.dim:
            raise ValueError(
                f"the memory takes features of length {memory.dim}, the encoder gives {encoder.dim}; "
                f"make it PrecisionMemory({encoder.dim})"
            )
        self.encoder, self.memory = encoder, memory
        self.calibration: Calibration | None = None
        self._writing = threading.RLock()
        self._wants_ledger = False
        self.ledger = self._open_ledger(ledger) if ledger is not None else None
        if self.ledger is not None:
            self._check_ledger(self.ledger)

    @property
    def labels(self) -> tuple[Label, ...]:
        """Return the classes known, integers before text, sorted."""
        return self.memory.labels

    @property
    def counts(self) -> dict[Label, int]:
        """Return how many records each class has learned."""
        return self.memory.counts

    @property
    def keeps_ledger(self) -> bool:
        """Tell whether examples are kept: the state has a ledger, be it open here or not."""
        return self.ledger is not None or self._wants_ledger

    @property
    def nbytes(self) -> dict[str, int]:
        """Return the bytes of the "state", however much was learned, and of the "ledger", which grows with it."""
        state = sum(tensor.nbytes for tensor in self.memory.to_tensors()[0].values())
        return {"state": state} | ({"ledger": self.ledger.nbytes} if self.ledger is not None else {})

    def learn(self, items: Any, labels: Sequence[Label] | Tensor) -> list[str]:
        """Learn items; nothing has changed when it raises.

        Args:
            items: what the encoder takes: a list of texts, a tensor [B, ...].
            labels: one for each item; text or integers, known or new.
        Returns:
            the id of each record, which a ledger knows it by: a hash of its features and label.
        Raises:
            ValueError: items and labels that do not fit each other or the encoder.
        """
        phi, checked = self.memory.records(self.encoder(items), labels)
        with self._changing() as ledger:
            ids = record_ids(phi, checked) if ledger is None else ledger.add(phi, checked)
            self.memory.write(phi, checked)
        return ids

    def forget(self, items: Any, labels: Sequence[Label] | Tensor) -> None:
        """Forget items that are given again, under the labels they were learned with, as if never seen.

        Without a ledger it is exact where the encoder gives an item the same features every time, as ours do, and
        exact to the difference where it does not. With one, the features that were learned are taken.

        Raises:
            ValueError: these items cannot have been learned; nothing was changed.
        """
        phi, checked = self.memory.records(self.encoder(items), labels)
        with self._changing() as ledger:
            if ledger is not None:
                phi, checked = ledger.take(self._ids_of(ledger, phi, checked))
            self.memory.remove(phi, checked)

    def forget_records(self, ids: Sequence[str]) -> None:
        """Forget records by the ids that `learn` returned, as if never seen; it takes a ledger.

        Raises:
            ValueError: no ledger, or an id that it does not hold; nothing was changed.
        """
        if isinstance(ids, str):
            raise ValueError(f"ids are one text, {ids!r}; give a list of ids")
        self._needs_ledger("forgetting a record by its id")
        with self._changing() as ledger:
            assert ledger is not None
            self.memory.remove(*ledger.take(ids))

    def forget_class(self, label: Label) -> int:
        """Forget all records of a class, and so the class; it takes a ledger. Return how many there were.

        Raises:
            ValueError: no ledger, or a class that is not known; nothing was changed.
        """
        self._needs_ledger("forgetting a class")
        with self._changing() as ledger:
            assert ledger is not None
            ids, _ = ledger.of_class(label)
            if not ids:
                raise ValueError(
                    f"class {label!r} is not known, so it cannot be forgotten; see labels for those that are"
                )
            self.memory.remove(*ledger.take(ids))
        return len(ids)

    def merge(self, other: Classifier) -> None:
        """Take over what another classifier has learned, as if its items had been learned here.

        Raises:
            ValueError: it reads items by another encoder, or this one keeps a ledger and it does not; nothing was
                changed.
        """
        check_encoder(other.encoder.settings(), self.encoder.settings(), "the other classifier")
        with self._changing() as ledger:
            if ledger is not None:
                if other.ledger is None:
                    raise ValueError(
                        f"the other classifier keeps no ledger, so {ledger.path} would miss its records; merge into a "
                        "classifier without a ledger, or learn the records here"
                    )
                for phi, labels in other.ledger.all():
                    ledger.add(phi, labels)
            self.memory.merge(other.memory)

    @overload
    def predict(self, items: Any, *, unknown: Label | None = None) -> list[Label]: ...

    @overload
    def predict(self, items: Any, top_k: int) -> list[list[tuple[Label, float]]]: ...

    def predict(
        self, items: Any, top_k: int | None = None, *, unknown: Label | None = None
    ) -> list[Label] | list[list[tuple[Label, float]]]:
        """Answer with the best label of each item, or with its `top_k` labels, best first.

        Args:
            items: what the encoder takes.
            top_k: None for labels alone. A number gives (label, share) pairs, at most one for each class; shares are
                a softmax of the scores: their order is good, their confidence too high until `calibrate` was called.
            unknown: what to answer for items of no known class, after `calibrate`; None always answers with a class.
        Raises:
            ValueError: nothing was learned yet, top_k is below one, or `unknown` without a calibration, with top_k, or
                the name of a class.
        """
        return answer(
            self.memory.snapshot(), self.memory.features(self.encoder(items)), self.calibration, top_k, unknown
        )

    def calibrate(
        self,
        items: Any,
        labels: Sequence[Label] | Tensor,
        *,
        unknown: Any = None,
        score: str | None = None,
        keep: float = 0.95,
    ) -> Calibration:
        """Choose on validation items how sure an answer is, and below what an item is of no known class.

        Args:
            items: items that were not learned, of known classes.
            labels: their labels.
            unknown: items of no class; with them the score and the threshold are chosen that tell the two apart best.
            score: a name in `unknown.SCORES`; None chooses it.
            keep: without `unknown`, the share of the known items that the threshold keeps.
        Returns:
            the calibration, which is kept, saved, and used by `predict` and `explain` from now on.
        Raises:
            ValueError: see `unknown.calibrate`.
        """
        checked, snapshot = as_labels(labels), self.memory.snapshot()
        phi = self.memory.features(self.encoder(items))
        if len(phi) != len(checked):
            raise ValueError(f"{len(phi)} items came with {len(checked)} labels; give one label for each item")
        strange = None if unknown is None else self.memory.features(self.encoder(unknown))
        self.calibration = calibrate(snapshot, phi, checked, strange, score, keep)
        return self.calibration

    def explain(self, items: Any, top: int = 3) -> list[Explanation]:
        """Say for each item which classes came close and why and, with a ledger, which records carried the best.

        Args:
            items: what the encoder takes.
            top: how many classes, and how many records, to name.
        Raises:
            ValueError: nothing was learned yet, top is below one, or a ledger with a readout of your own.
        """
        if top < 1:
            raise ValueError(f"top {top} names no class; give a number >= 1")
        with self._writing:  # the records must be those of the snapshot
            snapshot, features = self.memory.snapshot(), self.memory.features(self.encoder(items))
            found = class_parts(snapshot, features, top, self.calibration.temperature if self.calibration else 1.0)
            carried = [
                self._carried(snapshot, phi, one[0].label, top) for phi, one in zip(features, found, strict=True)
            ]
        scores = snapshot.scores(features)
        if self.calibration is None:
            judged: list[tuple[float | None, bool | None]] = [(None, None)] * len(found)
        else:
            levels = self.calibration.familiarity(snapshot, features, scores).tolist()
            judged = [(level, level < self.calibration.threshold) for level in levels]
        rows = zip(found, margins(scores), carried, judged, strict=True)
        return [Explanation(classes, gap, records, *known) for classes, gap, records, known in rows]

    def save(self, path: Path | str, notes: dict[str, Any] | None = None) -> None:
        """Write what was learned to one file; a crash leaves the old file or the new one, and a ledger that fits it.

        Equal knowledge and notes give equal bytes, in whatever order it was learned (a ledger adds a count of saves).

        Args:
            path: the file; see `memory.codec`. A classifier with a ledger has one state file, written over each time.
            notes: JSON data that is kept with it, such as how far a stream has been learned.
        Raises:
            ValueError: its ledger is not open, or was changed by another classifier; nothing was written.
            OSError: the disk refuses the state or the ledger.
        """
        self._check_open()
        with self._writing:
            tensors, memory = self.memory.to_tensors()
            meta = {"kind": KIND, "encoder": self.encoder.settings(), "memory": memory, "notes": notes or {}}
            if self.calibration is not None:
                meta["calibration"] = self.calibration.to_json()
            if self.ledger is not None:
                self._check_ledger(self.ledger)
                meta["ledger"] = {"generation": self.ledger.commit(), "checksum": self.ledger.checksum}
            save_tensors(Path(path), tensors, meta)
            if self.ledger is not None:
                self.ledger.settle()

    @classmethod
    def load(cls, path: Path | str, encoder: Encoder | None = None, *, ledger: Path | str | None = None) -> Classifier:
        """Return the classifier that `save` wrote.

        Args:
            path: the file.
            encoder: needed where it is not one of ours; its settings must be those in the file.
            ledger: file of its ledger, if it keeps one; without it the classifier only answers.
        Raises:
            ValueError: the file is missing, truncated, changed, of another format, or of another encoder; or the ledger
                is not the one that belongs to it.
        """
        return cls.load_with_notes(path, encoder, ledger=ledger)[0]

    @classmethod
    def load_with_notes(
        cls, path: Path | str, encoder: Encoder | None = None, *, ledger: Path | str | None = None
    ) -> tuple[Classifier, dict[str, Any]]:
        """Return the classifier as `load` does, and the notes that were saved with it."""
        tensors, meta = read_state(path)
        encoder = encoder or encoder_from_settings(meta["encoder"])
        if encoder is None:
            raise ValueError(
                f"{path} was learned with the encoder {short(meta['encoder'])}, which is not built in; "
                "pass it as Classifier.load(path, encoder)"
            )
        check_encoder(meta["encoder"], encoder.settings(), str(path))
        made = cls(encoder, PrecisionMemory.from_tensors(tensors, meta["memory"]))
        made.calibration = Calibration(**meta["calibration"]) if "calibration" in meta else None
        made._wants_ledger = "ledger" in meta
        if ledger is not None:
            if "ledger" not in meta:
                raise ValueError(
                    f"{path} was learned without a ledger, and none can be made afterwards; leave it out, or "
                    "learn them again with Classifier(encoder, ledger=...)"
                )
            if not Path(ledger).is_file():
                raise ValueError(f"the ledger {ledger} is not there; give the path of the one that belongs to {path}")
            made.ledger = made._open_ledger(ledger)
            made.ledger.open_at(**meta["ledger"])
            made._check_ledger(made.ledger)
        return made, meta["notes"]

    def _open_ledger(self, path: Path | str) -> Ledger:
        if self.memory.half_life is not None:
            raise ValueError(
                f"a memory with half_life {self.memory.half_life} forgets no single record, so a ledger would not "
                "describe it; leave out one of the two"
            )
        return Ledger(path, self.memory.dim, self.memory.resolution)

    @contextmanager
    def _changing(self) -> Iterator[Ledger | None]:
        """Hold the classifier for one change, and its ledger, which takes all of the change or nothing."""
        self._check_open()
        with self._writing, self.ledger.change() if self.ledger is not None else nullcontext():
            yield self.ledger

    def _check_ledger(self, ledger: Ledger) -> None:
        """Refuse a ledger of other records than the classifier's."""
        if ledger.counts != self.counts:
            raise ValueError(
                f"the ledger {ledger.path} holds {len(ledger):,} records, this classifier "
                f"{sum(self.counts.values()):,}; load its state, Classifier.load(path, ledger=...), or give a new path"
            )

    def _check_open(self) -> None:
        """Refuse to change what a ledger describes while it is not open."""
        if self._wants_ledger and self.ledger is None:
            raise ValueError(
                "this classifier keeps a ledger, which would not know of the change; load it with "
                "Classifier.load(path, ledger=...)"
            )

    def _needs_ledger(self, what: str) -> None:
        if self.ledger is None:
            raise ValueError(
                f"{what} needs a ledger, and this classifier has none open; make it with Classifier(encoder, "
                "ledger=PATH) before it learns, or load it with its ledger; or give the items to forget(items, labels)"
            )

    def _ids_of(self, ledger: Ledger, phi: Tensor, labels: Sequence[Label]) -> list[str]:
        """Return the ids in the ledger of records that are given again: the same features, or almost."""
        known, found = ledger.id_counts(record_ids(phi, labels)), []
        for one, row, label in zip(record_ids(phi, labels), phi, labels, strict=True):
            if known.get(one, 0) > 0:
                known[one] -= 1
                found.append(one)
                continue
            near = ledger.closest(row, label)
            slack = 1e-3 * float(row.square().mean().sqrt()) + self.memory.resolution
            if near is None or near[1] > slack:
                raise ValueError(
                    f"the ledger {ledger.path} holds no such record of class {label!r}; give exactly the items and "
                    "labels that were learned"
                )
            found.append(near[0])
        return found

    def _carried(self, snapshot: Snapshot, phi: Tensor, label: Label, top: int) -> tuple[tuple[str, float], ...]:
        """Return the records of a class that gave most to its score, and how much; none without a ledger."""
        if self.ledger is None:
            return ()
        ids, features = self.ledger.of_class(label)
        parts = record_parts(snapshot, phi, label, features)
        return tuple((ids[i], float(parts[i])) for i in parts.argsort(descending=True, stable=True)[:top].tolist())
