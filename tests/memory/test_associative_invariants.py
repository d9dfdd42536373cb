"""What every associative memory keeps: cuts, padding, rows, the codec, second derivatives.  [NL eq. 6]"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from everlearn.memory import (
    Anchor,
    AssociativeMemory,
    Decay,
    Huber,
    LayerState,
    Lp,
    Matrix,
    ModelState,
    NonParametric,
    Polynomial,
    ResidualMLP,
    TrustRegion,
    Vector,
    concat_rows,
    dot,
    kl,
)
from everlearn.memory.codec import decode, encode, from_tensors, to_tensors
from everlearn.rules import momentum
from everlearn.rules.least_squares import least_squares

DIM, LENGTH = 3, 7
sums = partial(momentum, beta=0.5, average=False)
KINDS = {
    "vector": lambda: AssociativeMemory(Vector(DIM), Huber(0.5), Anchor(0.1), eta=0.5),
    "matrix": lambda: AssociativeMemory(Matrix(DIM), retention=Decay(0.9), rule=momentum, eta=0.5),
    "matrix window": lambda: AssociativeMemory(Matrix(DIM), Lp(1.5), rule=sums, eta=0.3, window=3),
    "matrix least squares": lambda: AssociativeMemory(Matrix(DIM), rule=least_squares, eta=1.0),
    "matrix polynomial": lambda: AssociativeMemory(Matrix(DIM, feature_map=Polynomial(2), implicit=True), eta=1.0),
    "matrix kl": lambda: AssociativeMemory(Matrix(DIM), kl, TrustRegion(0.1), eta=1.0),
    "matrix dot": lambda: AssociativeMemory(Matrix(DIM), dot, Decay(0.9), eta=1.0),
    "mlp": lambda: AssociativeMemory(ResidualMLP(DIM, 5), eta=0.5),
    "mlp momentum window": lambda: AssociativeMemory(ResidualMLP(DIM, 5), rule=momentum, eta=0.5, window=2),
    "mlp trust": lambda: AssociativeMemory(ResidualMLP(DIM, 5), retention=TrustRegion(0.2), eta=0.5),
    "pairs": lambda: AssociativeMemory(NonParametric(DIM), retention=Decay(0.9), rule=None),
    "pairs window": lambda: AssociativeMemory(NonParametric(DIM, window=3), rule=None),
}


@pytest.fixture(params=KINDS)
def memory(request) -> AssociativeMemory:
    torch.manual_seed(3)
    made = KINDS[request.param]().double()
    for weight in made.start.values():
        torch.nn.init.normal_(weight, std=0.5)
    return made


def stream(rows: int = 3, length: int = LENGTH, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys of unit norm and values that are probabilities, which every objective takes."""
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, rows, length, DIM, dtype=torch.float64)
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v.softmax(-1)


def bits(state: LayerState, row: int) -> dict[str, Tensor]:
    """Return one row's tensors, without the empty places that padding leaves among kept pairs."""
    found = {name: x[row] for name, x in state.memory.items()}
    if "valid" in state.context:
        there = state.context["valid"][row]
        found |= {name: x[row][there] for name, x in state.context.items()}
    return found


def assert_same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_every_cut_gives_the_same_result(memory):
    q, k, v = stream()
    whole, state = memory(q, k, v)
    written, surprise = memory.write(memory.init(3), k, v)
    for row in range(3):
        assert_same_bits(bits(state, row), bits(written, row))
    for cut in range(LENGTH + 1):
        one, half = memory(q[:, :cut], k[:, :cut], v[:, :cut])
        two, end = memory(q[:, cut:], k[:, cut:], v[:, cut:], half)
        torch.testing.assert_close(torch.cat([one, two], 1), whole, rtol=1e-10, atol=1e-10)
        for row in range(3):
            assert_same_bits(bits(end, row), bits(state, row))
        half, before = memory.write(memory.init(3), k[:, :cut], v[:, :cut])
        _, after = memory.write(half, k[:, cut:], v[:, cut:])
        torch.testing.assert_close(torch.cat([before, after], 1), surprise, rtol=1e-10, atol=1e-10)


def test_padding_changes_nothing_bit_for_bit_wherever_it_stands(memory):
    """Row 0 is real throughout, row 1 begins late, row 2 has holes and ends early; what pads is not a number."""
    q, k, v = stream()
    real = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 0]]).bool()
    dirty = [x.masked_fill(~real.unsqueeze(-1), float("nan")) for x in (k, v)]
    y, state = memory(q, *dirty, mask=real)
    written, surprise = memory.write(memory.init(3), *dirty, mask=real)
    for row in range(3):
        kept = [x[row : row + 1, real[row]].expand(3, -1, -1) for x in (q, k, v)]
        alone, end = memory(*kept)
        torch.testing.assert_close(y[row, real[row]], alone[0], rtol=1e-12, atol=1e-12)
        # at the same place of the batch: a kernel may round the same numbers otherwise in another row
        assert_same_bits(bits(state, row), bits(end, row))
        assert_same_bits(bits(written, row), bits(end, row))
    assert surprise[~real].abs().max() == 0
    none, same = memory.write(state, *dirty, mask=torch.zeros_like(real))[0], state
    for row in range(3):
        assert_same_bits(bits(none, row), bits(same, row))


def test_padding_may_have_any_step_size_and_gate():
    memory = AssociativeMemory(Matrix(DIM), retention=Decay(), eta=1.0).double()
    torch.nn.init.normal_(memory.start["M"])
    _, k, v = stream()
    real = torch.tensor([[1, 1, 0, 1, 0, 1, 1]] * 3).bool()
    eta, alpha = torch.rand(2, 3, LENGTH, dtype=torch.float64).requires_grad_()
    dirty = [x.masked_fill(~real, float("nan")) for x in (eta, alpha)]
    state, _ = memory.write(memory.init(3), k, v, eta=dirty[0], alpha=dirty[1], mask=real)
    wanted, _ = memory.write(memory.init(3), k[:, real[0]], v[:, real[0]], eta=eta[:, real[0]], alpha=alpha[:, real[0]])
    assert torch.equal(state.memory["M"], wanted.memory["M"])
    grads = torch.autograd.grad(state.memory["M"].sum(), (eta, alpha))
    assert all(grad.isfinite().all() and (grad[real] != 0).all() for grad in grads)


def test_gradients_pass_padding_untouched(memory):
    q, k, v = stream(rows=1)
    real = torch.tensor([[True, False, True, True, False, True, True]])
    grads = []
    for keep, mask in ((slice(None), real), (real[0], None)):
        key = k.clone().requires_grad_()
        y, _ = memory(q[:, keep], key[:, keep], v[:, keep], mask=mask)
        y = y[:, real[0]] if mask is not None else y
        grads.append(torch.autograd.grad(y.square().sum(), key)[0])
    assert grads[0][~real].abs().max() == 0
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_rows_never_mix(memory):
    q, k, v = stream()
    other = [torch.cat([x[:1], 3 * x[1:2], x[2:].flip(1)]) for x in (q, k, v)]
    one, two = memory(q, k, v), memory(*other)
    assert torch.equal(one[0][0], two[0][0])
    assert_same_bits(bits(one[1], 0), bits(two[1], 0))
    assert not torch.equal(one[0][1], two[0][1])


def test_saving_in_the_middle_changes_nothing(memory):
    q, k, v = (x.detach() for x in stream())
    wanted, end = memory(q, k, v)
    _, half = memory(q[:, :4], k[:, :4], v[:, :4])
    whole = ModelState({"m": half.memory}, {"m": half.context} if half.context else {}, *torch.zeros(2, 3).long())
    loaded = from_tensors(decode(encode(to_tensors(whole), {}), "it")[0]).layer("m")
    y, state = memory(q[:, 4:], k[:, 4:], v[:, 4:], loaded)
    torch.testing.assert_close(y, wanted[:, 4:], rtol=1e-10, atol=1e-10)
    for row in range(3):
        assert_same_bits(bits(state, row), bits(end, row))


def test_a_fresh_row_may_join_one_that_has_written(memory):
    """What a rule keeps begins with a row's own first step, not with that of its neighbour."""
    q, k, v = stream(rows=1)
    _, old = memory(q[:, :4], k[:, :4], v[:, :4])
    states = [
        ModelState({"m": s.memory}, {"m": s.context}, *torch.zeros(2, 1).long()).detach() for s in (old, memory.init(1))
    ]
    both = concat_rows(states, states[1]).layer("m")
    y, _ = memory(*(x[:, 4:].expand(2, -1, -1) for x in (q, k, v)), both)
    torch.testing.assert_close(y[:1], memory(q[:, 4:], k[:, 4:], v[:, 4:], old)[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(y[1:], memory(q[:, 4:], k[:, 4:], v[:, 4:])[0], rtol=1e-10, atol=1e-10)


def test_the_outer_gradient_goes_through_every_write(memory):
    """Through the inner gradient too: finite differences of the answers, for inputs and the learned start."""
    q, k, v = (x[:, :3].clone().requires_grad_() for x in stream(rows=1))
    names = list(memory.start)
    starts = [memory.start[name].detach().clone().requires_grad_() for name in names]

    def answers(q, k, v, *weights):
        given = {f"start.{name}": w for name, w in zip(names, weights, strict=True)}
        return torch.func.functional_call(memory, given, (q, k, v))[0]

    assert torch.autograd.gradcheck(answers, (q, k, v, *starts))


@pytest.mark.parametrize("kind", ["matrix", "mlp"])
def test_the_outer_gradient_has_a_gradient(kind):
    """What a meta-learner of second order needs."""
    torch.manual_seed(3)
    memory = KINDS[kind]().double()
    q, k, v = (x[:, :2].clone() for x in stream(rows=1))
    k.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda k: memory(q, k, v)[0], (k,), atol=1e-4)


def test_every_start_gets_a_gradient_through_the_writes_alone():
    """A tensor that nothing teaches is a mistake: a loss on what is read late reaches the start of each."""
    for kind in ("vector", "matrix", "mlp", "mlp momentum window"):
        torch.manual_seed(3)
        memory = KINDS[kind]().double()
        for weight in memory.start.values():
            torch.nn.init.normal_(weight, std=0.5)
        _, k, v = stream()
        _, surprise = memory.write(memory.init(3), k, v)
        memory.zero_grad()
        surprise[:, -1].sum().backward()
        for name, weight in memory.start.items():
            assert 1e-8 < weight.grad.norm() < 1e8, (kind, name)


def test_a_memory_keeps_its_own_dtype_under_autocast_and_with_short_inputs():
    torch.manual_seed(3)
    memory = AssociativeMemory(Matrix(DIM), eta=1.0, window=2)
    q, k, v = (x.bfloat16() for x in stream())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = memory(q, k, v)
    plain, same = memory(q.float(), k.float(), v.float())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, plain.bfloat16())
    assert torch.equal(state.memory["M"], same.memory["M"])
    assert all(x.dtype != torch.bfloat16 for x in pytree.tree_leaves(state))


def test_learning_works_where_gradients_are_off():
    memory = AssociativeMemory(Matrix(DIM), eta=1.0).double()
    q, k, v = stream()
    with torch.no_grad():
        y, _ = memory(q, k, v)
    with torch.inference_mode():
        z, _ = memory(q, k, v)
    assert torch.equal(y, memory(q, k, v)[0].detach())
    assert torch.equal(z, y)
