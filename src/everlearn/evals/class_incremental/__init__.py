"""Class-incremental learning of text and images: scenarios, one protocol for every strategy, tables."""

from everlearn.evals.class_incremental.protocol import floor, measure
from everlearn.evals.class_incremental.scenario import (
    SCENARIOS,
    STREAMS,
    Scenario,
    encoded,
    encoded_images,
    load,
    read_texts,
)
from everlearn.evals.class_incremental.tables import markdown

__all__ = [
    "SCENARIOS",
    "STREAMS",
    "Scenario",
    "encoded",
    "encoded_images",
    "floor",
    "load",
    "markdown",
    "measure",
    "read_texts",
]
