"""What the methods and readers of the demo are called, everywhere the same: table, picture and sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One row of a table.

    Args:
        key: its key in the results.
        name: its short name.
        plain: what it does, for a reader who has never met it.
        colour, dash, marker: how the pictures draw it; `colour` is a role of `picture.Palette`.
    """

    key: str
    name: str
    plain: str
    colour: str
    dash: str
    marker: str


METHODS = (
    Label("fine_tune", "Fine-tuning", "ordinary training steps on today's images", "orange", "-", "o"),
    Label(
        "fine_tune_masked",
        "Fine-tuning, masked",
        "the same, with only today's two digits competing",
        "orange",
        "--",
        "s",
    ),
    Label(
        "ewc",
        "EWC",
        "fine-tuning that holds on to weights which mattered; it alone is told when a day ends",
        "grey",
        "-",
        "D",
    ),
    Label("replay", "Replay", "keeps some old images and mixes them in", "grey", "--", "^"),
    Label("nearest_mean", "Nearest mean", "keeps one average per digit and picks the nearest", "grey", ":", "v"),
    Label("cms", "CMS", "the paper's part: layers in a row that change at different rates", "blue", "-", "o"),
    Label("cms_one_rate", "CMS, one rate", "the control: the same layers, all at one rate", "blue", "--", "s"),
    Label(
        "precision",
        "Precision memory",
        "exact statistics of each digit; published as streaming LDA on random features",
        "green",
        "-",
        "o",
    ),
)

READERS = (
    Label("frozen", "Frozen", "the model as it was trained; it only reads", "ink", "-", "o"),
    Label(
        "learning", "Learning", "the same weights, and a CMS that learns each piece once it is scored", "blue", "-", "o"
    ),
    Label(
        "control", "Bob's memory", "the control: what another reader's file taught, on this file", "orange", "-", "s"
    ),
    Label(
        "one_rate",
        "One rate",
        "the same weights, all levels at one pace; its rate gives about the same gain on validation files",
        "blue",
        "--",
        "s",
    ),
    Label(
        "all_weights", "All weights", "learning with every weight of the model (dynamic evaluation)", "green", "-", "D"
    ),
    Label(
        "ngram",
        "n-gram, frozen",
        "counts of which byte follows which five, from the same training text",
        "grey",
        ":",
        "v",
    ),
    Label("ngram_online", "n-gram, learning", "the same, counting on while it reads", "grey", "-", "^"),
    Label("gzip", "gzip", "the familiar compressor, which starts from nothing", "grey", "--", "x"),
)

NAMES = {label.key: label.name for label in (*METHODS, *READERS)}
