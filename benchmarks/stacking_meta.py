"""Learned starts in the stacking benchmark: trained on the books that the base knows, and kept as adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rows import ROOT
from torch import Tensor

from everlearn.convert import StackedModel, load_adapter, stack_levels
from everlearn.evals.tokens import encode
from everlearn.levels import Level
from everlearn.recipes.meta_start import MetaStartRecipe, meta_start
from everlearn.recipes.stand_in import BOOKS, load_book, split

FOLDER = ROOT / "results" / "starts"
CHUNK, SIGHT = 128, 256
RECIPE = MetaStartRecipe()
# what a start is trained with -> after how many tokens its level steps: the control takes the same documents and the
# same number of steps of the start, and never changes inside a document
PERIODS = {"meta": CHUNK, "more": RECIPE.length}
RATES = (1e-4, 3e-4, 1e-3)
Starts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trainer:
    """Trains the starts of one base where they are missing.

    Args:
        model: the base, left as it is.
        tokenizer: its own.
        label: of the base, in the names of folders.
        data: folder of the books.
        eta: asked for the rate of the level inside a document.
        lr: kind of start -> rate of the start, asked for where none is given.
        recipe: see `MetaStartRecipe`; its rate is not used.
    """

    model: Any
    tokenizer: Any
    label: str
    data: Path
    eta: Callable[[], float]
    lr: Callable[[str], float]
    recipe: MetaStartRecipe = RECIPE

    def __call__(self, kind: str, lr: float | None = None) -> Starts:
        """Return the start of a kind, part -> [out, in]."""
        lr = self.lr(kind) if lr is None else lr
        folder = FOLDER / f"{self.label}-{kind}-{lr:g}"
        if not (folder / "adapter.json").is_file():
            self.train(kind, lr).save_adapter(folder)
        return load_adapter(copy.deepcopy(self.model), folder)[0].deltas.own_starts()

    def train(self, kind: str, lr: float) -> StackedModel:
        """Train a start; return the model that has it."""
        level = Level("fast", min(PERIODS[kind], self.recipe.length), eta=self.eta())
        model = stack_levels(copy.deepcopy(self.model), levels=[level], chunk_size=CHUNK, window=SIGHT, merged=True)
        ids = training_tokens(self.tokenizer, self.data)
        recipe = MetaStartRecipe(**{**vars(self.recipe), "lr": lr})

        def show(step: int, loss: float) -> None:
            if step % 20 == 0:
                print(f"  {self.label} {kind} {lr:g}, step {step}: {loss:.3f} nats per token", flush=True)

        torch.manual_seed(recipe.seed)
        meta_start(model, ids, recipe, show)
        return model


@cache
def training_tokens(tokenizer: Any, data: Path) -> Tensor:
    """Return the tokens that the stand-ins were trained on."""
    return torch.cat([encode(tokenizer, split(load_book(data, name))[0]) for name in BOOKS])
