"""Training of the slow weights."""

from everlearn.train.loop import TrainConfig, train

__all__ = ["TrainConfig", "train"]
