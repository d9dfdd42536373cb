"""Text as the tokens of any tokenizer, and how many bytes each token stands for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.memory.files import sync_folder

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # one byte, where a tokenizer of pieces falls back on bytes
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how such a tokenizer writes a space


def encode(tokenizer: Any, text: str | bytes) -> Tensor:
    """Return the tokens of a text, [T] int64, without any that the tokenizer would add.

    Words such as <|end|> inside the text are plain letters: no document can imitate the tokens of a chat template.

    Raises:
        ValueError: no tokenizer, neither text nor bytes, or bytes that are no UTF-8.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"the bytes are no UTF-8 at position {error.start}, and this model's tokenizer reads text; "
                "decode them with their encoding first"
            ) from None
    if not isinstance(text, str):
        raise ValueError(f"got {type(text).__name__} where a text is needed; give str or bytes")
    ids = needed(tokenizer)(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def decode(tokenizer: Any, ids: Tensor) -> str:
    """Return the text of tokens, [T]."""
    return needed(tokenizer).decode(ids.tolist(), skip_special_tokens=True)


def count_bytes(tokenizer: Any, ids: Tensor) -> Tensor:
    """Return how many bytes of UTF-8 text each token stands for, [T] int64; 0 for special and unknown ones.

    The counts of a text's tokens add up to its bytes, also where a token is a part of a character; a tokenizer that
    puts a space before every text counts that one too.
    """
    table = _bytes_of(needed(tokenizer)).to(ids.device)
    return torch.where(ids < len(table), table[ids.clamp(max=len(table) - 1)], 0)


def start_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that this tokenizer puts before every text, such as a begin-of-text token."""
    whole, bare = (needed(tokenizer)("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    return tuple(whole[: whole.index(bare[0])])


def stop_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Return the tokens that end a text: what the model says of its generation, and the tokenizer's own."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [ends] if ends is None or isinstance(ends, int) else list(ends)
    own = None if tokenizer is None else tokenizer.eos_token_id
    return tuple(sorted({end for end in [*ends, own] if end is not None}))


def train_tokenizer(texts: Iterable[str], size: int) -> Any:
    """Return a byte-level BPE tokenizer (transformers' GPT2Tokenizer) that was trained on these texts alone.

    Every text can be written with it and comes back exactly; nothing is downloaded. The same texts in the same order
    give the same tokenizer.

    Args:
        texts: what it is trained on.
        size: tokens that it may have: an end of text, the 256 bytes, and pieces merged from them. Fewer where the texts
            repeat too little.
    Raises:
        ValueError: a size that leaves no room for a piece.
    """
    from transformers import GPT2Tokenizer

    if size <= 257:
        raise ValueError(
            f"a vocabulary of {size} holds no piece beside the 256 bytes and the end of text; give 258 or more, or "
            "read bytes"
        )
    empty = GPT2Tokenizer(vocab={"<|endoftext|>": 0}, merges=[])
    return empty.train_new_from_iterator(texts, size, show_progress=False)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer so that a crash leaves the old folder, the new one, or none, and never half of one.

    Args:
        tokenizer: of transformers.
        folder: replaced where it holds another tokenizer; one that holds this one is left alone.
    """
    made, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(made, ignore_errors=True)
    tokenizer.save_pretrained(made)
    if folder.is_dir():
        before, now = ({path.name: path.read_bytes() for path in place.iterdir()} for place in (folder, made))
        if before == now:
            shutil.rmtree(made)
            return
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    for path in made.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    made.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer that `save_pretrained` left in a folder.

    Raises:
        ValueError: there is none, or one that cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()
        raise ValueError(
            f"{folder} holds no whole tokenizer ({why[0] if why else error!r}); copy the whole folder again"
        ) from None


def needed(tokenizer: Any) -> Any:
    """Return the tokenizer.

    Raises:
        ValueError: there is none.
    """
    if tokenizer is None:
        raise ValueError(
            "the model was made without a tokenizer, so it reads token numbers only; "
            "give one: stack_levels(model, tokenizer) or replace_blocks(model, tokenizer)"
        )
    return tokenizer


@lru_cache(maxsize=8)
def _bytes_of(tokenizer: Any) -> Tensor:
    """Return the bytes of every token, [V]."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special, known = set(tokenizer.all_special_ids), set(tokens)
    # GPT-2's alphabet writes every byte as one letter, a space as U+0120; pieces write a space as SPACE
    letters = "\u0120" in known and SPACE not in known
    sizes = [0 if i in special or token is None else _size(token, letters) for i, token in enumerate(tokens)]
    return torch.tensor(sizes, dtype=torch.long)


def _size(token: str, letters: bool) -> int:
    """Return the bytes of one token."""
    if letters:
        return len(token)
    return 1 if BYTE.fullmatch(token) else len(token.replace(SPACE, " ").encode())
