"""In-context learning: show a language model the nearest labelled examples and let it score the labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.continual.strategies.base import Encode, tensor_bytes
from everlearn.continual.strategies.nearest_neighbours import nearest
from everlearn.layout import CONFIG
from everlearn.models import load_model
from everlearn.models.alphabet import Pieces
from everlearn.models.hub import load_base, where_is
from everlearn.models.tokenizer import encode


class LabelScorer:
    """Score labels as continuations of a prompt by a causal language model.

        score(label) = 1/n sum_{i<n} log p(label_i | prompt, label_{<i})

    Args:
        model: a causal language model of Hugging Face.
        tokenizer: its tokenizer; None for a model of bytes.
        max_tokens: tokens of a prompt and a label that the model reads.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int = 1024) -> None:
        self.model, self.tokenizer, self.max_tokens = model.eval(), tokenizer, max_tokens

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, max_tokens: int = 1024) -> LabelScorer:
        """Return the scorer of a model in a folder or on the hub, or of a decoder that everlearn has saved.

        Raises:
            ValueError: no such model.
        """
        config = Path(where_is(name_or_path)) / CONFIG
        # what Hugging Face saves says of which type it is
        if not config.is_file() or "model_type" in json.loads(config.read_text()):
            return cls(*load_base(name_or_path), max_tokens=max_tokens)
        from everlearn.models.hf import HopeForCausalLM

        decoder = load_model(config.parent)[0]
        tokenizer = decoder.alphabet.tokenizer if isinstance(decoder.alphabet, Pieces) else None
        return cls(HopeForCausalLM.from_decoder(decoder), tokenizer, max_tokens=max_tokens)

    def length(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self._ids(text))

    @torch.no_grad()
    def __call__(self, prompt: str, labels: Sequence[str]) -> Tensor:
        """Return the score of each label, [L]; all of them are read in one batch, padded on the right.

        Args:
            prompt: what comes before; its first tokens are cut where it is too long.
            labels: continuations, each at least one token.
        """
        endings = [self._ids(label) for label in labels]
        longest = max(map(len, endings))
        start = self._ids(prompt)[-(self.max_tokens - longest) :]
        ids = torch.tensor([start + ending + [0] * (longest - len(ending)) for ending in endings])
        # a causal model does not look ahead, so what pads the right needs no mask
        logs = self.model(input_ids=ids).logits[:, len(start) - 1 : -1].log_softmax(-1)
        chosen = logs.gather(-1, ids[:, len(start) :].unsqueeze(-1)).squeeze(-1)
        sizes = torch.tensor([len(ending) for ending in endings])
        counted = torch.arange(longest) < sizes.unsqueeze(1)
        return (chosen * counted).sum(1) / sizes

    def _ids(self, text: str) -> list[int]:
        return list(text.encode()) if self.tokenizer is None else encode(self.tokenizer, text).tolist()


class InContext:
    """Store every labelled text; answer by a prompt of the k nearest, the nearest last.

    Nothing is trained: the model reads the examples and scores the labels that occur among them; where they all have
    one, as with k = 1, that is the answer, and the model is not asked. All texts and their features are kept, and every
    answer reads a long prompt once for each label in it, which is what it costs. No boundary is needed.

    Args:
        encode: raw records -> features [B, D], for the search.
        read: raw records [B, ...] -> their B texts.
        names: label of each class.
        score: prompt and labels -> scores; `LabelScorer.from_pretrained(NAME)`.
        k: examples in a prompt, >= 1; fewer where `max_tokens` of the scorer do not hold them.
    """

    stores_images = True

    def __init__(
        self,
        encode: Encode,
        read: Callable[[Tensor], list[str]],
        names: Sequence[str],
        score: LabelScorer,
        *,
        k: int = 8,
    ) -> None:
        self.encode, self.read, self.names, self.score, self.k = encode, read, tuple(names), score, k
        self._longest = max(score.length(f" {name}") for name in self.names)
        self.features: list[Tensor] = []
        self.labels: list[int] = []
        self.texts: list[str] = []

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Keep the batch."""
        self.features.append(self.encode(x).detach().clone())
        self.labels += y.tolist()
        self.texts += map(_one_line, self.read(x))

    def predict(self, x: Tensor) -> Tensor:
        """Return the class whose label the model finds likeliest after the prompt, [B]."""
        near = nearest(self.encode(x), torch.cat(self.features), min(self.k, len(self.labels)))
        return torch.tensor([self._answer(text, rows) for text, rows in zip(self.read(x), near.tolist(), strict=True)])

    def prompt(self, text: str, rows: Sequence[int]) -> str:
        """Return the prompt of a text with stored examples, given nearest first; those that do not fit are left out."""
        asked = f"Text: {_one_line(text)}\nLabel:"
        room = self.score.max_tokens - self.score.length(asked) - self._longest
        shown: list[str] = []
        for row in rows:
            example = f"Text: {self.texts[row]}\nLabel: {self.names[self.labels[row]]}\n\n"
            room -= self.score.length(example)
            if room < 0:
                break
            shown.insert(0, example)
        return "".join([*shown, asked])

    def stores_bytes(self) -> int:
        """Return the bytes of all features, texts and labels; the model is not counted, as no encoder is."""
        texts = sum(len(text.encode()) for text in self.texts)
        return tensor_bytes(self.features) + texts + 8 * len(self.labels)

    def _answer(self, text: str, rows: Sequence[int]) -> int:
        """Return the best class among those of the nearest examples."""
        classes = list(dict.fromkeys(self.labels[row] for row in rows))
        if len(classes) == 1:
            return classes[0]
        scores = self.score(self.prompt(text, rows), [f" {self.names[c]}" for c in classes])
        return classes[int(scores.argmax())]


def _one_line(text: str) -> str:
    """Return a text on one line: none can pass for the line of a label."""
    return " ".join(text.split())
