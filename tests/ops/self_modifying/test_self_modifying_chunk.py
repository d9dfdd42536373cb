"""The chunked form against the literal one, whatever the options and however a stream is cut.  [NL eq. 83-88, 90-93]"""

from functools import partial

import pytest
import torch
from self_modifying_fixture import TENSORS, draw, gradients, results, run, worst

from everlearn.ops.self_modifying import DOT, L2, SelfModifyingRule, fresh_state
from everlearn.ops.self_modifying.chunk import self_modifying
from everlearn.ops.self_modifying.naive import self_modifying as literal
from tests.pairs import pairs

TOLERANCE = 1e-10  # float64, of each tensor's largest number: some hundred dependent roundings of 1e-16
KINDS = pytest.mark.parametrize("hidden", [0, 5], ids=["matrix", "mlp"])
OPTIONS = {
    "default": {},
    "l2": {"objective": L2},
    "other_step": {"implicit": None},
    "boundary": {"read_boundary": True},
    "momentum": {"beta": 0.7},
    "inner": {"decay_inner": True},
    "shorter_others": {"others_chunk_size": 2},
    "longer_others": {"others_chunk_size": 8},
    "all": {
        "objective": L2,
        "beta": 0.4,
        "decay_inner": True,
        "read_boundary": True,
        "others_chunk_size": 8,
    },
    "most": {"objective": L2, "beta": 0.4, "others_chunk_size": 2},
    "both_chunks": {"decay_inner": True, "others_chunk_size": 8},
}


def rule_for(hidden: int, name: str = "default", **changes) -> SelfModifyingRule:
    """Steps are plain for matrices and implicit for MLPs, as the hand-written kernels have them, unless asked."""
    options = {"implicit": hidden > 0, "chunk_size": 4, **OPTIONS[name], **changes}
    if options["implicit"] is None:
        options["implicit"] = not hidden
    return SelfModifyingRule(**options)


def gentle(leaves, rule):
    """Keep L2 with plain steps away from its bound: alpha - 2 eta above -1."""
    return leaves if rule.objective is DOT or rule.implicit else leaves | {"eta_bias": leaves["eta_bias"] - 3}


def agree(leaves, rule, mask=None):
    want, want_grads = gradients(literal, leaves, rule, mask)
    got, got_grads = gradients(self_modifying, leaves, rule, mask)
    assert worst(got, want) < TOLERANCE
    assert worst(got_grads, want_grads) < TOLERANCE


@pytest.mark.parametrize(("options", "hidden", "count", "anchor"), pairs(list(OPTIONS), [0, 5], [5, 6], [False, True]))
def test_chunks_equal_the_recurrence_for_every_option(options, count, anchor, hidden):
    rule = rule_for(hidden, options)
    leaves = gentle(draw(rows=1, length=11, hidden=hidden, count=count, anchor=anchor), rule)
    agree(leaves, rule)


@KINDS
@pytest.mark.parametrize(("chunk_size", "length"), [(1, 7), (2, 7), (3, 10), (16, 40), (63, 64), (64, 64)])
def test_chunks_of_any_size_equal_the_recurrence(chunk_size, length, hidden):
    agree(draw(rows=1, length=length, heads=1, hidden=hidden), rule_for(hidden, chunk_size=chunk_size))


@KINDS
def test_the_default_rules_have_a_backward_pass_of_their_own(hidden):
    """What it keeps for that pass: its arguments, which are copied once, and one state for each later piece."""
    leaves = {name: x.requires_grad_() for name, x in draw(length=12, hidden=hidden).items()}
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.setdefault(x.data_ptr(), x), lambda x: x):
        y, _ = run(self_modifying, leaves, rule_for(hidden))
    assert "ByHand" in _ancestors(y.grad_fn)
    state = 2 * sum(leaves[name].numel() for name in leaves if name.startswith("init"))
    tokens = sum(leaves[name].numel() for name in TENSORS[:3])
    assert sum(x.numel() for x in kept.values()) <= tokens + 3 * state + 100
    y, _ = run(self_modifying, leaves, rule_for(hidden, "momentum"))
    assert "ByHand" not in _ancestors(y.grad_fn)


def _ancestors(node) -> str:
    """Return the names of all that a result was computed by."""
    return type(node).__name__ + "".join(_ancestors(parent) for parent, _ in node.next_functions[:1] if parent)


@KINDS
@pytest.mark.parametrize("bias", [9.0, -30.0], ids=["open", "closed"])
def test_open_and_closed_gates_equal_the_recurrence(bias, hidden):
    """Open at alpha .9999 every chunk still holds what all earlier ones wrote: no error hides behind decay."""
    rule = rule_for(hidden, chunk_size=8)
    agree(draw(rows=1, length=40, hidden=hidden, bias=bias), rule)


@KINDS
@pytest.mark.parametrize(
    ("options", "chunk_size"),
    [("default", 4), ("default", 1), ("momentum", 4), ("longer_others", 4), ("shorter_others", 4), ("momentum", 1)],
)
def test_ragged_rows_equal_the_recurrence(options, hidden, chunk_size):
    chunk_size = 1 if OPTIONS[options].get("others_chunk_size", 1) % chunk_size else chunk_size
    rule = rule_for(hidden, options, chunk_size=chunk_size)
    mask = torch.arange(9) < torch.tensor([9, 0, 5])[:, None]
    agree(draw(rows=3, length=9, hidden=hidden), rule, mask)


@KINDS
@pytest.mark.parametrize("options", ["default", "momentum", "longer_others", "shorter_others", "boundary"])
def test_reading_in_any_two_calls_equals_one(options, hidden):
    """The second call begins within a chunk, and the state it begins from holds that chunk."""
    rule = rule_for(hidden, options)
    leaves = draw(length=11, hidden=hidden)
    y, end = run(self_modifying, leaves, rule)
    for cut in range(12):
        first, middle = run(self_modifying, part(leaves, 0, cut), rule)
        second, last = run(self_modifying, part(leaves, cut, 11), rule, state=middle)
        got = results(torch.cat([first, second], 1), last)
        assert worst(got, results(y, end)) < TOLERANCE
        assert torch.equal(last.filled, end.filled)


def part(leaves, start, stop):
    return leaves | {name: leaves[name][:, start:stop] for name in TENSORS[:3]}


@KINDS
@pytest.mark.parametrize("options", ["default", "momentum", "longer_others"])
def test_rows_that_advance_at_different_speeds_equal_each_alone(options, hidden):
    rule = rule_for(hidden, options)
    leaves = draw(rows=3, length=12, hidden=hidden)
    state, place, got = None, [0, 0, 0], [[], [], []]
    for take in ([3, 5, 0], [1, 1, 1], [5, 0, 4], [1, 0, 1], [0, 6, 3]):
        size = max(take)
        piece = {name: torch.full_like(leaves[name][:, :size], torch.nan) for name in TENSORS[:3]}  # padding is garbage
        for name in piece:
            for row, n in enumerate(take):
                piece[name][row, :n] = leaves[name][row, place[row] : place[row] + n]
        mask = torch.arange(size) < torch.tensor(take)[:, None]
        y, state = run(self_modifying, leaves | piece, rule, mask, state)
        assert y.isfinite().all()
        for row, n in enumerate(take):
            got[row].append(y[row, :n])
            place[row] += n
    for row, length in enumerate(place):
        alone = {name: leaves[name][row : row + 1, :length] for name in TENSORS[:3]}
        want, end = run(self_modifying, leaves | alone, rule)
        assert worst([torch.cat(got[row])], [want[0]]) < TOLERANCE
        for ours, theirs in ((state.weights, end.weights), (state.boundary, end.boundary)):
            assert worst([w[row] for w in ours], [w[0] for w in theirs]) < TOLERANCE
        assert state.filled[row] == end.filled[0]


@KINDS
def test_derivatives_are_those_of_finite_differences(hidden):
    leaves = draw(rows=1, length=4, heads=1, dim=2, hidden=hidden and 2)
    rule = rule_for(hidden, chunk_size=2)

    def outputs(*tensors):
        y, state = run(self_modifying, dict(zip(leaves, tensors, strict=True)), rule)
        return (y, *state.weights)

    inputs = [x.requires_grad_() for x in leaves.values()]
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(lambda *a: outputs(*a)[0], inputs, fast_mode=True)


@KINDS
def test_rows_and_heads_do_not_mix(hidden):
    leaves, rule = draw(rows=2, length=9, hidden=hidden), rule_for(hidden)
    y, state = run(self_modifying, leaves, rule)
    for name in TENSORS[:3]:
        changed = leaves[name].clone()
        changed[1] = changed[1].flip(-1)
        other, after = run(self_modifying, leaves | {name: changed}, rule)
        assert torch.equal(other[0], y[0]) and not torch.equal(other[1], y[1])
        assert all(torch.equal(a[0], b[0]) for a, b in zip(after.weights, state.weights, strict=True))
        changed = leaves[name].clone()
        changed[:, :, 1] = changed[:, :, 1].flip(-1)
        other, _ = run(self_modifying, leaves | {name: changed}, rule)
        assert torch.equal(other[:, :, 0], y[:, :, 0]) and not torch.equal(other[:, :, 1], y[:, :, 1])
    for name in (n for n in leaves if n not in TENSORS[:3]):
        changed = leaves[name].clone()
        changed[1] *= 0.5
        other, _ = run(self_modifying, leaves | {name: changed}, rule)
        assert torch.equal(other[:, :, 0], y[:, :, 0]) and not torch.equal(other[:, :, 1], y[:, :, 1])


@KINDS
@pytest.mark.parametrize("t", [0, 3, 4, 8])
def test_a_token_changes_no_earlier_output(hidden, t):
    leaves, rule = draw(length=9, hidden=hidden), rule_for(hidden)
    y, _ = run(self_modifying, leaves, rule)
    for name in TENSORS[:3]:
        changed = leaves[name].clone()
        changed[:, t:] = changed[:, t:].flip(-1)
        after, _ = run(self_modifying, leaves | {name: changed}, rule)
        assert torch.equal(after[:, :t], y[:, :t])
        # keys and values act from the next token on
        assert (name == "q" or t == 8) or not torch.equal(after[:, t + 1 :], y[:, t + 1 :])


@pytest.mark.parametrize("token", [False, True], ids=["piece", "token"])
def test_memory_and_solve_stay_in_float32_below_bfloat16(token):
    leaves, rule = draw(length=1 if token else 11, bias=5.0), SelfModifyingRule(chunk_size=4)
    low = {name: x.bfloat16() for name, x in leaves.items()}
    init = (low["init.0"].float(),)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = run(self_modifying, low, rule, state=fresh_state(init, 2, rule))
    want, end = run(literal, {name: x.double() for name, x in low.items()}, rule)
    assert y.dtype == torch.bfloat16 and state.weights[0].dtype == torch.float32
    assert worst(list(state.weights), list(end.weights)) < 1e-5  # float32 class
    assert worst([y.double()], [want]) < 2**-8


def test_arguments_are_left_untouched_and_an_empty_call_returns_the_state():
    leaves, rule = draw(length=6), SelfModifyingRule(chunk_size=4)
    _, state = run(self_modifying, leaves, rule)
    copies = [x.clone() for x in (*leaves.values(), *state.weights, *state.boundary, state.filled)]
    run(self_modifying, leaves, rule, state=state)
    kept = (*leaves.values(), *state.weights, *state.boundary, state.filled)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    y, same = run(self_modifying, part(leaves, 0, 0), rule, state=state)
    assert y.shape == (2, 0, 2, 4) and same is state


def test_what_does_not_fit_is_named_in_one_line():
    leaves, rule = draw(anchor=True), SelfModifyingRule()
    init = (leaves["init.0"],)
    state = fresh_state(init, 2, rule)
    call = partial(run, self_modifying, rule=rule, state=state)
    for name in TENSORS[1:]:
        with pytest.raises(ValueError, match=f"{name} has shape .* reshape it"):
            call(leaves | {name: leaves[name][:1]})
    with pytest.raises(ValueError, match=r"q has shape \(9, 2, 4\); give"):
        call(leaves | {"q": leaves["q"][0]})
    with pytest.raises(ValueError, match="anchor has shape"):
        call(leaves | {"anchor.0": leaves["anchor.0"][:1]})
    with pytest.raises(ValueError, match="mask has shape"):
        call(leaves, mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="weights has shape"):
        call(leaves, state=fresh_state(init, 3, rule))
    with pytest.raises(ValueError, match="there are 4 memories"):
        call(leaves, state=fresh_state((init[0][:, :4],), 2, rule))
    with pytest.raises(ValueError, match=r"0 tensors of momentum, the rule with beta=0.5 needs 1"):
        call(leaves, rule=SelfModifyingRule(beta=0.5))
    with pytest.raises(ValueError, match="the state holds 3 weights"):
        call(leaves, state=fresh_state(init * 3, 2, rule))
