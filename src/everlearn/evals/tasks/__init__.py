"""Small tasks whose answers are known: what a memory of a given kind can learn to do, and how far beyond training."""

from everlearn.evals.tasks.languages import LANGUAGES
from everlearn.evals.tasks.passkey import passkey
from everlearn.evals.tasks.recall import LAGS, lags, recall
from everlearn.evals.tasks.task import Answers, Examples, Task, answer

__all__ = ["LAGS", "LANGUAGES", "Answers", "Examples", "Task", "answer", "lags", "passkey", "recall"]
