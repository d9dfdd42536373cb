"""Titans: attention over what is near, and a neural memory of what is far, put together in three ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everlearn.layers.attention import Attention
from everlearn.layers.inputs import check_input
from everlearn.layers.titans import TitansMemory, restart
from everlearn.levels.component import Component
from everlearn.memory.state import LayerState, Tensors

ATTENTION, MEMORY = "attention", "memory"


class Gate(nn.Module):
    """Let a memory gate what attention gave: norm(y) * silu(norm(m)).  [Titans eq. 25, 28]

    Args:
        dim: size of both.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention_norm, self.memory_norm = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)

    def forward(self, attended: Tensor, remembered: Tensor) -> Tensor:
        """Return the gated attention, [B, T, dim]."""
        return self.attention_norm(attended) * F.silu(self.memory_norm(remembered))

    def components(self) -> list[Component]:
        """Return its two norms."""
        return [Component(name="", kind="norm", owns=("attention_norm", "memory_norm"))]


class MemoryAsContext(nn.Module):
    """Attend within a segment, with what the memory recalls beside each token (MAC).  [Titans eq. 21-25]

        h_t = M*_{t-1}(x_t W_Q)                     the memory before the segment is asked, not written
        y_t = Attn([p_1 .. p_P] || h_t || x_t)      causal, within the segment
        M_t = M_{t-1}(y_t),    o_t = gate(y_t, M_t(y_t))

    What attention makes of the segment is what the memory learns. A segment is a chunk of the memory, so its gradients
    are taken where h_t was read. A token sees the recall of the tokens up to itself, not of the later ones, and reads
    what the segment has written up to itself: the past never depends on the future. The choice where the far context
    must be weighed against the near one; `MemoryAsGate` is cheaper, as its two branches do not wait for each other.
    Where a segment ends is read off the state, so this layer does not run under torch.func.vmap.

    Args:
        dim: size of the input and of the output; a multiple of 2 * num_heads.
        num_heads: heads of the attention and of the memory.
        segment_size: tokens that attention sees at once, and of one chunk of the memory (>= 1).
        num_persistent: learned tokens before every segment (>= 0).
    Raises:
        ValueError: sizes that do not fit each other, or one out of range.
    """

    def __init__(self, dim: int, num_heads: int, *, segment_size: int = 64, num_persistent: int = 4) -> None:
        super().__init__()
        if segment_size < 1:
            raise ValueError(f"segment_size {segment_size} is below 1; give a whole number of tokens, such as 64")
        self.dim, self.segment_size = dim, segment_size
        self.queries = nn.Linear(dim, dim, bias=False)
        # a segment holds two tokens for each of its own, so the window bounds nothing but what is kept of closed ones
        self.attention = Attention(dim, num_heads, window=2 * segment_size, num_persistent=num_persistent)
        self.memory = TitansMemory(dim, num_heads, chunk_size=segment_size)
        self.gate = Gate(dim)

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: an empty memory."""
        return _join({MEMORY: self.memory.initial_state(batch_size)})

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> LayerState:
        """Empty the memory when a document ends, in `rows`, [B] bool or all; any other event changes nothing."""
        memory = self.memory.tick(_part(state, MEMORY), event, rows)
        return _join({MEMORY: memory, ATTENTION: _part(state, ATTENTION)})

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read a piece of each row's stream, segment by segment.

        Args:
            x: [B, T, dim].
            state: what earlier pieces left; None starts a stream.
            mask: [B, T] bool, True for a real token, real tokens first; None means all are.
        Returns:
            y: [B, T, dim]; arbitrary but finite at padded positions.
            state: "memory." and the names of `TitansMemory`; in the context also "attention." and those of `Attention`.
        Raises:
            ValueError: a shape or a mask that does not fit.
        """
        check_input(x, self.dim, mask, state)
        state = state if state is not None and state.memory else _with_context(self.initial_state(len(x)), state)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        left = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(1)
        pieces, begin = [x[:, :0]], 0
        while begin < x.shape[1]:
            end = min(begin + self._until_closed(state, left > begin), x.shape[1])
            piece = None if mask is None else mask[:, begin:end]
            y, state = self._piece(x[:, begin:end], state, piece)
            pieces.append(y)
            begin = end
        return torch.cat(pieces, 1), state

    def _until_closed(self, state: LayerState, active: Tensor) -> int:
        """Return after how many tokens the first open segment of an active row is full."""
        filled = state.memory[f"{MEMORY}.filled"].masked_fill(~active, 0)
        return self.segment_size - int(filled.max())

    def _piece(self, x: Tensor, state: LayerState, mask: Tensor | None) -> tuple[Tensor, LayerState]:
        """Read tokens that end no later than the segments of their rows."""
        memory, attention = _part(state, MEMORY), _part(state, ATTENTION)
        recalled = self.memory.retrieve(self.queries(x), memory)
        # each token comes after its own recall, so that a causal mask lets it see both
        pairs = torch.stack([recalled, x], 2).flatten(1, 2)
        both = None if mask is None else mask.repeat_interleave(2, 1)
        attended, attention = self.attention(pairs, attention, both)
        attended = attended[:, 1::2]
        remembered, _, memory = self.memory.write(attended, memory, mask, crosses=False)
        if attention.context:
            attention = _close(attention, memory.memory["filled"] == 0)
        return self.gate(attended, remembered), _join({MEMORY: memory, ATTENTION: attention})

    def components(self) -> list[Component]:
        """Return the projection of the queries; its layers answer for themselves."""
        return [Component(name="queries", kind="projections", owns=("queries",))]


class MemoryAsGate(nn.Module):
    """Attend through a sliding window, and gate that with a memory of everything before (MAG).  [Titans eq. 26-28]

        x~ = [p_1 .. p_P] || x,    y = SW-Attn*(x~),    o = gate(y, M(x~))

    Both branches read the same tokens, at once. The persistent tokens stand before every window of the attention; the
    memory reads them once, where a stream begins.

    Args:
        dim: size of the input and of the output; a multiple of 2 * num_heads.
        num_heads: heads of the attention and of the memory.
        window: tokens that attention sees (>= 1); None means all.
        num_persistent: learned tokens before the stream (>= 1).
        chunk_size: of the memory; see `TitansMemory`.
    Raises:
        ValueError: sizes that do not fit each other, or one out of range.
    """

    def __init__(
        self, dim: int, num_heads: int, *, window: int | None = 64, num_persistent: int = 4, chunk_size: int = 16
    ) -> None:
        super().__init__()
        _check_persistent(num_persistent, window)
        self.dim = dim
        self.attention = Attention(dim, num_heads, window=window, num_persistent=num_persistent)
        self.memory = TitansMemory(dim, num_heads, chunk_size=chunk_size)
        self.gate = Gate(dim)

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: a memory that has read the persistent tokens."""
        assert self.attention.persistent is not None
        _, memory = self.memory(self.attention.persistent.unsqueeze(0))
        return _for_rows(_join({MEMORY: memory}), batch_size)

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> LayerState:
        """Return the memory to its start when a document ends, in `rows`, [B] bool or all; nothing else changes it."""
        return _restarted(self, state, event, rows)

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read a piece of each row's stream; see `MemoryAsContext.forward`."""
        check_input(x, self.dim, mask, state)
        state = _begun(self, state, len(x))
        attended, attention = self.attention(x, _part(state, ATTENTION), mask)
        remembered, memory = self.memory(x, _part(state, MEMORY), mask)
        return self.gate(attended, remembered), _join({MEMORY: memory, ATTENTION: attention})

    def components(self) -> list[Component]:
        """Return nothing of its own; its layers answer for themselves."""
        return []


class MemoryAsLayer(nn.Module):
    """Read with a memory, then attend through a sliding window to what it gave (MAL).  [Titans eq. 29-31]

        x~ = [p_1 .. p_P] || x,    y = M(x~),    o = SW-Attn(y)

    The memory comes first and has to hand on all that attention needs. The persistent tokens are the first tokens of a
    stream, for both: the window leaves them behind.

    Args:
        dim: size of the input and of the output; a multiple of 2 * num_heads.
        num_heads: heads of the attention and of the memory.
        window: tokens that attention sees (>= num_persistent); None means all.
        num_persistent: learned tokens before the stream (>= 1).
        chunk_size: of the memory; see `TitansMemory`.
    Raises:
        ValueError: sizes that do not fit each other, or one out of range.
    """

    def __init__(
        self, dim: int, num_heads: int, *, window: int | None = 64, num_persistent: int = 4, chunk_size: int = 16
    ) -> None:
        super().__init__()
        _check_persistent(num_persistent, window)
        self.dim = dim
        self.persistent = nn.Parameter(torch.randn(num_persistent, dim))
        self.memory = TitansMemory(dim, num_heads, chunk_size=chunk_size)
        self.attention = Attention(dim, num_heads, window=window)

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: memory and window after the persistent tokens."""
        _, state = self._read(self.persistent.unsqueeze(0), LayerState(), None)
        return _for_rows(state, batch_size)

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> LayerState:
        """Return the memory to its start when a document ends, in `rows`, [B] bool or all; nothing else changes it."""
        return _restarted(self, state, event, rows)

    def forward(
        self, x: Tensor, state: LayerState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """Read a piece of each row's stream; see `MemoryAsContext.forward`."""
        check_input(x, self.dim, mask, state)
        return self._read(x, _begun(self, state, len(x)), mask)

    def _read(self, x: Tensor, state: LayerState, mask: Tensor | None) -> tuple[Tensor, LayerState]:
        """Run the memory and then attention."""
        remembered, memory = self.memory(x, _part(state, MEMORY), mask)
        y, attention = self.attention(remembered, _part(state, ATTENTION), mask)
        return y, _join({MEMORY: memory, ATTENTION: attention})

    def components(self) -> list[Component]:
        """Return the persistent tokens; its layers answer for themselves."""
        return [Component(name="persistent", kind="persistent tokens", owns=("persistent",))]


def _part(state: LayerState, name: str) -> LayerState:
    """Return what one of the layers within carries."""
    prefix = f"{name}."
    memory, context = (
        {leaf.removeprefix(prefix): t for leaf, t in tensors.items() if leaf.startswith(prefix)}
        for tensors in (state.memory, state.context)
    )
    return LayerState(memory, context)


def _join(parts: dict[str, LayerState]) -> LayerState:
    """Put what the layers within carry under one roof, each under its name."""
    memory, context = (
        {f"{name}.{leaf}": t for name, tensors in whole.items() for leaf, t in tensors.items()}
        for whole in ({n: p.memory for n, p in parts.items()}, {n: p.context for n, p in parts.items()})
    )
    return LayerState(memory, context)


def _with_context(start: LayerState, state: LayerState | None) -> LayerState:
    """Return the start with the context that a state has, if any."""
    return LayerState(start.memory, state.context if state is not None and state.context else start.context)


def _for_rows(state: LayerState, rows: int) -> LayerState:
    """Give what one row has read to every row of a batch."""
    memory, context = (
        {name: t.expand(rows, *t.shape[1:]) for name, t in tensors.items()} for tensors in (state.memory, state.context)
    )
    return LayerState(memory, context)


def _begun(layer: MemoryAsGate | MemoryAsLayer, state: LayerState | None, rows: int) -> LayerState:
    """Begin what has not begun: the memory of a stream, the context of a segment."""
    if state is not None and state.memory and state.context:
        return state
    start = layer.initial_state(rows)
    state = state or LayerState()
    return LayerState(state.memory or start.memory, state.context or start.context)


def _restarted(layer: MemoryAsGate | MemoryAsLayer, state: LayerState, event: str, rows: Tensor | None) -> LayerState:
    """Return the memory to its start in the rows where a document ended."""
    if event != "document" or not state.memory:
        return state
    start: Tensors = layer.initial_state(len(next(iter(state.memory.values())))).memory
    return LayerState(start if rows is None else restart(rows, start, state.memory), state.context)


def _close(attention: LayerState, closed: Tensor) -> LayerState:
    """Forget the keys and values of rows whose segment is full, [B] bool."""
    if bool(closed.all()):
        return LayerState()
    positions = attention.context["positions"].masked_fill(closed.unsqueeze(1), 0)
    return LayerState(context={**attention.context, "positions": positions})


def _check_persistent(num_persistent: int, window: int | None) -> None:
    """Refuse too few tokens, or more than a window holds."""
    if num_persistent < 1 or (window is not None and num_persistent > window):
        raise ValueError(
            f"num_persistent {num_persistent} does not fit a window of {window}; choose from 1 to the window"
        )
