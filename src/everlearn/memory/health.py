"""Whether a memory is filling up: what to watch, and when to be alarmed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.memory.associative import AssociativeMemory
from everlearn.memory.state import LayerState


def stable_rank(matrix: Tensor) -> Tensor:
    """Count the directions that a matrix really uses: |M|_F^2 / |M|_2^2.

    A memory of n equally strong orthogonal pairs has n. It nears the smaller side of the matrix when there is no room
    left, and falls toward 1 when one direction, such as a key repeated without end, drowns the others.

    Args:
        matrix: [..., out, in].
    Returns:
        [...], between 1 and min(out, in); 0 for a matrix of zeros, and NaN for one that is not finite.
    """
    finite = matrix.isfinite().all(-1).all(-1)
    singular = torch.linalg.svdvals(matrix.masked_fill(~finite[..., None, None], 0))
    largest = singular[..., 0]
    relative = singular / torch.where(largest > 0, largest, 1).unsqueeze(-1)
    return relative.square().sum(-1).masked_fill(~finite, torch.nan)


@dataclass(frozen=True)
class Recall:
    """How much of what was written comes back.

    Args:
        share: pairs whose answer is nearest to their own value, among all values of the row, [B].
        cosine: mean cosine between answer and value, [B].
    """

    share: Tensor
    cosine: Tensor


def recall(memory: AssociativeMemory, state: LayerState, keys: Tensor, values: Tensor) -> Recall:
    """Ask for pairs that were written and see whether the right values come back.

    Reading changes nothing, so this can be asked of a memory in use, with a sample of its past.

    Args:
        memory: what is asked.
        state: what its rows hold.
        keys: [B, N, dim].
        values: [B, N, dim_v], distinct within a row: of equal ones the first counts as the nearest.
    """
    answers = memory.read(state, keys)
    nearest = torch.cdist(answers, values.to(answers.dtype)).argmin(-1)
    right = nearest == torch.arange(keys.shape[1], device=keys.device)
    return Recall(right.double().mean(1), F.cosine_similarity(answers, values, dim=-1).mean(1))
