"""The online learner."""

from everlearn.learn.archive import Archive
from everlearn.learn.calibrate import Calibration, calibrate_lr
from everlearn.learn.chunk import ChunkReport, NotFiniteError, learn_chunk
from everlearn.learn.guard import Guard, GuardEvent, ProbeGuard
from everlearn.learn.learner import Learner
from everlearn.learn.model_guard import ModelGuard
from everlearn.learn.route import Route, error_rate
from everlearn.learn.score import Score
from everlearn.learn.slots import look_up, memorize
from everlearn.learn.spans import Text, Tokens
from everlearn.learn.store_protocol import Store
from everlearn.learn.stream import ReadReport, read

__all__ = [
    "Archive",
    "Calibration",
    "ChunkReport",
    "Guard",
    "GuardEvent",
    "Learner",
    "ModelGuard",
    "NotFiniteError",
    "ProbeGuard",
    "ReadReport",
    "Route",
    "Score",
    "Store",
    "Text",
    "Tokens",
    "calibrate_lr",
    "error_rate",
    "learn_chunk",
    "look_up",
    "memorize",
    "read",
]
