"""Gradient descent: the plainest way to change weights."""

from __future__ import annotations

from torch import Tensor

from everlearn.rules.types import Slots


def gd(weights: Tensor, grad: Tensor, key: Tensor | None, slots: Slots, *, eta: float | Tensor) -> tuple[Tensor, Slots]:
    """Take one step against the gradient.  [NL eq. 1, 8-9]

        W_t = W_{t-1} - eta g_t = argmin_W <W, g_t> + |W - W_{t-1}|^2 / (2 eta)

    For a linear layer g = e x^T, so training it writes its surprise -e under its input x. Written into
    a linear memory with the L2 objective this is the delta rule; with the dot product it is linear attention. It keeps
    nothing between steps, which is why it needs no care when a stream is cut.

    Args:
        weights: what is changed, any shape.
        grad: its gradient, same shape.
        key: unused; every rule takes it.
        slots: what the rule keeps between steps; gd keeps nothing and returns it as it came.
        eta: step size in units of the gradient, >= 0, broadcast against `weights`.
    Returns:
        weights: the changed weights; the argument is left untouched.
        slots: as given.
    Example:
        >>> import torch
        >>> gd(torch.tensor([1.0]), torch.tensor([2.0]), None, {}, eta=0.25)[0]
        tensor([0.5000])
    """
    # a product and a difference, each rounded by itself: a fused one has other bits for another layout of the tensors
    return weights - eta * grad, slots
