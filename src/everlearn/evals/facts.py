"""Invented facts in a long document, asked for when the document is out of sight; and facts that change.

Reading a text teaches the names that stand in it even where it does not teach who is who, so the right name is ranked
among all names that were read, each against its own mean over the questions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# fmt: off
ROLES = (
    "keeper", "warden", "miller", "baker", "smith", "notary", "surgeon", "pilot", "clerk", "curate", "steward",
    "ranger", "brewer", "tanner", "cooper", "weaver", "saddler", "mason", "glazier", "piper",
)
PLACES = (
    "Orvane", "Tessick", "Halmoor", "Quenby", "Ludvale", "Brannoch", "Yelverin", "Marrowick", "Pellatree", "Sundrey",
    "Corvenne", "Ashgarth", "Wexholm", "Dunmirren", "Fallowby", "Grentide", "Ibsley", "Kestermoor", "Nethervane",
    "Stroudale",
)
FIRST = (
    "Aldous", "Brenna", "Cormac", "Delphine", "Edrik", "Fenella", "Gideon", "Hesper", "Ivo", "Jocasta", "Kendrick",
    "Lavinia", "Magnus", "Nerys", "Osbert", "Petra", "Quillon", "Rowena", "Silas", "Tamsin",
)
LAST = (
    "Vexley", "Thornbury", "Ashdown", "Quill", "Marlowe", "Penhallow", "Drake", "Winterbourne", "Sable", "Corrigan",
    "Hawthorne", "Lysander", "Brock", "Fairweather", "Grimshaw", "Oakes", "Ravenscroft", "Tully", "Underhill",
    "Yarrow",
)
# fmt: on

SENTENCE_END = re.compile(r"[.?!]”?\s+(?=[“A-Z])")
LogProbabilities = Callable[[Tensor, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Fact:
    """Somebody holds an office somewhere."""

    role: str
    place: str
    name: str

    @property
    def sentence(self) -> str:
        """Return the sentence that states it."""
        return f"The {self.role} of {self.place} is {self.name}."

    @property
    def question(self) -> str:
        """Return the sentence up to the name."""
        return f"The {self.role} of {self.place} is"


def invent(count: int = 20, seed: int = 0) -> list[Fact]:
    """Invent facts with different roles, places and names.

    Raises:
        ValueError: more than the lists hold.
    """
    if not 1 <= count <= len(ROLES):
        raise ValueError(f"{count} facts were asked for; 1 to {len(ROLES)} different ones can be made; ask for fewer")
    dice = random.Random(seed)
    lists = [dice.sample(words, count) for words in (ROLES, PLACES, FIRST, LAST)]
    return [Fact(role, place, f"{first} {last}") for role, place, first, last in zip(*lists, strict=True)]


def renamed(facts: Sequence[Fact]) -> list[Fact]:
    """Return the same offices held by others: everybody takes the name of the next, so that all names stay known."""
    names = [fact.name for fact in facts]
    return [Fact(f.role, f.place, name) for f, name in zip(facts, names[1:] + names[:1], strict=True)]


def hide(facts: Sequence[Fact], text: str, *, times: int = 1, seed: int = 0) -> str:
    """Put each fact `times` times into a text, between two sentences, at places drawn evenly; order is drawn too.

    Raises:
        ValueError: the text has fewer sentences than there are facts to hide.
    """
    starts = [match.end() for match in SENTENCE_END.finditer(text)]
    dice = random.Random(seed)
    stated = [fact.sentence for fact in facts for _ in range(times)]
    dice.shuffle(stated)
    if len(starts) < len(stated):
        raise ValueError(
            f"the text has {len(starts)} places between sentences, but {len(stated)} facts are to stand there; "
            "give a longer text or fewer facts"
        )
    for place, sentence in zip(sorted(dice.sample(starts, len(stated)), reverse=True), stated, strict=True):
        text = f"{text[:place]}{sentence} {text[place:]}"
    return text


def name_scores(score: LogProbabilities, questions: Sequence[Tensor], names: Sequence[Tensor]) -> Tensor:
    """Return the log-probability of every name as the answer to every question, [questions, names] nats.

    Args:
        score: (tokens of the question, tokens of each name) -> log-probability of each name after the question.
        questions: tokens of each.
        names: tokens of each, as they follow a question.
    """
    return torch.stack([score(question, names) for question in questions])


def continuation_scores(logits: Callable[[Tensor], Tensor], question: Tensor, names: Sequence[Tensor]) -> Tensor:
    """Return the log-probability of each continuation of a question, [names] nats.

    Args:
        logits: ids [B, T] -> logits [B, T, V], causal.
        question: [Q] tokens.
        names: tokens of each continuation, of any length.
    """
    longest = max(len(name) for name in names)
    rows = torch.stack([torch.cat([question, F.pad(name, (0, longest - len(name)))]) for name in names])
    with torch.no_grad():
        steps = F.log_softmax(logits(rows)[:, len(question) - 1 : -1].double(), -1)
    taken = steps.gather(-1, rows[:, len(question) :, None])[..., 0]
    real = torch.arange(longest) < torch.tensor([len(name) for name in names])[:, None]
    return (taken * real).sum(1)


def lift(scores: Tensor) -> Tensor:
    """Take from every name its mean over the questions, so that a name that is likely anywhere gains nothing."""
    return scores - scores.mean(0)


def ranks(scores: Tensor, right: Sequence[int]) -> Tensor:
    """Return the rank of the right name for each question, 1 is best; equals count half.

    Args:
        scores: [questions, names] as they come out of `name_scores`.
        right: index of the right name of each question.
    """
    lifted = lift(scores)
    own = lifted.gather(1, torch.tensor(right)[:, None])
    return 1 + (lifted > own).sum(1) + ((lifted == own).sum(1) - 1) / 2


def newer_first(scores: Tensor, old: Sequence[int], new: Sequence[int]) -> float:
    """Return for which share of the questions the newer name stands before the older; equals count half."""
    lifted = lift(scores)
    gap = lifted.gather(1, torch.tensor(new)[:, None]) - lifted.gather(1, torch.tensor(old)[:, None])
    return float(((gap > 0) + 0.5 * (gap == 0)).mean(dtype=torch.float64))
