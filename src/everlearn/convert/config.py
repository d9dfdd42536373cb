"""What defines a stacked model, as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everlearn.convert.copies import Copies, chain_diff, chain_zero, mean
from everlearn.convert.families import Family, Layers, Weights
from everlearn.convert.forms import Form, additive, low_rank
from everlearn.levels import Level, check_levels

# the words of the command line and of saved files
FORMS: Mapping[str, Form] = {
    "additive": additive,
    "low_rank": low_rank,
    "chain_zero": chain_zero,
    "chain_diff": chain_diff,
    "mean": mean,
}
LEVELS = (
    Level("fast", 128, eta=0.9, anchor_decay=0.02, reset="document", finish="document"),
    Level("slow", mean_of="fast", decay=0.97),
)


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Which matrices learn, how, and how fast; every field that changes results is here.

    Args:
        weights: see `families.choose`.
        layers: see `families.choose`.
        form: how levels stand beside the pretrained weights; a value of `FORMS`, or one with another rank.
        levels: in order of application; see `Level`.
        chunk_size: tokens that share one gradient anchor, >= 1; divides every update_period.
        max_norm: bound on the gradient of one row and matrix, > 0; math.inf removes it.
        window: tokens that a token sees, >= 1; see `cache.Sight`.
        merged: read (W0 + D) x, which is faster; None where it is as exact, see `wrapped.StackedLinear`; True always,
            for forms that are sums.
        family: where the model keeps its MLPs; None where the weights are patterns and no layer is named.
    Raises:
        ValueError: a value outside its range, or levels that do not fit chunk_size or each other.
    """

    weights: Weights = "mlp"
    layers: Layers = "all"
    form: Form = additive
    levels: tuple[Level, ...] = LEVELS
    chunk_size: int = 128
    max_norm: float = 1.0
    window: int | None = None
    merged: bool | None = None
    family: Family | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.form, Form):
            raise ValueError(
                f"form {self.form!r} is no form; give one of everlearn.convert's {', '.join(FORMS)} as an object"
            )
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size {self.chunk_size} is below 1; 128 and 32 were measured to work")
        if not self.max_norm > 0:
            raise ValueError(f"max_norm {self.max_norm} must be above 0; try 1.0, or math.inf for no bound")
        if self.merged and isinstance(self.form, Copies):
            raise ValueError(f"merged=True has no meaning for form {self.form}, which holds copies; leave merged=None")
        check_levels(self.levels, self.chunk_size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        word = next(word for word, form in FORMS.items() if type(form) is type(self.form))
        return {
            "weights": self.weights if isinstance(self.weights, str) else list(self.weights),
            "layers": self.layers if isinstance(self.layers, str) else list(self.layers),
            "form": {"name": word, **dataclasses.asdict(self.form)},
            "levels": [level.to_dict() for level in self.levels],
            "chunk_size": self.chunk_size,
            "max_norm": "inf" if self.max_norm == math.inf else self.max_norm,
            "window": self.window,
            "merged": self.merged,
            "family": None if self.family is None else dataclasses.asdict(self.family),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StackConfig:
        """Rebuild a config from `to_dict`.

        Raises:
            ValueError: a field or a form that does not exist, or a value that does not fit.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"unknown field {unknown[0]!r} of a stacked model; known fields are {', '.join(known)}")
        form = dict(data["form"])
        word = form.pop("name")
        if word not in FORMS:
            raise ValueError(f"form {word!r} is unknown; choose one of {', '.join(FORMS)}")
        family = data["family"]
        return cls(
            **{
                **data,
                "weights": data["weights"] if isinstance(data["weights"], str) else tuple(data["weights"]),
                "layers": data["layers"] if isinstance(data["layers"], str) else tuple(data["layers"]),
                "form": dataclasses.replace(FORMS[word], **form),
                "levels": tuple(Level.from_dict(level) for level in data["levels"]),
                "max_norm": float(data["max_norm"]),
                "family": family and Family(**{**family, "into": tuple(family["into"])}),
            }
        )
