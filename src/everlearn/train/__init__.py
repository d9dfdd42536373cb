"""Training of the slow weights: a loop for a script, and runs that can be interrupted and shared by processes."""

from everlearn.train.config import RunConfig
from everlearn.train.loop import TrainConfig, train
from everlearn.train.processes import Processes, processes
from everlearn.train.run import Progress, run

__all__ = ["Processes", "Progress", "RunConfig", "TrainConfig", "processes", "run", "train"]
