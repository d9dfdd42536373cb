"""The literal form against cases worked out by hand and against the delta rule.  [NL eq. 83-88, 90-93]"""

import pytest
import torch
import torch.nn.functional as F

from everlearn.ops.delta_rule import naive as delta_rule
from everlearn.ops.self_modifying import L2, Readouts, SelfModifyingRule, fresh_state
from everlearn.ops.self_modifying.naive import self_modifying

HAND = 1e-5  # the unit norm is smooth at zero: 1e-6 beside a square of 1


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 2)


def by_hand(tokens: int, **rule):
    """One head of two dimensions; every memory starts at zero but the main one; alpha 1/2 and eta 3/4 at any token."""
    init = torch.zeros(1, 5, 2, 2, dtype=torch.float64)
    init[0, 4, 0, 1] = 1.0
    zeros = torch.zeros(1, dtype=torch.float64)
    readouts = Readouts(zeros[:, None].expand(1, 2), zeros, zeros[:, None].expand(1, 2), zeros)
    k, v, q = rows(3, 4, 1, 0)[:, :tokens], rows(0, 2, 0, 3)[:, :tokens], rows(1, 0, 0.6, 0.8)[:, :tokens]
    rule = SelfModifyingRule(**rule)
    return self_modifying(q, k, v, readouts, fresh_state((init,), 1, rule), rule=rule)


def test_one_token_by_hand():
    """k = (.6, .8), v = (0, 1), v^ = (1, 1)/sqrt 2 of the main memory; S (I/2 - 3/4 kk^T) + 3/4 v^ k^T.  [NL eq. 92]"""
    y, state = by_hand(1)
    assert torch.allclose(y, rows(1, 0), atol=HAND)
    want = torch.tensor([[-0.36 + 0.318198, 0.02 + 0.424264], [0.318198, 0.424264]], dtype=torch.float64)
    assert torch.allclose(state.weights[0][0, 0, 4], want, atol=HAND)
    # the value that a memory at zero generates is v itself
    other = torch.tensor([[0, 0], [0.45, 0.6]], dtype=torch.float64)
    assert torch.allclose(state.weights[0][0, 0, :4], other.expand(4, 2, 2), atol=HAND)


def test_one_token_by_hand_with_the_l2_objective():
    """M(k) = (1.4, .8), so the gradient is (1.4 - .7071, .8 - .7071) k^T beside the decay.  [NL eq. 91, 93]"""
    _, state = by_hand(1, objective=L2)
    error = torch.tensor([1.4, 0.8], dtype=torch.float64) - 0.5**0.5
    kept = torch.tensor([[-0.36, 0.02], [0, 0]], dtype=torch.float64)
    want = kept - 0.75 * torch.outer(error, torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert torch.allclose(state.weights[0][0, 0, 4], want, atol=HAND)


@pytest.mark.parametrize(("chunk_size", "key"), [(1, (1, 0.45)), (2, (1, 0))])
def test_the_second_key_is_generated_by_the_last_boundary(chunk_size, key):
    """With chunks of one token M_k(1, 0) = (1, .45); with chunks of two the first token is not yet seen. [NL eq. 90]"""
    _, state = by_hand(2, chunk_size=chunk_size)
    k = F.normalize(torch.tensor(key, dtype=torch.float64), dim=0)
    eye = torch.eye(2, dtype=torch.float64)
    boundary = torch.tensor([[0, 0], [0.45, 0.6]], dtype=torch.float64)
    v = F.normalize((eye + (boundary if chunk_size == 1 else 0 * eye)) @ torch.tensor([0.0, 3.0]).double(), dim=0)
    value = F.normalize((eye + (boundary if chunk_size == 1 else 0 * eye)) @ v, dim=0)
    want = boundary @ (0.5 * eye - 0.75 * torch.outer(k, k)) + 0.75 * torch.outer(value, k)
    assert torch.allclose(state.weights[0][0, 0, 0], want, atol=HAND)


@pytest.mark.parametrize("read_boundary", [False, True])
def test_the_second_read_sees_the_first_write_and_not_its_own(read_boundary):
    """[NL eq. 86]; the reading of eq. 90 sees the boundary instead."""
    y, _ = by_hand(2, chunk_size=8, read_boundary=read_boundary)
    q = torch.tensor([0.6, 0.8], dtype=torch.float64)
    _, first = by_hand(1)
    start = torch.tensor([[0.0, 1.0], [0, 0]], dtype=torch.float64)
    weights = start if read_boundary else first.weights[0][0, 0, 4]
    assert torch.allclose(y[0, 1, 0], q + weights @ q, atol=HAND)


def test_with_memories_at_zero_the_first_chunk_is_the_delta_rule():
    """M(x) = x: k and v^ are the unit inputs, and the read is that of the delta rule beside q.  [NL eq. 64-65, 92]"""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 9, 3, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    alpha = torch.sigmoid(bias[1])
    eta = ((1 + alpha) * torch.sigmoid(bias[0])).expand(2, 9, 3)
    none = torch.zeros(3, 4, dtype=torch.float64)
    init, rule = torch.zeros(3, 5, 4, 4, dtype=torch.float64), SelfModifyingRule(chunk_size=9)
    y, state = self_modifying(q, k, v, Readouts(none, bias[0], none, bias[1]), fresh_state((init,), 2, rule), rule=rule)
    k, v = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (k, v))
    v = v / (v.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    read, last = delta_rule.delta_rule(q, k, v, eta, alpha.log().expand(2, 9, 3), read_after_write=False)
    assert torch.allclose(y, q + read, rtol=0, atol=1e-12)
    assert torch.allclose(state.weights[0], last.unsqueeze(2).expand(-1, -1, 5, -1, -1), rtol=0, atol=1e-12)
    assert torch.equal(state.boundary[0], state.weights[0]) and state.filled.tolist() == [0, 0]


def test_a_repeated_key_recalls_plus_its_value():
    """The printed minus of eq. 92 would store -v^; the answer is k + v^ because M(k) = k + S k.  [NL eq. 92]"""
    generator = torch.Generator().manual_seed(1)
    k, v = F.normalize(torch.randn(2, 1, 1, 1, 4, generator=generator, dtype=torch.float64), dim=-1)
    none, open_gate = torch.zeros(1, 4, dtype=torch.float64), torch.full((1,), 40.0, dtype=torch.float64)
    rule, init = SelfModifyingRule(chunk_size=64), torch.zeros(1, 5, 4, 4, dtype=torch.float64)
    readouts = Readouts(none, torch.zeros(1, dtype=torch.float64), none, open_gate)  # eta 1, alpha 1
    tokens = (x.expand(1, 5, 1, 4) for x in (k, k, v))
    y, _ = self_modifying(*tokens, readouts, fresh_state((init,), 1, rule), rule=rule)
    assert torch.allclose(y[:, 1:], (k + v).expand(1, 4, 1, 4), atol=HAND)


def test_an_anchor_keeps_what_decay_would_lose():
    """With eta near 0 a memory stays at its start under an anchor there, and halves with each token without one."""
    init = torch.randn(1, 5, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    none, zero = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    readouts = Readouts(none, zero - 60, none, zero)  # eta 0, alpha 1/2
    x, rule = torch.ones(1, 4, 1, 3, dtype=torch.float64), SelfModifyingRule(chunk_size=2)
    start = fresh_state((init,), 1, rule)
    _, lost = self_modifying(x, x, x, readouts, start, rule=rule)
    _, kept = self_modifying(x, x, x, readouts, start, rule=rule, anchor=(init,))
    assert torch.allclose(lost.weights[0][0], init / 16, atol=1e-12)
    assert torch.allclose(kept.weights[0][0], init, atol=1e-12)


def test_momentum_is_an_average_that_goes_on_writing():
    """beta 1/2: the first write has half of its size, and half of that follows with the next token.  [NL eq. 10-13]"""
    once, half = by_hand(1)[1], by_hand(1, beta=0.5)[1]
    start, decay = torch.zeros(2, 2).double(), torch.tensor([[0.23, -0.36], [-0.36, 0.02]], dtype=torch.float64)
    start[0, 1] = 1
    write = once.weights[0][0, 0, 4] - start @ decay
    assert torch.allclose(half.weights[0][0, 0, 4], start @ decay + write / 2, atol=HAND)
    assert torch.allclose(half.momentum[0][0, 0, 4], write / 2, atol=HAND)


def test_the_first_weight_of_an_mlp_forgets_along_its_own_input():
    """u = silu(W2 k) for W1, k for W2, each step shortened by 1 + eta |u|^2; W2 keeps what it has without a decay."""
    generator = torch.Generator().manual_seed(3)
    w1, w2 = (torch.randn(1, 5, *size, generator=generator).double() for size in ((3, 4), (4, 3)))
    none, zero = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    x = torch.randn(1, 1, 1, 3, generator=generator).double()
    rule = SelfModifyingRule(implicit=True)
    start = fresh_state((w1, w2), 1, rule)
    _, state = self_modifying(x, x, x, Readouts(none, zero, none, zero), start, rule=rule)  # alpha 1/2, eta 3/4
    w1, w2 = w1[0, 4], w2[0, 4]

    def unit(a):
        return a / (a @ a + 1e-6).sqrt()

    def answer(a, m):
        return a + start.weights[0][0, 0, m] @ F.silu(start.weights[1][0, 0, m] @ a)

    k, v = unit(answer(x[0, 0, 0], 0)), unit(answer(x[0, 0, 0], 1))
    value, z = unit(answer(v, 4)), w2 @ k
    h, slope = F.silu(z), torch.sigmoid(z) * (1 + z * (1 - torch.sigmoid(z)))
    n1, n2 = 0.75 / (1 + 0.75 * h @ h), 0.75 / (1 + 0.75 * k @ k)
    want1 = w1 @ (0.5 * torch.eye(4).double() - n1 * torch.outer(h, h)) + n1 * torch.outer(value, h)
    want2 = 0.5 * w2 + n2 * torch.outer((w1.T @ value) * slope, k)
    assert torch.allclose(state.weights[0][0, 0, 4], want1, atol=1e-12)
    assert torch.allclose(state.weights[1][0, 0, 4], want2, atol=1e-12)


def test_a_masked_token_changes_nothing_and_a_row_has_its_own_clock():
    generator = torch.Generator().manual_seed(4)
    q, k, v = torch.randn(3, 2, 7, 1, 3, generator=generator, dtype=torch.float64)
    init = torch.randn(1, 5, 3, 3, generator=generator, dtype=torch.float64) / 4
    none, zero = torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    readouts, rule = Readouts(none, zero, none, zero + 3), SelfModifyingRule(chunk_size=4)
    mask = torch.tensor([[True] * 7, [True, True, False, True, False, True, True]])
    _, both = self_modifying(q, k, v, readouts, fresh_state((init,), 2, rule), rule=rule, mask=mask)
    short = (x[1:, mask[1]] for x in (q, k, v))
    _, alone = self_modifying(*short, readouts, fresh_state((init,), 1, rule), rule=rule)
    assert both.filled.tolist() == [3, 1] and alone.filled.tolist() == [1]
    assert torch.allclose(both.weights[0][1], alone.weights[0][0], rtol=0, atol=1e-13)
    assert torch.allclose(both.boundary[0][1], alone.boundary[0][0], rtol=0, atol=1e-13)


def test_settings_that_cannot_work_are_refused_in_one_line():
    for said, message in (
        ({"chunk_size": 0}, "chunk_size is 0; a chunk is a whole number"),
        ({"others_chunk_size": 2.0}, "others_chunk_size is 2.0"),
        ({"chunk_size": 16, "others_chunk_size": 24}, "do not divide one another.*choose others_chunk_size=16"),
        ({"beta": 1.0}, r"beta 1.0 must lie in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            SelfModifyingRule(**said)
