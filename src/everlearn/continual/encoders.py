"""Sentences as features: a pretrained Transformer that stays as it is."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.continual.features import check_texts
from everlearn.memory.codec import digest
from everlearn.models.hub import load_pretrained

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
BATCH = 64
Pool = Callable[[Tensor], Tensor]


def mean(hidden: Tensor) -> Tensor:
    """Return the mean over the tokens, [B, T, D] -> [B, D]."""
    return hidden.mean(1)


def first(hidden: Tensor) -> Tensor:
    """Return the first token, [B, T, D] -> [B, D]: the one that BERT's own training sums a text up in."""
    return hidden[:, 0]


def last(hidden: Tensor) -> Tensor:
    """Return the last token, [B, T, D] -> [B, D]: the only one of a causal model that has seen the whole text."""
    return hidden[:, -1]


POOLS: dict[str, Pool] = {"mean": mean, "first": first, "last": last}


class HFEncoder:
    """Encode texts by hidden layers of a model of Hugging Face, pooled over the tokens.

    Each layer is pooled, brought to norm sqrt(D), so that its features have unit size, and set beside the others. The
    two last layers together are better than the last alone on all three text benchmarks here. Texts are run in groups
    of equal length without padding: what a text becomes depends on others by rounding alone (1e-6).

    Args:
        name_or_path: a folder that `save_pretrained` wrote, or a name on the hub.
        layers: hidden layers, as indices of `hidden_states`: -1 is the last, 0 what the embedding gives.
        pool: "mean", "first" or "last".
        max_length: tokens of a text that are read, >= 1; the rest is cut.
        device: where it runs; features come back to the CPU.
    Raises:
        ValueError: no model there, or one that has no such layer; an unknown pool.
    """

    def __init__(
        self,
        name_or_path: str | Path = DEFAULT,
        *,
        layers: Sequence[int] = (-2, -1),
        pool: str = "mean",
        max_length: int = 128,
        device: torch.device | str = "cpu",
    ) -> None:
        from transformers import AutoModel

        if pool not in POOLS:
            raise ValueError(f"pool {pool!r} is unknown; choose one of {', '.join(POOLS)}")
        if max_length < 1:
            raise ValueError(f"max_length {max_length} leaves nothing of a text; give a number of tokens >= 1")
        model, self._tokenizer = load_pretrained(name_or_path, AutoModel, "encoder")
        config: Any = model.config
        count = config.num_hidden_layers
        wrong = [layer for layer in layers if not -count - 1 <= layer <= count]
        if wrong or not layers:
            raise ValueError(
                f"layers {tuple(layers)} are not layers of {name_or_path}, which has {count}; "
                f"give some of 0 to {count}, or -1 to {-count - 1} counted from the last"
            )
        self._model = model.float().requires_grad_(False).to(device)
        self.layers, self.pool, self.max_length = tuple(layers), pool, max_length
        self.dim = config.hidden_size * len(self.layers)

    @torch.no_grad()
    def __call__(self, items: Sequence[str]) -> Tensor:
        """Return features, [B, dim] float32.

        Args:
            items: texts; an empty one is what the model makes of its own special tokens.
        Raises:
            ValueError: one bare text instead of a list of them, or an item that is no text.
        """
        check_texts(items)
        found = torch.zeros(len(items), self.dim)
        if not len(items):
            return found
        encoded = self._tokenizer(list(items), truncation=True, max_length=self.max_length)
        names = [name for name in encoded if name != "attention_mask"]
        lengths: dict[int, list[int]] = {}
        for index, ids in enumerate(encoded["input_ids"]):
            lengths.setdefault(len(ids), []).append(index)
        device = next(self._model.parameters()).device
        for length, same in lengths.items():
            for start in range(0, len(same) if length else 0, BATCH):
                rows = same[start : start + BATCH]
                inputs = {name: torch.tensor([encoded[name][i] for i in rows], device=device) for name in names}
                hidden = self._model(**inputs, output_hidden_states=True).hidden_states
                found[rows] = torch.cat([self._sized(hidden[layer]) for layer in self.layers], -1).cpu()
        return found

    def settings(self) -> dict[str, Any]:
        """Return what identifies it: a hash of the weights, not the place they came from."""
        return {
            "kind": "hugging_face",
            "sha256": self._hash,
            "layers": list(self.layers),
            "pool": self.pool,
            "max_length": self.max_length,
        }

    @functools.cached_property
    def _hash(self) -> str:
        """Return a hash of every weight and of the tokenizer's vocabulary."""
        vocabulary = "\n".join(f"{word} {index}" for word, index in sorted(self._tokenizer.get_vocab().items()))
        weights = {name: tensor.cpu() for name, tensor in self._model.state_dict().items()}
        return digest(weights, hashlib.sha256(vocabulary.encode()).hexdigest())

    def _sized(self, hidden: Tensor) -> Tensor:
        """Pool a layer and bring it to norm sqrt(D)."""
        pooled = POOLS[self.pool](hidden)
        return torch.nn.functional.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5


class SentenceTransformersEncoder:
    """Encode texts as a model of the sentence-transformers library does, by its own pooling and normalisation.

    For models whose pooling is not that of `HFEncoder`; it needs `pip install sentence-transformers`.

    Args:
        name_or_path: a folder or a name, see that library.
        device: where it runs.
    Raises:
        ValueError: the library is missing.
    """

    def __init__(self, name_or_path: str | Path = DEFAULT, *, device: str = "cpu") -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ValueError(
                "sentence-transformers is not installed; pip install sentence-transformers, or use HFEncoder, which "
                "does without"
            ) from None
        self._model = SentenceTransformer(str(name_or_path), device=device)
        # the method that tells it has changed its name
        self.dim = len(self._model.encode([""], show_progress_bar=False)[0])

    def __call__(self, items: Sequence[str]) -> Tensor:
        """Return features, [B, dim] float32, of norm sqrt(dim)."""
        check_texts(items)
        if not len(items):
            return torch.zeros(0, self.dim)
        found = self._model.encode(list(items), convert_to_tensor=True, show_progress_bar=False, batch_size=BATCH)
        return torch.nn.functional.normalize(found.float().cpu(), dim=-1) * self.dim**0.5

    def settings(self) -> dict[str, Any]:
        """Return what identifies it: a hash of all weights."""
        return {"kind": "sentence_transformers", "sha256": self._hash}

    @functools.cached_property
    def _hash(self) -> str:
        return digest({name: tensor.cpu() for name, tensor in self._model.state_dict().items()})
