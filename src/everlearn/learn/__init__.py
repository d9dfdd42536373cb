"""The online learner."""

from everlearn.learn.archive import Archive, Route, error_rate
from everlearn.learn.chunk import ChunkReport, NotFiniteError, learn_chunk
from everlearn.learn.guard import ProbeGuard
from everlearn.learn.learner import Learner, Score
from everlearn.learn.slots import look_up, memorize
from everlearn.learn.store_protocol import Store
from everlearn.learn.stream import ReadReport, read

__all__ = [
    "Archive",
    "ChunkReport",
    "Learner",
    "NotFiniteError",
    "ProbeGuard",
    "ReadReport",
    "Route",
    "Score",
    "Store",
    "error_rate",
    "learn_chunk",
    "look_up",
    "memorize",
    "read",
]
