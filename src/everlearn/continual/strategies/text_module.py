"""A pretrained encoder of texts that passes gradients to its matrices, for strategies that move it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.models.hub import load_pretrained

BATCH = 64  # texts that are padded to one length, at most
GROUPS = 3  # a small batch is padded in so many groups: the longest of ten texts is twice as long as their mean
Tokens = dict[str, list[int]]  # name of an input -> a number for each token of one text


class TextModule(nn.Module):
    """Map records to features as `HFEncoder` with mean pooling does, padded to groups of like length, differentiably.

    Args:
        name_or_path: a folder that `save_pretrained` wrote, or a name on the hub.
        read: records [B, ...] -> their B texts, such as the texts at row numbers.
        layers: hidden layers, as indices of `hidden_states`.
        max_length: tokens of a text that are read.
    Raises:
        ValueError: no model there.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        read: Callable[[Tensor], list[str]],
        *,
        layers: Sequence[int] = (-2, -1),
        max_length: int = 128,
    ) -> None:
        from transformers import AutoModel

        super().__init__()
        model, self.tokenizer = load_pretrained(name_or_path, AutoModel, "encoder")
        config: Any = model.config
        # no dropout: what a record becomes must not depend on when it is asked
        self.model: Any = model.float().eval()
        self.read, self.layers, self.max_length = read, tuple(layers), max_length
        self.hidden_size = config.hidden_size
        self.dim = config.hidden_size * len(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, dim], each layer's part of norm sqrt(hidden_size); a text without any token gives zeros."""
        return self.features(self.tokens(x), lambda rows: None)

    def features(self, tokens: Sequence[Tokens], before: Callable[[list[int]], None]) -> Tensor:
        """Return [B, dim] for what the model reads of B records; `before` hears which of them are next."""
        found, places = [torch.zeros(0, self.dim)], list[int]()
        for rows in like_lengths([len(row["input_ids"]) for row in tokens]):
            before(rows)
            inputs = self.padded([tokens[row] for row in rows])
            hidden = self.model(**inputs, output_hidden_states=True).hidden_states
            found.append(torch.cat([_pool(hidden[layer], inputs["attention_mask"]) for layer in self.layers], -1))
            places += rows
        empty = torch.zeros(len(tokens), self.dim)
        return empty.index_copy(0, torch.tensor(places, dtype=torch.long), torch.cat(found))

    def tokens(self, x: Tensor) -> list[Tokens]:
        """Return what the model reads of each record, cut at `max_length`."""
        texts = self.read(x)
        if not texts:
            return []
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        rows = [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]
        return [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]

    def padded(self, tokens: Sequence[Tokens]) -> dict[str, Tensor]:
        """Return inputs [B, T] of the model, padded on the right; a tokenizer without a token for that will do."""
        longest = max(len(row["input_ids"]) for row in tokens)
        fill = {"input_ids": self.tokenizer.pad_token_id or 0}
        return {
            name: torch.tensor([row[name] + [fill.get(name, 0)] * (longest - len(row[name])) for row in tokens])
            for name in tokens[0]
        }


class UpperBlocks(nn.Module):
    """Run the last blocks of a `TextModule` on what its lower blocks gave once for every record.

    The features are those of the module within rounding, at the cost of the upper blocks alone: for encoders whose
    lower blocks stand still. The lower blocks are taken out of the model, so the `TextModule` is used up and its
    blocks are counted anew. Kept are hidden_size numbers for each token of every record.

    Args:
        module: whose blocks stand in one list and are called with the hidden states first, as Hugging Face's are.
        records: row numbers 0 to records - 1 are what `module` reads.
        count: blocks that are run; the layers of `module` must be outputs of theirs.
        on_records: called with the number of records that are read since the last call.
    Raises:
        ValueError: no such list, or a count that does not fit it.
    """

    def __init__(
        self, module: TextModule, records: int, count: int, on_records: Callable[[int], None] = lambda some: None
    ) -> None:
        super().__init__()
        total = module.model.config.num_hidden_layers
        lists = [blocks for blocks in module.model.modules() if isinstance(blocks, nn.ModuleList)]
        lists = [blocks for blocks in lists if len(blocks) == total]
        module.layers = tuple(layer - total - 1 if layer >= 0 else layer for layer in module.layers)
        if len(lists) != 1 or not max(-layer for layer in module.layers) <= count <= total:
            raise ValueError(
                f"the last {count} of {total} blocks cannot be run alone for the layers {module.layers}, with "
                f"{len(lists)} lists of so many blocks; count more blocks, or use the TextModule itself"
            )
        self.module, self.dim = module, module.dim
        self.tokens = module.tokens(torch.arange(records))
        self.kept = self._run_once(-count - 1, on_records)
        self._given = torch.zeros(0)
        # a slice of the list cannot be deleted where its names are not places
        for _ in range(total - count):
            del lists[0][0]
        lists[0][0].register_forward_pre_hook(lambda block, args: (self._given, *args[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, dim] for row numbers, [B]."""
        wanted = x.tolist()
        tokens = [self.tokens[i] for i in wanted]
        return self.module.features(tokens, lambda rows: self._give([wanted[row] for row in rows]))

    def kept_bytes(self) -> int:
        """Return the bytes of what the lower blocks gave."""
        return sum(states.numel() * states.element_size() for states in self.kept.values())

    @torch.no_grad()
    def _run_once(self, layer: int, on_records: Callable[[int], None]) -> dict[int, Tensor]:
        """Return a hidden layer of every record that has tokens, [T, hidden_size] each."""
        kept: dict[int, Tensor] = {}
        for rows in like_lengths([len(row["input_ids"]) for row in self.tokens]):
            inputs = self.module.padded([self.tokens[row] for row in rows])
            hidden = self.module.model(**inputs, output_hidden_states=True).hidden_states[layer]
            for row, states in zip(rows, hidden, strict=True):
                kept[row] = states[: len(self.tokens[row]["input_ids"])].clone()
            on_records(len(rows))
        return kept

    def _give(self, rows: Sequence[int]) -> None:
        """Lay out what the first block is to read."""
        self._given = nn.utils.rnn.pad_sequence([self.kept[row] for row in rows], batch_first=True)


def like_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of texts that have tokens in groups of like length, the shortest first.

    Args:
        lengths: tokens of each text.
    """
    order = sorted((place for place, length in enumerate(lengths) if length), key=lambda place: lengths[place])
    size = min(BATCH, -(-len(order) // GROUPS))
    for start in range(0, len(order), max(size, 1)):
        yield order[start : start + size]


def _pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens [B, T, D] that are no padding, of norm sqrt(D)."""
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    return nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=-1) * hidden.shape[-1] ** 0.5


def last_mlps(module: nn.Module, count: int) -> list[list[str]]:
    """Return the names of the MLP matrices of the last `count` blocks, one list for each, the last block first.

    Args:
        module: anything that holds blocks named "layer.N" or "layers.N" as Hugging Face's encoders do.
        count: blocks, >= 1.
    Raises:
        ValueError: fewer blocks with MLPs than asked for.
    """
    pattern = re.compile(r"layers?\.(\d+)\.(?:.*\.)?(intermediate|output|mlp|ffn|fc|lin\d)\b")
    blocks: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters():
        found = pattern.search(name)
        if found and parameter.ndim == 2 and "attention" not in name:
            blocks.setdefault(int(found[1]), []).append(name)
    if not 1 <= count <= len(blocks):
        raise ValueError(
            f"{type(module).__name__} has {len(blocks)} blocks whose MLPs are known by name, and {count} were asked "
            "for; name the matrices yourself"
        )
    return [blocks[number] for number in sorted(blocks, reverse=True)[:count]]
