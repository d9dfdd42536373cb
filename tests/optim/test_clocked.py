"""The level clock of training: what a period averages, what waits, and what does not change.  [NL eq. 71]"""

import pytest
import torch
from torch import nn

from everlearn.levels import describe
from everlearn.optim import DGD, LEVEL_CLOCK, Clocked, capture
from everlearn.train.loop import muon

BASES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01),
    "muon": lambda groups: torch.optim.Muon([g | {"params": [p for p in g["params"] if p.ndim > 1]} for g in groups]),
}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def groups_of(model):
    return [{"params": list(model[place].parameters())} for place in (4, 2, 0)]


def backward(model, step):
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    model(x).square().mean().backward()


def run(model, optimizer, span):
    for step in span:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def same(one, two):
    return all(map(torch.equal, one, two))


@every_base
def test_a_period_of_one_is_the_optimizer_inside_bit_for_bit(base):
    one, two = network(), network()
    assert same(run(one, Clocked(base(groups_of(one)), (1, 1, 1)), range(7)), run(two, base(groups_of(two)), range(7)))


@pytest.mark.parametrize("average", [True, False])
def test_a_group_steps_by_the_mean_or_sum_of_its_period(average):
    """[NL eq. 71]: by hand with SGD: the slow layer stands still for three steps, then takes all of them at once."""
    model = network()
    slow, start = model[0].weight, model[0].weight.detach().clone()
    groups = [{"params": list(model[2:].parameters())}, {"params": [slow]}]
    optimizer = Clocked(torch.optim.SGD(groups, lr=0.1), (1, 4), average=average)
    grads = []
    for step in range(8):
        optimizer.zero_grad()
        backward(model, step)
        grads.append(slow.grad.clone())
        before = slow.detach().clone()
        optimizer.step()
        if (step + 1) % 4:
            assert torch.equal(slow, before)
    means = [sum(grads[first : first + 4]) / (4 if average else 1) for first in (0, 4)]
    torch.testing.assert_close(slow.detach(), start - 0.1 * means[0] - 0.1 * means[1], rtol=1e-12, atol=1e-13)


@every_base
def test_between_its_steps_a_group_and_its_memory_are_bit_identical(base):
    model = network()
    optimizer = Clocked(base(groups_of(model)), LEVEL_CLOCK[:3])
    for step in range(33):
        before = [p.detach().clone() for p in model.parameters()]
        run(model, optimizer, [step])
        for place, period in ((4, 1), (2, 4), (0, 16)):
            index = next(n for n, p in enumerate(model.parameters()) if p is model[place].weight)
            assert torch.equal(model[place].weight, before[index]) == ((step + 1) % period != 0)


@every_base
@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8, 11, 15, 16, 17])
def test_a_saved_clock_goes_on_bit_for_bit_with_the_gradients_that_wait(base, cut, tmp_path):
    expected = network()
    run(expected, Clocked(base(groups_of(expected)), (1, 4, 8)), range(20))
    half = network()
    optimizer = Clocked(base(groups_of(half)), (1, 4, 8))
    run(half, optimizer, range(cut))
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    # what is loaded is a copy: the first optimizer may go on
    run(half, optimizer, range(cut, cut + 2))
    other = network()
    other.load_state_dict(saved["model"])
    resumed = Clocked(base(groups_of(other)), (1, 1, 1))
    resumed.load_state_dict(saved["optimizer"])
    assert same(run(other, resumed, range(cut, 20)), [p.detach() for p in expected.parameters()])


def test_a_loaded_clock_shares_nothing_with_what_it_was_loaded_from():
    models = [network(), network()]
    first, second = (Clocked(BASES["sgd"](groups_of(model)), (1, 4, 8)) for model in models)
    run(models[0], first, range(3))
    saved = first.state_dict()
    before = {n: waiting.clone() for n, waiting in saved["clock"]["waiting"].items()}
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(saved)
    run(models[1], second, range(3, 7))
    assert all(torch.equal(saved["clock"]["waiting"][n], waiting) for n, waiting in before.items())


def test_a_scheduler_counts_steps_and_its_rate_is_the_one_at_the_step():
    """By hand: rate 1, .5, .25, .125 and a period of 4: only the last is used, on the mean."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = Clocked(torch.optim.SGD([weight], lr=1.0), (4,))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for grad in (1.0, 2.0, 3.0, 6.0):
        weight.grad = torch.tensor([grad])
        optimizer.step()
        scheduler.step()
    assert weight.item() == -0.125 * 3.0


def test_the_gradients_of_the_caller_are_left_as_they_were():
    model = network()
    optimizer = Clocked(BASES["sgd"](groups_of(model)), (1, 2, 3))
    for step in range(6):
        backward(model, step)
        before = [p.grad for p in model.parameters()]
        values = [grad.clone() for grad in before]
        optimizer.step()
        assert all(p.grad is grad for p, grad in zip(model.parameters(), before, strict=True))
        assert same(before, values)


def test_a_gradient_that_is_missing_counts_as_zero():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = Clocked(torch.optim.SGD([weight], lr=1.0), (3,))
    for grad in (None, 6.0, None, None, None, None):
        weight.grad = None if grad is None else torch.tensor([grad])
        optimizer.step()
    assert weight.item() == -2.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_would_spoil_its_period_is_refused_and_nothing_changes(bad):
    model = network()
    named = [{"params": list(model[4].named_parameters())}, {"params": list(model[0].named_parameters())}]
    optimizer = Clocked(torch.optim.AdamW(named), (1, 4))
    run(model, optimizer, range(2))
    backward(model, 2)
    model[0].weight.grad[1, 1] = bad
    before = [p.detach().clone() for p in model.parameters()]
    waiting = {w: held.clone() for w, held in optimizer._waiting.items()}
    with pytest.raises(ValueError, match=r"gradient of parameter 'weight' has NaN or infinity.*whole period"):
        optimizer.step()
    assert same(before, model.parameters())
    assert all(torch.equal(optimizer._waiting[w], held) for w, held in waiting.items())
    assert optimizer.steps == 2


def test_what_cannot_wait_is_refused():
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = Clocked(torch.optim.SGD(table.parameters(), lr=0.1), (2,))
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"a parameter \(4, 2\) is sparse.*sparse=False"):
        optimizer.step()
    model = network()
    with pytest.raises(ValueError, match="2 periods were given for 3 groups"):
        Clocked(BASES["sgd"](groups_of(model)), (1, 4))
    for period in (0, 2.0, True):
        with pytest.raises(ValueError, match=r"is not a number of steps.*>= 1"):
            Clocked(BASES["sgd"](groups_of(model)), (1, 1, period))


def test_a_refusal_inside_leaves_the_gradients_and_the_clock():
    """An optimizer inside that refuses, here one that has seen no input, must not lose what waits."""
    model = network()
    inputs = capture(model)
    optimizer = Clocked(DGD(BASES["sgd"](groups_of(model)), inputs, rho=0.1), (1, 4, 4))
    run(model, optimizer, range(3))
    backward(model, 3)
    grads = [p.grad for p in model.parameters()]
    inputs._seen.clear()
    with pytest.raises(ValueError, match="has seen no input"):
        optimizer.step()
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert (optimizer.steps, len(optimizer._waiting)) == (3, 4)


def test_describe_counts_the_gradients_that_wait():
    model = network()
    optimizer = Clocked(BASES["adamw"](groups_of(model)), (1, 1, 4))
    found = {c.name: c.state_bytes for c in describe(model, optimizer).components if c.is_memory}
    assert found["Clocked.waiting"] == 8 * sum(p.numel() for p in model[0].parameters())
    assert found["AdamW.exp_avg"] == 8 * sum(p.numel() for p in model.parameters())


def test_a_group_that_is_added_brings_its_period():
    model = network()
    first, second, third = groups_of(model)
    optimizer = Clocked(BASES["sgd"]([first]), (1,))
    optimizer.add_param_group(second)
    optimizer.add_param_group(third | {"period": 4})
    assert [group["period"] for group in optimizer.param_groups] == [1, 1, 4]


def test_it_goes_around_what_training_uses():
    """Muon of the training loop, every second step, by the mean of two gradients."""
    weight = nn.Parameter(torch.randn(4, 4))
    other = nn.Parameter(weight.detach().clone())
    slow, plain = Clocked(muon([weight], 0.1), (2,)), muon([other], 0.1)
    grads = torch.randn(2, 4, 4)
    for grad in grads:
        weight.grad = grad
        slow.step()
    other.grad = (grads[0] + grads[1]) / 2
    plain.step()
    assert torch.equal(weight, other)
