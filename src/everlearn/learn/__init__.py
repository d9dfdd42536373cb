"""The online learner."""

from everlearn.learn.chunk import ChunkReport, NotFiniteError, learn_chunk
from everlearn.learn.guard import ProbeGuard
from everlearn.learn.learner import Learner, Score
from everlearn.learn.store_protocol import Store
from everlearn.learn.stream import ReadReport, read

__all__ = [
    "ChunkReport",
    "Learner",
    "NotFiniteError",
    "ProbeGuard",
    "ReadReport",
    "Score",
    "Store",
    "learn_chunk",
    "read",
]
