"""The delta rule, literally: one token after another, with the matrices written out.  [NL eq. 64-65, 92]"""

from __future__ import annotations

import torch
from torch import Tensor


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
) -> tuple[Tensor, Tensor]:
    """Write each token into a matrix memory and read it.  [NL eq. 64-65, 92]

        S_t = S_{t-1} (alpha_t I - eta_t k_t k_t^T) + eta_t v_t k_t^T
        y_t = S_t q_t, or S_{t-1} q_t

    With `decay_first` the rule of gated DeltaNet, S_t = alpha_t S_{t-1} (I - eta_t k_t k_t^T) + eta_t v_t k_t^T.

    The oracle for `chunk.py`: slow on purpose, and in whatever dtype it is given. The write is `+ eta v k^T`, the
    gradient step that eq. 92 derives; the minus that is printed there would store the negative of each value.

    Args:
        q: queries, [B, T, H, D].
        k: keys, [B, T, H, D].
        v: values, [B, T, H, Dv].
        eta: step sizes, [B, T, H].
        log_alpha: logarithms of the retention gate, [B, T, H], <= 0 and finite.
        state: S_0, [B, H, Dv, D]; None is zero.
        read_after_write: read S_t when True, S_{t-1} when False.
        decay_first: whether alpha also scales what the key held.
    Returns:
        y: [B, T, H, Dv].
        state: S_T, [B, H, Dv, D]; the argument is left untouched.
    """
    rows, _, heads, dim = k.shape
    memory = v.new_zeros(rows, heads, v.shape[-1], dim) if state is None else state
    eye = torch.eye(dim, dtype=k.dtype, device=k.device)
    y = []
    for t in range(k.shape[1]):
        alpha, step = log_alpha[:, t, :, None, None].exp(), eta[:, t, :, None, None]
        key, value, query = k[:, t, :, :, None], v[:, t, :, :, None], q[:, t, :, :, None]
        erased = (alpha if decay_first else 1) * step * (key @ key.mT)
        written = memory @ (alpha * eye - erased) + step * (value @ key.mT)
        y.append(((written if read_after_write else memory) @ query).squeeze(-1))
        memory = written
    return (torch.stack(y, 1) if y else torch.zeros_like(v)), memory
