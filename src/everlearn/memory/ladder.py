"""The recurrent ladder: known sequence models as rows of one table.  [NL eq. 62, 64-68]

Each row differs from the one before it in one choice of architecture, objective, retention or rule. The rows read after
the write; per-token step sizes and gates, where the published model has them, are arguments of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from everlearn.memory.architectures import Matrix, NonParametric, ResidualMLP
from everlearn.memory.associative import AssociativeMemory
from everlearn.memory.feature_maps import Polynomial
from everlearn.memory.objectives import dot
from everlearn.memory.retention import Decay
from everlearn.rules import momentum, oja


def linear_attention(dim: int) -> AssociativeMemory:
    """S_t = S_{t-1} + v_t k_t^T: one gradient step on the dot product.  [NL eq. 64]"""
    return AssociativeMemory(Matrix(dim), dot, eta=1.0)


def retnet(dim: int) -> AssociativeMemory:
    """S_t = alpha S_{t-1} + v_t k_t^T: linear attention that fades, by 31/32 per token as RetNet's first head does."""
    return AssociativeMemory(Matrix(dim), dot, Decay(31 / 32), eta=1.0)


def delta_net(dim: int) -> AssociativeMemory:
    """S_t = S_{t-1} (I - eta k k^T) + eta v k^T: one gradient step on the L2 objective.  [NL eq. 65]"""
    return AssociativeMemory(Matrix(dim), eta=1.0)


def fading_delta_net(dim: int) -> AssociativeMemory:
    """S_t = S_{t-1} (alpha I - eta k k^T) + eta v k^T: the delta rule that fades, alpha on I alone.  [NL eq. 92]

    Gated DeltaNet, alpha S (I - eta k k^T) + eta v k^T, compares with the faded memory instead and is no row here:
    `ops.delta_rule` has it as `decay_first`.
    """
    return AssociativeMemory(Matrix(dim), retention=Decay(0.99), eta=1.0)


def oja_memory(dim: int) -> AssociativeMemory:
    """M_t = M_{t-1} + eta v (k - M_{t-1}^T v)^T: linear attention whose size Oja's rule bounds.  [NL eq. 66]"""
    return AssociativeMemory(Matrix(dim), dot, rule=oja, eta=0.5)


def polynomial(dim: int) -> AssociativeMemory:
    """Write the delta rule on all products of two coordinates of the key: a memory of higher order."""
    return AssociativeMemory(Matrix(dim, feature_map=Polynomial(2), implicit=True), eta=1.0)


def omega(dim: int) -> AssociativeMemory:
    """S_t = S_{t-1} - eta sum_{i = t-3..t} (S_{t-1} k_i - v_i) k_i^T: the delta rule over a window.  [NL eq. 67-68]"""
    return AssociativeMemory(Matrix(dim), eta=0.25, window=4)


def titans(dim: int) -> AssociativeMemory:
    """S_t = beta S_{t-1} - eta grad, M_t = alpha M_{t-1} + S_t, M an MLP.  [Titans eq. 13-14]"""
    rule = partial(momentum, beta=0.5, average=False)
    return AssociativeMemory(ResidualMLP(dim, 2 * dim, implicit=False), retention=Decay(0.99), rule=rule, eta=0.25)


def windowed_attention(dim: int) -> AssociativeMemory:
    """Answer from the newest 16 pairs by kernel regression.  [NL eq. 62]"""
    return AssociativeMemory(NonParametric(dim, window=16), rule=None)


def softmax_attention(dim: int) -> AssociativeMemory:
    """Answer from all pairs by kernel regression.  [NL eq. 62]"""
    return AssociativeMemory(NonParametric(dim), rule=None)


LADDER: dict[str, Callable[[int], AssociativeMemory]] = {
    "linear attention": linear_attention,
    "RetNet": retnet,
    "DeltaNet": delta_net,
    "DeltaNet that fades": fading_delta_net,
    "Oja": oja_memory,
    "polynomial DeltaNet": polynomial,
    "Omega": omega,
    "Titans": titans,
    "windowed attention": windowed_attention,
    "softmax attention": softmax_attention,
}
