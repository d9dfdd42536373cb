"""Associative memory: what has a name equals it, values and gradients.  [NL eq. 6, 62, 64-65, 67-68]"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everlearn.memory import (
    AssociativeMemory,
    Decay,
    Keep,
    LayerState,
    Lp,
    Matrix,
    NonParametric,
    ResidualMLP,
    Vector,
    dot,
    l2,
)
from everlearn.ops import delta_rule as op
from everlearn.ops.delta_rule import naive
from everlearn.rules import dgd, gd

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64: another order of the same sums


def stream(rows: int = 2, length: int = 9, dim: int = 4, dim_v: int = 3, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    made = {
        "queries": F.normalize(torch.randn(rows, length, dim, dtype=torch.float64), dim=-1),
        "keys": F.normalize(torch.randn(rows, length, dim, dtype=torch.float64), dim=-1),
        "values": torch.randn(rows, length, dim_v, dtype=torch.float64),
        "eta": torch.rand(rows, length, dtype=torch.float64),
        "alpha": 0.5 + torch.rand(rows, length, dtype=torch.float64) / 2,
    }
    return {name: x.requires_grad_() for name, x in made.items()}


def matrix(objective=l2, retention=None, dim: int = 4, dim_v: int = 3, **options) -> AssociativeMemory:
    """Return a matrix memory with a start that is not zero."""
    torch.manual_seed(7)
    memory = AssociativeMemory(Matrix(dim, dim_v), objective, retention, eta=options.pop("eta", 0.7), **options)
    memory.double()
    torch.nn.init.normal_(memory.start["M"])
    return memory


def pairs(dim_v: int = 3, window: int | None = None) -> AssociativeMemory:
    return AssociativeMemory(NonParametric(4, dim_v, window=window), rule=None).double()


def vector() -> AssociativeMemory:
    return AssociativeMemory(Vector(4), eta=1.0).double()


def same_values_and_gradients(one: list[Tensor], two: list[Tensor], inputs: list[Tensor]) -> None:
    """Compare results, and the gradients of one random weighting of them with respect to every input."""
    torch.manual_seed(1)
    weights = [torch.randn_like(x) for x in one]
    grads = [
        torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, out, strict=True)), inputs) for out in (one, two)
    ]
    for mine, theirs in zip(one, two, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)
    for mine, theirs in zip(*grads, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.mark.parametrize("form", [naive.delta_rule, op.delta_rule], ids=["naive", "chunk"])
@pytest.mark.parametrize("after", [True, False])
def test_a_matrix_with_l2_and_decay_is_the_delta_rule(form, after):
    """Per-token step sizes and gates, gradients to all of them, to q, k, v and the learned start.  [NL eq. 64-65]"""
    memory, given = matrix(retention=Decay()), stream()
    y, state = memory(**given, read_after_write=after)
    one_head = {name: x.unsqueeze(2) for name, x in given.items()}
    start = memory.start["M"].expand(2, 1, 3, 4)
    theirs, last = form(
        one_head["queries"],
        one_head["keys"],
        one_head["values"],
        one_head["eta"],
        one_head["alpha"].log(),
        start,
        read_after_write=after,
    )
    mine = [y, state.memory["M"]]
    same_values_and_gradients(mine, [theirs.squeeze(2), last.squeeze(1)], [*given.values(), memory.start["M"]])


def test_a_matrix_with_dot_is_linear_attention():
    """S += eta v k^T; the answer is the sum of values weighted by <k, q>.  [NL eq. 64]"""
    memory, given = matrix(dot), stream()
    q, k, v, eta = (given[name] for name in ("queries", "keys", "values", "eta"))
    y, state = memory(q, k, v, eta=eta)
    scores = (q @ k.mT).tril() * eta.unsqueeze(1)
    theirs = scores @ v + q @ memory.start["M"].mT
    last = memory.start["M"] + (eta.unsqueeze(-1) * v).mT @ k
    same_values_and_gradients([y, state.memory["M"]], [theirs, last], [q, k, v, eta, memory.start["M"]])


def test_a_learned_start_and_no_step_is_a_linear_layer():
    memory, given = matrix(dot, eta=0.0), stream()
    layer = torch.nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        memory.start["M"].copy_(layer.weight)
    y, _ = memory(given["queries"], given["keys"], given["values"])
    torch.testing.assert_close(y, layer(given["queries"]), **EXACT)


def test_a_window_of_one_token_is_the_plain_rule():
    """The Omega rule with c = 1 is the delta rule.  [NL eq. 67-68]"""
    given = stream()
    del given["alpha"]
    one, plain = matrix(window=1), matrix()
    assert torch.equal(one(**given)[0], plain(**given)[0])


def test_a_window_sums_the_objective_of_the_last_tokens_at_the_current_weights():
    """Against a loop that keeps its own list.  [NL eq. 67-68]"""
    memory, given = matrix(retention=Decay(), window=3), stream()
    q, k, v, eta, alpha = given.values()
    y, state = memory(**given)
    rows = []
    for b in range(2):
        m, read = memory.start["M"], []
        for t in range(9):
            grad = sum(torch.outer(m @ k[b, i] - v[b, i], k[b, i]) for i in range(max(0, t - 2), t + 1))
            m = alpha[b, t] * m - eta[b, t] * grad
            read.append(m @ q[b, t])
        rows.append((torch.stack(read), m))
    theirs = [torch.stack(x) for x in zip(*rows, strict=True)]
    same_values_and_gradients([y, state.memory["M"]], theirs, [*given.values(), memory.start["M"]])


@pytest.mark.parametrize("rule", [gd, dgd])
@pytest.mark.parametrize("window", [1, 3])
def test_each_layer_of_an_mlp_shortens_its_step_by_its_own_inputs(rule, window):
    """Gradients by hand; n = eta / (1 + eta sum |u|^2), u = k for W2 and silu(W2 k) for W1.

    dgd divides by I + eta U^T U itself; it gets the step size as it is.
    """
    torch.manual_seed(2)
    memory = AssociativeMemory(ResidualMLP(4, 6), rule=rule, eta=0.8, window=window).double()
    keys, values = (F.normalize(torch.randn(1, 3, 4, dtype=torch.float64), dim=-1) for _ in range(2))
    state, _ = memory.write(memory.init(1), keys[:, :2], values[:, :2])
    w1, w2 = state.memory["W1"][0].detach(), state.memory["W2"][0].detach()
    state, surprise = memory.write(state, keys[:, 2:], values[:, 2:])
    k, v = keys[0, -window:], values[0, -window:]
    before = k @ w2.T
    gate = before.sigmoid()
    h = before * gate
    error = k + h @ w1.T - v
    grads = {"W1": error.T @ h, "W2": ((error @ w1) * gate * (1 + before * (1 - gate))).T @ k}
    for name, old, u in (("W1", w1, h), ("W2", w2, k)):
        if rule is gd:
            wanted = old - 0.8 / (1 + 0.8 * u.square().sum()) * grads[name]
        else:
            wanted = (old - 0.8 * grads[name]) @ torch.linalg.inv(torch.eye(u.shape[1]).double() + 0.8 * u.T @ u)
        torch.testing.assert_close(state.memory[name][0], wanted, **EXACT)
    total = sum(grad.square().sum() for grad in grads.values()).sqrt()
    torch.testing.assert_close(surprise[0, 0], total, **EXACT)


def test_keeping_all_pairs_is_causal_softmax_attention():
    """[NL eq. 62]"""
    memory, given = AssociativeMemory(NonParametric(4, 3), rule=None).double(), stream()
    q, k, v = given["queries"], given["keys"], given["values"]
    y, _ = memory(q, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    same_values_and_gradients([y], [theirs], [q, k, v])


def test_keeping_the_newest_pairs_is_windowed_attention():
    """[NL eq. 62]"""
    memory, given = AssociativeMemory(NonParametric(4, 3, window=4), rule=None).double(), stream()
    q, k, v = given["queries"], given["keys"], given["values"]
    near = torch.ones(9, 9, dtype=torch.bool).tril() & ~torch.ones(9, 9, dtype=torch.bool).tril(-4)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    same_values_and_gradients([memory(q, k, v)[0]], [theirs], [q, k, v])


def test_kernel_weights_that_decay_are_a_bias_on_the_scores():
    """alpha_t fades all older pairs: the score of pair i at token t gains sum_{i < j <= t} log alpha_j.  [NL eq. 62]"""
    memory, given = AssociativeMemory(NonParametric(4, 3), retention=Decay(), rule=None).double(), stream()
    q, k, v, alpha = given["queries"], given["keys"], given["values"], given["alpha"]
    y, _ = memory(q, k, v, alpha=alpha)
    total = alpha.log().cumsum(1)
    bias = (total.unsqueeze(2) - total.unsqueeze(1)).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -1e9)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    same_values_and_gradients([y], [theirs], [q, k, v, alpha])


def test_the_answer_of_kept_pairs_minimises_the_weighted_squares():
    """y = argmin sum_i alpha^age exp(<k_i, q> / sqrt(d)) |v_i - y|^2 / 2, by the gradient at y.  [NL eq. 62]"""
    memory, given = AssociativeMemory(NonParametric(4, 3), retention=Decay(0.8), rule=None).double(), stream()
    q, k, v = (given[name].detach() for name in ("queries", "keys", "values"))
    state, _ = memory.write(memory.init(2), k, v)
    y = memory.read(state, q).requires_grad_()
    kernel = (q @ k.mT / 2).exp() * 0.8 ** torch.arange(8, -1, -1).double()
    loss = 0.5 * (kernel * (v.unsqueeze(1) - y.unsqueeze(2)).square().sum(-1)).sum()
    (grad,) = torch.autograd.grad(loss, y)
    assert grad.abs().max() < 1e-12
    assert memory.read(memory.init(2), q).abs().max() == 0


def test_the_surprise_is_the_norm_of_the_gradient():
    """For L2 the gradient is error times key, so with unit keys its norm is that of the error."""
    given = stream()
    k, v = given["keys"].detach(), given["values"].detach()
    for memory in (matrix(eta=1.0), AssociativeMemory(NonParametric(4, 3), rule=None).double()):
        state = memory.init(2)
        for t in range(3):
            error = memory.read(state, k[:, t : t + 1]) - v[:, t : t + 1]
            state, surprise = memory.write(state, k[:, t : t + 1], v[:, t : t + 1])
            torch.testing.assert_close(surprise, error.norm(dim=-1), **EXACT)
    assert matrix(dot).write(matrix().init(2), k, v)[1] == pytest.approx(v.norm(dim=-1))


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (lambda: matrix(), [lambda: matrix().float(), lambda: pairs(), lambda: vector()]),
        (lambda: matrix(window=3), [lambda: matrix(), lambda: matrix(window=5)]),
        (lambda: vector(), [lambda: matrix(dim_v=4), lambda: pairs(4)]),
        (lambda: pairs(), [lambda: matrix(), lambda: pairs(2)]),
        (lambda: pairs(window=3), [lambda: pairs(), lambda: pairs(window=5)]),
    ],
)
def test_the_state_of_a_memory_with_other_choices_is_refused(own, others):
    memory, given = own(), stream()
    state, _ = memory.write(memory.init(2), given["keys"], stream(dim_v=memory.architecture.dim_v)["values"])
    memory.read(state, given["queries"])
    for other in others:
        values = stream(dim_v=other().architecture.dim_v)["values"]
        foreign, _ = other().write(other().init(2), given["keys"], values)
        with pytest.raises(ValueError, match=r"which is another memory's; start from init\(\)") as error:
            memory.read(foreign, given["queries"])
        assert "\n" not in str(error.value)


def test_a_write_that_is_no_number_shows_in_the_surprise():
    """A surprise of zero would say that the pair was known."""
    for memory in (matrix(eta=1.0), pairs()):
        given = stream()
        v = given["values"].detach()
        v[0, 1] = torch.nan
        state, surprise = memory.write(memory.init(2), given["keys"], v)
        assert surprise.isnan().tolist()[1] == [False] * 9
        assert surprise[0, 1].isnan()
        if "M" in state.memory:  # from then on the matrix is no number either
            assert surprise[0].isnan().tolist() == [False] + [True] * 8


def test_a_start_and_a_state_stay_as_they_were():
    memory, given = matrix(window=3), stream()
    state = memory.init(2)
    before = {name: x.clone() for name, x in state.memory.items()}
    again, _ = memory.write(state, given["keys"], given["values"])
    assert all(torch.equal(state.memory[name], x) for name, x in before.items())
    assert again.memory["tokens"].tolist() == [9, 9]


def test_numbers_and_shapes_that_do_not_fit_are_refused_in_one_line():
    given = stream()
    k, v = given["keys"], given["values"]
    memory = matrix()
    state = memory.init(2)
    with pytest.raises(ValueError, match="window 0 is below 1"):
        AssociativeMemory(Matrix(4), eta=1.0, window=0)
    for choices, message in [
        (
            {"rule": "gd"},
            r"rule is 'gd', which cannot be used as one; give the thing itself, such as everlearn\.rules\.gd",
        ),
        ({"objective": "l2"}, "objective is 'l2', which cannot"),
        ({"objective": Lp}, "objective is the class Lp, which cannot"),
        ({"retention": Decay}, "retention is the class Decay, which cannot"),
        ({"retention": 0.9}, r"retention is 0\.9, which cannot"),
        ({"architecture": Matrix}, "architecture is the class Matrix, which cannot"),
        ({"architecture": 4}, "architecture is 4, which cannot"),
        ({"window": 2.5}, r"window 2\.5 is no whole number of tokens; give one >= 1"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            AssociativeMemory(**{"architecture": Matrix(4), "eta": 1.0} | choices)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="eta is None, a number >= 0 is needed"):
        AssociativeMemory(Matrix(4))
    with pytest.raises(ValueError, match=r"eta is 1\.0, None"):
        AssociativeMemory(NonParametric(4), rule=None, eta=1.0)
    with pytest.raises(ValueError, match=r"values has shape .*\(2, 9, 3\) is needed"):
        memory.write(state, k, k)
    with pytest.raises(ValueError, match=r"keys has shape \(2, 9, 4\), \(1, 9, 4\) is needed"):
        memory.write(memory.init(1), k, v)
    with pytest.raises(ValueError, match=r"alpha was given to a memory with Keep\(\)"):
        memory.write(state, k, v, alpha=given["alpha"])
    with pytest.raises(ValueError, match="eta was given to a non-parametric memory"):
        kept = AssociativeMemory(NonParametric(4, 3), rule=None)
        kept.write(kept.init(2), k, v, eta=given["eta"])
    with pytest.raises(ValueError, match="another memory's"):
        memory.read(LayerState({"tokens": torch.zeros(2)}), k)
    with pytest.raises(ValueError, match="another memory's"):
        memory.read(matrix(dim_v=2).init(2), k)
    for shape in ((), (4,)):
        with pytest.raises(ValueError, match=r"keys has shape .*\(2, 'T', 4\) is needed"):
            memory.write(state, torch.ones(shape).double(), v)
    with pytest.raises(ValueError, match="eta is a float; give a tensor"):
        memory.write(state, k, v, eta=0.5)
    with pytest.raises(ValueError, match=r"queries is torch\.int64; a floating-point type is needed"):
        memory.read(state, k.long())
    with pytest.raises(ValueError, match=r"mask is torch\.int64; bool, True for a real token"):
        memory.write(state, k, v, mask=torch.ones(2, 9).long())
    with pytest.raises(ValueError, match="eta is inf"):
        AssociativeMemory(Matrix(4), eta=float("inf"))
    assert isinstance(memory.retention, Keep)
