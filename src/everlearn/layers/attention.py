"""Causal softmax attention: the memory that keeps every token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.layers.inputs import check_input
from everlearn.levels.component import TOKENS, Component
from everlearn.memory.state import LayerState, Tensors


class Attention(nn.Module):
    """Attend to all earlier tokens, or to the most recent ones, and to persistent ones.  [Titans eq. 19-20]

        y_t = sum_{i <= t} softmax_i(q_t . k_i / sqrt(D)) v_i,    q and k rotated by their positions

    In the paper's terms this is a non-parametric memory: it stores the keys and values themselves and never forgets
    inside its window. It stores nothing in weights, so all it carries is context, which a new segment drops. Positions
    count the real tokens of each row since its segment began; rotary embedding pairs feature i with i + D/2.

    Persistent tokens are learned and stand before every segment, whatever the window: x~ = [p_1 .. p_P] || x. They have
    no position, so their keys are compared unrotated and look the same from everywhere. What a token reads from them
    alone is W_V softmax(W_K q), a feed-forward layer whose weights the keys and values of p are.

    Args:
        dim: size of the input and of the output; a multiple of 2 * num_heads.
        num_heads: heads of size D = dim / num_heads.
        window: tokens that a token sees, itself included (>= 1); None means all. The cache holds no more than that.
        rope_base: base of the rotary wavelengths; larger suits longer segments.
        num_persistent: learned tokens that every token sees (>= 0).
    Raises:
        ValueError: dim that does not divide, a window below 1, or a num_persistent below 0.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window: int | None = None,
        rope_base: float = 10000.0,
        num_persistent: int = 0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % (2 * num_heads):
            raise ValueError(
                f"num_heads {num_heads} does not split dim {dim} into heads of an even size, as rotary pairs need; "
                "choose a num_heads that divides dim / 2"
            )
        if window is not None and window < 1:
            raise ValueError(f"window {window} is below 1; give a number of tokens, or None for all of them")
        if num_persistent < 0:
            raise ValueError(f"num_persistent {num_persistent} is below 0; give a number of tokens, or leave it out")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.window, self.rope_base = window, rope_base
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        # of the size of a token after its norm
        self.persistent = nn.Parameter(torch.randn(num_persistent, dim)) if num_persistent else None

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
        plain, q, k = q, rotate(q, positions, self.rope_base), rotate(k, positions, self.rope_base)
        slots = positions + 1 if mask is None else (positions + 1).masked_fill(~mask, 0)
        new: Tensors = {"k": k, "v": v, "positions": slots}
        if cache:
            new = {name: torch.cat([cache[name].to(part.dtype), part], 1) for name, part in new.items()}
        y = self._attend(q, plain, positions, new)
        return self.out(y.flatten(2)), LayerState(context=self._trim(new, mask is not None))

    def _positions(self, x: Tensor, cache: Tensors, mask: Tensor | None) -> Tensor:
        """Return each token's place in its row's segment, [B, T]; padding repeats the last real one."""
        real = torch.ones(x.shape[:2], dtype=torch.long, device=x.device) if mask is None else mask.long()
        last = real.cumsum(1) - 1
        if cache:
            last = last + cache["positions"].amax(1, keepdim=True)
        return last.clamp(min=0)

    def _attend(self, q: Tensor, plain: Tensor, positions: Tensor, stored: Tensors) -> Tensor:
        """Attend from q, [B, T, H, D] and `plain` before its rotation, to the stored slots, the last T its own."""
        length, size = q.shape[1], stored["k"].shape[1]
        k, v = stored["k"], stored["v"]
        if self.persistent is None and length == size and (self.window is None or self.window >= length):
            return _softmax(q, k, v, None)
        distance = positions.unsqueeze(2) + 1 - stored["positions"].unsqueeze(1)
        seen = (distance >= 0) & (stored["positions"] > 0).unsqueeze(1)
        if self.window is not None:
            seen = seen & (distance < self.window)
        # a padded token sees itself: a softmax over nothing is not finite on every backend
        own = torch.eye(length, size, dtype=torch.bool, device=q.device).roll(size - length, 1)
        seen = seen | own
        if self.persistent is None:
            return _softmax(q, k, v, seen)
        p_k, p_v = self._persistent_pairs(len(q))
        # two products in one: rotated queries meet rotated keys, plain ones the persistent keys
        keys = torch.cat([F.pad(p_k, (self.head_dim, 0)), F.pad(k, (0, self.head_dim))], 1)
        seen = F.pad(seen, (p_k.shape[1], 0), value=True)
        return _softmax(torch.cat([q, plain], -1), keys, torch.cat([p_v, v], 1), seen, scale=self.head_dim**-0.5)

    def _persistent_pairs(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of the persistent tokens for each row, [B, P, H, D], without a position."""
        assert self.persistent is not None
        _, k, v = self.qkv(self.persistent).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(1)
        return k.expand(rows, *k.shape), v.expand(rows, *v.shape)

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
        own = ("qkv", "out") if self.persistent is None else ("qkv", "out", "persistent")
        return [cache, Component(name="", kind="projections", owns=own)]


def _softmax(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float | None = None) -> Tensor:
    """Attend, [B, T, H, D]; `seen` is [B, T, S], None means all earlier ones."""
    mask = None if seen is None else seen.unsqueeze(1)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=seen is None, scale=scale).transpose(1, 2)


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
