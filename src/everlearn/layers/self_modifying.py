"""Self-modifying Titans as a layer: memories that generate what they are written with.  [NL eq. 83-88, 90-93]"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from everlearn.layers.convolution import convolve, window_component
from everlearn.layers.inputs import check_input
from everlearn.levels.component import TOKENS, Component, row_bytes
from everlearn.memory.state import LayerState, Tensors, where_rows
from everlearn.ops.self_modifying import (
    L2,
    MEMORIES,
    Readouts,
    SelfModifyingRule,
    SelfModifyingState,
    fresh_state,
    self_modifying,
)
from everlearn.ops.unit import unit

PARTS = ("weights", "boundary", "momentum")


class SelfModifyingTitans(nn.Module):
    """Generate keys, values, step sizes and retention by memories that all learn in context.  [NL eq. 83-88, 90-93]

        k_t = unit(M_k(x_t)),  v_t = unit(M_v(x_t)),  eta_t and alpha_t from M_eta(x_t) and M_alpha(x_t)
        y_t = norm(M_main(q_t)),  then every memory M steps toward its own value v^_t = unit(M(v_t)) at the key k_t

    What it adds to a delta memory: how it reads a token, and how fast it learns and forgets, change with what the
    stream has taught. Each memory is M(x) = x + S x, or x + W1 silu(W2 x), per row and head, and starts from learned
    weights. The input of the memories, and the query, pass a projection, a short causal convolution and SiLU first;
    the read gets an RMSNorm per head. Keys, values and gates lag: the end of the last chunk generates them.

    Args:
        dim: size of the input and of the output; a multiple of num_heads.
        num_heads: heads per row, each with memories for vectors of size D = dim / num_heads.
        rule: chunk sizes, objective and the other choices of the write; None is the default of the architecture:
            `SelfModifyingRule()` for matrices, with implicit steps for MLPs.
        hidden_dim: hidden size of MLP memories; None makes them matrices.
        generate_q: whether a sixth memory generates the query instead of the projection alone.
        anchored: whether the memories decay to their learned start instead of zero.
        conv_width: tokens that the convolution sees, the current one included (>= 1).
        alpha_bias: start of the retention gate's logit; at 9.2 half of a memory is left after 6,900 tokens.
    Raises:
        ValueError: dim that does not divide, or a size below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        rule: SelfModifyingRule | None = None,
        hidden_dim: int | None = None,
        generate_q: bool = False,
        anchored: bool = False,
        conv_width: int = 4,
        alpha_bias: float = 9.2,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide dim {dim}; choose a num_heads that does")
        if conv_width < 1:
            raise ValueError(f"conv_width {conv_width} is below 1; 1 means no convolution, 4 is the default")
        if hidden_dim is not None and hidden_dim < 1:
            raise ValueError(f"hidden_dim {hidden_dim} is below 1; give the size of an MLP, or None for a matrix")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.rule = rule or SelfModifyingRule(implicit=hidden_dim is not None)
        self.hidden_dim, self.anchored, self.conv_width = hidden_dim, anchored, conv_width
        self.parts = ("S",) if hidden_dim is None else ("W1", "W2")
        self.memories = MEMORIES if generate_q else MEMORIES[:-1]
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.conv = nn.Parameter(torch.empty(conv_width, 3 * dim).uniform_(-1, 1) / math.sqrt(conv_width))
        self.gates = nn.Parameter(0.1 * torch.empty(2, num_heads, self.head_dim).uniform_(-1, 1) / self.head_dim**0.5)
        self.gate_bias = nn.Parameter(torch.tensor([0.0, alpha_bias])[:, None].repeat(1, num_heads))
        self.init = nn.ModuleDict({name: self._start() for name in self.memories})
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-5)
        self.out = nn.Linear(dim, dim, bias=False)
        with torch.no_grad():
            self.conv[-1] += 1  # each token starts mostly as itself

    def _start(self) -> nn.ParameterDict:
        """Return the learned start of one memory: small, so that M begins near the identity."""
        if self.hidden_dim is None:
            return nn.ParameterDict({"S": 0.02 * torch.randn(self.num_heads, self.head_dim, self.head_dim)})
        inner = torch.randn(self.num_heads, self.hidden_dim, self.head_dim) / math.sqrt(self.head_dim)
        return nn.ParameterDict({"W1": 0.02 * torch.randn(self.num_heads, self.head_dim, self.hidden_dim), "W2": inner})

    def learned_start(self) -> Tensors:
        """Return what a fresh stream's memories start from: part -> [H, M, out, in], in float32 or wider."""
        parts = ("S",) if self.hidden_dim is None else ("W1", "W2")
        starts = {
            part: torch.stack([cast(nn.ParameterDict, self.init[m])[part] for m in self.memories], 1) for part in parts
        }
        return {part: w.to(torch.promote_types(w.dtype, torch.float32)) for part, w in starts.items()}

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: the learned memories for each row, and a clock at zero."""
        return LayerState(self._pack(fresh_state(tuple(self.learned_start().values()), batch_size, self.rule)))

    def _pack(self, state: SelfModifyingState) -> Tensors:
        """Name the tensors of a state: "weights.S" and so on."""
        parts = zip(PARTS, (state.weights, state.boundary, state.momentum), strict=True)
        named = {f"{part}.{name}": w for part, own in parts for name, w in zip(self.parts, own, strict=False)}
        return {**named, "filled": state.filled}

    def _unpack(self, memory: Tensors) -> SelfModifyingState:
        """Return the op's state from named tensors.

        Raises:
            ValueError: a tensor that is missing, or of another shape.
        """
        found: dict[str, tuple[Tensor, ...]] = {"momentum": ()}
        one = cast(nn.ParameterDict, self.init["main"])
        for group in PARTS if self.rule.beta else PARTS[:2]:
            for part in self.parts:
                wanted = (self.num_heads, len(self.memories), *one[part].shape[1:])
                own = memory.get(f"{group}.{part}")
                if own is None or own.shape[1:] != wanted:
                    got = "nothing" if own is None else f"{tuple(own.shape[1:])} per row"
                    raise ValueError(
                        f"the state is another layer's: {group}.{part} is {got}, here it is {wanted}; pass the state "
                        "of this layer, or None to start"
                    )
            found[group] = tuple(memory[f"{group}.{part}"] for part in self.parts)
        return SelfModifyingState(found["weights"], found["boundary"], found["momentum"], memory["filled"])

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> LayerState:
        """Let the memories restart from their learned start when a document ends; any other event changes nothing.

        Args:
            state: what the streams have left.
            event: such as "document".
            rows: [B] bool, the rows that it concerns; None means all.
        """
        if event != "document" or not state.memory:
            return state
        fresh = self.initial_state(len(state.memory["filled"])).memory
        if rows is not None:
            fresh = {name: where_rows(rows, new, state.memory[name]) for name, new in fresh.items()}
        return replace(state, memory=fresh)

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read a piece of each row's stream into its memories.

        Args:
            x: [B, T, dim].
            state: what earlier pieces left; None starts from the learned memories.
            mask: [B, T] bool, True for a real token, real tokens first; None means all are.
        Returns:
            y: [B, T, dim], read before the token's own write; arbitrary but finite at padded positions.
            state: memory {"weights.S", "boundary.S": [B, H, M, D, D], "filled": [B] int64}, of MLPs "weights.W1" and so
                on, all float32 or wider; context {"conv": [B, conv_width - 1, 3 dim]}.
        Raises:
            ValueError: a shape or a mask that does not fit.
        """
        check_input(x, self.dim, mask, state)
        state = state or LayerState()
        init = () if state.memory and not self.anchored else tuple(self.learned_start().values())
        held = self._unpack(state.memory) if state.memory else fresh_state(init, len(x), self.rule)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        mixed, tail = convolve(self.qkv(x), self.conv, state.context.get("conv"), mask)
        q, k_in, v_in = mixed.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        y, held = self_modifying(
            q if len(self.memories) == len(MEMORIES) else unit(q).to(q.dtype),
            k_in,
            v_in,
            Readouts(self.gates[0], self.gate_bias[0], self.gates[1], self.gate_bias[1]),
            held,
            rule=self.rule,
            anchor=init if self.anchored else None,
            mask=mask,
        )
        return self.out(self.norm(y).flatten(2)), LayerState(self._pack(held), {"conv": tail})

    def components(self) -> list[Component]:
        """Return each memory at the pace of what is read of it, the tail of the convolution, and the parameters."""
        state, rule = self.initial_state(0).memory, self.rule
        clock = row_bytes([state.pop("filled")])
        each = row_bytes(state.values()) // len(self.memories)
        found, starts = [], []
        for name in self.memories:
            period = rule.others if name != "main" else rule.chunk_size if rule.read_boundary else 1
            memory = Component(
                name=name,
                kind="matrix memory" if self.hidden_dim is None else "MLP memory",
                update_period=period,
                unit=TOKENS,
                # the clock is one for all; it is counted with what is read
                state_bytes=each + (clock if name == "main" else 0),
                objective="L2 |M(k) - M(v)|^2" if rule.objective is L2 else "dot <M(k), M(v)>",
                rule=f"dgd, retention alpha{' to its start' if self.anchored else ''}"
                + (f", momentum {rule.beta:g}" if rule.beta else ""),
                context_flow="tokens of the row",
                start_from=(f"init.{name}",),
                conditioned_on=("qkv", "conv", "gates", "gate_bias"),
            )
            found.append(memory)
            starts.append(Component(name=name, kind="learned start", owns=(f"init.{name}",)))
        tail = window_component(self.conv)
        own = ("qkv", "conv", "gates", "gate_bias", "norm", "out")
        return [*found, tail, *starts, Component(name="", kind="projections", owns=own)]
