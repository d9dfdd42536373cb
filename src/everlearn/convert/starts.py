"""Where a memory starts from: the projections of the attention, or the hidden units of the MLP, that it replaces."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from everlearn.convert.attention import Attention
from everlearn.convert.families import Family
from everlearn.layers import DeltaMemory
from everlearn.layers.continuum import ContinuumMemory
from everlearn.layers.mlp import swiglu

SAME = 1e-2  # of the largest output: how far an MLP may be from a SwiGLU of its matrices, in bfloat16 too


def copy_projections(memory: DeltaMemory, attention: nn.Module, where: Attention) -> None:
    """Start a memory from the projections of the attention that it replaces; groups of keys are repeated.

    Raises:
        ValueError: heads of another size, or biases, for which the memory has no place.
    """
    matrices = [getattr(attention, part).weight for part in where.into]
    biases = [getattr(attention, part).bias for part in (*where.into, where.out)]
    out, dim = getattr(attention, where.out).weight, memory.dim
    joined = torch.cat([*matrices])
    extra = len(joined) - dim  # rows of keys and of values together
    if out.shape != (dim, dim) or extra % 2 or (extra // 2) % memory.head_dim or dim % max(extra // 2, 1):
        raise ValueError(
            f"the projections are {[tuple(m.shape) for m in (*matrices, out)]}, and cannot start a memory of "
            f"{memory.num_heads} heads of {memory.head_dim}; give the model's own num_heads, or from_projections=False"
        )
    if any(bias is not None for bias in biases):
        raise ValueError(
            f"the projections {[*where.into, where.out]} have biases, which a memory has no place for; "
            "give from_projections=False"
        )
    size = extra // 2
    queries, *pair = joined.split([dim, size, size])
    wide = [part.unflatten(0, (-1, memory.head_dim)).repeat_interleave(dim // size, 0).flatten(0, 1) for part in pair]
    with torch.no_grad():
        memory.qkv.weight.copy_(torch.cat([queries, *wide]))
        memory.out.weight.copy_(out)


def copy_units(memory: ContinuumMemory, mlp: nn.Module, family: Family) -> None:
    """Deal the hidden units of a gated MLP out to the levels' MLPs, the one with the largest weights first.

        MLP(x) = sum over its units j of down_j silu(gate_j x) (up_j x)

    A sum can be cut anywhere: levels side by side (`IndependentCMS`) that hold all units together give what the MLP
    gave. Units for which there is no room are those with the smallest product of norms, and a level with room to spare
    keeps what was drawn for it, silent at first.

    Raises:
        ValueError: an MLP that is no SwiGLU of its matrices, so that its units do not fit.
    """
    gate, up, down = units_of(mlp, family)
    order = (gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)).argsort(descending=True)
    count = len(memory.mlps)
    with torch.no_grad():
        for place, own in enumerate(memory.mlps):
            weights = memory.learned_start(own)
            dealt = order[place::count][: len(weights["gate"])]
            weights["gate"][: len(dealt)].copy_(gate[dealt])
            weights["up"][: len(dealt)].copy_(up[dealt])
            weights["down"].zero_()
            weights["down"][:, : len(dealt)].copy_(down[:, dealt])


def units_of(mlp: nn.Module, family: Family) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices of an MLP that is down (silu(gate x) * up x): gate and up [hidden, dim], down [dim, hidden].

    Raises:
        ValueError: it is another function of them.
    """
    into: list[Tensor] = [cast(Any, mlp.get_submodule(name)).weight for name in family.into]
    down: Tensor = cast(Any, mlp.get_submodule(family.down)).weight
    pair = list(into[0].chunk(2)) if len(into) == 1 else into
    fits = [matrix.shape for matrix in pair] == [down.T.shape] * 2
    if fits:
        x = torch.randn(1, 8, down.shape[0], generator=torch.Generator().manual_seed(0)).to(down)
        with torch.no_grad():
            expected, found = mlp(x), swiglu(x, pair[0], pair[1], down)
        fits = bool((expected - found).abs().max() <= SAME * expected.abs().max())
    if not fits:
        raise ValueError(
            f"the {type(mlp).__name__} is no down (silu(gate x) * up x) without biases, of which levels could take "
            "units; give from_projections=False"
        )
    return pair[0], pair[1], down
