"""Random arguments for the Titans memory, and which memories there are."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from everlearn.ops.titans import chunk, naive

TOLERANCE = 1e-10  # float64: at most 100 tokens, each a few roundings of 1e-16
SCALARS = ("eta", "log_alpha", "log_beta")
BOTH = pytest.mark.parametrize("op", [naive.titans, chunk.titans], ids=["naive", "chunk"])
# depth, and what else can be chosen: each choice stands with and without momentum
MEMORIES = {
    "matrix": (1, {}),
    "matrix_short": (1, {"max_norm": 0.8, "read_after_write": False}),
    "mlp": (2, {"to_start": True}),
    "mlp_residual": (2, {"residual": True, "max_norm": 0.8}),
    "deep": (3, {"residual": True, "to_start": True, "read_after_write": False}),
}


def draw(depth=1, rows=2, length=23, heads=2, dim=4, dim_v=4, seed=0, gates="mixed", slow=True) -> dict:
    """Random float64 arguments: unit keys, steps up to 1 (a matrix) or .1 (an MLP), gates anywhere or at their ends."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scale, shift = {"mixed": (1, 3), "open": (1, 9), "closed": (20, -40), "ends": (0, 0)}[gates]
    sizes = [dim, *[5] * (depth - 1), dim_v]
    args = {
        "q": normal(rows, length, heads, dim),
        "k": F.normalize(normal(rows, length, heads, dim), dim=-1),
        "v": normal(rows, length, heads, dim_v),
        "eta": torch.sigmoid(normal(rows, length, heads)) * (1 if depth == 1 else 0.1),
        "log_alpha": F.logsigmoid(scale * normal(rows, length, heads) + shift),
        "log_beta": F.logsigmoid(scale * normal(rows, length, heads) + shift) if slow else None,
        "start": [normal(heads, b, a) / 2 for a, b in pairwise(sizes)],
    }
    if gates == "ends":  # nothing is forgotten, or all; no step, or a whole one
        choose = [torch.rand(rows, length, heads, generator=generator) < 0.5 for _ in SCALARS]
        for name, some, ends in zip(SCALARS, choose, ((0.0, 0.5 / depth), (0.0, -2000.0), (0.0, -2000.0)), strict=True):
            args[name] = torch.where(some, *torch.tensor(ends, dtype=torch.float64)) if args[name] is not None else None
    return args


def same_state(got, want):
    for a, b in zip([w for part in got[:3] for w in part], [w for part in want[:3] for w in part], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=TOLERANCE)
    assert torch.equal(got[3], want[3])
