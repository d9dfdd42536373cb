"""The chunked Titans memory against the literal one, values and gradients.  [Titans eq. 9-10, 12-18]"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from everlearn.ops.titans import chunk, naive
from tests.ops.titans.arguments import BOTH, MEMORIES, SCALARS, TOLERANCE, draw, same_state
from tests.pairs import pairs


def value_and_grad(op, args, **options):
    """Return y, surprise, the state's tensors, and the gradient of a random projection of all by every argument."""
    leaves = {name: x for name, x in args.items() if isinstance(x, torch.Tensor)}
    leaves |= {f"start{n}": w for n, w in enumerate(args["start"])}
    leaves = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    given = {name: leaves.get(name) for name in args if name != "start"}
    y, surprise, state = op(**given, start=[leaves[f"start{n}"] for n in range(len(args["start"]))], **options)
    generator = torch.Generator().manual_seed(9)
    mask = options.get("mask")
    parts = [y if mask is None else y[mask], *(w for part in state[:3] for w in part)]
    loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in parts)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return [*parts, surprise if mask is None else surprise[mask], state[3]], dict(zip(leaves, grads, strict=True))


def agree(args, **options):
    """Check values, the state and all gradients of the chunked form against the literal one."""
    want, want_grads = value_and_grad(naive.titans, args, **options)
    got, grads = value_and_grad(chunk.titans, args, **options)
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    for name, b in want_grads.items():
        a = grads[name]
        assert (a is None or a.abs().max() == 0) if b is None else torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("memory", "chunk_size", "slow"), pairs(list(MEMORIES), [1, 4, 7, 64], [True, False]))
def test_chunks_equal_the_recurrence_values_and_gradients(memory, slow, chunk_size):
    """[Titans eq. 9-10, 12-18]; with padding at the end of the second row, and steps that max_norm shortens."""
    depth, options = MEMORIES[memory]
    mask = torch.arange(23) < torch.tensor([23, 14])[:, None]
    agree(draw(depth, slow=slow), chunk_size=chunk_size, mask=mask, **options)


@pytest.mark.parametrize("gates", ["open", "closed", "ends"])
@pytest.mark.parametrize("depth", [1, 2])
def test_gates_at_their_extremes(depth, gates):
    agree(draw(depth, gates=gates), chunk_size=5)


@pytest.mark.parametrize("length", [1, 64, 100])
def test_short_and_long_inputs(length):
    agree(draw(2, rows=1, heads=1, length=length), chunk_size=32)


@pytest.mark.parametrize("memory", MEMORIES)
def test_gradients_are_those_of_finite_differences(memory):
    depth, options = MEMORIES[memory]
    args = draw(depth, rows=1, length=4, heads=1, dim=2, dim_v=2)
    start = args.pop("start")
    leaves = [x.requires_grad_() for x in (*args.values(), *start)]

    def outputs(*given):
        y, _, state = chunk.titans(*given[:6], given[6:], chunk_size=3, **options)
        return y, *(w for part in state[:3] for w in part)

    assert torch.autograd.gradcheck(outputs, leaves)


@pytest.mark.parametrize("cut", [0, 1, 3, 6, 7, 8, 14, 20, 22, 23])
@pytest.mark.parametrize("memory", ["matrix", "mlp_residual", "deep"])
def test_reading_in_two_calls_equals_one(memory, cut):
    """The open chunk waits in the state: its gradients are taken where it began, however it is cut."""
    depth, options = MEMORIES[memory]
    args = draw(depth)
    start = args.pop("start")
    op = partial(chunk.titans, start=start, chunk_size=7, **options)
    y, surprise, last = op(**args)
    y_first, surprise_first, middle = op(**{name: x[:, :cut] for name, x in args.items()})
    y_second, surprise_second, end = op(**{name: x[:, cut:] for name, x in args.items()}, state=middle)
    assert torch.allclose(torch.cat([y_first, y_second], 1), y, rtol=0, atol=TOLERANCE)
    assert torch.allclose(torch.cat([surprise_first, surprise_second], 1), surprise, rtol=0, atol=TOLERANCE)
    same_state(end, last)


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_stand_at_different_places_do_not_meet(op, seed):
    """Ragged pieces, some of them empty for a row, with NaN where there is no token."""
    args, generator = draw(2, rows=3, seed=seed), torch.Generator().manual_seed(seed)
    start = args.pop("start")
    op = partial(op, start=start, chunk_size=5, residual=True)
    read, state, got = [0] * 3, None, [[] for _ in range(3)]
    while min(read) < 23:
        take = [min(int(torch.randint(0, 9, (), generator=generator)), 23 - r) for r in read]
        size = max(take)
        piece = {name: torch.full((3, size, *x.shape[2:]), torch.nan).double() for name, x in args.items()}
        for name, x in args.items():
            for row, n in enumerate(take):
                piece[name][row, :n] = x[row, read[row] : read[row] + n]
        y, _, state = op(**piece, state=state, mask=torch.arange(size) < torch.tensor(take)[:, None])
        for row, n in enumerate(take):
            got[row].append(y[row, :n])
            read[row] += n
    want, _, last = chunk.titans(**args, start=start, chunk_size=5, residual=True)
    for row in range(3):
        assert torch.allclose(torch.cat(got[row]), want[row], rtol=0, atol=TOLERANCE)
    same_state(state, last)


def test_a_surprise_of_zero_has_finite_gradients():
    args = draw(length=4)
    args["v"] = torch.einsum("hod,bthd->btho", args["start"][0], args["k"])
    for op in (naive.titans, chunk.titans):
        got, grads = value_and_grad(op, args, chunk_size=4, max_norm=1.0)
        assert got[-2].abs().max() < 1e-14 and all(g.isfinite().all() for g in grads.values())


@pytest.mark.parametrize("length", [2, 5])
def test_a_promise_to_stay_in_the_open_chunk_changes_no_result(length):
    """Rows with 3 and 0 tokens in chunks of 8; the first one's chunk is full with 5 more."""
    args = draw(2, length=8)
    start = args.pop("start")
    first, more = ({name: x[:, part] for name, x in args.items()} for part in (slice(3), slice(3, 3 + length)))
    mask = torch.arange(3) < torch.tensor([3, 0])[:, None]
    _, _, state = chunk.titans(**first, start=start, chunk_size=8, mask=mask)
    y, _, end = chunk.titans(**more, start=start, state=state, chunk_size=8)
    promised, _, last = chunk.titans(**more, start=start, state=state, chunk_size=8, crosses=False)
    assert torch.allclose(y, promised, rtol=0, atol=TOLERANCE)
    same_state(end, last)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_memory_is_read_without_being_written(memory):
    """No step, an open gate and no momentum: what is left of the recurrence is the read.  [Titans eq. 15]"""
    depth, options = MEMORIES[memory]
    args, residual = draw(depth, slow=False), options.get("residual", False)
    _, _, state = chunk.titans(**args, chunk_size=5)
    nothing = {name: torch.zeros_like(args[name]) for name in ("eta", "log_alpha")}
    want, _, same = naive.titans(**args | nothing, state=state, chunk_size=5, residual=residual)
    got = chunk.recall(state.weights, args["q"], residual=residual)
    assert torch.allclose(got, want, rtol=0, atol=TOLERANCE)
    assert all(torch.equal(a, b) for a, b in zip(same[0], state.weights, strict=True))


@BOTH
def test_padding_leaves_the_state_as_it_was(op):
    args, mask = draw(2), torch.arange(23) < torch.tensor([23, 13])[:, None]
    _, _, state = op(**args, chunk_size=5, mask=mask)
    other = {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in args.items()}
    for name in ("q", "k", "v"):
        other[name][1, 13:] = 5.0
    _, _, again = op(**other, chunk_size=5, mask=mask)
    for part, same in zip(state[:3], again[:3], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part, same, strict=True))
    assert state[3].tolist() == [3, 3]


def test_rows_and_heads_do_not_mix_and_the_future_does_not_change_the_past():
    args = draw(2, length=13)
    y, _, state = chunk.titans(**args, chunk_size=4)
    for name in ("q", "k", "v", *SCALARS):
        row, head, later = (args | {name: args[name].clone()} for _ in range(3))
        row[name][1] *= 0.5
        head[name][:, :, 1] *= 0.5
        later[name][:, 6:] *= 0.5
        y_row, _, state_row = chunk.titans(**row, chunk_size=4)
        assert torch.equal(y_row[0], y[0]) and not torch.equal(y_row[1], y[1])
        assert torch.equal(state_row.weights[0][0], state.weights[0][0])
        assert torch.equal(chunk.titans(**head, chunk_size=4)[0][:, :, 0], y[:, :, 0])
        y_later = chunk.titans(**later, chunk_size=4)[0]
        assert torch.equal(y_later[:, :6], y[:, :6]) and not torch.equal(y_later[:, 6:], y[:, 6:])


def test_empty_input_returns_the_state_and_arguments_are_left_untouched():
    args = draw(2)
    copies = {name: x.clone() for name, x in args.items() if isinstance(x, torch.Tensor)}
    _, _, state = chunk.titans(**args, chunk_size=5)
    assert all(torch.equal(args[name], x) for name, x in copies.items())
    nothing = {name: x[:, :0] if name in copies else x for name, x in args.items()}
    y, surprise, same = chunk.titans(**nothing, state=state, chunk_size=5)
    assert y.shape == (2, 0, 2, 4) and surprise.shape == (2, 0, 2)
    same_state(same, state)
    assert torch.equal(chunk.titans(**nothing, chunk_size=5)[2].weights[1][0], args["start"][1])


def test_memory_and_sums_stay_in_float32_below_bfloat16():
    args = draw(gates="open", length=40)
    low = {name: [w.bfloat16() for w in x] if name == "start" else x.bfloat16() for name, x in args.items()}
    low["eta"] /= 8
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, surprise, state = chunk.titans(**low, chunk_size=8)
    wide = {name: [w.double() for w in x] if name == "start" else x.double() for name, x in low.items()}
    want_y, want_surprise, want = naive.titans(**wide, chunk_size=8)
    assert y.dtype == torch.bfloat16 and surprise.dtype == state.weights[0].dtype == torch.float32
    assert torch.allclose(state.weights[0].double(), want[0][0], rtol=1e-4, atol=1e-4)
    assert torch.allclose(surprise.double(), want_surprise, rtol=1e-4, atol=1e-4)
    assert torch.allclose(y.double(), want_y, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("slow", [True, False], ids=["momentum", "plain"])
@pytest.mark.parametrize("keys", ["one", "many"])
def test_steps_that_add_up_to_one_keep_a_matrix_bounded(keys, slow):
    """4,096 unit keys, the same or not, nothing forgotten, (1 - beta) eta at most 1 / chunk_size."""
    generator = torch.Generator().manual_seed(3)
    k, v = (F.normalize(torch.randn(1, 4096, 1, 8, generator=generator), dim=-1) for _ in range(2))
    k = k[:, :1].expand_as(k) if keys == "one" else k
    beta = torch.rand(1, 4096, 1, generator=generator)
    eta = (1 - beta if slow else torch.ones_like(beta)) / 16
    start = [torch.zeros(1, 8, 8)]
    options = {"chunk_size": 16, "max_norm": 2.0}
    y, surprise, state = chunk.titans(
        k, k, v, eta, torch.zeros_like(eta), beta.log() if slow else None, start, **options
    )
    assert surprise.max() < 2.0 and y.norm(dim=-1).max() < 1.0 and 0.01 < state.weights[0].norm() < 3


def test_a_wrong_argument_is_named():
    args = draw(2)
    refused = partial(pytest.raises, ValueError)
    for name in ("q", "v", *SCALARS):
        with refused(match=f"{name} has shape"):
            chunk.titans(**args | {name: args[name][:1]}, chunk_size=4)
    with refused(match="k has shape"):
        chunk.titans(**args | {"k": args["k"][0]}, chunk_size=4)
    with refused(match="chunk_size 0"):
        chunk.titans(**args, chunk_size=0)
    with refused(match="max_norm 0 is not above zero"):
        chunk.titans(**args, chunk_size=4, max_norm=0)
    with refused(match="start holds a matrix"):
        chunk.titans(**args | {"start": args["start"][::-1]}, chunk_size=4)
    with refused(match="start ends with 5 numbers"):
        chunk.titans(**args | {"start": args["start"][:1]}, chunk_size=4)
    with refused(match="start ends with 4 numbers.*at least one"):
        chunk.titans(**args | {"start": []}, chunk_size=4)
    with refused(match="residual adds a key of 4"):
        chunk.titans(**draw(2, dim_v=3), chunk_size=4, residual=True)
    with refused(match="real tokens first"):
        chunk.titans(**args, chunk_size=4, mask=torch.arange(23).expand(2, 23) > 3)
    _, _, state = chunk.titans(**args, chunk_size=4)
    with refused(match="the state holds"):
        chunk.titans(**draw(1), state=state, chunk_size=4)
    with refused(match="the state holds"):
        chunk.titans(**args, state=state._replace(momentum=()), chunk_size=4)
