"""A matrix memory written by the delta rule, as a layer.  [NL eq. 64-65, 92]"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.layers.affine import affine_in
from everlearn.layers.convolution import convolve, window_component
from everlearn.layers.inputs import check_input
from everlearn.levels.component import TOKENS, Component, row_bytes
from everlearn.memory.state import LayerState, where_rows
from everlearn.ops.delta_rule import delta_rule
from everlearn.ops.precision import full_precision
from everlearn.ops.unit import unit


class DeltaMemory(nn.Module):
    """Write every token into a matrix memory per head, then read it.  [NL eq. 64-65, 92]

        S_t = S_{t-1} (alpha_t I - eta_t k_t k_t^T) + eta_t v_t k_t^T,    y_t = norm(S_t q_t)
        eta_t = (1 + alpha_t) sigmoid(.),    alpha_t = sigmoid(. + alpha_bias)

    Associative recall in constant memory: use it where attention's cache would grow without end. The eigenvalue along
    the key is alpha - eta, in (-1, alpha): never unstable, and negative where the layer has to flip a sign, which is
    what parity needs. It differs from gated DeltaNet, alpha (I - eta k k^T), which cannot flip with eta <= 1. Queries,
    keys and values pass a short causal convolution and SiLU; queries and keys then get unit norm; the read gets an
    RMSNorm per head.

    With `gated` it is gated DeltaNet (Yang et al., 2024), the published baseline: alpha also scales what the key held,
    eta = sigmoid(.), and SiLU of a projection of x gates the read.

    Args:
        dim: size of the input and of the output; a multiple of num_heads.
        num_heads: memories per row, each [D, D] with D = dim / num_heads.
        conv_width: tokens that the convolution sees, the current one included (>= 1). It lets a key stand for the
            token before its value: recall of 16 keys measured 0.16-0.19 without it and above 0.99 with it. It starts at
            the current token plus noise; from noise alone, parity at four times the training length was .87 to .99.
        block_size: tokens per block of the op; changes the time and nothing else.
        alpha_bias: start of the retention gate's logit. What must be remembered has to survive the training length
            before the gate can learn to close: half of it is left after 38 tokens at 4, 100 at 5, 760 at 7.
        gated: False for the rule above, True for gated DeltaNet, which cannot flip a sign.
    Raises:
        ValueError: dim that does not divide, or a conv_width below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        conv_width: int = 4,
        block_size: int = 16,
        alpha_bias: float = 5.0,
        gated: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide dim {dim}; choose a num_heads that does")
        if conv_width < 1:
            raise ValueError(f"conv_width {conv_width} is below 1; 1 means no convolution, 4 is the default")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.conv_width, self.block_size, self.gated = conv_width, block_size, gated
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.conv = nn.Parameter(torch.empty(conv_width, 3 * dim).uniform_(-1, 1) / math.sqrt(conv_width))
        self.gates = nn.Linear(dim, 2 * num_heads)  # logits of eta, then of alpha
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.out = nn.Linear(dim, dim, bias=False)
        self.read_gate = nn.Linear(dim, dim, bias=False) if gated else None
        with torch.no_grad():
            self.conv[-1] += 1  # each token starts mostly as itself
            self.gates.weight.mul_(0.1)
            self.gates.bias.copy_(torch.tensor([0.0, alpha_bias]).repeat_interleave(num_heads))

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: an empty memory for each row."""
        dtype = torch.promote_types(self.qkv.weight.dtype, torch.float32)
        shape = (batch_size, self.num_heads, self.head_dim, self.head_dim)
        return LayerState({"S": torch.zeros(shape, dtype=dtype, device=self.qkv.weight.device)})

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> LayerState:
        """Empty the memory when a document ends; any other event changes nothing.

        Args:
            state: what the streams have left.
            event: such as "document".
            rows: [B] bool, the rows that it concerns; None means all.
        """
        if event != "document" or "S" not in state.memory:
            return state
        old = state.memory["S"]
        empty = torch.zeros_like(old)
        return LayerState({"S": empty if rows is None else where_rows(rows, empty, old)}, state.context)

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read a piece of each row's stream into its memory.

        Args:
            x: [B, T, dim].
            state: what earlier pieces left; None starts from an empty memory.
            mask: [B, T] bool, True for a real token, real tokens first; None means all are.
        Returns:
            y: [B, T, dim], read after the token's own write; arbitrary but finite at padded positions.
            state: memory {"S": [B, H, D, D], float32 or wider}, context {"conv": [B, conv_width - 1, 3 dim]}.
        Raises:
            ValueError: a shape or a mask that does not fit.
        """
        check_input(x, self.dim, mask, state)
        state = state or LayerState()
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        mixed, tail = convolve(self.qkv(x), self.conv, state.context.get("conv"), mask)
        q, k, v = mixed.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        eta, log_alpha = self._gates(x)
        if mask is not None:
            eta, log_alpha = eta.masked_fill(~mask.unsqueeze(-1), 0), log_alpha.masked_fill(~mask.unsqueeze(-1), 0)
        y, memory = delta_rule(
            unit(q),
            unit(k),
            v,
            eta,
            log_alpha,
            state.memory.get("S"),
            decay_first=self.gated,
            block_size=self.block_size,
        )
        read = self.norm(y).flatten(2)
        if self.read_gate is not None:
            read = read * F.silu(self.read_gate(x))
        return self.out(read), LayerState({"S": memory}, {"conv": tail})

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return eta and log alpha < 0, each [B, T, H]; float32 keeps alpha's distance from 1.

        eta lies in (0, 1 + alpha), or in (0, 1) when gated.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):
            logits = affine_in(dtype, self.gates, x)
        eta, alpha = logits.chunk(2, -1)
        log_alpha = F.logsigmoid(alpha)
        limit = 1 if self.gated else 1 + log_alpha.exp()
        return limit * torch.sigmoid(eta), log_alpha

    def components(self) -> list[Component]:
        """Return the matrices per head, the tail of the convolution, and the parameters that make keys and values."""
        matrix = Component(
            name="",
            kind="matrix memory",
            update_period=1,
            unit=TOKENS,
            state_bytes=row_bytes(self.initial_state(0).memory.values()),
            objective="L2 |S k - v|^2",
            rule="gd, retention alpha",
            context_flow="tokens of the row",
            conditioned_on=("qkv", "conv", "gates"),
        )
        tail = window_component(self.conv)
        own = ("qkv", "conv", "gates", "norm", "out")
        return [matrix, tail, Component(name="", kind="projections", owns=own)]
