"""A piece of tokens written into weights at once: every token adds one outer product. The README derives it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.ops.blocks import decay


@dataclass(frozen=True)
class Schedule:
    """What of each weight, and of each momentum, is left after each token of a piece.

    Row t of C + 1 stands for the state after t tokens; column i of C for what token i wrote.

    Args:
        kept: prod alpha_j over i < j <= t, zero above the diagonal, [G, 1, C + 1, C + 1]; column 0 is the start.
        pushed: what the momentum adds: sum over i <= j <= t of kept[t, j] beta^(j - i), [G, 1, C + 1, C], or None.
        pushed_start: the same of the momentum that was there before, [G, 1, C + 1, 1].
        beta_kept: beta^(j - i) at the end of the piece, [G, 1, C, 1].
        beta_whole: beta^C, [G, 1, 1, 1].
    """

    kept: Tensor
    pushed: Tensor | None = None
    pushed_start: Tensor | None = None
    beta_kept: Tensor | None = None
    beta_whole: Tensor | None = None


def schedule(log_alpha: Tensor, beta: float = 0.0, live: Tensor | None = None) -> Schedule:
    """Return what is left of what was written.

    Args:
        log_alpha: [G, C], <= 0, and 0 where a token is padding.
        beta: decay of the momentum; 0 has none.
        live: [G, C], 1 for a real token and 0 for padding, which neither moves a momentum nor adds it; None means all.
    """
    size = log_alpha.shape[-1]
    kept = decay(log_alpha.unsqueeze(-1)).unsqueeze(1)
    if not beta:
        return Schedule(kept)
    live = torch.ones_like(log_alpha) if live is None else live
    momenta = decay((live * math.log(beta)).unsqueeze(-1)).unsqueeze(1)
    since = (kept[..., 1:] * live[:, None, None, :]) @ momenta[..., 1:, :]  # sums over j, for i = 0 .. C
    return Schedule(kept, since[..., 1:], since[..., :1], momenta[..., size, 1:, None], momenta[..., size:, :1])


@dataclass(frozen=True)
class Writes:
    """Weights after each token of a piece, as what was there and a sum of outer products with the inputs.

        W_t = fixed + sum_s scale_s[t] weights_s + sum_s sum_i kernel_s[t, i] value_s[i] input[i]^T

    Args:
        inputs: [G, N, C, in].
        carried: pairs of scale [G, 1, C + 1, 1] and weights [G, N, out, in].
        written: pairs of kernel [G, 1, C + 1, C] and values [G, N, C, out].
        fixed: [G, N, out, in], or None.
    """

    inputs: Tensor
    carried: tuple[tuple[Tensor, Tensor], ...]
    written: tuple[tuple[Tensor, Tensor], ...]
    fixed: Tensor | None = None

    def read(self, x: Tensor) -> Tensor:
        """Return W_{t-1} x_t, what the weights before each token make of it; x is [G, N, C, in]."""
        grams = x @ self.inputs.mT
        y = x.new_zeros(()) if self.fixed is None else x @ self.fixed.mT
        for scale, weights in self.carried:
            y = y + scale[..., :-1, :] * (x @ weights.mT)
        for kernel, values in self.written:
            y = y + (grams * kernel[..., :-1, :]) @ values
        return y

    def end(self) -> Tensor:
        """Return the weights after the last token, [G, N, out, in]."""
        total = self.inputs.new_zeros(()) if self.fixed is None else self.fixed
        for scale, weights in self.carried:
            total = total + scale[..., -1:, :] * weights
        for kernel, values in self.written:
            total = total + (kernel[..., -1, :, None] * values).mT @ self.inputs
        return total

    def outputs(self, start: int, stop: int) -> Writes:
        """Return the writes into some of the rows of weights whose inputs are shared."""
        return Writes(
            self.inputs,
            tuple((scale, weights[..., start:stop, :]) for scale, weights in self.carried),
            tuple((kernel, values[..., start:stop]) for kernel, values in self.written),
            None if self.fixed is None else self.fixed[..., start:stop, :],
        )

    def memory(self, index: int) -> Writes:
        """Return the writes into the weights of one memory, [G, 1, ...], where each memory has inputs of its own."""
        one = slice(index, index + 1)
        return Writes(
            self.inputs[:, one],
            tuple((scale, weights[:, one]) for scale, weights in self.carried),
            tuple((kernel, values[:, one]) for kernel, values in self.written),
            None if self.fixed is None else self.fixed[:, one],
        )


def write(
    weights: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    step: Tensor,
    forget: Tensor | None,
    plan: Schedule,
    *,
    beta: float = 0.0,
    momentum: Tensor | None = None,
    anchor: Tensor | None = None,
) -> tuple[Writes, Tensor | None]:
    """Solve one piece of a linear recurrence.

        W_t = W_{t-1} (alpha_t I - forget_t u_t u_t^T) - step_t g_t u_t^T + (1 - alpha_t) anchor

    The part that forgets reads what the piece itself has written: one unit lower triangular system.

    Args:
        weights: W_0, [G, N, out, in].
        inputs: u, [G, N, C, in].
        gradient: g, [G, N, C, out], by the output of W and taken before the piece.
        step: [G, N or 1, C, 1].
        forget: like `step`, or None for weights that only decay.
        plan: of alpha, and of beta.
        beta: decay of the momentum, which is an average: gradients weigh 1 - beta.
        momentum: like `weights`, or None without one.
        anchor: like `weights`: what they decay to, instead of zero.
    Returns:
        writes: the weights after each token.
        momentum: after the last token.
    """
    gram, added = inputs @ inputs.mT, -step * gradient
    before, within = plan.kept[..., :-1, :1], plan.kept[..., :-1, 1:]
    start = weights if anchor is None else weights - anchor
    held = before * (inputs @ start.mT)
    if anchor is not None:
        held = held + inputs @ anchor.mT
    if momentum is None:
        values = added if forget is None else _solve(forget * gram * within, added - forget * held)
        writes = ((plan.kept[..., 1:], values),)
        return Writes(inputs, ((plan.kept[..., :1], start),), writes, anchor), None

    assert plan.pushed is not None and plan.pushed_start is not None
    assert plan.beta_kept is not None and plan.beta_whole is not None
    added = (1 - beta) * added
    carried = ((plan.kept[..., :1], start), (plan.pushed_start, momentum))
    pushes: tuple[tuple[Tensor, Tensor], ...] = ((plan.pushed, added),)
    if forget is not None:
        held = held + plan.pushed_start[..., :-1, :] * (inputs @ momentum.mT)
        held = held + (gram * plan.pushed[..., :-1, :]) @ added
        pushes = ((plan.kept[..., 1:], _solve(forget * gram * within, -forget * held)), *pushes)
    moved = plan.beta_whole * momentum + (plan.beta_kept * added).mT @ inputs
    return Writes(inputs, carried, pushes, anchor), moved


def _solve(strictly_lower: Tensor, right: Tensor) -> Tensor:
    """Return X of (I + strictly lower) X = right; what stands on the diagonal and above is not read."""
    return torch.linalg.solve_triangular(strictly_lower, right, upper=False, unitriangular=True)


def silu_slope(z: Tensor) -> Tensor:
    """Return the derivative of SiLU."""
    gate = torch.sigmoid(z)
    return gate + F.silu(z) * (1 - gate)
