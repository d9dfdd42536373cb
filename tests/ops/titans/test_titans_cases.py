"""The Titans memory, literal and chunked, against hand cases and what it reduces to.  [Titans eq. 8-10, 12-17]"""

from functools import partial

import pytest
import torch

from everlearn.memory import AssociativeMemory, Decay, Matrix, ladder
from everlearn.ops.delta_rule import delta_rule
from everlearn.ops.titans import chunk
from everlearn.rules import momentum
from tests.ops.titans.arguments import BOTH, TOLERANCE, draw


@BOTH
@pytest.mark.parametrize(
    ("chunk_size", "memories", "surprises"),
    [(2, [1 / 2, 1, 7 / 4], [1, 1, 0]), (1, [1 / 2, 3 / 4, 11 / 8], [1, 1 / 2, 1 / 4])],
)
def test_three_tokens_by_hand(op, chunk_size, memories, surprises):
    """One number as the memory: M = alpha M + S, S = beta S - eta u, u = M' - 1.  [Titans eq. 9-10, 13-14]

    alpha (1, 1/2, 1), beta (0, 1/2, 1), eta 1/2. Chunks of two: u = -1, -1, so S = 1/2, 3/4 and M = 1/2, 1; the third
    token starts a chunk, where u = 0, but S = 3/4 goes on: M = 7/4. Chunks of one: u = -1, -1/2, -1/4.
    """
    one = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    log_alpha, log_beta = torch.tensor([[1, 0.5, 1], [1e-300, 0.5, 1]], dtype=torch.float64).log().reshape(2, 1, 3, 1)
    start = [torch.zeros(1, 1, 1, dtype=torch.float64)]
    y, surprise, _ = op(one, one, one, one[..., 0] / 2, log_alpha, log_beta, start, chunk_size=chunk_size)
    assert torch.allclose(y.flatten(), torch.tensor(memories, dtype=torch.float64), atol=1e-15)
    assert torch.allclose(surprise.flatten(), torch.tensor(surprises, dtype=torch.float64), atol=1e-15)


def test_a_chunk_without_momentum_is_the_product_of_matrices_of_the_paper():
    """M_b = beta_b M_0 - Theta_b B_b (M_0 X - V) X^T, with B_b = diag(beta_b / beta_i).  [Titans eq. 8, 16-17]"""
    args = draw(rows=1, heads=1, length=6, gates="open", slow=False)
    _, _, state = chunk.titans(**args, chunk_size=6)
    x, v, weight = args["k"][0, :, 0].T, args["v"][0, :, 0].T, args["start"][0][0]  # tokens are columns
    kept = args["log_alpha"][0, :, 0].exp().cumprod(0)
    steps = torch.diag(args["eta"][0, :, 0]) @ torch.diag(kept[-1] / kept)
    want = kept[-1] * weight - (weight @ x - v) @ steps @ x.T
    assert torch.allclose(state.weights[0][0, 0], want, rtol=0, atol=1e-14)


def matrix_with_momentum(dim: int) -> AssociativeMemory:
    rule = partial(momentum, beta=0.6, average=False)
    memory = AssociativeMemory(Matrix(dim), retention=Decay(0.9), rule=rule, eta=0.1)
    torch.nn.init.normal_(memory.start["M"])
    return memory


def test_one_token_chunks_of_a_matrix_are_the_delta_rule():
    args = draw(slow=False)
    y, _, state = chunk.titans(**args, chunk_size=1)
    gates = (args[name] for name in ("q", "k", "v", "eta", "log_alpha"))
    want, last = delta_rule(*gates, args["start"][0].expand(2, 2, 4, 4))
    assert torch.allclose(y, want, rtol=0, atol=TOLERANCE)
    assert torch.allclose(state.weights[0], last, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("generic", "names", "gates"),
    [(matrix_with_momentum, ["M"], (0.1, 0.9, 0.6)), (ladder.titans, ["W2", "W1"], (0.25, 0.99, 0.5))],
    ids=["matrix", "ladder"],
)
def test_one_token_chunks_are_the_generic_memory(generic, names, gates):
    """The same memory, composed of objective, retention and rule with torch.func.grad.  [Titans eq. 12-14]"""
    torch.manual_seed(0)
    args, memory = draw(heads=1), generic(4).double()
    args["start"] = [memory.start[name].detach()[None] for name in names]
    ones = torch.ones_like(args["eta"])
    args |= {"eta": gates[0] * ones, "log_alpha": (gates[1] * ones).log(), "log_beta": (gates[2] * ones).log()}
    _, surprise, state = chunk.titans(**args, chunk_size=1, residual=len(names) == 2)
    written, norms = memory.write(memory.init(2), args["k"][:, :, 0], args["v"][:, :, 0])
    for name, weight in zip(names, state.weights, strict=True):
        assert torch.allclose(weight[:, 0], written.memory[name], rtol=0, atol=TOLERANCE)
    assert torch.allclose(surprise[:, :, 0], norms, rtol=0, atol=TOLERANCE)


@BOTH
def test_a_momentum_that_keeps_nothing_is_none(op):
    args = draw(2)
    args["log_beta"].fill_(-2000.0)
    y, _, state = op(**args, chunk_size=4)
    want, _, last = op(**args | {"log_beta": None}, chunk_size=4)
    assert torch.allclose(y, want, rtol=0, atol=TOLERANCE) and not last[2]
    for a, b in zip(state[0], last[0], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=TOLERANCE)


@BOTH
@pytest.mark.parametrize("to_start", [True, False])
def test_without_steps_a_memory_fades_toward_its_start_or_zero(op, to_start):
    """M_t = M_0 + (alpha_1 ... alpha_t) (M - M_0), or (alpha_1 ... alpha_t) M.  [Titans eq. 13]"""
    args = draw(2, length=9)
    _, _, state = op(**args, chunk_size=4, to_start=to_start)
    args = draw(2, length=6, seed=1) | {"start": args["start"], "log_beta": torch.zeros(2, 6, 2).double()}
    args["eta"].zero_()
    state = chunk.TitansState(state[0], state[1], tuple(torch.zeros_like(w) for w in state[0]), state[3])
    _, surprise, last = op(**args, state=state, chunk_size=4, to_start=to_start)
    left = args["log_alpha"].sum(1).exp()[:, :, None, None]
    for first, old, new in zip(args["start"], state.weights, last[0], strict=True):
        goal = first if to_start else torch.zeros_like(first)
        assert torch.allclose(new, goal + left * (old - goal), rtol=0, atol=TOLERANCE)
    assert surprise.min() > 0


@BOTH
def test_max_norm_bounds_the_step_of_a_token_whatever_its_value(op):
    args = draw(2, length=1)
    args["v"] *= 1e6
    args["log_alpha"].zero_()
    _, surprise, state = op(**args, chunk_size=4, max_norm=0.5)
    moved = sum((new - old).square().sum((-2, -1)) for new, old in zip(state[0], args["start"], strict=True)).sqrt()
    assert torch.allclose(moved, 0.5 * args["eta"][:, 0], rtol=1e-12)
    assert surprise.min() > 1e5  # what is told is the whole surprise
