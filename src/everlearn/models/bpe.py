"""Pieces of words as tokens: a byte-level BPE that is trained on the texts at hand, so nothing is downloaded."""

from __future__ import annotations

import json as codec
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as kinds
from torch import Tensor

from everlearn.models.alphabet import Alphabet

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())  # one letter stands for each of the 256 bytes


class BPE:
    """A byte-level vocabulary: the 256 bytes and the pieces that were merged from them.

    Every text can be written with it, and comes back exactly. There are no special tokens: a text just begins and ends.

    Args:
        json: what `to_json` returned, or the `tokenizer.json` of Hugging Face that holds a byte-level BPE.
    Raises:
        ValueError: not such a vocabulary.
    Example:
        >>> pieces = train_bpe(["the cat sat on the mat; the dog sat by it"], 262)
        >>> ids = pieces.encode("the hat")
        >>> pieces.decode(ids), pieces.count_bytes(ids).tolist()
        ('the hat', [3, 1, 1, 2])
    """

    start_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def __init__(self, json: str) -> None:
        kind = _kind(json)
        if kind != "BPE":
            raise ValueError(
                f"the vocabulary is {kind}; a byte-level BPE is needed; give the tokenizer.json of a model"
            )
        self._json, self._tokenizer = json, Tokenizer.from_str(json)
        self.size = self._tokenizer.get_vocab_size()
        pieces = [self._tokenizer.id_to_token(i) or "" for i in range(self.size)]
        if missing := set(LETTERS) - set(pieces):
            raise ValueError(
                f"the vocabulary of {self.size} tokens lacks {len(missing)} of the 256 bytes, so it cannot write every "
                "text; a byte-level BPE is needed; train one with train_bpe"
            )
        # each letter of a piece stands for one byte
        self._lengths = torch.tensor([len(piece) for piece in pieces])

    def encode(self, data: str | bytes) -> Tensor:
        """Return the tokens of a text, [T] int64.

        Raises:
            ValueError: neither text nor bytes, or not valid Unicode.
        """
        if not isinstance(data, str | bytes):
            raise ValueError(f"got {type(data).__name__} where a text is needed; give str or bytes")
        try:
            words = data if isinstance(data, str) else data.decode()
            words.encode()
        except UnicodeError as error:
            raise ValueError(
                f"the text is not valid Unicode ({error}), and this model reads pieces of text; "
                "read it again with the right encoding"
            ) from None
        return torch.tensor(self._tokenizer.encode(words, add_special_tokens=False).ids, dtype=torch.long)

    def decode(self, ids: Tensor) -> str:
        """Return the text of tokens, [T]; what is not UTF-8 becomes the replacement character."""
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)

    def count_bytes(self, ids: Tensor) -> Tensor:
        """Return how many bytes of UTF-8 each token stands for, int64 in the shape of `ids`."""
        return self._lengths.to(ids.device)[ids]

    def to_json(self) -> str:
        """Return the vocabulary as the text of a `tokenizer.json`, which transformers reads too."""
        return self._json


def train_bpe(texts: Iterable[str], size: int) -> BPE:
    """Learn a vocabulary from texts: the same texts in the same order give the same vocabulary.

    Args:
        texts: what it is learned from.
        size: how many tokens it may have, above 256; fewer where the texts repeat too little.
    Raises:
        ValueError: a size that leaves no room for a piece.
    """
    if size <= 256:
        raise ValueError(f"a vocabulary of {size} holds no piece beside the 256 bytes; give 257 or more, or use bytes")
    tokenizer = Tokenizer(kinds.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=LETTERS, show_progress=False)
    )
    return BPE(tokenizer.to_str())


def vocabulary(alphabet: Alphabet) -> str:
    """Return the JSON of a vocabulary of pieces, which a model needs beside its weights; "" for any other alphabet."""
    return alphabet.to_json() if isinstance(alphabet, BPE) else ""


def _kind(json: str) -> str:
    """Say what a tokenizer.json holds, such as "BPE"."""
    try:
        data = codec.loads(json)
    except ValueError:
        return "no JSON"
    model = data.get("model") if isinstance(data, dict) else None
    return str(model.get("type")) if isinstance(model, dict) else "no tokenizer"
