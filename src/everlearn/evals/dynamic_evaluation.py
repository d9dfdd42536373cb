"""The baseline without levels: every weight of the model steps after every chunk."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from everlearn.learn.chunk import token_nll
from everlearn.memory.state import ModelState
from everlearn.models.decoder import Decoder
from everlearn.rules import clip_rows, gd

Weights = dict[str, Tensor]


def dynamic_evaluation(
    model: Decoder, ids: Tensor, *, eta: float, weights: Weights | None = None
) -> tuple[Tensor, Weights]:
    """Read each row while all weights of its own copy of the model learn by clipped gradient descent.

    The same loop as `learn.learn_chunk`: a chunk is scored, then one gradient of its mean loss is taken, clipped per
    row and tensor, and one step is made; what the mixers carry is stale.

    Args:
        model: left untouched.
        ids: [B, T].
        eta: step size.
        weights: name -> [B, ...], what earlier texts have taught; None starts from the model.
    Returns:
        nll: of each token in nats, [B, T]; NaN for the first, which nothing predicts.
        weights: after the last full chunk.
    """
    size = model.config.chunk_size
    if weights is None:
        weights = {name: p.detach().expand(len(ids), *p.shape).clone() for name, p in model.named_parameters()}
    state: ModelState | None = None
    parts = [torch.full((len(ids), 1), torch.nan, dtype=torch.float64)]
    for start in range(0, ids.shape[1] - 1, size):
        window = ids[:, start : start + size + 1]
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        nll, state = _score(model, leaves, window, state)
        parts.append(nll.detach().double())
        if window.shape[1] == size + 1:
            grads = torch.autograd.grad(nll.mean(1).sum(), list(leaves.values()), materialize_grads=True)
            clipped = (clip_rows(grad)[0] for grad in grads)
            weights = {n: gd(w, g, None, {}, eta=eta)[0] for (n, w), g in zip(weights.items(), clipped, strict=True)}
        state = state.detach()
    return torch.cat(parts, 1), weights


def score_with(model: Decoder, weights: Weights, ids: Tensor) -> Tensor:
    """Score rows, each by its own copy of the weights, without learning; nats, [B, T - 1]."""
    with torch.no_grad():
        return _score(model, weights, ids, None)[0]


def _score(model: Decoder, weights: Weights, window: Tensor, state: ModelState | None) -> tuple[Tensor, ModelState]:
    """Run every row through its own weights; return the loss of its targets and its state."""

    def one(own: Weights, row: Tensor, carried: ModelState | None) -> tuple[Tensor, ModelState]:
        logits, carried = functional_call(model, own, (row[None, :-1], carried))
        return token_nll(logits, row[None, 1:])[0], carried

    if model.config.window is not None or model.config.mixer == "self_modifying":
        return _one_by_one(one, weights, window, state)
    # the fused kernels of attention have no batching rule
    with sdpa_kernel(SDPBackend.MATH):
        return vmap(one, in_dims=(0, 0, None if state is None else 0))(weights, window, state)


def _one_by_one(
    one: Callable[..., tuple[Tensor, ModelState]], weights: Weights, window: Tensor, state: ModelState | None
) -> tuple[Tensor, ModelState]:
    """Do what vmap does, a row at a time: where a window or a chunk ends goes by the state, which vmap refuses."""
    rows = []
    for row in range(len(window)):
        own = {name: weight[row] for name, weight in weights.items()}
        rows.append(one(own, window[row], None if state is None else state.map(itemgetter(row))))
    return torch.stack([nll for nll, _ in rows]), pytree.tree_map(
        lambda *parts: torch.stack(parts), *[s for _, s in rows]
    )
