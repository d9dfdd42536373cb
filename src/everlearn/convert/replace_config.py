"""What stands in the places of a pretrained decoder's attentions and MLPs, block by block, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from everlearn.convert.families import Family
from everlearn.convert.substitutes import Continuum, Delta, Substitute, substitute

ATTENTION, MLP = "attention", "mlp"  # the two places of a block


@dataclass(frozen=True, kw_only=True)
class ReplaceConfig:
    """What stands where in a hybrid; every field that changes results is here.

    Args:
        attention: index of a block -> what mixes its tokens instead of attention.
        mlp: index of a block -> what stands in the place of its MLP.
        chunk_size: tokens that share one gradient anchor, >= 1, where something learns by gradient while it reads.
        window: tokens that a token sees in the blocks that keep attention; see `cache.Sight`.
        family: where the model keeps its blocks and MLPs; None finds them by structure.
        original: SHA-256 of the model that the hybrid was made of; see `adapter.base_hash`.
    Raises:
        ValueError: something else than a substitute, one that cannot stand there, or a chunk_size below 1.
    """

    attention: Mapping[int, Substitute] = field(default_factory=dict)
    mlp: Mapping[int, Substitute] = field(default_factory=dict)
    chunk_size: int = 128
    window: int | None = None
    family: Family | None = None
    original: str = ""

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size {self.chunk_size} is below 1; 128 and 32 were measured to work")
        for place, chosen in (*self.attention.items(), *self.mlp.items()):
            if not isinstance(chosen, Substitute):
                raise ValueError(
                    f"block {place} got {chosen!r} where a substitute is needed; give one of everlearn.convert's "
                    f"{Delta.__name__}() or {Continuum.__name__}()"
                )
        if blind := [index for index, chosen in self.attention.items() if not chosen.mixes]:
            raise ValueError(
                f"{self.attention[blind[0]]!r} reads each token by itself and cannot stand in the place of the "
                f"attention of block {blind[0]}; give Delta() there, or name the block in mlp="
            )

    def at(self, index: int, place: str) -> Substitute | None:
        """Return what stands in a place, "attention" or "mlp", of a block; None where it is as it was."""
        return (self.attention if place == ATTENTION else self.mlp).get(index)

    def names(self) -> tuple[str, ...]:
        """Return the names of the places, in the order of the blocks: "block.0.attention", "block.0.mlp"."""
        chosen = [(index, ATTENTION) for index in self.attention] + [(index, MLP) for index in self.mlp]
        return tuple(name_of(index, place) for index, place in sorted(chosen))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **{
                place: {str(index): chosen.to_dict() for index, chosen in sorted(places.items())}
                for place, places in ((ATTENTION, self.attention), (MLP, self.mlp))
            },
            "chunk_size": self.chunk_size,
            "window": self.window,
            "family": None if self.family is None else dataclasses.asdict(self.family),
            "original": self.original,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReplaceConfig:
        """Rebuild a config from `to_dict`.

        Raises:
            ValueError: a field or a substitute that does not exist, or a value that does not fit.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"unknown field {unknown[0]!r} of a replaced model; known fields are {', '.join(known)}")
        places = {
            place: {int(index): substitute(chosen) for index, chosen in data[place].items()}
            for place in (ATTENTION, MLP)
        }
        family = data["family"]
        return cls(**{**data, **places, "family": family and Family(**{**family, "into": tuple(family["into"])})})


def name_of(index: int, place: str) -> str:
    """Return the name of a place, under which a state and a cache hold its memory."""
    return f"block.{index}.{place}"


def place_of(name: str) -> tuple[int, str]:
    """Return block and place of a name, such as (3, "mlp") of "block.3.mlp".

    Raises:
        ValueError: no such name.
    """
    head, _, rest = name.partition(".")
    index, _, place = rest.partition(".")
    if head != "block" or not index.isdigit() or place not in (ATTENTION, MLP):
        raise ValueError(f"{name!r} names no place; write it like 'block.3.attention' or 'block.3.mlp'")
    return int(index), place
