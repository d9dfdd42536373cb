"""Numbers that autocast must not round: gates, norms and what is summed over a whole stream."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """Compute in the types that tensors have, whatever autocast says.

    Args:
        x: on the device in question; on "meta", where nothing is computed, autocast does not exist.
    """
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
