"""Label-masked fine-tuning: a batch does not push down the classes that it does not contain."""

from __future__ import annotations

from torch import nn

from everlearn.continual.strategies.base import Encode, Optimizer, loss_over_batch
from everlearn.continual.strategies.fine_tune import FineTune


def fine_tune_masked(encode: Encode, head: nn.Module, num_classes: int, optimizer: Optimizer) -> FineTune:
    """Return fine-tuning whose softmax runs over the classes of each batch alone.

    The mask needs no task id: it follows from the labels being learned. At test all classes seen so far compete.
    """
    return FineTune(encode, head, num_classes, optimizer, loss_over_batch)
