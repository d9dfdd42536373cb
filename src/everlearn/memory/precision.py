"""An exact memory of classes: what each looks like, and which differences between records mean little.  [ours]"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from everlearn.memory.class_statistics import DTYPE, ClassStatistics, Label, as_labels, order
from everlearn.memory.readout import READOUTS, Readout, lda, ridge

__all__ = ["PrecisionMemory", "lda", "ridge"]


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

    Args:
        dim: length D of a feature vector. The state is D (D + 1) / 2 + C (D + 1) numbers, however much is learned.
        shrinkage: weight of the isotropic prior, in [1e-6, 1]; 1 is the nearest class mean.
        readout: `lda` or `ridge`; it and the shrinkage may be changed later, the statistics serve all.
        resolution: grid of the features, a power of two. The default suits features of size 0.01 to 10.
    Raises:
        ValueError: an argument outside its range.
    Example:
        >>> memory = PrecisionMemory(2)
        >>> memory.write(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), ["up", "right"])
        >>> memory.predict(torch.tensor([[0.2, 0.9]]))
        ['up']
    """

    def __init__(
        self, dim: int, *, shrinkage: float = 0.03, readout: Readout = lda, resolution: float = 2.0**-16
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim {dim} is not the length of a feature vector; give an integer >= 1")
        if not 1e-6 <= shrinkage <= 1:
            raise ValueError(f"shrinkage {shrinkage} must lie in [1e-6, 1]; try 0.03, or more with few records")
        if not (resolution > 0 and math.frexp(resolution)[0] == 0.5):
            raise ValueError(f"resolution {resolution} is not a power of two, so sums would round; try 2**-16")
        self.dim, self.shrinkage, self.readout, self.resolution = dim, shrinkage, readout, resolution
        self._learned = ClassStatistics.of(torch.zeros(0, dim, dtype=DTYPE), [], dim)
        self._solved: tuple[object, Tensor, Tensor] | None = None

    @property
    def statistics(self) -> ClassStatistics:
        """Return what has been learned, as a value that later writes leave untouched."""
        return self._learned

    @property
    def labels(self) -> tuple[Label, ...]:
        """Return the classes in the order of `scores`: integers first, then text, both sorted."""
        return self._learned.labels

    @property
    def counts(self) -> dict[Label, int]:
        """Return how many records of each class are in the memory."""
        return dict(zip(self._learned.labels, self._learned.counts.tolist(), strict=True))

    @property
    def exact(self) -> bool:
        """Tell whether every sum is still free of rounding."""
        return bool(self._learned.second_moment.diagonal().max() <= 2.0**53 * self.resolution**2)

    def write(self, phi: Tensor, y: Sequence[Label] | Tensor) -> None:
        """Learn records.

        Args:
            phi: features, [B, D], finite.
            y: their B classes: text or integers, known or new.
        Raises:
            ValueError: features or labels that do not fit; the memory is unchanged.
        """
        self._set(self._learned.plus(self._records(phi, y)))

    def remove(self, phi: Tensor, y: Sequence[Label] | Tensor) -> None:
        """Forget records that are given again: the memory is then as if it had never seen them.

        Args:
            phi: the features that were written, [B, D].
            y: the classes they were written under.
        Raises:
            ValueError: these records cannot have been learned; the memory is unchanged. A stranger that resembles
                what was learned cannot be told from it.
        """
        records = self._records(phi, y)
        size = float(records.second_moment.diagonal().mean().sqrt()) / max(records.total, 1) ** 0.5
        self._set(self._learned.minus(records, slack=1e-3 * size + self.resolution))

    def merge(self, other: PrecisionMemory) -> None:
        """Take over what `other` has learned, as if its records had been written here.

        Raises:
            ValueError: the two do not measure the same features; both are unchanged.
        """
        if (self.dim, self.resolution) != (other.dim, other.resolution):
            raise ValueError(
                f"a memory of dim {other.dim} and resolution {other.resolution} does not merge into one of dim "
                f"{self.dim} and resolution {self.resolution}; learn both with the same encoder and resolution"
            )
        self._set(self._learned.plus(other._learned))

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
        if not self.labels:
            raise ValueError("the memory is empty, so it has no class to answer with; write records first")
        phi = self._features(phi)
        asked = (self.readout, self.shrinkage)
        if self._solved is None or self._solved[0] != asked:
            self._solved = (asked, *self.readout(self._learned, self.shrinkage))
        _, weights, bias = self._solved
        return phi @ weights.mT + bias

    def predict(self, phi: Tensor) -> list[Label]:
        """Return the best class of each record, B labels."""
        return [self.labels[i] for i in self.scores(phi).argmax(1).tolist()]

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as tensors and a description that JSON can hold; equal knowledge gives equal bits."""
        rows, columns = torch.triu_indices(self.dim, self.dim)
        tensors = {
            "second_moment": self._learned.second_moment[rows, columns],
            "sums": self._learned.sums.clone(),
            "counts": self._learned.counts.clone(),
        }
        readout = next((name for name, function in READOUTS.items() if function is self.readout), "custom")
        meta = {"dim": self.dim, "shrinkage": self.shrinkage, "readout": readout, "resolution": self.resolution}
        return tensors, meta | {"labels": list(self.labels)}

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
        memory = cls(meta["dim"], shrinkage=meta["shrinkage"], readout=chosen, resolution=meta["resolution"])
        labels = as_labels(meta["labels"])
        _check_state(tensors, labels, memory.dim)
        rows, columns = torch.triu_indices(memory.dim, memory.dim)
        moment = torch.zeros(memory.dim, memory.dim, dtype=DTYPE)
        moment[rows, columns] = moment[columns, rows] = tensors["second_moment"]
        memory._set(ClassStatistics(tuple(labels), moment, tensors["sums"].clone(), tensors["counts"].clone()))
        return memory

    def _set(self, learned: ClassStatistics) -> None:
        """Replace what is known and drop what was solved from it."""
        self._learned, self._solved = learned, None

    def _records(self, phi: Tensor, y: Sequence[Label] | Tensor) -> ClassStatistics:
        """Return the statistics of records whose features are rounded to the grid."""
        phi, labels = self._features(phi), as_labels(y)
        if len(phi) != len(labels):
            raise ValueError(f"{len(phi)} records came with {len(labels)} labels; give one label for each record")
        return ClassStatistics.of((phi / self.resolution).round() * self.resolution, labels, self.dim)

    def _features(self, phi: Tensor) -> Tensor:
        """Return features as float64 once they fit."""
        if phi.ndim != 2 or phi.shape[1] != self.dim:
            raise ValueError(
                f"features have the shape {tuple(phi.shape)}; this memory takes [records, {self.dim}]; "
                "encode with the encoder it was made for"
            )
        if not bool(torch.isfinite(phi).all()):
            raise ValueError("features hold NaN or infinite numbers, which no memory can take back; check the encoder")
        return phi.detach().to("cpu", DTYPE)


def _check_state(tensors: dict[str, Tensor], labels: list[Label], dim: int) -> None:
    """Refuse tensors that no memory of these labels and this size has written."""
    shapes = {"second_moment": (dim * (dim + 1) // 2,), "sums": (len(labels), dim), "counts": (len(labels),)}
    for name, shape in shapes.items():
        dtype = torch.int64 if name == "counts" else DTYPE
        if name not in tensors or tuple(tensors[name].shape) != shape or tensors[name].dtype != dtype:
            raise ValueError(f"the state has no tensor {name!r} of shape {shape} and {dtype}; use an undamaged state")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ValueError(f"the state's {name!r} holds NaN or infinite numbers; use an undamaged state")
    if sorted(set(labels), key=order) != labels or bool((tensors["counts"] < 1).any()):
        raise ValueError("the state's labels and counts contradict each other; use an undamaged state")
