"""An exact memory of classes: what each looks like, and which differences between records mean little.  [ours]"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from everlearn.memory.class_statistics import DTYPE, GONE, ClassStatistics, Label, as_labels, order
from everlearn.memory.readout import READOUTS, Readout, Snapshot, lda, ridge

__all__ = ["PrecisionMemory", "lda", "ridge"]

MAX_CLASSES = 10_000
PENDING = 1_024  # records that wait at most


class PrecisionMemory:
    """Remember classes exactly: record by record, in any order, without task boundaries.  [ours]

        d = phi - mu_y;  mu_y <- mu_y + d/(n_y + 1);  P <- (P^-1 + n/(n+1) d d^T)^-1;  read: see `lda`

    Two levels: a delta rule on class means, and the precision of its surprise (the rule `least_squares` follows it
    record by record). Kept are the sums that determine both; the read-out is solved at the first read after a write.
    Features are rounded to a grid of `resolution` and summed in float64, where such sums have no rounding error: the
    same records leave the same bits in any order and in any batches, `remove` leaves those of never having seen a
    record, `merge` those of one memory that saw everything. That holds until a feature's sum of squares passes
    2^53 resolution^2 (`exact` tells; 2^21 by default: two million records of size-1 features). Beyond it, the
    differences are those of float64 rounding.

    This is streaming linear discriminant analysis (Hayes & Kanan) and, on random ReLU features, what RanPAC and KLDA
    describe, in nested form. It does not learn features; where those must move, use a strategy with gradients.

    With a half-life, what was learned counts less with its age: a record weighs 2^(-a/h) once a further records have
    come, of whatever class. The memory then follows a world that changes, and has an order: nothing can be removed from
    it or merged into it. A class that gets no record for 500 half-lives is gone.

    Threads may write and read at once. Readers answer from a `Snapshot`, which is solved at the first read after a
    write and outside of the lock that writers take; `continual.serving` reads without ever waiting for that. Up to
    `PENDING` records wait to be summed, many at a time, which changes no bit of the sums.

    Args:
        dim: length D of a feature vector. The state is D (D + 1) / 2 + C (D + 1) numbers, however much is learned.
        shrinkage: weight of the isotropic prior, in [1e-6, 1]; 1 is the nearest class mean.
        readout: `lda` or `ridge`; it and the shrinkage may be changed later, the statistics serve all.
        resolution: grid of the features, a power of two. The default suits features of size 0.01 to 10.
        half_life: records after which a record counts half, > 0; None never forgets.
        max_classes: a write that would bring more classes is refused before it takes the memory of the machine.
    Raises:
        ValueError: an argument outside its range.
    Example:
        >>> memory = PrecisionMemory(2)
        >>> memory.write(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), ["up", "right"])
        >>> memory.predict(torch.tensor([[0.2, 0.9]]))
        ['up']
    """

    def __init__(
        self,
        dim: int,
        *,
        shrinkage: float = 0.03,
        readout: Readout = lda,
        resolution: float = 2.0**-16,
        half_life: float | None = None,
        max_classes: int = MAX_CLASSES,
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim {dim} is not the length of a feature vector; give an integer >= 1")
        if not 1e-6 <= shrinkage <= 1:
            raise ValueError(f"shrinkage {shrinkage} must lie in [1e-6, 1]; try 0.03, or more with few records")
        if not (resolution > 0 and math.frexp(resolution)[0] == 0.5):
            raise ValueError(f"resolution {resolution} is not a power of two, so sums would round; try 2**-16")
        if half_life is not None and not 0 < half_life < math.inf:
            raise ValueError(f"half_life {half_life} is no number of records; give one above zero, or None to keep all")
        if max_classes < 1:
            raise ValueError(f"max_classes {max_classes} leaves room for no class; give a number >= 1")
        self.dim, self.shrinkage, self.readout, self.resolution = dim, shrinkage, readout, resolution
        self.half_life, self.max_classes = half_life, max_classes
        self._learned = ClassStatistics.of(torch.zeros(0, dim, dtype=DTYPE), [], dim)
        self._pending: list[tuple[Tensor, list[Label]]] = []
        self._known: set[Label] = set()
        self._version = 0
        self._snapshot: Snapshot | None = None
        self._writing, self._solving = threading.RLock(), threading.Lock()

    @property
    def statistics(self) -> ClassStatistics:
        """Return what has been learned, as a value that later writes leave untouched."""
        with self._writing:
            self._sum_up()
            return self._learned

    @property
    def labels(self) -> tuple[Label, ...]:
        """Return the classes in the order of `scores`: integers first, then text, both sorted."""
        return self.statistics.labels

    @property
    def counts(self) -> dict[Label, int]:
        """Return how many records of each class are in the memory; with a half-life, the sum of their weights."""
        learned = self.statistics
        return dict(zip(learned.labels, learned.counts.tolist(), strict=True))

    @property
    def exact(self) -> bool:
        """Tell whether every sum is still free of rounding."""
        largest = self.statistics.second_moment.diagonal().max()
        return self.half_life is None and bool(largest <= 2.0**53 * self.resolution**2)

    @property
    def version(self) -> int:
        """Return how often the memory has changed: a snapshot of the same number is up to date."""
        return self._version

    def write(self, phi: Tensor, y: Sequence[Label] | Tensor) -> None:
        """Learn records.

        Args:
            phi: features, [B, D], finite.
            y: their B classes: text or integers, known or new. A new text that reads like a known integer, or the
                other way round, is refused: 7 and "7" would be two classes.
        Raises:
            ValueError: features or labels that do not fit; the memory is unchanged.
        """
        phi, labels = self.records(phi, y)
        if not labels:
            return
        with self._writing:
            new = set(labels) - self._known
            check_new(new, self._known, self.max_classes)
            self._known |= new
            self._pending.append((phi, labels))
            self._version += 1
            if sum(len(waiting) for _, waiting in self._pending) >= PENDING:
                self._sum_up()

    def remove(self, phi: Tensor, y: Sequence[Label] | Tensor) -> None:
        """Forget records that are given again: the memory is then as if it had never seen them.

        Args:
            phi: the features that were written, [B, D].
            y: the classes they were written under.
        Raises:
            ValueError: these records cannot have been learned, or the memory has a half-life; it is unchanged. A
                stranger that resembles what was learned cannot be told from it.
        """
        self._check_ageless("forgets no single record")
        records = ClassStatistics.of(*self.records(phi, y), self.dim)
        size = float(records.second_moment.diagonal().mean().sqrt()) / max(records.total, 1) ** 0.5
        with self._writing:
            self._set(self.statistics.minus(records, slack=1e-3 * size + self.resolution))

    def merge(self, other: PrecisionMemory) -> None:
        """Take over what `other` has learned, as if its records had been written here.

        Raises:
            ValueError: the two do not measure the same features, or one has a half-life; both are unchanged.
        """
        if (self.dim, self.resolution) != (other.dim, other.resolution):
            raise ValueError(
                f"a memory of dim {other.dim} and resolution {other.resolution} does not merge into one of dim "
                f"{self.dim} and resolution {self.resolution}; learn both with the same encoder and resolution"
            )
        self._check_ageless("merges with no other")
        other._check_ageless("merges with no other")
        theirs = other.statistics
        with self._writing:
            check_new(set(theirs.labels) - self._known, self._known, self.max_classes)
            self._set(self.statistics.plus(theirs))

    def snapshot(self) -> Snapshot:
        """Return what is known now, solved for reading; what was solved already is not solved again.

        Raises:
            ValueError: nothing was learned yet.
        """
        if (found := self._up_to_date()) is not None:
            return found
        with self._solving:
            if (found := self._up_to_date()) is not None:
                return found
            with self._writing:
                learned, version = self.statistics, self._version
            if not learned.labels:
                raise ValueError("the memory is empty, so it has no class to answer with; write records first")
            self._snapshot = Snapshot.of(learned, self.readout, self.shrinkage, version)
            return self._snapshot

    def scores(self, phi: Tensor) -> Tensor:
        """Read how well each record fits each class; reading changes nothing.

        Args:
            phi: features, [B, D].
        Returns:
            [B, C] float64, columns in the order of `labels`. Under `lda` a softmax of them is the posterior of the
            Gaussian model: its order is good, its confidence too high.
        Raises:
            ValueError: nothing was learned yet, or features that do not fit.
        """
        snapshot = self.snapshot()
        return snapshot.scores(self.features(phi))

    def predict(self, phi: Tensor) -> list[Label]:
        """Return the best class of each record, B labels."""
        snapshot = self.snapshot()
        return snapshot.best(snapshot.scores(self.features(phi)))

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as tensors and a description that JSON can hold; equal knowledge gives equal bits."""
        rows, columns = torch.triu_indices(self.dim, self.dim)
        learned = self.statistics
        tensors = {
            "second_moment": learned.second_moment[rows, columns],
            "sums": learned.sums.clone(),
            "counts": learned.counts.clone(),
        }
        readout = next((name for name, function in READOUTS.items() if function is self.readout), "custom")
        meta = {"dim": self.dim, "shrinkage": self.shrinkage, "readout": readout, "resolution": self.resolution}
        # only where they are not the default: states from before they existed stay equal, bit for bit
        later = {"half_life": (self.half_life, None), "max_classes": (self.max_classes, MAX_CLASSES)}
        meta |= {name: value for name, (value, default) in later.items() if value != default}
        return tensors, meta | {"labels": list(learned.labels)}

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, Tensor], meta: dict[str, Any], readout: Readout | None = None
    ) -> PrecisionMemory:
        """Return the memory that `to_tensors` described.

        Args:
            tensors: the state.
            meta: its description.
            readout: needed where the description says "custom"; otherwise it replaces the recorded one.
        Raises:
            ValueError: the state is damaged, or its readout is unknown.
        """
        chosen = readout or READOUTS.get(meta["readout"])
        if chosen is None:
            raise ValueError(f"readout {meta['readout']!r} is not one of {sorted(READOUTS)}; pass readout=...")
        given = {name: meta[name] for name in ("shrinkage", "resolution", "half_life", "max_classes") if name in meta}
        memory = cls(meta["dim"], readout=chosen, **given)
        labels = as_labels(meta["labels"])
        _check_state(tensors, labels, memory.dim, torch.int64 if memory.half_life is None else DTYPE)
        rows, columns = torch.triu_indices(memory.dim, memory.dim)
        moment = torch.zeros(memory.dim, memory.dim, dtype=DTYPE)
        moment[rows, columns] = moment[columns, rows] = tensors["second_moment"]
        memory._set(ClassStatistics(tuple(labels), moment, tensors["sums"].clone(), tensors["counts"].clone()))
        return memory

    def records(self, phi: Tensor, y: Sequence[Label] | Tensor) -> tuple[Tensor, list[Label]]:
        """Return records as they are summed: features on the grid, [B, D] float64, and B labels.

        It warns where all of them become zero, because their features are too small for the grid.

        Raises:
            ValueError: as `write`.
        """
        phi, labels = self.features(phi), as_labels(y)
        if len(phi) != len(labels):
            raise ValueError(f"{len(phi)} records came with {len(labels)} labels; give one label for each record")
        rounded = (phi / self.resolution).round() * self.resolution
        if bool(phi.any()) and not bool(rounded.any()):
            warnings.warn(
                f"features of at most {float(phi.abs().max()):.1e} are all rounded to 0 on a grid of "
                f"{self.resolution:.1e}, so nothing can be learned of them; scale them to about 1 in the encoder, or "
                "make the memory with a smaller resolution",
                stacklevel=3,
            )
        return rounded, labels

    def features(self, phi: Tensor) -> Tensor:
        """Return features as float64 once they fit.

        Raises:
            ValueError: they are not [B, D], or not finite.
        """
        if phi.ndim != 2 or phi.shape[1] != self.dim:
            raise ValueError(
                f"features have the shape {tuple(phi.shape)}; this memory takes [records, {self.dim}]; "
                "encode with the encoder it was made for"
            )
        if not bool(torch.isfinite(phi).all()):
            raise ValueError("features hold NaN or infinite numbers, which no memory can take back; check the encoder")
        return phi.detach().to("cpu", DTYPE)

    def _set(self, learned: ClassStatistics) -> None:
        """Replace what is known."""
        self._learned, self._known = learned, set(learned.labels)
        self._version += 1

    def _sum_up(self) -> None:
        """Add the records that wait to the sums; whoever calls holds the lock of writers."""
        if not self._pending:
            return
        phi = torch.cat([phi for phi, _ in self._pending])
        labels = [label for _, some in self._pending for label in some]
        if self.half_life is None:
            self._learned = self._learned.plus(ClassStatistics.of(phi, labels, self.dim))
        else:
            ages = torch.arange(len(labels) - 1, -1, -1, dtype=DTYPE)
            weights = torch.exp2(-ages / self.half_life)
            first = int((weights <= GONE).sum())
            records = ClassStatistics.of(phi[first:], labels[first:], self.dim, weights[first:])
            self._learned = self._learned.faded(2 ** (-len(labels) / self.half_life)).plus(records)
            self._known = set(self._learned.labels)
        self._pending = []

    def _up_to_date(self) -> Snapshot | None:
        """Return the last snapshot if it answers what would be answered now."""
        last = self._snapshot
        asked = (self._version, self.readout, self.shrinkage)
        return last if last is not None and (last.version, last.readout, last.shrinkage) == asked else None

    def _check_ageless(self, what: str) -> None:
        """Refuse what only a memory without a half-life can do."""
        if self.half_life is not None:
            raise ValueError(
                f"a memory with half_life {self.half_life} {what}, since it does not know how old a record is; "
                "make it with half_life=None for that"
            )


def check_new(new: set[Label], known: set[Label], most: int) -> None:
    """Refuse classes that no memory should begin.

    Args:
        new: labels that are not known yet.
        known: those that are.
        most: how many there may be in all.
    Raises:
        ValueError: an empty name, too many classes, or a number and a text that read the same.
    """
    if not new:
        return
    if any(isinstance(label, str) and not label.strip() for label in new):
        raise ValueError("a label is an empty text; give every class a name or a number")
    if len(known) + len(new) > most:
        raise ValueError(
            f"{len(known) + len(new):,} classes are asked for, this memory takes {most:,}; check that the labels are "
            "classes and not identifiers, or give max_classes=..."
        )
    numbers, texts = ({str(label) for label in known | new if isinstance(label, kind)} for kind in (int, str))
    if mixed := numbers & texts & {str(label) for label in new}:
        raise ValueError(
            f"label {min(mixed)} comes as a number and as text, which would be two classes; write it in one way"
        )


def _check_state(tensors: dict[str, Tensor], labels: list[Label], dim: int, counted: torch.dtype) -> None:
    """Refuse tensors that no memory of these labels and this size has written."""
    shapes = {"second_moment": (dim * (dim + 1) // 2,), "sums": (len(labels), dim), "counts": (len(labels),)}
    for name, shape in shapes.items():
        dtype = counted if name == "counts" else DTYPE
        if name not in tensors or tuple(tensors[name].shape) != shape or tensors[name].dtype != dtype:
            raise ValueError(f"the state has no tensor {name!r} of shape {shape} and {dtype}; use an undamaged state")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"the state's {name!r} holds NaN or infinite numbers; use an undamaged state")
    if sorted(set(labels), key=order) != labels or bool(
        (tensors["counts"] < (1 if counted == torch.int64 else GONE)).any()
    ):
        raise ValueError("the state's labels and counts contradict each other; use an undamaged state")
