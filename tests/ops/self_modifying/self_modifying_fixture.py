"""Random memories, tokens and options for the tests of self-modifying Titans."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.ops.self_modifying import Readouts, SelfModifyingRule, SelfModifyingState, fresh_state

TENSORS = ("q", "k_in", "v_in", "eta", "eta_bias", "alpha", "alpha_bias")


def draw(
    rows: int = 2,
    length: int = 9,
    heads: int = 2,
    dim: int = 4,
    hidden: int = 0,
    count: int = 5,
    seed: int = 0,
    bias: float = 2.0,
    anchor: bool = False,
) -> dict[str, Tensor]:
    """Return float64 leaves: tokens, readouts, learned starts; hidden > 0 makes MLP memories."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    leaves = {name: normal(rows, length, heads, dim) for name in TENSORS[:3]}
    for gate, start in (("eta", 0.0), ("alpha", bias)):
        leaves |= {gate: normal(heads, dim), f"{gate}_bias": normal(heads) + start}
    shapes = ((dim, hidden), (hidden, dim)) if hidden else ((dim, dim),)
    for i, (out, size) in enumerate(shapes):
        leaves[f"init.{i}"] = normal(heads, count, out, size) / size**0.5
        if anchor:
            leaves[f"anchor.{i}"] = normal(heads, count, out, size) / size**0.5
    return leaves


def run(op, leaves: dict[str, Tensor], rule: SelfModifyingRule, mask=None, state: SelfModifyingState | None = None):
    """Call an op with what `draw` returned."""
    init, anchor = (tuple(leaves[n] for n in sorted(leaves) if n.startswith(kind)) for kind in ("init.", "anchor."))
    state = state or fresh_state(init, len(leaves["q"]), rule)
    readouts = Readouts(*(leaves[name] for name in TENSORS[3:]))
    tokens = (leaves[name] for name in TENSORS[:3])
    return op(*tokens, readouts, state, rule=rule, anchor=anchor or None, mask=mask)


def results(y: Tensor, state: SelfModifyingState, mask: Tensor | None = None) -> list[Tensor]:
    """Return all that a call returns but the clock; outputs at padding as zero."""
    y = y if mask is None else y.masked_fill(~mask[:, :, None, None], 0)
    return [y, *state.weights, *state.boundary, *state.momentum]


def gradients(op, leaves: dict[str, Tensor], rule: SelfModifyingRule, mask=None) -> tuple[list[Tensor], list[Tensor]]:
    """Return results, and the gradients of a random projection of all of them by every leaf."""
    leaves = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    y, state = run(op, leaves, rule, mask)
    got = results(y, state, mask)
    generator = torch.Generator().manual_seed(9)
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in got)
    return [x.detach() for x in got], list(torch.autograd.grad(loss, list(leaves.values())))


def worst(got: list[Tensor], want: list[Tensor]) -> float:
    """Return the largest error, each tensor's relative to its own largest number."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()
        for a, b in zip(got, want, strict=True)
        if b.numel()
    )
