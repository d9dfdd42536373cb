"""The online learner."""

from everlearn.learn.calibrate import Calibration, calibrate_lr
from everlearn.learn.chunk import ChunkReport, NotFiniteError, learn_chunk
from everlearn.learn.guard import Guard, GuardEvent, ProbeGuard
from everlearn.learn.learner import Learner
from everlearn.learn.score import Score
from everlearn.learn.spans import Text, Tokens
from everlearn.learn.store_protocol import Store
from everlearn.learn.stream import ReadReport, read

__all__ = [
    "Calibration",
    "ChunkReport",
    "Guard",
    "GuardEvent",
    "Learner",
    "NotFiniteError",
    "ProbeGuard",
    "ReadReport",
    "Score",
    "Store",
    "Text",
    "Tokens",
    "calibrate_lr",
    "learn_chunk",
    "read",
]
