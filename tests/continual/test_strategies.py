"""Strategies against closed forms, against each other, and against what they promise about boundaries and storage."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from everlearn.continual.strategies.base import (
    TakesBoundaries,
    best_seen,
    linear_head,
    loss_over_batch,
    loss_over_seen,
    mlp_head,
)
from everlearn.continual.strategies.cms import CMSHead, step_levels
from everlearn.continual.strategies.cms_one_rate import one_rate_levels
from everlearn.continual.strategies.ewc import EWC
from everlearn.continual.strategies.fine_tune import FineTune
from everlearn.continual.strategies.fine_tune_masked import fine_tune_masked
from everlearn.continual.strategies.nearest_mean import NearestMean
from everlearn.continual.strategies.precision import Precision
from everlearn.continual.strategies.replay import Replay
from everlearn.continual.streams import Split, class_incremental
from everlearn.memory.precision import PrecisionMemory

D, C, B = 6, 4, 5
SGD = partial(torch.optim.SGD, lr=0.1)


def encode(x):
    return x.float()


def cms_head(levels, loss=loss_over_seen, seed=0, rate=0.1):
    return CMSHead(encode, D, C, levels, batch_size=B, readout_lr=rate, loss=loss, hidden_dim=3, seed=seed)


MAKERS = {
    "fine_tune": lambda: FineTune(encode, linear_head(D, C, 0), C, SGD),
    "fine_tune_masked": lambda: fine_tune_masked(encode, mlp_head(D, C, 0, hidden=8), C, SGD),
    "ewc": lambda: EWC(encode, linear_head(D, C, 0), C, SGD, strength=1.0),
    "replay": lambda: Replay(encode, linear_head(D, C, 0), C, SGD, capacity=9, practice=4),
    "nearest_mean": lambda: NearestMean(encode, D, C),
    "cms": lambda: cms_head(step_levels(0.1, B, (1, 2))),
    "cms_one_rate": lambda: cms_head(one_rate_levels(0.1, B, (1, 2))),
    "precision": lambda: Precision(encode, PrecisionMemory(D)),
}


def stream(seed=0, each=15):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(C).repeat(each)
    centres = torch.eye(C, D) * 4
    x = centres[y] + torch.randn(len(y), D, generator=generator)
    return class_incremental(Split(x, y), Split(x, y), 2, seed=seed)


def learned(strategy, data):
    for experience in data.experiences:
        for x, y in experience.batches(B):
            strategy.observe(x, y)
        if isinstance(strategy, TakesBoundaries):
            strategy.end_of_task()
    return strategy


@pytest.mark.parametrize("name", MAKERS)
def test_answers_are_always_classes_seen_so_far(name):
    strategy, data = MAKERS[name](), stream()
    seen = set()
    for experience in data.experiences:
        for x, y in experience.batches(B):
            strategy.observe(x, y)
            seen |= set(y.tolist())
            assert set(strategy.predict(data.test.x).tolist()) <= seen


@pytest.mark.parametrize("name", MAKERS)
def test_a_run_repeats_bit_for_bit_and_predicting_learns_nothing(name):
    data = stream()
    one, other = learned(MAKERS[name](), data), MAKERS[name]()
    for experience in data.experiences:
        for x, y in experience.batches(B):
            other.observe(x, y)
            other.predict(data.test.x)
        if isinstance(other, TakesBoundaries):
            other.end_of_task()
    assert torch.equal(one.predict(data.test.x), other.predict(data.test.x))
    assert one.stores_bytes() == other.stores_bytes()


@pytest.mark.parametrize("name", MAKERS)
def test_only_ewc_asks_for_boundaries_and_only_replay_stores_images(name):
    strategy = MAKERS[name]()
    assert isinstance(strategy, TakesBoundaries) == (name == "ewc")
    assert strategy.stores_images == (name == "replay")


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for make in MAKERS.values():
        make()
    assert torch.equal(torch.rand(2), expected)


def test_losses_by_hand():
    logits, y = torch.tensor([[0.0, 0.0, 5.0, 9.0]]), torch.tensor([0])
    seen = torch.tensor([True, True, False, False])
    assert loss_over_seen(logits, y, seen).item() == pytest.approx(0.6931, abs=1e-4)
    assert loss_over_batch(logits, y, seen).item() == 0.0
    assert best_seen(logits + torch.tensor([0.0, 1.0, 0.0, 0.0]), seen).item() == 1


def test_masked_fine_tuning_leaves_absent_rows_alone_and_plain_pushes_them_down():
    x, first, second = torch.ones(4, D), torch.tensor([0, 1, 0, 1]), torch.tensor([2, 3, 2, 3])
    for kind, moves in ((FineTune, True), (fine_tune_masked, False)):
        strategy = kind(encode, linear_head(D, C, 0), C, SGD)
        strategy.observe(x, first)
        before = strategy.network.head.bias[:2].detach().clone()
        strategy.observe(x, second)
        after = strategy.network.head.bias[:2].detach()
        assert torch.equal(before, after) != moves and bool((after <= before).all())


def test_fine_tuning_takes_the_softmax_step_by_hand():
    # zero weights, two classes seen, y = 0: dL/db = (1/2 - 1, 1/2), step 0.1
    strategy = FineTune(encode, linear_head(D, C, 0), C, SGD)
    strategy.network.see(torch.tensor([1]))
    strategy.observe(torch.ones(1, D), torch.tensor([0]))
    torch.testing.assert_close(strategy.network.head.bias.detach(), torch.tensor([0.05, -0.05, 0.0, 0.0]))
    torch.testing.assert_close(strategy.network.head.weight[0].detach(), torch.full((D,), 0.05))


def test_ewc_without_springs_is_fine_tuning():
    data = stream()
    ewc = learned(EWC(encode, linear_head(D, C, 0), C, SGD, strength=0.0), data)
    plain = learned(MAKERS["fine_tune"](), data)
    assert torch.equal(ewc.network.head.weight, plain.network.head.weight)


def test_ewc_fisher_is_the_mean_squared_gradient_of_each_record():
    x, y = stream().experiences[0].records.x[:7], stream().experiences[0].records.y[:7]
    ewc = EWC(encode, linear_head(D, C, 0), C, SGD, strength=1.0)
    ewc.observe(x, y)
    ewc.end_of_task()
    probability = 1 / len(y.unique())
    error = torch.zeros(7, C)
    error[:, y.unique()] = probability
    error[torch.arange(7), y] -= 1
    expected = (error.square().mT @ x.square()) / 7
    torch.testing.assert_close(ewc.fisher["weight"], expected)


def test_ewc_springs_pull_back():
    data = stream()
    moved = {}
    for strength in (0.0, 5.0):
        ewc = EWC(encode, linear_head(D, C, 0), C, SGD, strength=strength)
        for x, y in data.experiences[0].batches(B):
            ewc.observe(x, y)
        ewc.end_of_task()
        for x, y in data.experiences[1].batches(B):
            ewc.observe(x, y)
        change = ewc.network.head.weight.detach() - ewc.anchor["weight"]
        moved[strength] = (ewc.fisher["weight"] * change.square()).sum().item()
        assert ewc.penalty().item() == pytest.approx(
            strength / 2 * (moved[strength] + spring(ewc, "bias")), rel=1e-5, abs=1e-9
        )
    assert moved[5.0] < moved[0.0]


def spring(ewc, name):
    change = dict(ewc.network.head.named_parameters())[name].detach() - ewc.anchor[name]
    return (ewc.fisher[name] * change.square()).sum().item()


def test_reservoir_keeps_every_record_with_the_same_chance():
    counts = torch.zeros(30)
    for seed in range(200):
        replay = Replay(encode, linear_head(1, 2, 0), 2, SGD, capacity=10, practice=1, seed=seed)
        for i in range(30):
            replay._offer((torch.tensor([i]), torch.tensor(0)))
        counts[[int(x) for x, _ in replay.kept]] += 1
    # each is kept in 1/3 of 200 runs, standard deviation 6.7; four of them on thirty counts
    assert counts.sum() == 2000 and (counts - 200 / 3).abs().max() < 27


def test_replay_counts_what_it_keeps():
    data = stream()
    replay = learned(MAKERS["replay"](), data)
    assert len(replay.kept) == 9
    assert replay.stores_bytes() == 4 * (D * C + C) + 9 * (4 * D + 8)


def test_replay_that_keeps_everything_steps_on_all_of_the_past():
    data = stream()
    replay = Replay(encode, linear_head(D, C, 0), C, SGD, capacity=100, practice=100)
    plain = FineTune(encode, linear_head(D, C, 0), C, SGD)
    past = []
    for experience in data.experiences:
        for x, y in experience.batches(B):
            replay.observe(x, y)
            past.append((x, y))
            plain.observe(torch.cat([x for x, _ in past]), torch.cat([y for _, y in past]))
    torch.testing.assert_close(replay.network.head.weight, plain.network.head.weight, atol=1e-5, rtol=1e-5)


def test_nearest_mean_equals_the_precision_memory_with_full_shrinkage():
    data = stream(2)
    mean = learned(NearestMean(encode, D, C), data)
    memory = learned(Precision(encode, PrecisionMemory(D, shrinkage=1.0)), data)
    assert torch.equal(mean.predict(data.test.x), memory.predict(data.test.x))


def test_precision_answers_with_classes_not_columns():
    # three of four classes, so a column is not its class
    x = torch.eye(3, D)
    strategy = Precision(encode, PrecisionMemory(D))
    strategy.observe(x, torch.tensor([1, 3, 2]))
    assert strategy.predict(x).tolist() == [1, 3, 2]


def test_cms_levels_change_only_at_their_steps():
    head = cms_head(step_levels(0.1, B, (1, 2)))
    data = stream()
    x, y = data.experiences[0].records.x, data.experiences[0].records.y
    slow = head.state.memory["every_2.down"].detach().clone()
    head.observe(x[:B], y[:B])
    fast = head.state.memory["every_1.down"].detach().clone()
    assert torch.equal(head.state.memory["every_2.down"], slow)
    head.observe(x[B : 2 * B], y[B : 2 * B])
    assert not torch.equal(head.state.memory["every_2.down"], slow)
    assert not torch.equal(head.state.memory["every_1.down"], fast)


def test_moved_tells_how_far_each_level_came():
    head = cms_head(step_levels(0.1, B, (1, 2)))
    assert head.moved() == {"every_1": 0.0, "every_2": 0.0}
    memory = dict(head.state.memory)
    for part in ("gate", "up", "down"):
        memory[f"every_2.{part}"] = 1.25 * memory[f"every_2.{part}"]
    head.state = replace(head.state, memory=memory)
    assert head.moved() == {"every_1": 0.0, "every_2": pytest.approx(0.25)}


def test_a_cms_head_keeps_no_graph_of_the_stream():
    head = cms_head(step_levels(0.1, B))
    records = stream().experiences[0].records
    for n in range(0, 3 * B, B):
        head.observe(records.x[n : n + B], records.y[n : n + B])
        assert not any(tensor.requires_grad for tensor in head.state.memory.values())


def test_a_cms_with_frozen_levels_is_fine_tuning_on_its_features():
    data = stream()
    head = cms_head(step_levels(0.0, B, (1, 2)))

    def through(x):
        return (x + head.cms(x.unsqueeze(0))[0].squeeze(0)).detach()

    plain = learned(FineTune(through, linear_head(D, C, 0), C, SGD), data)
    learned(head, data)
    torch.testing.assert_close(head.readout[0], plain.network.head.weight.detach(), atol=1e-6, rtol=1e-5)


def test_one_cms_step_equals_autograd_on_the_same_network():
    data = stream()
    x, y = data.experiences[0].records.x[:B], data.experiences[0].records.y[:B]
    head = cms_head(step_levels(0.1, B, (1, 2)))
    head.readout = [torch.randn(C, D, generator=torch.Generator().manual_seed(1)), torch.zeros(C)]
    down = head.cms.mlps.get_parameter("every_1.down.weight")
    logits = (x + head.cms(x.unsqueeze(0))[0].squeeze(0)) @ head.readout[0].mT
    seen = torch.zeros(C, dtype=torch.bool)
    seen[y] = True
    (grad,) = torch.autograd.grad(loss_over_seen(logits, y, seen), [down])
    expected = down.detach() - 0.1 * grad / max(1.0, grad.norm().item())
    head.observe(x, y)
    torch.testing.assert_close(head.state.memory["every_1.down"][0].detach(), expected)


def test_the_control_moves_at_matched_rates():
    # where the gradient is constant, 4 steps at eta/4 and one step at eta on the mean are the same
    slow, fast = step_levels(0.2, B, (1, 4)), one_rate_levels(0.2, B, (1, 4))
    assert [(level.update_period, level.eta) for level in slow] == [(B, 0.2), (4 * B, 0.2)]
    assert [(level.update_period, level.eta) for level in fast] == [(B, 0.2), (B, 0.05)]
    assert [level.name for level in slow] == [level.name for level in fast]
    one, other = cms_head(slow), cms_head(fast)
    assert one.stores_bytes() == other.stores_bytes()
    assert torch.equal(one.state.memory["every_4.up"], other.state.memory["every_4.up"])


def test_stored_bytes_by_hand():
    data = stream()
    assert learned(MAKERS["fine_tune"](), data).stores_bytes() == 4 * (D * C + C)
    assert learned(MAKERS["ewc"](), data).stores_bytes() == 4 * 4 * (D * C + C)
    assert learned(MAKERS["nearest_mean"](), data).stores_bytes() == 4 * (D * C + C)
    assert learned(MAKERS["precision"](), data).stores_bytes() == 8 * (D * (D + 1) // 2 + C * D + C)
    levels = 2 * (2 * 4 * 3 * D * 3 + 8)
    assert learned(MAKERS["cms"](), data).stores_bytes() == levels + 4 * (C * D + C)
    adam = FineTune(encode, linear_head(D, C, 0), C, partial(torch.optim.Adam, lr=0.1))
    assert learned(adam, data).stores_bytes() == 3 * 4 * (D * C + C) + 2 * 4
