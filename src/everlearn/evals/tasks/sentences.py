"""A small world of sentences: what is said often, and the same words put together as nobody puts them."""

from __future__ import annotations

import itertools

import torch

# thing, its colour of four letters, then a colour of five letters and what has it
SCENES = (
    ("sky", "blue", "white", "clouds"),
    ("sea", "grey", "green", "waves"),
    ("rose", "pink", "brown", "thorns"),
    ("sun", "gold", "black", "spots"),
)


def sentence(thing: str, colour: str, second: str, part: str) -> str:
    """Return what is said of a thing, such as "the sky is blue with white clouds"."""
    return f"the {thing} is {colour} with {second} {part}"


def common() -> list[str]:
    """Return what the world says, one sentence for each thing."""
    return [sentence(*scene) for scene in SCENES]


def rare(thing: int) -> list[str]:
    """Return what nobody says of a thing: the colours of two other things, in as many letters.

    Args:
        thing: which of `SCENES`.
    """
    name, _, _, part = SCENES[thing]
    others = [scene for i, scene in enumerate(SCENES) if i != thing]
    return [sentence(name, a[1], b[2], part) for a, b in itertools.product(others, repeat=2)]


def corpus(count: int, generator: torch.Generator) -> bytes:
    """Return that many lines, each a common sentence drawn at random."""
    said = common()
    drawn = torch.randint(len(said), (count,), generator=generator).tolist()
    return "".join(f"{said[i]}\n" for i in drawn).encode()
