"""Learning one class after another without forgetting the first."""

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import HashedText, RandomReLU
from everlearn.continual.metrics import report, retention_matrix, run_stream
from everlearn.continual.serving import Serving
from everlearn.continual.streams import Stream, class_incremental

__all__ = [
    "Classifier",
    "HashedText",
    "RandomReLU",
    "Serving",
    "Stream",
    "class_incremental",
    "report",
    "retention_matrix",
    "run_stream",
]
