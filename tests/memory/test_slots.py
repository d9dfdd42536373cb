"""Slots against the mixture written out in numpy, one query at a time."""

import math

import numpy as np
import pytest
import torch

from everlearn.memory import codec
from everlearn.memory.slots import SlotMemory, SlotState

V, D = 11, 6


def brute(memory: SlotMemory, pairs, key, logits) -> np.ndarray:
    """Return the log-probabilities of the mixture: pairs is a list of (key, token), everything in float64."""
    logits = logits.numpy().astype(np.float64)
    model = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    key = key.numpy() / np.linalg.norm(key.numpy())
    cosines = [float(k.numpy() @ key / np.linalg.norm(k.numpy())) for k, _ in pairs]
    if not pairs or max(cosines) <= memory.gate:
        return np.log(model)
    shares = np.exp([memory.tau * (c - max(cosines)) for c in cosines])
    recalled = np.zeros(len(model))
    for (_, token), share in zip(pairs, shares / shares.sum(), strict=True):
        recalled[token] += share
    return np.log((1 - memory.weight) * model + memory.weight * recalled)


def written(memory: SlotMemory, rows: int = 1, count: int = 20, document: int | torch.Tensor = 0, mask=None):
    keys = torch.randn(rows, count, D, dtype=torch.float64)
    tokens, surprise = torch.randint(V, (rows, count)), torch.rand(rows, count)
    state = memory.write(memory.initial_state(rows, D), keys, tokens, surprise, document, mask)
    return state, keys, tokens, surprise


@pytest.mark.parametrize("gate", [-1.0, 0.6])
@pytest.mark.parametrize("tau", [0.5, 60.0])
def test_the_mixture_is_that_of_a_search_by_hand(gate, tau):
    memory = SlotMemory(tau=tau, gate=gate, weight=0.3, key_dtype=torch.float64)
    mask = torch.rand(2, 20) < 0.7
    state, keys, tokens, _ = written(memory, rows=2, mask=mask)
    asked, logits = torch.randn(2, 9, D, dtype=torch.float64), torch.randn(2, 9, V, dtype=torch.float64)
    found = torch.log_softmax(memory.read(state, asked, logits), -1)
    changed = 0
    for row in range(2):
        pairs = [(keys[row, i], int(tokens[row, i])) for i in range(20) if mask[row, i]]
        for t in range(9):
            wanted = brute(memory, pairs, asked[row, t], logits[row, t])
            np.testing.assert_allclose(found[row, t].numpy(), wanted, atol=1e-12)
            changed += not np.allclose(wanted, torch.log_softmax(logits[row, t], -1).numpy())
    assert changed == 18 if gate < 0 else 0 < changed < 18


def test_a_slot_by_hand():
    """One slot that is met exactly takes its share: half of one half, and all the rest of it for what came next."""
    memory = SlotMemory(weight=0.5, key_dtype=torch.float64)
    key = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    state = memory.write(memory.initial_state(1, 2), key, torch.tensor([[1]]), torch.ones(1, 1), 0)
    assert state.keys.tolist() == [[[0.6, 0.8]]]
    shares = torch.softmax(memory.read(state, 7 * key, torch.zeros(1, 1, 2, dtype=torch.float64)), -1)
    torch.testing.assert_close(shares[0, 0], torch.tensor([0.25, 0.75], dtype=torch.float64), atol=1e-12, rtol=0)
    # at a right angle the gate is closed
    across = torch.tensor([[[4.0, -3.0]]], dtype=torch.float64)
    assert memory.read(state, across, torch.zeros(1, 1, 2)).tolist() == [[[0.0, 0.0]]]


def test_empty_slots_a_closed_gate_and_no_weight_leave_the_model_as_it_is():
    memory = SlotMemory()
    logits, asked = torch.randn(2, 5, V), torch.randn(2, 5, D)
    assert torch.equal(memory.read(memory.initial_state(2, D), asked, logits), logits)
    state = written(memory, rows=2)[0]
    assert torch.equal(SlotMemory(gate=1.0).read(state, asked, logits), logits)
    none = torch.zeros(2, 20, dtype=torch.bool)
    assert torch.equal(memory.read(written(memory, rows=2, mask=none)[0], asked, logits), logits)
    unweighted = SlotMemory(weight=0.0, gate=-1.0).read(state, asked, logits)
    torch.testing.assert_close(unweighted, logits, atol=1e-5, rtol=0)  # rounding of float32
    # a row with slots beside one without
    half = none.clone()
    half[0] = True
    mixed = SlotMemory(gate=-1.0).read(written(memory, rows=2, mask=half)[0], asked, logits)
    assert torch.equal(mixed[1], logits[1]) and bool(torch.isfinite(mixed).all())
    assert not torch.equal(mixed[0], logits[0])


def test_what_is_read_keeps_the_model_s_normaliser_and_its_gradient():
    memory = SlotMemory(gate=-1.0, weight=0.4)
    state = written(memory)[0]
    logits = torch.randn(1, 3, V, dtype=torch.float64, requires_grad=True)
    asked = torch.randn(1, 3, D, dtype=torch.float64)
    found = memory.read(state, asked, logits)
    torch.testing.assert_close(found.logsumexp(-1), logits.logsumexp(-1), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda x: memory.read(state, asked, x).log_softmax(-1), (logits,))


def test_what_is_masked_leaves_no_trace_not_even_nan():
    memory = SlotMemory()
    mask = torch.tensor([[True, False, True]])
    keys = torch.randn(1, 3, D) * torch.tensor([1.0, math.nan, 1.0])[:, None]
    state = memory.write(memory.initial_state(1, D), keys, torch.ones(1, 3), keys[..., 0].abs(), 0, mask)
    alone = memory.write(memory.initial_state(1, D), keys[:, ::2], torch.ones(1, 2), keys[:, ::2, 0].abs(), 0)
    assert codec.digest(state.to_tensors()) == codec.digest(alone.to_tensors())
    rows = torch.tensor([[True], [False]]).expand(2, 2)
    two = memory.write(state.rows([0, 0]), torch.ones(2, 2, D), rows.long(), rows + 0.5, 0, rows)
    assert two.count().tolist() == [4, 2] and not two.keys[1, 2:].any()


def test_beyond_the_capacity_the_least_surprising_go_and_the_order_stays():
    memory = SlotMemory(capacity=7)
    state, _, tokens, surprise = written(memory, rows=3)
    for row in range(3):
        best = sorted(sorted(range(20), key=lambda i: -float(surprise[row, i]))[:7])
        assert state.tokens[row].tolist() == tokens[row, best].tolist()
        torch.testing.assert_close(state.surprise[row], surprise[row, best])
    # in two pieces the same ones stay
    memory = SlotMemory(capacity=7, key_dtype=torch.float64)
    torch.manual_seed(5)
    whole, keys, tokens, surprise = written(memory)
    pieces = memory.initial_state(1, D)
    for part in (slice(0, 9), slice(9, 12), slice(12, 20)):
        pieces = memory.write(pieces, keys[:, part], tokens[:, part], surprise[:, part], 0)
    assert codec.digest(pieces.to_tensors()) == codec.digest(whole.to_tensors())
    # of equals the oldest stay
    equal = memory.write(memory.initial_state(1, D), keys, tokens, torch.ones(1, 20), 0)
    assert equal.tokens.tolist() == tokens[:, :7].tolist()


def test_bytes_are_bounded_and_counted():
    memory, dim = SlotMemory(capacity=10), 128
    state = memory.initial_state(1, dim)
    assert state.nbytes() == 0
    for _ in range(5):
        state = memory.write(state, torch.randn(1, 8, dim), torch.randint(V, (1, 8)), torch.rand(1, 8), 0)
    # 128 halves, token, surprise, document, valid
    assert state.nbytes() == 10 * (2 * 128 + 4 + 4 + 4 + 1)
    assert state.count().tolist() == [10]


def test_forgetting_a_document_leaves_nothing_of_it():
    memory = SlotMemory(key_dtype=torch.float64)
    state, _, tokens, _ = written(memory, rows=2, count=4, document=3)
    before = codec.digest(state.to_tensors())
    both = memory.write(state, torch.randn(2, 5, D), torch.full((2, 5), 9), torch.rand(2, 5), torch.tensor([8, 8]))
    assert memory.contents(both) == [{3: tokens[row].tolist(), 8: [9] * 5} for row in range(2)]
    assert codec.digest(memory.forget(both, [8]).to_tensors()) == before
    one = memory.forget(both, [8, 77], rows=torch.tensor([True, False]))
    assert one.count().tolist() == [4, 9]
    assert not one.keys[0, 4:].any() and not one.tokens[0, 4:].any() and not one.document[0, 4:].any()
    assert memory.forget(both, [3, 8]).nbytes() == 0
    assert both.count().tolist() == [9, 9]  # the argument is left as it was
    assert codec.digest(memory.forget(state, []).to_tensors()) == before


def test_rows_never_mix():
    memory = SlotMemory(capacity=6, gate=-1.0)
    torch.manual_seed(3)
    state, keys, tokens, surprise = written(memory, rows=2)
    other = memory.write(
        memory.initial_state(2, D),
        torch.stack([keys[0], -keys[1]]),
        torch.stack([tokens[0], tokens[1].flip(0)]),
        torch.stack([surprise[0], surprise[1] / 2]),
        0,
    )
    asked, logits = torch.randn(2, 5, D), torch.randn(2, 5, V)
    assert codec.digest(other.rows([0]).to_tensors()) == codec.digest(state.rows([0]).to_tensors())
    assert torch.equal(memory.read(other, asked, logits)[0], memory.read(state, asked, logits)[0])
    assert not torch.equal(memory.read(other, asked, logits)[1], memory.read(state, asked, logits)[1])


def test_slots_survive_the_file_bit_for_bit(tmp_path):
    memory = SlotMemory(gate=-1.0)
    state = written(memory, rows=2, mask=torch.rand(2, 20) < 0.5)[0]
    codec.save_tensors(tmp_path / "slots.safetensors", state.to_tensors(), {})
    back = SlotState.from_tensors(codec.load_tensors(tmp_path / "slots.safetensors")[0])
    assert codec.digest(back.to_tensors()) == codec.digest(state.to_tensors())


@pytest.mark.parametrize(
    "changes", [{"capacity": 0}, {"tau": 0.0}, {"tau": math.inf}, {"weight": 1.0}, {"gate": -2.0}, {"gate": math.nan}]
)
def test_settings_outside_their_range_are_refused(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
        SlotMemory(**changes)


def test_what_does_not_fit_is_refused():
    memory = SlotMemory()
    state, keys, tokens, surprise = written(memory)
    for call, words in (
        (lambda: memory.read(state, torch.zeros(1, 2, D + 1), torch.zeros(1, 2, V)), r"give \[1, T, 6\]"),
        (lambda: memory.read(state, torch.zeros(2, 2, D), torch.zeros(2, 2, V)), r"give \[1, T, 6\]"),
        (lambda: memory.read(state, torch.zeros(1, 2, D), torch.zeros(1, 2, 2)), "the vocabulary ends at 1"),
        (lambda: memory.write(state, keys, tokens[:, 1:], surprise, 0), "one of each for every token"),
        (lambda: memory.write(state, keys * math.nan, tokens, surprise, 0), "NaN"),
        (lambda: memory.write(state, keys, tokens, surprise * math.inf, 0), "infinity"),
        (lambda: SlotState.from_tensors({"keys": torch.zeros(1, 1, 1)}), "are no slots"),
        (lambda: SlotState.from_tensors(state.to_tensors() | {"valid": torch.ones(1, 2)}), "are no slots"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
