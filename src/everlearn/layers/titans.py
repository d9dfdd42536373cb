"""The neural long-term memory of Titans, as a layer.  [Titans eq. 8-18]"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.layers.affine import affine_in
from everlearn.layers.convolution import convolve, window_component
from everlearn.layers.inputs import check_input
from everlearn.levels.component import TOKENS, Component, row_bytes
from everlearn.memory.state import LayerState, Tensors, where_rows
from everlearn.ops.precision import full_precision
from everlearn.ops.titans import TitansState, recall, titans
from everlearn.ops.unit import unit

# a unit value never surprises a matrix by more; it is a deep memory whose gradients would outgrow their step
MAX_NORM = 2.0


class TitansMemory(nn.Module):
    """Write every token into a neural memory per head by gradient descent, then read it.  [Titans eq. 8-18]

        k_t = x_t W_K,    v_t = x_t W_V                                            [Titans eq. 11]
        S_t = beta_t S_{t-1} - eta_t grad |M'(k_t) - v_t|^2 / 2,    M_t = alpha_t M_{t-1} + S_t
        y_t = norm(M_t(q_t)),    eta_t = (1 - beta_t) sigmoid(.) / chunk_size

    The long-term memory module (LMM): recall in constant memory that a gradient writes, with the surprise of earlier
    tokens as momentum. The gradients of a chunk are taken at the memory M' where it began, so it is fast, and so that
    keys which come again within a chunk cannot overshoot, the steps of one chunk add up to at most 1. It differs from
    `DeltaMemory`, which sees every earlier token of its block and can flip a sign, by the momentum and by memories
    deeper than a matrix. Queries, keys and values pass a short causal convolution and SiLU and get unit norm.

    A matrix starts empty. A deeper memory, M(x) = W_L silu(... silu(W_1 x)), starts from learned matrices, and its
    retention pulls toward them: matrices that all fade toward zero would have no gradient left.

    Args:
        dim: size of the input and of the output; a multiple of num_heads.
        num_heads: memories per row, each from D to D numbers with D = dim / num_heads.
        chunk_size: tokens that share one gradient anchor (>= 1); changes results. 16 keys were recalled alike with
            chunks of 4, 16 and 32.
        depth: matrices of one memory, 1 (a matrix) or more (an MLP).
        hidden_dim: length of an MLP's hidden layers; None is D.
        momentum: False leaves S_t = -eta_t grad.
        conv_width: tokens that the convolution sees, the current one included (>= 1).
        alpha_bias: start of the retention gate's logit; half of what was written is left after 100 tokens at 5.
    Raises:
        ValueError: sizes that do not fit each other, or one below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        chunk_size: int = 16,
        depth: int = 1,
        hidden_dim: int | None = None,
        momentum: bool = True,
        conv_width: int = 4,
        alpha_bias: float = 5.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide dim {dim}; choose a num_heads that does")
        sizes = {"chunk_size": chunk_size, "depth": depth, "conv_width": conv_width, "hidden_dim": hidden_dim}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} {size} is below 1; give a whole number of at least 1, or leave it out")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.chunk_size, self.depth, self.momentum, self.conv_width = chunk_size, depth, momentum, conv_width
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.conv = nn.Parameter(torch.empty(conv_width, 3 * dim).uniform_(-1, 1) / math.sqrt(conv_width))
        self.gates = nn.Linear(dim, (2 + momentum) * num_heads)  # logits of eta, of alpha, of beta
        # the steps, and so a young memory's answers, are of the size 1 / chunk_size
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-5 / chunk_size**2)
        self.out = nn.Linear(dim, dim, bias=False)
        widths = [self.head_dim, *[hidden_dim or self.head_dim] * (depth - 1), self.head_dim]
        shapes = [(num_heads, to, given) for given, to in pairwise(widths)] if depth > 1 else []
        self.init_weights = nn.ParameterList([torch.randn(shape) / math.sqrt(shape[-1]) for shape in shapes])
        with torch.no_grad():
            self.conv[-1] += 1  # each token starts mostly as itself
            self.gates.weight.mul_(0.1)
            self.gates.bias.copy_(torch.tensor([0.0, alpha_bias, 0.0][: 2 + momentum]).repeat_interleave(num_heads))

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: an empty matrix or the learned start, for each row."""
        weights = tuple(w.expand(batch_size, *w.shape) for w in self._start())
        momentum = tuple(torch.zeros_like(w) for w in weights) if self.momentum else ()
        filled = torch.zeros(batch_size, dtype=torch.long, device=self.conv.device)
        return LayerState(_to_tensors(TitansState(weights, weights, momentum, filled)))

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> LayerState:
        """Return the memory to its start when a document ends; any other event changes nothing.

        Args:
            state: what the streams have left.
            event: such as "document".
            rows: [B] bool, the rows that it concerns; None means all.
        """
        if event != "document" or not state.memory:
            return state
        start = self.initial_state(len(state.memory["filled"])).memory
        return LayerState(start if rows is None else restart(rows, start, state.memory), state.context)

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read a piece of each row's stream into its memory.

        Args:
            x: [B, T, dim].
            state: what earlier pieces left; None starts a fresh memory.
            mask: [B, T] bool, True for a real token, real tokens first; None means all are.
        Returns:
            y: [B, T, dim], read after the token's own write; arbitrary but finite at padded positions.
            state: memory {"M1", ...: the matrices, "anchor1", ...: those where the open chunk began, "S1", ...: the
                momentum, all [B, H, out, in] in float32 or wider, "filled": [B] tokens of the open chunk}, context
                {"conv": [B, conv_width - 1, 3 dim]}.
        Raises:
            ValueError: a shape, a mask or a state that does not fit.
        """
        y, _, state = self.write(x, state, mask)
        return y, state

    def write(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None, *, crosses: bool = True
    ) -> tuple[Tensor, Tensor, LayerState]:
        """Do what `forward` does, and tell how much each token surprised.

        Args:
            x: see `forward`.
            state: see `forward`.
            mask: see `forward`.
            crosses: False promises that no row's tokens go beyond its open chunk, which saves time.
        Returns:
            y: see `forward`.
            surprise: norm of the gradient of each head's memory, [B, T, H], float32 or wider, without a graph.
            state: see `forward`.
        """
        check_input(x, self.dim, mask, state)
        state = state or LayerState()
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        mixed, tail = convolve(self.qkv(x), self.conv, state.context.get("conv"), mask)
        q, k, v = (unit(part) for part in mixed.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2))
        y, surprise, after = titans(
            q,
            k,
            v,
            *self._gates(x),
            self._start(),
            self._from_tensors(state.memory) if state.memory else None,
            chunk_size=self.chunk_size,
            to_start=self.depth > 1,
            max_norm=MAX_NORM,
            mask=mask,
            crosses=crosses,
        )
        return self._answer(y, x), surprise, LayerState(_to_tensors(after), {"conv": tail})

    def retrieve(self, queries: Tensor, state: LayerState) -> Tensor:
        """Ask the memory as it was when the open chunk began; nothing is written.  [Titans eq. 15]

        Args:
            queries: [B, T, dim].
            state: from `initial_state` or `forward`.
        Returns:
            [B, T, dim].
        """
        heads = unit(F.silu(queries).unflatten(-1, (self.num_heads, self.head_dim)))
        return self._answer(recall(self._from_tensors(state.memory).anchor, heads), queries)

    def _start(self) -> list[Tensor]:
        """Return M_0, [H, out, in] each."""
        shape = (self.num_heads, self.head_dim, self.head_dim)
        dtype = torch.promote_types(self.conv.dtype, torch.float32)
        return [w.to(dtype) for w in self.init_weights] or [torch.zeros(shape, dtype=dtype, device=self.conv.device)]

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return eta, log alpha < 0 and log beta < 0, each [B, T, H]; float32 keeps their distance from 1."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):
            logits = affine_in(dtype, self.gates, x)
        eta, alpha, *slow = logits.split(self.num_heads, -1)
        eta = torch.sigmoid(eta) / self.chunk_size
        if not slow:
            return eta, F.logsigmoid(alpha), None
        return torch.sigmoid(-slow[0]) * eta, F.logsigmoid(alpha), F.logsigmoid(slow[0])

    def _answer(self, read: Tensor, like: Tensor) -> Tensor:
        """Turn what the heads answered, [B, T, H, D], into [B, T, dim]."""
        return self.out(self.norm(read.to(like.dtype)).flatten(2))

    def _from_tensors(self, memory: Tensors) -> TitansState:
        """Return the state as the op takes it."""
        names = [f"{part}{n}" for part in ("M", "anchor") for n in range(1, self.depth + 1)]
        if missing := [name for name in [*names, "filled"] if name not in memory]:
            raise ValueError(
                f"the state holds {sorted(memory)}, but this memory needs {missing[0]!r} as well; pass the state of "
                "this layer, or None to start"
            )
        weights, anchor, momentum = (
            tuple(memory[f"{part}{n}"] for n in range(1, self.depth + 1) if f"{part}{n}" in memory)
            for part in ("M", "anchor", "S")
        )
        return TitansState(weights, anchor, momentum, memory["filled"])

    def components(self) -> list[Component]:
        """Return the heads' memories, the tail of the convolution, and the parameters that make keys and values."""
        slow = " and momentum" if self.momentum else ""
        memory = Component(
            name="",
            kind="matrix memory" if self.depth == 1 else f"MLP memory of {self.depth} layers",
            update_period=1,
            unit=TOKENS,
            state_bytes=row_bytes(self.initial_state(0).memory.values()),
            objective="L2 |M(k) - v|^2",
            rule=f"gd{slow} in chunks of {self.chunk_size}, retention alpha",
            context_flow="tokens of the row",
            start_from=("init_weights",) if self.depth > 1 else (),
            conditioned_on=("qkv", "conv", "gates"),
        )
        tail = window_component(self.conv)
        own = ("qkv", "conv", "gates", "norm", "out", *(["init_weights"] if self.depth > 1 else []))
        return [memory, tail, Component(name="", kind="projections", owns=own)]


def restart(rows: Tensor, start: Tensors, old: Tensors) -> Tensors:
    """Return the start in the rows that are True, [B], and `old` in the others."""
    return {name: where_rows(rows, start[name], old[name]) for name in start}


def _to_tensors(state: TitansState) -> Tensors:
    """Name the tensors of a state."""
    named = {"M": state.weights, "anchor": state.anchor, "S": state.momentum}
    tensors = {f"{part}{n}": w for part, weights in named.items() for n, w in enumerate(weights, 1)}
    return {**tensors, "filled": state.filled}
