"""Facts in the stacking benchmark: in a short or a long document, and first as one thing and later as another."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from stacking_texts import FACT_TOKENS, LONG_FACT_TOKENS, STREAM_TOKENS
from stacking_ways import Base
from torch import Tensor

from everlearn.evals.facts import (
    Fact,
    continuation_scores,
    hide,
    invent,
    name_scores,
    newer_first,
    ranks,
    renamed,
)
from everlearn.evals.reading_stream import late
from everlearn.evals.tokens import encode, tokens
from everlearn.evals.ways import Way

PLACEMENTS = 3
PROMPT_TOKENS = 64
# way, and how often each fact stands in the document
FACT_WAYS = (("frozen", 1), ("slots", 1), ("mlp", 1), ("mlp", 3), ("last_down", 1), ("all", 1), ("all", 3), ("lora", 1))
# the same in a document four times as long, where slots keep a quarter of the tokens, or have room for every one
LONG_FACT_WAYS = (*FACT_WAYS[:2], ("slots_room", 1), *FACT_WAYS[2:])
# role of the pages -> tokens of a document; a long one is made of two pages
LENGTHS = {"facts": FACT_TOKENS, "facts_long": LONG_FACT_TOKENS}
CHANGING = ("frozen", "slots", "mlp", "last_down", "all", "lora")
Row = dict[str, Any]


def facts(base: Base, make: Callable[[], Way], times: int, role: str = "facts") -> Row:
    """Read 20 facts in three placements and ask for each with the document out of sight; `role` is one of LENGTHS."""
    found: Row = {"rank": [], "first": [], "nats": [], "cost": {"doyle": [], "darwin": []}}
    for placement in range(PLACEMENTS):
        known, way = invent(seed=placement), make()
        prose = passage(base, placement, role)
        before = {domain: held(base, way, domain) for domain in found["cost"]}
        way.read(encode(base.tokenizer, hide(known, prose, times=times, seed=placement)))
        scores = ask(base, way, known)
        place = ranks(scores, list(range(len(known))))
        found["rank"].append(float(place.mean()))
        found["first"].append(int((place == 1).sum()))
        found["nats"].append(float(scores.diagonal().mean()))
        for domain, bits in before.items():
            found["cost"][domain].append(held(base, way, domain) - bits)
    return found


def changing(base: Base, make: Callable[[], Way]) -> Row:
    """Read 20 facts as one thing and later in the same document as another: which name stands first?"""
    found: Row = {"newer_first": [], "rank_new": [], "rank_old": []}
    for placement in range(PLACEMENTS):
        old, way = invent(seed=placement), make()
        new = renamed(old)
        prose = passage(base, placement, "facts")
        half = prose.index(". ", len(prose) // 2) + 2
        text = hide(old, prose[:half], seed=placement) + hide(new, prose[half:], seed=placement + 1)
        way.read(encode(base.tokenizer, text))
        names = [fact.name for fact in old]
        scores = ask(base, way, old)
        then, now = ([names.index(fact.name) for fact in facts] for facts in (old, new))
        found["newer_first"].append(newer_first(scores, then, now))
        found["rank_new"].append(float(ranks(scores, now).mean()))
        found["rank_old"].append(float(ranks(scores, then).mean()))
    return found | {"mean": statistics.fmean(found["newer_first"])}


def passage(base: Base, placement: int, role: str) -> str:
    """Return a passage of fiction of the length that the role has, from pages that no other placement uses."""
    pages = base.texts.pieces["doyle"][role]
    own = pages[placement * len(pages) // PLACEMENTS : (placement + 1) * len(pages) // PLACEMENTS]
    ids = tokens(base.tokenizer, "".join(page.text for page in own)).first(LENGTHS[role]).ids
    return base.tokenizer.decode(ids)


def held(base: Base, way: Way, domain: str) -> float:
    """Return the bits per byte of a text that was not read."""
    return late(way, base.texts.take("heldout", domain, STREAM_TOKENS))


def ask(base: Base, way: Way, known: list[Fact]) -> Tensor:
    """Return the log-probability of each name after each question, which stands behind prose of another book."""
    prose = tokens(base.tokenizer, base.texts.pieces["middlemarch"]["questions"][0].text).ids
    questions = [
        torch.cat(
            [
                prose[i * PROMPT_TOKENS : (i + 1) * PROMPT_TOKENS],
                encode(base.tokenizer, f" It was late. {fact.question}"),
            ]
        )
        for i, fact in enumerate(known)
    ]
    names = [encode(base.tokenizer, f" {fact.name}") for fact in known]
    return name_scores(
        lambda question, all_names: continuation_scores(way.logits, question, all_names), questions, names
    )
