"""The texts of the stacking benchmark: what each page is for, fixed by a hash and never mixed."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn.demo.corpus import standard_library
from everlearn.evals.documents import Piece, assign
from everlearn.evals.tokens import Tokens, tokens
from everlearn.recipes.stand_in import load_book, split

READ_TOKENS = 6_145  # 48 chunks of 128 targets
STREAM_TOKENS = 4_097
FACT_TOKENS = 3_700  # and some 400 more for the facts
LONG_FACT_TOKENS = 15_980
SHAKESPEARE = "../tinyshakespeare/input.txt.gz"
# domain -> role -> pieces. "austen" is fiction to choose settings on and to begin and end the stream with, "doyle" is
# fiction for results, "war" the held-out end of a book that the stand-in was trained on
ROLES = {
    "austen": {"tune": 1, "heldout": 1, "stream": 2},
    "doyle": {"heldout": 1, "read": 2, "facts": 3, "facts_long": 6},
    "darwin": {"tune": 1, "heldout": 1, "read": 2, "stream": 1},
    "shakespeare": {"tune": 1, "heldout": 1, "read": 2, "stream": 1},
    "python": {"heldout": 1, "read": 2, "stream": 1},
    "war": {"heldout": 1, "read": 2},
    "middlemarch": {"known": 1, "questions": 1},
}
READ = ("doyle", "war", "darwin", "shakespeare", "python")
STREAM = ("austen", "darwin", "shakespeare", "python", "austen")
# what is read before a text of another domain is scored
OTHER = {
    "doyle": "darwin",
    "war": "shakespeare",
    "darwin": "shakespeare",
    "shakespeare": "python",
    "python": "doyle",
}


@dataclass(frozen=True)
class Texts:
    """Every text, by role and domain, as tokens of one model."""

    tokenizer: Any
    pieces: dict[str, dict[str, list[Piece]]]

    def take(self, role: str, domain: str, count: int, index: int = 0) -> Tokens:
        """Return the first `count` tokens of a piece."""
        return tokens(self.tokenizer, self.pieces[domain][role][index].text).first(count)

    def manifest(self) -> list[dict[str, Any]]:
        """List every piece with its role and hash."""
        return [
            {"domain": p.domain, "role": p.role, "index": p.index, "sha256": p.sha256}
            for roles in self.pieces.values()
            for pieces in roles.values()
            for p in pieces
        ]


def load(data: Path, tokenizer: Any) -> Texts:
    """Read the books of a folder, and Python's own sources.

    Args:
        data: folder of the books; Shakespeare stands in `../tinyshakespeare`, or as `shakespeare.txt` beside them.
        tokenizer: of the model that reads.
    """
    texts = {
        "austen": load_book(data, "austen_pride-and-prejudice"),
        "doyle": load_book(data, "doyle_adventures-of-sherlock-holmes"),
        "darwin": load_book(data, "darwin_origin-of-species"),
        "shakespeare": shakespeare(data),
        "python": "\n\n".join(d.data.decode() for d in standard_library(1_000_000, 0)[0]),
        "war": split(load_book(data, "tolstoy_war-and-peace"))[1],
        "middlemarch": split(load_book(data, "eliot_middlemarch"))[1],
    }
    return Texts(tokenizer, {domain: assign(domain, text, ROLES[domain]) for domain, text in texts.items()})


def shakespeare(data: Path) -> str:
    """Return the plays."""
    packed = data / SHAKESPEARE
    if packed.is_file():
        return gzip.decompress(packed.read_bytes()).decode()
    return load_book(data, "shakespeare")
