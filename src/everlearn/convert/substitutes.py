"""What may stand in the place of a pretrained attention or MLP, as plain data."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from everlearn.convert.attention import Attention
from everlearn.convert.config import LEVELS
from everlearn.convert.families import Family
from everlearn.convert.in_place import Memory
from everlearn.convert.starts import copy_projections, copy_units
from everlearn.layers import CMS, DeltaMemory, IndependentCMS, NestedCMS
from everlearn.layers.continuum import ContinuumMemory
from everlearn.levels import Level, check_levels


@dataclass(frozen=True)
class Site:
    """What the place itself says of the memory that will stand there.

    Args:
        dim: size of the residual stream.
        num_heads: attention heads of the model.
        hidden_dim: hidden size of the MLP; 0 in the place of attention.
        chunk_size: tokens that share one gradient anchor.
    """

    dim: int
    num_heads: int
    hidden_dim: int
    chunk_size: int


@dataclass(frozen=True)
class Substitute(ABC):
    """One kind of memory for a place: how it is built, and what it can start from."""

    mixes: ClassVar[bool]  # it mixes tokens, without which no memory can stand for attention

    @abstractmethod
    def build(self, site: Site) -> Memory:
        """Return the memory, freshly drawn.

        Raises:
            ValueError: settings that do not fit the site.
        """

    @abstractmethod
    def start(self, memory: Any, old: nn.Module, where: Attention | Family) -> None:
        """Start the memory from what it replaces, where there is something to take over.

        Args:
            memory: what `build` gave.
            old: the attention or the MLP.
            where: names of its matrices.
        Raises:
            ValueError: matrices that do not fit.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; "name" is the word of `SUBSTITUTES`."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Substitute:
        """Rebuild it from what `to_dict` gave, without "name"."""


@dataclass(frozen=True, kw_only=True)
class Delta(Substitute):
    """A delta memory per head; see `layers.DeltaMemory`. It can take over the projections of attention.

    Args:
        num_heads: memories, >= 1, a divisor of the model's size; None takes the number of its attention heads.
        conv_width: tokens that the convolution sees, >= 1.
        alpha_bias: start of the retention gate's logit.
        gated: False for the delta rule that can flip a sign, True for gated DeltaNet.
    """

    mixes: ClassVar[bool] = True
    num_heads: int | None = None
    conv_width: int = 4
    alpha_bias: float = 5.0
    gated: bool = False

    def build(self, site: Site) -> DeltaMemory:
        """Return the memory."""
        heads = site.num_heads if self.num_heads is None else self.num_heads
        return DeltaMemory(site.dim, heads, conv_width=self.conv_width, alpha_bias=self.alpha_bias, gated=self.gated)

    def start(self, memory: DeltaMemory, old: nn.Module, where: Attention | Family) -> None:
        """Copy the projections of attention; an MLP has none."""
        if isinstance(where, Attention):
            copy_projections(memory, old, where)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"name": "delta", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Delta:
        """Rebuild it."""
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class Continuum(Substitute):
    """A Continuum Memory System of smaller MLPs in the place of one MLP: some of them learn what the model reads.

    By default two, each with half of the pretrained MLP's hidden units: one that learns while it reads and restarts, at
    each document, from its running mean, and one that stays as it was taught. Together they give at first what the MLP
    gave.

    Args:
        levels: see `levels.Level`; one with the period math.inf never changes.
        hidden_dim: hidden units of each MLP, >= 1; None divides the pretrained MLP's among those that are read, rounded
            up.
        kind: how the MLPs are put together, a value of `KINDS`.
    Raises:
        ValueError: another kind, a hidden_dim below 1, or no level.
    """

    mixes: ClassVar[bool] = False
    levels: tuple[Level, ...] = (*LEVELS, Level("still", math.inf))
    hidden_dim: int | None = None
    kind: type[ContinuumMemory] = IndependentCMS

    def __post_init__(self) -> None:
        if self.kind not in KINDS.values():
            raise ValueError(
                f"kind {self.kind!r} is no Continuum Memory System; give one of everlearn.layers' "
                f"{', '.join(kind.__name__ for kind in KINDS.values())}"
            )
        if self.hidden_dim is not None and self.hidden_dim < 1:
            raise ValueError(f"hidden_dim {self.hidden_dim} is below 1; give the hidden units of each MLP, or None")
        check_levels(self.levels, 1)

    def build(self, site: Site) -> ContinuumMemory:
        """Return the memory."""
        read = 1 if self.kind is NestedCMS else sum(level.mean_of is None for level in self.levels)
        hidden = self.hidden_dim or -(-site.hidden_dim // read)
        return self.kind(site.dim, hidden, self.levels, chunk_size=site.chunk_size)

    def start(self, memory: ContinuumMemory, old: nn.Module, where: Attention | Family) -> None:
        """Deal out the hidden units of the MLP."""
        assert isinstance(where, Family)
        copy_units(memory, old, where)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "name": "continuum",
            "levels": [level.to_dict() for level in self.levels],
            "hidden_dim": self.hidden_dim,
            "kind": next(word for word, kind in KINDS.items() if kind is self.kind),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Continuum:
        """Rebuild it.

        Raises:
            ValueError: a kind that does not exist.
        """
        if data["kind"] not in KINDS:
            raise ValueError(f"kind {data['kind']!r} is unknown; choose one of {', '.join(KINDS)}")
        levels = tuple(Level.from_dict(level) for level in data["levels"])
        return cls(levels=levels, hidden_dim=data["hidden_dim"], kind=KINDS[data["kind"]])


KINDS: Mapping[str, type[ContinuumMemory]] = {"sequential": CMS, "nested": NestedCMS, "independent": IndependentCMS}
SUBSTITUTES: Mapping[str, type[Substitute]] = {"delta": Delta, "continuum": Continuum}


delta = Delta()
continuum = Continuum()


def substitute(data: Mapping[str, Any]) -> Substitute:
    """Rebuild a substitute from its `to_dict`.

    Raises:
        ValueError: a word that is not in `SUBSTITUTES`.
    """
    rest = dict(data)
    word = rest.pop("name", None)
    if word not in SUBSTITUTES:
        raise ValueError(f"substitute {word!r} is unknown; choose one of {', '.join(SUBSTITUTES)}, or update everlearn")
    return SUBSTITUTES[word].from_dict(rest)
