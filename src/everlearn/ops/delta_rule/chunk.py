"""The delta rule in blocks: no loop over tokens. The derivation is in this folder's README."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.ops.blocks import decay, from_blocks, to_blocks
from everlearn.ops.precision import full_precision


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    state: Tensor | None = None,
    *,
    read_after_write: bool = True,
    decay_first: bool = False,
    block_size: int = 16,
) -> tuple[Tensor, Tensor]:
    """Write each token into a matrix memory and read it.  [NL eq. 64-65, 92]

        S_t = S_{t-1} (alpha_t I - eta_t k_t k_t^T) + eta_t v_t k_t^T
        y_t = S_t q_t, or S_{t-1} q_t

    With `decay_first` the rule of gated DeltaNet (Yang et al., 2024), which compares the value with the decayed memory:

        S_t = alpha_t S_{t-1} (I - eta_t k_t k_t^T) + eta_t v_t k_t^T

    Equal to `naive.py`, values and gradients, at a small fraction of its time. With unit keys and
    eta <= 1 + alpha the memory stays bounded whatever the keys are. A token with eta = 0 and log_alpha = 0 (padding)
    leaves the memory as it was.

    Args:
        q: queries, [B, T, H, D].
        k: keys, [B, T, H, D], unit norm in the last dimension.
        v: values, [B, T, H, Dv].
        eta: step sizes, [B, T, H], in [0, 1 + alpha]; 1 overwrites what the key held.
        log_alpha: logarithms of the retention gate, [B, T, H], <= 0 and finite; 0 keeps everything.
        state: S_0, [B, H, Dv, D]; None is zero.
        read_after_write: read S_t when True, S_{t-1} when False.
        decay_first: False scales only what is kept, so that the eigenvalue along the key is alpha - eta; True scales
            what the key held as well, eigenvalue alpha (1 - eta), and asks for eta in [0, 2].
        block_size: tokens per block; changes the time and nothing else. 16 was the fastest on a CPU at D = 32.
    Returns:
        y: [B, T, H, Dv], in the dtype of v.
        state: S_T, [B, H, Dv, D], in float32 or wider; the argument is left untouched.
    Raises:
        ValueError: shapes that do not fit each other, or a block_size below 1.
    Example:
        >>> k = torch.tensor([0.6, 0.8]).reshape(1, 1, 1, 2)
        >>> v = torch.tensor([2.0, -1.0]).reshape(1, 1, 1, 2)
        >>> y, state = delta_rule(k, k, v, torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
        >>> y.flatten()
        tensor([ 2., -1.])
    """
    _check_shapes(q, k, v, eta, log_alpha, state, block_size)
    dtype = torch.promote_types(torch.promote_types(k.dtype, v.dtype), torch.float32)
    rows, length, heads, dim, dim_v = *k.shape, v.shape[-1]
    # the sums over a block, the solve and the memory need float32 whatever the network runs in
    with full_precision(k):
        if state is None:
            state = torch.zeros(rows, heads, dim_v, dim, dtype=dtype, device=k.device)
        memory = state.to(dtype).reshape(rows * heads, dim_v, dim)
        if length == 0:
            return torch.zeros_like(v), memory.view(rows, heads, dim_v, dim)
        size = min(block_size, length)
        scan = _one_token if length == 1 else _scan
        q_in, k_in, v_in, eta_in, gate_in = (to_blocks(x.to(dtype), size) for x in (q, k, v, eta, log_alpha))
        y, memory = scan(q_in, k_in, v_in, eta_in, gate_in, memory, read_after_write, decay_first)
    return from_blocks(y, rows, heads)[:, :length].to(v.dtype), memory.view(rows, heads, dim_v, dim)


def _scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    memory: Tensor,
    read_after_write: bool,
    decay_first: bool,
) -> tuple[Tensor, Tensor]:
    """Read and write blocks [B*H*N, C, ...] in memories [B*H, Dv, D]; only the last loop runs along the sequence."""
    groups, count = len(memory), len(k) // len(memory)
    kept = decay(log_alpha)  # [B*H*N, C + 1, C + 1]
    since_start, within, to_end, whole = kept[:, :-1, :1], kept[:, :-1, 1:], kept[:, -1, 1:, None], kept[:, -1:, :1]
    # what a write is compared with: the memory before it, or that memory after the token's own decay
    held, held_since_start = (kept[:, 1:, 1:], kept[:, 1:, :1]) if decay_first else (within, since_start)
    solved = torch.linalg.solve_triangular(
        eta * (k @ k.mT) * held, torch.diag_embed(eta.squeeze(-1)), upper=False, unitriangular=True
    )
    from_values, from_memory, tail = solved @ v, solved @ (held_since_start * k), to_end * k
    starts, writes = [], []
    by_block = (x.unflatten(0, (groups, count)).unbind(1) for x in (from_values, from_memory, tail, whole))
    for value, read, key, retained in zip(*by_block, strict=True):
        starts.append(memory)
        write = torch.baddbmm(value, read, memory.mT, alpha=-1)
        writes.append(write)
        memory = torch.baddbmm(retained * memory, write.mT, key)
    start, write = torch.stack(starts, 1).flatten(0, 1), torch.stack(writes, 1).flatten(0, 1)
    y = torch.baddbmm((since_start * q) @ start.mT, (q @ k.mT) * within, write)
    if read_after_write:
        y = log_alpha.exp() * y + (q * k).sum(-1, keepdim=True) * write
    return y, memory


def _one_token(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    log_alpha: Tensor,
    memory: Tensor,
    read_after_write: bool,
    decay_first: bool,
) -> tuple[Tensor, Tensor]:
    """Read and write one token per memory, [B*H, 1, ...]: the recurrence itself, a third of the time of a block."""
    kept = log_alpha.exp() * memory
    write = eta * (v - k @ (kept if decay_first else memory).mT)
    written = torch.baddbmm(kept, write.mT, k)
    return q @ (written if read_after_write else memory).mT, written


def _check_shapes(
    q: Tensor, k: Tensor, v: Tensor, eta: Tensor, log_alpha: Tensor, state: Tensor | None, block_size: int
) -> None:
    """Raise one clear line for whatever does not fit the keys."""
    if block_size < 1:
        raise ValueError(f"block_size {block_size} is below 1; give a whole number of tokens, such as 16")
    if k.ndim != 4:
        raise ValueError(f"k has shape {tuple(k.shape)}; give [B, T, H, D], with one head as [B, T, 1, D]")
    heads = tuple(k.shape[:3])
    for name, got, wanted in (
        ("q", tuple(q.shape), tuple(k.shape)),
        ("v", tuple(v.shape), (*heads, v.shape[-1])),
        ("eta", tuple(eta.shape), heads),
        ("log_alpha", tuple(log_alpha.shape), heads),
    ):
        if got != wanted:
            raise ValueError(f"{name} has shape {got}, but keys {tuple(k.shape)} need {wanted}; reshape {name}")
    if state is not None and tuple(state.shape) != (heads[0], heads[2], v.shape[-1], k.shape[-1]):
        wanted = (heads[0], heads[2], v.shape[-1], k.shape[-1])
        raise ValueError(
            f"state has shape {tuple(state.shape)}, but these keys and values need {wanted}; "
            "pass the state of the same rows and the same layer, or None for a fresh stream"
        )
