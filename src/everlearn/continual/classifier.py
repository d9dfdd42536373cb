"""A classifier that takes new classes at any time, forgets a record exactly, merges, and comes back from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from everlearn.continual.features import Encoder, encoder_from_settings
from everlearn.memory.class_statistics import Label
from everlearn.memory.files import atomic_write
from everlearn.memory.precision import PrecisionMemory

FORMAT = 1
KEY = "everlearn.classifier"


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

    def save(self, path: Path | str) -> None:
        """Write what was learned to one file; a crash leaves the old file or the new one.

        The file is safetensors with a JSON header: format, encoder settings, labels, sha256 of the content. Equal
        knowledge gives equal bytes, in whatever order it was learned.

        Raises:
            ValueError: something that is not finite, which must not reach a file.
        """
        tensors, meta = self.memory.to_tensors()
        header = {"format": FORMAT, "encoder": self.encoder.settings(), "memory": meta}
        header["sha256"] = _digest(tensors, header)
        atomic_write(Path(path), save_tensors(tensors, {KEY: json.dumps(header, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path | str, encoder: Encoder | None = None) -> Classifier:
        """Return the classifier that `save` wrote.

        Args:
            path: the file.
            encoder: needed where it is not one of ours; its settings must be those in the file.
        Raises:
            ValueError: the file is missing, truncated, changed, of another format, or of another encoder.
        """
        path = Path(path)
        header, tensors = _read(path)
        if header.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {header.get('format')!r}; this version reads format {FORMAT}; "
                "use the version of everlearn that wrote it"
            )
        if header.pop("sha256", None) != _digest(tensors, header):
            raise ValueError(f"{path} has changed since it was saved: its checksum differs; restore it from a copy")
        encoder = encoder or encoder_from_settings(header["encoder"])
        if encoder is None:
            raise ValueError(
                f"{path} was learned with the encoder {_short(header['encoder'])}, which is not built in; "
                "pass it as Classifier.load(path, encoder)"
            )
        _check_encoder(header["encoder"], encoder.settings(), str(path))
        return cls(encoder, PrecisionMemory.from_tensors(tensors, header["memory"]))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a file, once both can be read."""
    try:
        data = path.read_bytes()
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give the path that Classifier.save wrote") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; give the path of the file that Classifier.save wrote") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}); restore it from a copy") from None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path} is not a classifier's file; give the path that Classifier.save wrote") from None
    return header, tensors


def _digest(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """Return the sha256 of the header without its checksum and of every tensor."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


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
