"""The bound of an op: the time of its matrix products alone, measured with the same shapes in the same run.

What an op executes is recorded while it runs, forward and backward, so that whatever a backward pass computes again is
counted as well. Solves of triangular systems, exponentials, sums and copies are not in the bound, and neither is what
the kernel of attention multiplies inside.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from everlearn.evals.speed.rounds import interleave
from everlearn.ops.delta_rule import delta_rule
from everlearn.ops.self_modifying import Readouts, SelfModifyingRule, fresh_state, self_modifying

Product = tuple[int, int, int, int]  # batch, m, k, n of [batch, m, k] @ [batch, k, n]
aten = torch.ops.aten
# where the two factors begin
OPERANDS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.addmm_: 1, aten.baddbmm: 1, aten.baddbmm_: 1}


class Products(TorchDispatchMode):
    """Count the matrix products that are executed inside of it.

    Example:
        >>> with Products() as products:
        ...     _ = torch.ones(3, 2, 4) @ torch.ones(3, 4, 5)
        >>> products.counts
        Counter({(3, 2, 4, 5): 1})
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the shapes, and run it."""
        first = OPERANDS.get(func.overloadpacket)
        if first is not None:
            a, b = args[first].shape, args[first + 1].shape
            self.counts[(a[0] if len(a) == 3 else 1, a[-2], a[-1], b[-1])] += 1
        return func(*args, **(kwargs or {}))

    def flop(self) -> int:
        """Return how many floating-point operations they are: two for each product of two numbers."""
        return sum(2 * math.prod(shape) * times for shape, times in self.counts.items())


@dataclass(frozen=True)
class Bound:
    """How near an op comes to its matrix products.

    Args:
        share: time of the products by that of the whole op, median of the rounds.
        low, high: smallest and largest of the rounds.
        flop_per_token: executed, forward and backward.
        gflop_per_second: rate of the products alone.
    """

    share: float
    low: float
    high: float
    flop_per_token: float
    gflop_per_second: float


def against_products(run: Callable[[], None], length: int, rounds: int, device: torch.device) -> Bound:
    """Measure an op against its own matrix products.

    Args:
        run: the op, forward and backward.
        length: tokens that it reads, of all rows.
        rounds: see `interleave`.
        device: on which it runs.
    """
    with Products() as products:
        run()
    factors = {shape: _factors(shape, device) for shape in products.counts}

    def multiply() -> None:
        for shape, times in products.counts.items():
            a, b = factors[shape]
            for _ in range(times):
                torch.bmm(a, b)

    seconds = interleave({"op": run, "products": multiply}, rounds, device)
    shares = [b / a for a, b in zip(seconds["op"], seconds["products"], strict=True)]
    rate = products.flop() / statistics.median(seconds["products"]) / 1e9
    return Bound(statistics.median(shares), min(shares), max(shares), products.flop() / length, rate)


def _factors(shape: Product, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return two random factors of a shape."""
    batch, m, k, n = shape
    return torch.randn(batch, m, k, device=device), torch.randn(batch, k, n, device=device)


def delta_run(
    rows: int,
    length: int,
    heads: int,
    dim: int,
    device: torch.device,
    *,
    decay_first: bool = False,
    block_size: int = 16,
) -> Callable[[], None]:
    """Return the delta rule, forward and backward to all its inputs.

    Args:
        rows: streams.
        length: tokens of each.
        heads: memories.
        dim: size of a key and of a value.
        device: on which it runs.
        decay_first, block_size: see `ops.delta_rule`.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, length, heads, dim, generator=generator).to(device) for _ in range(3))
    eta, log_alpha = torch.full((rows, length, heads), 0.5), torch.full((rows, length, heads), -0.01)
    q, k = torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(k, dim=-1)
    inputs = [x.to(device).requires_grad_() for x in (q, k, v, eta, log_alpha)]

    def run() -> None:
        y, _ = delta_rule(*inputs, decay_first=decay_first, block_size=block_size)
        torch.autograd.grad(y.sum(), inputs)

    return run


def self_modifying_run(
    rows: int,
    length: int,
    heads: int,
    dim: int,
    device: torch.device,
    *,
    chunk_size: int = 16,
    hidden_dim: int | None = None,
) -> Callable[[], None]:
    """Return self-modifying memories, forward and backward to all their inputs.

    Args:
        rows, length, heads, dim, device: see `delta_run`.
        chunk_size: see `SelfModifyingRule`.
        hidden_dim: of MLPs; None for matrices.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(device).requires_grad_()

    q, k, v = (draw(rows, length, heads, dim) for _ in range(3))
    # most is kept, as in a layer before training
    keep = torch.full((heads,), 4.0, device=device, requires_grad=True)
    readouts = Readouts(draw(heads, dim), draw(heads), draw(heads, dim, scale=0.1), keep)
    shapes = [(dim, dim)] if hidden_dim is None else [(dim, hidden_dim), (hidden_dim, dim)]
    init = tuple(draw(heads, 5, *shape, scale=0.02) for shape in shapes)
    rule = SelfModifyingRule(chunk_size=chunk_size, implicit=hidden_dim is not None)
    inputs = [q, k, v, *readouts, *init]

    def run() -> None:
        y, _ = self_modifying(q, k, v, readouts, fresh_state(init, rows, rule), rule=rule)
        torch.autograd.grad(y.sum(), inputs)

    return run
