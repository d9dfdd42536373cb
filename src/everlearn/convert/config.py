"""What defines a stacked model, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from everlearn.convert.families import Family, Layers, Weights
from everlearn.convert.forms import Form, additive
from everlearn.levels import Level, check_levels


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Which matrices learn, how, and how fast; every field that changes results is here.

    Args:
        weights: see `families.choose`.
        layers: see `families.choose`.
        form: how levels stand beside the pretrained weights; a value of `forms.FORMS`.
        levels: in order of application; see `Level`.
        chunk_size: tokens that share one gradient anchor; divides every update_period.
        max_norm: bound on the gradient of one row and matrix, > 0; math.inf removes it.
        window: tokens that a token sees; see `cache.Sight`.
        merged: read one row as (W0 + D) x, which is faster and equal to rounding.
        family: where the model keeps its MLPs; None outside of any known structure.
    Raises:
        ValueError: levels that do not fit chunk_size or each other, or a max_norm that is not above 0.
    """

    weights: Weights = "mlp"
    layers: Layers = "all"
    form: Form = additive
    levels: tuple[Level, ...] = (Level("fast", 128, eta=0.9, anchor_decay=0.02, reset="document"),)
    chunk_size: int = 128
    max_norm: float = 1.0
    window: int | None = None
    merged: bool = False
    family: Family | None = None

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size {self.chunk_size} is below 1; 128 and 32 were measured to work")
        if not self.max_norm > 0:
            raise ValueError(f"max_norm {self.max_norm} must be above 0; try 1.0, or math.inf for no bound")
        check_levels(self.levels, self.chunk_size)
