"""Causal softmax attention: the memory that keeps every token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.layers.inputs import check_input
from everlearn.levels.component import TOKENS, Component
from everlearn.memory.state import LayerState, Tensors


class Attention(nn.Module):
    """Attend to all earlier tokens, or to the most recent ones.

        y_t = sum_{i <= t} softmax_i(q_t . k_i / sqrt(D)) v_i,    q and k rotated by their positions

    In the paper's terms this is a non-parametric memory: it stores the keys and values themselves and never forgets
    inside its window. It stores nothing in weights, so all it carries is context, which a new segment drops. Positions
    count the real tokens of each row since its segment began; rotary embedding pairs feature i with i + D/2.

    Args:
        dim: size of the input and of the output; a multiple of 2 * num_heads.
        num_heads: heads of size D = dim / num_heads.
        window: tokens that a token sees, itself included (>= 1); None means all. The cache holds no more than that.
        rope_base: base of the rotary wavelengths; larger suits longer segments.
    Raises:
        ValueError: dim that does not divide, or a window below 1.
    """

    def __init__(self, dim: int, num_heads: int, *, window: int | None = None, rope_base: float = 10000.0) -> None:
        super().__init__()
        if num_heads < 1 or dim % (2 * num_heads):
            raise ValueError(
                f"num_heads {num_heads} does not split dim {dim} into heads of an even size, as rotary pairs need; "
                "choose a num_heads that divides dim / 2"
            )
        if window is not None and window < 1:
            raise ValueError(f"window {window} is below 1; give a number of tokens, or None for all of them")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.window, self.rope_base = window, rope_base
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: nothing."""
        return LayerState()

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> LayerState:
        """Return the state as it is: all that attention keeps is context, which a new segment drops."""
        return state

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read a piece of each row's segment.

        Args:
            x: [B, T, dim].
            state: what earlier pieces left; None starts a segment.
            mask: [B, T] bool, True for a real token, real tokens first; None means all are.
        Returns:
            y: [B, T, dim]; arbitrary but finite at padded positions.
            state: context {"k": [B, S, H, D] rotated, "v": [B, S, H, D], "positions": [B, S] int64, counted
                from 1, 0 = empty slot}.
        Raises:
            ValueError: a shape or a mask that does not fit.
        """
        check_input(x, self.dim, mask, state)
        cache = state.context if state is not None else {}
        if cache and cache["k"].shape[2:] != (self.num_heads, self.head_dim):
            raise ValueError(
                f"the state holds keys {tuple(cache['k'].shape[2:])}, this layer has (heads, size) "
                f"{(self.num_heads, self.head_dim)}; pass the state of this layer, or None to start"
            )
        if x.shape[1] == 0:
            return x, state or LayerState()
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        positions = self._positions(x, cache, mask)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        q, k = rotate(q, positions, self.rope_base), rotate(k, positions, self.rope_base)
        slots = positions + 1 if mask is None else (positions + 1).masked_fill(~mask, 0)
        new: Tensors = {"k": k, "v": v, "positions": slots}
        if cache:
            new = {name: torch.cat([cache[name].to(part.dtype), part], 1) for name, part in new.items()}
        y = self._attend(q, positions, new)
        return self.out(y.flatten(2)), LayerState(context=self._trim(new, mask is not None))

    def _positions(self, x: Tensor, cache: Tensors, mask: Tensor | None) -> Tensor:
        """Return each token's place in its row's segment, [B, T]; padding repeats the last real one."""
        real = torch.ones(x.shape[:2], dtype=torch.long, device=x.device) if mask is None else mask.long()
        last = real.cumsum(1) - 1
        if cache:
            last = last + cache["positions"].amax(1, keepdim=True)
        return last.clamp(min=0)

    def _attend(self, q: Tensor, positions: Tensor, stored: Tensors) -> Tensor:
        """Attend from q, [B, T, H, D], to the stored slots, of which the last T are q's own tokens."""
        q, k, v = (part.transpose(1, 2) for part in (q, stored["k"], stored["v"]))
        length, size = q.shape[2], k.shape[2]
        if length == size and (self.window is None or self.window >= length):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        distance = positions.unsqueeze(2) + 1 - stored["positions"].unsqueeze(1)
        seen = (distance >= 0) & (stored["positions"] > 0).unsqueeze(1)
        if self.window is not None:
            seen = seen & (distance < self.window)
        # a padded token sees itself: a softmax over nothing is not finite on every backend
        own = torch.eye(length, size, dtype=torch.bool, device=q.device).roll(size - length, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=(seen | own).unsqueeze(1)).transpose(1, 2)

    def _trim(self, stored: Tensors, padded: bool) -> Tensors:
        """Drop what no later token can see and move each row's slots to the left; padding's own are zero already."""
        positions = stored["positions"]
        if not padded and (self.window is None or positions.shape[1] <= self.window):
            return stored
        keep = positions > 0
        if self.window is not None:
            keep = keep & (positions > positions.amax(1, keepdim=True) - self.window)
        if bool(keep.all()):
            return stored
        size = int(keep.sum(1).amax().clamp(min=1))
        order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :size]
        slots = positions.gather(1, order).masked_fill(~keep.gather(1, order), 0)
        index = order[:, :, None, None]
        return {name: stored[name].take_along_dim(index, 1) for name in ("k", "v")} | {"positions": slots}

    def components(self) -> list[Component]:
        """Return the keys and values that it keeps, and the projections that make them."""
        cache = Component(
            name="",
            kind="attention",
            update_period=1,
            unit=TOKENS,
            token_bytes=2 * self.dim * self.qkv.weight.element_size() + torch.int64.itemsize,  # k, v and the position
            max_tokens=self.window,
            objective="kernel regression on its values",
            rule="keep every token" if self.window is None else f"keep the last {self.window:,} tokens",
            context_flow="tokens of the row",
            conditioned_on=("qkv",),
        )
        return [cache, Component(name="", kind="projections", owns=("qkv", "out"))]


def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate the pairs (i, i + D/2) of x by positions * base^(-2i/D), so that products see distances only.

    Args:
        x: [B, T, H, D], D even.
        positions: [B, T].
        base: of the wavelengths, from 2 pi to 2 pi base tokens.
    Returns:
        [B, T, H, D] in the dtype of x; the angles are float32 or wider.
    """
    half = x.shape[-1] // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    rates = base ** -(torch.arange(half, dtype=dtype, device=x.device) / half)
    angles = (positions.unsqueeze(-1).to(dtype) * rates).unsqueeze(2)  # [B, T, 1, D/2]
    cos, sin = angles.cos(), angles.sin()
    first, second = x.to(dtype).split(half, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
