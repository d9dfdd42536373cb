"""A classifier that takes new classes at any time, forgets a record exactly, merges, and comes back from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from everlearn.continual.features import Encoder, encoder_from_settings
from everlearn.memory.class_statistics import Label
from everlearn.memory.codec import load_tensors, save_tensors
from everlearn.memory.precision import PrecisionMemory

KIND = "classifier"


class Classifier:
    """Learn items under labels, one at a time or many, in any order; a label is new when it first appears.

    Nothing is stored but sums over features (see `PrecisionMemory`), so learning needs no second pass, no task id and
    no items kept. Forgetting an item therefore needs the item again. `predict` and `save` learn nothing.

    Args:
        encoder: items -> features; it stays as it is. `features.HashedText` for text, `features.RandomReLU` for
            vectors, or one of your own that follows `features.Encoder`.
        memory: what learns, of the encoder's dim; None makes a `PrecisionMemory` with its defaults.
    Raises:
        ValueError: a memory of another dim.
    Example:
        >>> from everlearn.continual.features import HashedText
        >>> classifier = Classifier(HashedText(64))
        >>> classifier.learn(["refund my order", "the app crashes"], ["billing", "bug"])
        >>> classifier.learn(["where is the parcel"], ["delivery"])
        >>> classifier.predict(["my parcel is late"])
        ['delivery']
    """

    def __init__(self, encoder: Encoder, memory: PrecisionMemory | None = None) -> None:
        memory = memory or PrecisionMemory(encoder.dim)
        if memory.dim != encoder.dim:
            raise ValueError(
                f"the memory takes features of length {memory.dim}, the encoder gives {encoder.dim}; "
                f"make it PrecisionMemory({encoder.dim})"
            )
        self.encoder, self.memory = encoder, memory

    @property
    def labels(self) -> tuple[Label, ...]:
        """Return the classes known, integers before text, sorted."""
        return self.memory.labels

    @property
    def counts(self) -> dict[Label, int]:
        """Return how many records each class has learned."""
        return self.memory.counts

    def learn(self, items: Any, labels: Sequence[Label] | Tensor) -> None:
        """Learn items; nothing has changed when it raises.

        Args:
            items: what the encoder takes: a list of texts, a tensor [B, ...].
            labels: one for each item; text or integers, known or new.
        Raises:
            ValueError: items and labels that do not fit each other or the encoder.
        """
        self.memory.write(self.encoder(items), labels)

    def forget(self, items: Any, labels: Sequence[Label] | Tensor) -> None:
        """Forget items that are given again, under the labels they were learned with, as if never seen.

        Raises:
            ValueError: these items cannot have been learned; nothing was changed.
        """
        self.memory.remove(self.encoder(items), labels)

    def merge(self, other: Classifier) -> None:
        """Take over what another classifier has learned, as if its items had been learned here.

        Raises:
            ValueError: it reads items by another encoder; nothing was changed.
        """
        _check_encoder(other.encoder.settings(), self.encoder.settings(), "the other classifier")
        self.memory.merge(other.memory)

    @overload
    def predict(self, items: Any) -> list[Label]: ...

    @overload
    def predict(self, items: Any, top_k: int) -> list[list[tuple[Label, float]]]: ...

    def predict(self, items: Any, top_k: int | None = None) -> list[Label] | list[list[tuple[Label, float]]]:
        """Answer with the best label of each item, or with its `top_k` labels, best first.

        Args:
            items: what the encoder takes.
            top_k: None for labels alone. A number gives (label, share) pairs, at most one for each class; shares are
                a softmax of the scores: their order is good, their confidence too high.
        Raises:
            ValueError: nothing was learned yet, or top_k is below one.
        """
        if top_k is None:
            return self.memory.predict(self.encoder(items))
        if top_k < 1:
            raise ValueError(f"top_k {top_k} asks for no label; give a number >= 1, or leave it out for the best one")
        shares, index = self.memory.scores(self.encoder(items)).softmax(1).sort(dim=1, descending=True, stable=True)
        return [
            [(self.labels[i], share) for i, share in zip(row[:top_k], values, strict=False)]
            for row, values in zip(index.tolist(), shares.tolist(), strict=True)
        ]

    def save(self, path: Path | str, notes: dict[str, Any] | None = None) -> None:
        """Write what was learned to one file; a crash leaves the old file or the new one.

        Equal knowledge and notes give equal bytes, in whatever order it was learned.

        Args:
            path: the file; see `memory.codec`.
            notes: JSON data that is kept with it, such as how far a stream has been learned.
        """
        tensors, memory = self.memory.to_tensors()
        meta = {"kind": KIND, "encoder": self.encoder.settings(), "memory": memory, "notes": notes or {}}
        save_tensors(Path(path), tensors, meta)

    @classmethod
    def load(cls, path: Path | str, encoder: Encoder | None = None) -> Classifier:
        """Return the classifier that `save` wrote.

        Args:
            path: the file.
            encoder: needed where it is not one of ours; its settings must be those in the file.
        Raises:
            ValueError: the file is missing, truncated, changed, of another format, or of another encoder.
        """
        return cls.load_with_notes(path, encoder)[0]

    @classmethod
    def load_with_notes(cls, path: Path | str, encoder: Encoder | None = None) -> tuple[Classifier, dict[str, Any]]:
        """Return the classifier as `load` does, and the notes that were saved with it."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path} is not there; give the path of the file that Classifier.save wrote")
        tensors, meta = load_tensors(path)
        if meta.get("kind") != KIND:
            raise ValueError(f"{path} is not a classifier's file; give the path that Classifier.save wrote")
        encoder = encoder or encoder_from_settings(meta["encoder"])
        if encoder is None:
            raise ValueError(
                f"{path} was learned with the encoder {_short(meta['encoder'])}, which is not built in; "
                "pass it as Classifier.load(path, encoder)"
            )
        _check_encoder(meta["encoder"], encoder.settings(), str(path))
        return cls(encoder, PrecisionMemory.from_tensors(tensors, meta["memory"])), meta["notes"]


def _check_encoder(theirs: dict[str, Any], ours: dict[str, Any], whose: str) -> None:
    """Refuse knowledge about other features."""
    theirs, ours = json.loads(json.dumps(theirs)), json.loads(json.dumps(ours))
    if theirs != ours:
        raise ValueError(
            f"{whose} was learned with the encoder {_short(theirs)}, not with {_short(ours)}; use the same encoder"
        )


def _short(settings: dict[str, Any]) -> str:
    """Return settings in one line."""
    text = json.dumps(settings, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."
