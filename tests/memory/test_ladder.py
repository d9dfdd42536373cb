"""The ladder: every row against a recurrence written on its own, in loops.  [NL eq. 62, 64-68, 92]"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.memory import LADDER, AssociativeMemory

DIM, LENGTH = 4, 24


def stream() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, LENGTH, DIM, dtype=torch.float64)
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), F.normalize(v, dim=-1)


def build(name: str) -> AssociativeMemory:
    torch.manual_seed(1)
    return LADDER[name](DIM).double()


def linear_attention(q, k, v, memory):
    """[NL eq. 64]"""
    return torch.stack([sum((k[i] @ q[t]) * v[i] for i in range(t + 1)) for t in range(LENGTH)])


def retnet(q, k, v, memory):
    return torch.stack([sum((31 / 32) ** (t - i) * (k[i] @ q[t]) * v[i] for i in range(t + 1)) for t in range(LENGTH)])


def delta_net(q, k, v, memory, alpha=1.0, eta=1.0):
    """[NL eq. 65, 92]"""
    s, y = torch.zeros(DIM, DIM, dtype=torch.float64), []
    for t in range(LENGTH):
        s = s @ (alpha * torch.eye(DIM, dtype=q.dtype) - eta * torch.outer(k[t], k[t])) + eta * torch.outer(v[t], k[t])
        y.append(s @ q[t])
    return torch.stack(y)


def fading_delta_net(q, k, v, memory):
    """[NL eq. 92]"""
    return delta_net(q, k, v, memory, alpha=0.99)


def oja_memory(q, k, v, memory):
    """[NL eq. 66]"""
    m, y = torch.zeros(DIM, DIM, dtype=torch.float64), []
    for t in range(LENGTH):
        m = m + 0.5 * torch.outer(v[t], k[t] - m.T @ v[t])
        y.append(m @ q[t])
    return torch.stack(y)


def polynomial(q, k, v, memory):
    """The kernel form: what is read is a sum of errors weighted by (1 + <k, q>)^2; |phi(k)|^2 = 4, eta = 1 / 5."""
    errors, y = [], []
    for t in range(LENGTH):
        known = sum((e * (1 + k[i] @ k[t]) ** 2 for i, e in enumerate(errors)), torch.zeros(DIM, dtype=torch.float64))
        errors.append((v[t] - known) / 5)
        y.append(sum(e * (1 + k[i] @ q[t]) ** 2 for i, e in enumerate(errors)))
    return torch.stack(y)


def omega(q, k, v, memory):
    """[NL eq. 67-68]"""
    s, y = torch.zeros(DIM, DIM, dtype=torch.float64), []
    for t in range(LENGTH):
        near = slice(max(0, t - 3), t + 1)
        s = s - 0.25 * (k[near] @ s.T - v[near]).T @ k[near]
        y.append(s @ q[t])
    return torch.stack(y)


def titans(q, k, v, memory):
    """[Titans eq. 13-14]

    The gradients by hand: silu'(x) = s (1 + x (1 - s)), s = sigmoid(x).
    """
    w1, w2 = memory.start["W1"].detach(), memory.start["W2"].detach()
    m1, m2, y = torch.zeros_like(w1), torch.zeros_like(w2), []
    for t in range(LENGTH):
        before = w2 @ k[t]
        gate = before.sigmoid()
        hidden = before * gate
        error = k[t] + w1 @ hidden - v[t]
        m1 = 0.5 * m1 - 0.25 * torch.outer(error, hidden)
        m2 = 0.5 * m2 - 0.25 * torch.outer((w1.T @ error) * gate * (1 + before * (1 - gate)), k[t])
        w1, w2 = 0.99 * w1 + m1, 0.99 * w2 + m2
        after = w2 @ q[t]
        y.append(q[t] + w1 @ (after * after.sigmoid()))
    return torch.stack(y)


def windowed_attention(q, k, v, memory, width=16):
    """[NL eq. 62]"""
    y = []
    for t in range(LENGTH):
        near = range(max(0, t - width + 1), t + 1)
        kernel = [math.exp(float(k[i] @ q[t]) / math.sqrt(DIM)) for i in near]
        y.append(sum(w * v[i] for w, i in zip(kernel, near, strict=True)) / sum(kernel))
    return torch.stack(y)


def softmax_attention(q, k, v, memory):
    """[NL eq. 62]"""
    return windowed_attention(q, k, v, memory, width=LENGTH)


RECURRENCES = {
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


@pytest.mark.parametrize("name", LADDER)
def test_a_row_is_the_recurrence_that_it_is_named_for(name):
    q, k, v = stream()
    memory = build(name)
    y, _ = memory(q[None], k[None], v[None])
    theirs = RECURRENCES[name](q, k, v, memory)
    assert theirs.norm() > 1
    # float64, 24 tokens: the same sums in another order
    torch.testing.assert_close(y[0].detach(), theirs, rtol=1e-10, atol=1e-10)


def test_a_single_pair_comes_back_from_every_row_but_those_that_take_small_steps():
    _, k, v = (x[None, :1] for x in stream())
    for name in LADDER:
        memory = build(name)
        y, _ = memory(k, k, v)
        cosine = F.cosine_similarity(y, v, dim=-1).item()
        assert cosine > (0.3 if name == "Titans" else 1 - 1e-9), name
