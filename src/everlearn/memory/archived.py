"""What one document taught, as it is archived: a packed state, and the one that it replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from everlearn.memory import low_rank
from everlearn.memory.low_rank import PackedState
from everlearn.memory.state import Tensors


@dataclass(frozen=True)
class Archived:
    """One entry of an archive.

    Args:
        name: of the document or topic.
        packed: what it taught, one row.
        order: grows with every time that an entry is kept or used; the smallest is the oldest.
        before: what was kept under the name before, for going back; None where it was new.
    """

    name: str
    packed: PackedState
    order: int
    before: PackedState | None = None

    def nbytes(self) -> int:
        """Return the bytes of all tensors, of the earlier version too."""
        return self.packed.nbytes() + (self.before.nbytes() if self.before else 0)

    def to_tensors(self) -> Tensors:
        """Return the tensors of both versions by name; `name` and `order` are not among them."""
        versions = {"now": self.packed} | ({"before": self.before} if self.before else {})
        return {
            f"{when}/{name}": tensor
            for when, packed in versions.items()
            for name, tensor in low_rank.to_tensors(packed).items()
        }

    @classmethod
    def from_tensors(cls, name: str, order: int, tensors: Mapping[str, Tensor]) -> Archived:
        """Rebuild an entry from `to_tensors`.

        Raises:
            ValueError: a tensor that no entry has, or one that is missing.
        """
        versions: dict[str, Tensors] = {"now": {}}
        for path, tensor in tensors.items():
            when, _, rest = path.partition("/")
            versions.setdefault(when, {})[rest] = tensor
        if unknown := sorted(set(versions) - {"now", "before"}):
            raise ValueError(f"{unknown[0]!r} is no version of an archived state; give a file that everlearn wrote")
        packed = {when: low_rank.from_tensors(own) for when, own in versions.items()}
        return cls(name, packed["now"], order, packed.get("before"))
