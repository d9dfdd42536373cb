"""The blocked delta rule against the literal one, and both against cases worked out by hand.  [NL eq. 64-65, 92]"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from everlearn.ops.delta_rule import chunk, naive
from tests.pairs import pairs

TOLERANCE = 1e-10  # float64: at most 100 tokens, each a few roundings of 1e-16
NAMES = ("q", "k", "v", "eta", "log_alpha", "state")
DECAY = pytest.mark.parametrize("decay_first", [False, True], ids=["delta", "decay_first"])
BOTH = pytest.mark.parametrize("op", [naive.delta_rule, chunk.delta_rule], ids=["naive", "chunk"])


def draw(rows=2, length=7, heads=3, dim=5, dim_v=4, seed=0, gates="mixed", state=True) -> dict[str, torch.Tensor]:
    """Random float64 arguments: unit keys, eta up to 1 + alpha, gates near 0, near 1, or anywhere."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scale, shift = {"mixed": (4, 0), "open": (1, 9), "closed": (20, -40)}[gates]
    log_alpha = F.logsigmoid(scale * normal(rows, length, heads) + shift)
    args = {
        "q": normal(rows, length, heads, dim),
        "k": F.normalize(normal(rows, length, heads, dim), dim=-1),
        "v": normal(rows, length, heads, dim_v),
        "eta": (1 + log_alpha.exp()) * torch.sigmoid(3 * normal(rows, length, heads)),
        "log_alpha": log_alpha,
    }
    return args | ({"state": normal(rows, heads, dim_v, dim)} if state else {})


def value_and_grad(op, args, **options):
    """Return y, the state, and the gradient of a random projection of both by every argument."""
    leaves = {name: x.clone().requires_grad_() for name, x in args.items()}
    y, state = op(**leaves, **options)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (y, state)]
    loss = (y * weights[0]).sum() + (state * weights[1]).sum()
    return y, state, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize(
    ("length", "gates", "after", "state", "decay_first"),
    pairs([1, 7, 64, 100], ["mixed", "open", "closed"], *[[True, False]] * 3),
)
def test_blocks_equal_the_recurrence_values_and_gradients(length, after, gates, state, decay_first):
    args = draw(length=length, gates=gates, state=state)
    options = {"read_after_write": after, "decay_first": decay_first}
    want = value_and_grad(naive.delta_rule, args, **options)
    got = value_and_grad(chunk.delta_rule, args, **options)
    for a, b in zip(got[:2], want[:2], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=TOLERANCE)
    for name in args:
        assert torch.allclose(got[2][name], want[2][name], rtol=TOLERANCE, atol=TOLERANCE), name


@pytest.mark.parametrize("block_size", [1, 2, 3, 8, 16, 29, 63, 64, 1000])
@DECAY
def test_block_size_changes_no_result(block_size, decay_first):
    args = draw(length=64)
    want = value_and_grad(naive.delta_rule, args, decay_first=decay_first)
    got = value_and_grad(chunk.delta_rule, args, block_size=block_size, decay_first=decay_first)
    for a, b in zip([*got[:2], *got[2].values()], [*want[:2], *want[2].values()], strict=True):
        assert torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def test_second_derivatives_are_exact():
    args = draw(rows=1, length=5, heads=1, dim=2, dim_v=2)
    leaves = [args[name].requires_grad_() for name in NAMES]
    assert torch.autograd.gradgradcheck(lambda *a: chunk.delta_rule(*a, block_size=3), leaves)


@pytest.mark.parametrize("cut", range(24))
@DECAY
def test_reading_in_two_calls_equals_one(cut, decay_first):
    args = draw(length=23)
    state = args.pop("state")
    op = partial(chunk.delta_rule, block_size=8, decay_first=decay_first)
    y, last = op(**args, state=state)
    first = {name: x[:, :cut] for name, x in args.items()}
    second = {name: x[:, cut:] for name, x in args.items()}
    y_first, middle = op(**first, state=state)
    y_second, end = op(**second, state=middle)
    assert torch.allclose(torch.cat([y_first, y_second], 1), y, rtol=0, atol=TOLERANCE)
    assert torch.allclose(end, last, rtol=0, atol=TOLERANCE)


@BOTH
def test_two_tokens_by_hand(op):
    k = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64).reshape(1, 2, 1, 2)
    v = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    q = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64).reshape(1, 2, 1, 2)
    eta = torch.tensor([0.5, 1.0], dtype=torch.float64).reshape(1, 2, 1)
    log_alpha = torch.tensor([1.0, 0.5], dtype=torch.float64).log().reshape(1, 2, 1)
    y, state = op(q, k, v, eta, log_alpha)
    want = torch.tensor([[0.14, -0.48], [0.6, 0.8]], dtype=torch.float64)  # worked out in the op's README
    assert torch.allclose(state[0, 0], want, atol=1e-15)
    assert torch.allclose(y[0, :, 0], torch.tensor([[1.0, 0.0], [-0.48, 0.8]], dtype=torch.float64), atol=1e-15)
    before, _ = op(q, k, v, eta, log_alpha, read_after_write=False)
    assert torch.allclose(before[0, :, 0], torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64), atol=1e-15)


@BOTH
def test_a_repeated_unit_key_recalls_plus_v(op):
    key = F.normalize(torch.randn(4, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=0)
    value = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    k, v = key.expand(1, 40, 1, 4), value.expand(1, 40, 1, 3)
    eta, log_alpha = torch.full((1, 40, 1), 0.5, dtype=torch.float64), torch.zeros(1, 40, 1, dtype=torch.float64)
    y, _ = op(k, k, v, eta, log_alpha)
    left = 1 - 0.5 ** torch.arange(1, 41, dtype=torch.float64)  # each write halves what is missing
    assert torch.allclose(y[0, :, 0], left[:, None] * value, atol=1e-14)


@BOTH
def test_no_step_and_open_gate_change_nothing(op):
    args = draw(length=20)
    args["eta"].zero_()
    args["log_alpha"].zero_()
    y, state = op(**args)
    assert torch.equal(state, args["state"])
    assert torch.allclose(y, torch.einsum("bhvd,bthd->bthv", state, args["q"]), atol=1e-14)


@BOTH
def test_padding_leaves_the_state_as_it_was(op):
    args = draw(length=20)
    args["eta"][0, 13:], args["log_alpha"][0, 13:] = 0, 0
    _, state = op(**args)
    other = args | {name: args[name].clone() for name in ("q", "k", "v")}
    for name in ("q", "k", "v"):
        other[name][0, 13:] = 5.0
    assert torch.equal(op(**other)[1], state)
    state_0 = args.pop("state")
    short = {name: x[:1, :13] for name, x in args.items()}
    assert torch.allclose(op(**short, state=state_0[:1])[1], state[:1], rtol=0, atol=TOLERANCE)


def test_rows_and_heads_do_not_mix():
    args = draw(length=40)
    y, state = chunk.delta_rule(**args)
    for name in args:
        changed = args | {name: args[name].clone()}
        changed[name][1] *= 0.5
        y_changed, state_changed = chunk.delta_rule(**changed)
        assert torch.equal(y_changed[0], y[0]) and torch.equal(state_changed[0], state[0])
        assert not torch.equal(y_changed[1], y[1])


@pytest.mark.parametrize("t", [0, 15, 16, 31, 39])
def test_the_future_does_not_change_the_past(t):
    args = draw(length=40)
    y, _ = chunk.delta_rule(**args)
    for name in NAMES[:5]:
        changed = args | {name: args[name].clone()}
        changed[name][:, t:] *= 0.5
        y_changed, _ = chunk.delta_rule(**changed)
        assert torch.equal(y_changed[:, :t], y[:, :t])
        assert not torch.equal(y_changed[:, t:], y[:, t:])


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("alpha", [0.95, 1.0])
def test_bounded_on_thousands_of_correlated_keys(correlation, alpha):
    generator = torch.Generator().manual_seed(2)
    common, own, v = (torch.randn(1, n, 1, 16, generator=generator) for n in (1, 4096, 4096))
    k, v = F.normalize(correlation * common + (1 - correlation) * own, dim=-1), F.normalize(v, dim=-1)
    for eta in (0.5, 1.0, 1.9 * alpha):
        log_alpha = torch.full((1, 4096, 1), alpha).log()
        y, state = chunk.delta_rule(k, k, v, torch.full((1, 4096, 1), eta), log_alpha)
        # a token keeps at most max(alpha, eta - alpha) of what there was and adds at most eta
        limit = eta / (1 - max(alpha, eta - alpha)) if alpha < 1 else 40.0
        assert 0.1 < state.norm() < limit and y.norm(dim=-1).max() < limit
        if alpha == eta == 1:
            assert torch.allclose(y, v, atol=1e-4)  # a full overwrite is read back, whatever came before


def test_a_closed_gate_costs_no_digits_in_float32():
    args = draw(length=96, gates="open", state=False)
    args["log_alpha"][:, ::5] = -5000.0
    want, _ = naive.delta_rule(**args)
    got, _ = chunk.delta_rule(**{name: x.float() for name, x in args.items()}, block_size=64)
    assert (got - want).abs().max() < 1e-5  # float32 class; a difference of running sums is 1e-3 off


def test_empty_input_returns_the_state():
    args = draw(length=0)
    y, state = chunk.delta_rule(**args)
    assert y.shape == (2, 0, 3, 4) and torch.equal(state, args["state"])
    args.pop("state")
    assert torch.equal(chunk.delta_rule(**args)[1], torch.zeros(2, 3, 4, 5, dtype=torch.float64))


def test_arguments_are_left_untouched():
    args = draw(length=20)
    copies = {name: x.clone() for name, x in args.items()}
    chunk.delta_rule(**args)
    assert all(torch.equal(args[name], copies[name]) for name in args)


@pytest.mark.parametrize("length", [1, 40])
def test_memory_and_solve_stay_in_float32_below_bfloat16(length):
    args = {name: x.bfloat16() for name, x in draw(length=length).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = chunk.delta_rule(**args)
    want_y, want = naive.delta_rule(**{name: x.double() for name, x in args.items()})
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert torch.allclose(state.double(), want, rtol=1e-5, atol=1e-5)
    assert torch.allclose(y.double(), want_y, rtol=2**-8, atol=1e-5)


def test_a_wrong_shape_is_named():
    args = draw()
    for name in NAMES:
        if name != "k":
            with pytest.raises(ValueError, match=f"{name} has shape"):
                chunk.delta_rule(**(args | {name: args[name][:1]}))
    with pytest.raises(ValueError, match="block_size 0"):
        chunk.delta_rule(**args, block_size=0)
    with pytest.raises(ValueError, match="k has shape"):
        chunk.delta_rule(**(args | {"k": args["k"][0]}))


def test_decay_first_equals_the_gated_delta_rule_of_transformers():
    module = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    args = draw(length=37, dim=8, dim_v=8)
    state = args.pop("state").float()
    floats = {name: x.float() for name, x in args.items()}
    y, last = chunk.delta_rule(**floats, state=state, decay_first=True)
    # they scale q by D^-1/2 and store S^T
    want, want_last = module.torch_recurrent_gated_delta_rule(
        floats["q"] * 8**0.5,
        floats["k"],
        floats["v"],
        floats["log_alpha"],
        floats["eta"],
        initial_state=state.mT.contiguous(),
        output_final_state=True,
    )
    assert torch.allclose(y, want, rtol=1e-5, atol=1e-5)
    assert torch.allclose(last, want_last.mT, rtol=1e-5, atol=1e-5)


@BOTH
def test_decay_first_by_hand(op):
    """alpha 1/2, eta 1, k = (1, 0): what the key held is overwritten, what stands beside it is halved."""
    state = torch.tensor([[4.0, 6.0]], dtype=torch.float64).reshape(1, 1, 1, 2)
    k = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    v, eta = (torch.ones(1, 1, 1, *size, dtype=torch.float64) for size in ((1,), ()))
    log_alpha = torch.tensor(0.5, dtype=torch.float64).log().reshape(1, 1, 1)
    first, plain = (op(k, k, v, eta, log_alpha, state, decay_first=way)[1].flatten() for way in (True, False))
    assert torch.allclose(first, torch.tensor([1.0, 3.0], dtype=torch.float64), atol=1e-15)
    assert torch.allclose(plain, torch.tensor([-1.0, 3.0], dtype=torch.float64), atol=1e-15)  # 1/2 * 4 - 4 + 1


def test_the_gate_multiplies_the_identity_alone():
    """alpha I - eta k k^T has eigenvalue alpha - eta along k; the gated DeltaNet form would have alpha (1 - eta)."""
    args = draw(length=4, heads=1, dim=3, dim_v=3, state=False)
    args["v"].zero_()
    state = torch.eye(3, dtype=torch.float64).expand(2, 1, 3, 3)
    _, last = chunk.delta_rule(**args, state=state)
    want = [torch.eye(3, dtype=torch.float64) for _ in range(2)]
    for row, t in ((r, t) for r in range(2) for t in range(4)):
        values, vectors = torch.linalg.eigh(torch.outer(args["k"][row, t, 0], args["k"][row, t, 0]))
        alpha, eta = args["log_alpha"][row, t, 0].exp(), args["eta"][row, t, 0]
        want[row] = want[row] @ vectors @ torch.diag(alpha - eta * values) @ vectors.T
    assert torch.allclose(last[:, 0], torch.stack(want), rtol=0, atol=TOLERANCE)
