"""What every optimizer keeps to, whatever its rule: the rows are those of CASES."""

from __future__ import annotations

import copy
import io
import pickle
import random

import pytest
import torch
from torch import nn

from everlearn import optim
from everlearn.levels import describe
from tests.optim.cases import CASES, batch, build, model, train, weights

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
TENSORS = {name: case for name, case in CASES.items() if not case.inputs}
every_of_tensors = pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS)
SHAPES = [(), (7,), (3, 5), (2, 3, 4), (4, 2, 3, 3), (1, 6), (6, 1)]


def parameters(shapes=SHAPES, dtype=torch.float64):
    torch.manual_seed(2)
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def give_gradients(tensors, step=0, scale=1.0):
    for number, tensor in enumerate(tensors):
        generator = torch.Generator().manual_seed(100 * step + number)
        grad = torch.randn(tensor.shape, dtype=torch.float64, generator=generator) * scale
        tensor.grad = grad.to(tensor.dtype)


def bits(optimizer):
    """Return copies of all weights and slots."""
    tensors = [p for group in optimizer.param_groups for p in group["params"]]
    slots = [slot for p in tensors for slot in optimizer.state.get(p, {}).values()]
    return [tensor.detach().clone() for tensor in (*tensors, *slots)]


def same(one, two):
    return len(one) == len(two) and all(map(torch.equal, one, two))


def test_every_exported_optimizer_has_a_row():
    exported = {getattr(optim, name) for name in optim.__all__}
    classes = {c for c in exported if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)}
    made = {type(build(case, model())) for case in CASES.values()}
    assert classes - {optim.RuleOptimizer} <= made


@every
def test_it_solves_a_quadratic(case):
    """One linear layer onto another: 200 steps with a falling rate leave less than 1 % of the error."""
    torch.manual_seed(0)
    target, layer = torch.randn(3, 5, dtype=torch.float64), nn.Linear(5, 3, bias=False, dtype=torch.float64)
    inputs = {"inputs": optim.capture(layer)} if case.inputs else {}
    optimizer = case.make(layer.parameters(), lr=case.lr, **inputs)
    x, steps = torch.eye(5, dtype=torch.float64), 200
    first = (layer.weight - target).norm().item()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = case.lr * (1 - step / steps)
        optimizer.zero_grad()
        ((layer(x) - target.mT).square().sum() / 2).backward()
        optimizer.step()
    assert (layer.weight - target).norm().item() < 0.01 * first


@every
def test_it_learns_a_small_regression(case):
    network = model()
    losses = train(network, build(case, network), 150, falling=150)
    assert sum(losses[-10:]) < 0.15 * sum(losses[:3]) / 3 * 10


@every_of_tensors
def test_a_step_is_the_rule_on_the_matrix(case):
    """Two homes: seven steps on every shape equal the rule on [out, the rest]; a batch sums in another order."""
    if case.rule is None:
        return
    tensors = parameters()
    optimizer = case.make(tensors, lr=0.05)
    matrices = [tensor.detach().flatten(1) if tensor.ndim > 1 else tensor.detach().reshape(1, -1) for tensor in tensors]
    expected, slots = [matrix.clone() for matrix in matrices], [{} for _ in matrices]
    for step in range(12):
        give_gradients(tensors, step)
        optimizer.step()
        for number, tensor in enumerate(tensors):
            grad = tensor.grad.reshape(expected[number].shape)
            expected[number], slots[number] = case.rule(expected[number], grad, None, slots[number], eta=0.05)
            torch.testing.assert_close(tensor.detach().reshape(grad.shape), expected[number], rtol=1e-9, atol=1e-10)


@every
def test_a_saved_state_goes_on_bit_for_bit_at_random_cuts(case):
    """Also between two refreshes of a slow memory, which come every 10 steps; the file loads without running code."""
    expected, half = model(torch.float32), model(torch.float32)
    train(expected, build(case, expected), 23)
    optimizer, done = build(case, half), 0
    for cut in sorted(random.Random(0).sample(range(1, 23), 4)):
        train(half, optimizer, cut - done, start=done)
        file, done = io.BytesIO(), cut
        torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        resumed = model(torch.float32)
        resumed.load_state_dict(saved["model"])
        other = build(case, resumed, lr=0.5 * case.lr)
        other.load_state_dict(saved["optimizer"])
        train(resumed, other, 23 - cut, start=cut)
        assert torch.equal(weights(resumed), weights(expected))
        assert all(slot.dtype == torch.float32 for p in resumed.parameters() for slot in other.state[p].values())


@every
def test_the_state_of_another_optimizer_is_refused_and_nothing_changes(case):
    network = model()
    optimizer = build(case, network)
    train(network, optimizer, 2)
    before, options = bits(optimizer), [dict(group) for group in optimizer.param_groups]
    alien = torch.optim.SGD([{"params": group["params"]} for group in options]).state_dict()
    with pytest.raises(ValueError, match=r"group 0 of the state has no 'elementwise', so \w+ has not saved it"):
        optimizer.load_state_dict(alien)
    assert same(bits(optimizer), before) and [dict(group) for group in optimizer.param_groups] == options


@every
def test_groups_have_options_of_their_own(case):
    """A group with rate zero stays, and one that is added later is stepped from then on."""
    first, second = model(), model()
    with torch.no_grad():
        second[0].weight.add_(1)
    both = nn.ModuleList([first, second])
    inputs = {"inputs": optim.capture(both)} if case.inputs else {}
    optimizer = case.make([{"params": [first[0].weight], "lr": 0.0}], lr=case.lr, **inputs)
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": [second[0].weight]})
        before = first[0].weight.detach().clone(), second[0].weight.detach().clone()
        optimizer.zero_grad()
        x, y = batch(step)
        sum((network(x) - y).square().mean() for network in both).backward()
        optimizer.step()
        assert torch.equal(first[0].weight, before[0])
        assert torch.equal(second[0].weight, before[1]) == (step < 2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, case.lr]


@every
def test_accumulated_gradients_are_one_large_batch(case):
    """Two halves of a batch, each with half its loss; sums in another order are all that differs."""
    networks = [model(), model()]
    for network, parts in zip(networks, ([slice(0, 8)], [slice(0, 4), slice(4, 8)]), strict=True):
        optimizer = build(case, network)
        for step in range(6):
            x, y = batch(step)
            optimizer.zero_grad()
            for part in parts:
                ((network(x[part]) - y[part]).square().mean() / len(parts)).backward()
            optimizer.step()
    torch.testing.assert_close(weights(networks[0]), weights(networks[1]), rtol=1e-9, atol=1e-10)


@every
def test_a_scheduler_sets_the_rate(case):
    """Torch's scheduler equals rates written by hand, and its end at zero stops everything."""
    one, two = model(), model()
    optimizer, by_hand = build(case, one), build(case, two)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    rates = [group["lr"] for group in by_hand.param_groups]
    for step in range(4):
        train(one, optimizer, 1, start=step)
        scheduler.step()
        for group, rate in zip(by_hand.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / 4)
        train(two, by_hand, 1, start=step)
    torch.testing.assert_close(weights(one), weights(two), rtol=1e-12, atol=1e-12)
    before = weights(one)
    train(one, optimizer, 1, start=5)
    assert torch.equal(weights(one), before)


@every
def test_a_closure_is_run_with_gradients_and_its_loss_returned(case):
    network, plain = model(), model()
    optimizer, other = build(case, network), build(case, plain)
    x, y = batch(0)

    def closure():
        optimizer.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == pytest.approx((plain(x) - y).square().mean().item())
    train(plain, other, 1)
    assert torch.equal(weights(network), weights(plain))


@every
def test_clipping_is_a_smaller_gradient(case):
    """A step after clip_grad_norm_ is the step of a loss that is smaller by that factor."""
    network, plain = model(), model()
    for one in (network, plain):
        optimizer = build(case, one)
        for step in range(3):
            x, y = batch(step)
            optimizer.zero_grad()
            loss = (one(x) - y).square().mean()
            grads = torch.autograd.grad(loss, list(one.parameters()), retain_graph=True)
            norm = torch.stack([grad.norm() for grad in grads]).norm().item()
            factor = min(1.0, 0.1 / (norm + 1e-6))
            (loss if one is network else loss * factor).backward()
            if one is network:
                nn.utils.clip_grad_norm_(one.parameters(), 0.1)
            optimizer.step()
    torch.testing.assert_close(weights(network), weights(plain), rtol=1e-9, atol=1e-10)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_by_name_and_nothing_changes(case, bad):
    network = model()
    optimizer = build(case, network)
    train(network, optimizer, 3)
    x, y = batch(3)
    optimizer.zero_grad()
    (network(x) - y).square().mean().backward()
    network[2].weight.grad[1, 2] = bad
    before = bits(optimizer)
    with pytest.raises(ValueError, match=r"gradient of parameter '2.weight' has NaN or infinity.*nothing was changed"):
        optimizer.step()
    assert same(bits(optimizer), before)


@every_of_tensors
def test_a_sparse_gradient_is_refused_and_nothing_changes(case):
    table, other = nn.Embedding(5, 3, sparse=True), nn.Parameter(torch.ones(3))
    optimizer = case.make([("table", table.weight), ("other", other)], lr=0.1)
    (table(torch.tensor([1, 1, 4])).sum() + other.sum()).backward()
    before = bits(optimizer)
    with pytest.raises(ValueError, match=r"gradient of parameter 'table' is sparse.*sparse=False"):
        optimizer.step()
    assert same(bits(optimizer), before)


@every_of_tensors
def test_a_parameter_without_numbers_is_passed_over(case):
    """A layer that was pruned to nothing, beside one that was not."""
    rows, columns = nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.zeros(4, 0))
    weight, alone = (nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    optimizer, other = case.make([rows, weight, columns], lr=0.1), case.make([alone], lr=0.1)
    for parameter in (rows, weight, columns, alone):
        parameter.grad = torch.ones_like(parameter)
    assert optimizer.memories()
    optimizer.step()
    other.step()
    assert torch.equal(weight, alone) and not torch.equal(weight, torch.ones(3, 2))


@every_of_tensors
def test_complex_parameters_are_pairs_of_numbers_or_refused(case):
    weight = nn.Parameter(torch.randn(3, 4, dtype=torch.complex128))
    if not case.any_shape:
        with pytest.raises(ValueError, match=r"parameter 'w' is torch.complex128.*elementwise=True"):
            case.make([("w", weight)], lr=0.1)
        return
    pairs = nn.Parameter(torch.view_as_real(weight.detach()).clone())
    one, two = case.make([("w", weight)], lr=0.1, weight_decay=0.1), case.make([pairs], lr=0.1, weight_decay=0.1)
    for _ in range(4):
        weight.grad = torch.randn(3, 4, dtype=torch.complex128)
        pairs.grad = torch.view_as_real(weight.grad).clone()
        one.step()
        two.step()
    assert torch.equal(torch.view_as_real(weight.detach()), pairs.detach())


@every_of_tensors
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e20])
def test_gradients_of_any_size_stay_finite(case, scale):
    """In float32; also of rank one, as the second of three, and zero after others."""
    tensors = parameters([(3, 5), (6, 6), (9, 4), (7,)], torch.float32)
    optimizer = case.make(tensors, lr=0.01)
    for step in range(13):
        give_gradients(tensors, step, scale if step < 8 else 0.0)
        if step % 2:
            tensors[1].grad = scale * torch.outer(torch.arange(6.0), torch.ones(6))
        optimizer.step()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    if scale == 0:
        assert same(
            [tensor.detach() for tensor in tensors],
            [p.detach() for p in parameters([(3, 5), (6, 6), (9, 4), (7,)], torch.float32)],
        )


@every_of_tensors
def test_decay_is_outside_the_memory_and_spares_vectors(case):
    """Without a gradient a matrix shrinks by 1 - lr decay in each step, and a vector stays."""
    tensors = parameters([(3, 5), (2, 3, 4), (7,), ()])
    starts = [tensor.detach().clone() for tensor in tensors]
    optimizer = case.make(tensors, lr=0.2, weight_decay=0.1)
    for _ in range(3):
        for tensor in tensors:
            tensor.grad = torch.zeros_like(tensor)
        optimizer.step()
    for tensor, start in zip(tensors, starts, strict=True):
        expected = 0.98**3 * start if start.ndim > 1 else start
        torch.testing.assert_close(tensor.detach(), expected, rtol=1e-14, atol=0)


@every
def test_it_works_with_a_gradient_scaler_and_autocast(case):
    """Scaled and unscaled again the step is the same; a step with infinity is skipped and counts for nothing."""
    network, plain = model(torch.float32), model(torch.float32)
    optimizer, other = build(case, network), build(case, plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(4):
        x, y = batch(step, dtype=torch.float32)
        for one, own in ((network, optimizer), (plain, other)):
            if step == 2 and one is plain:
                continue
            own.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (one(x) - y).square().mean() * (float("inf") if step == 2 else 1.0)
            if one is plain:
                loss.backward()
                own.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(own)
                scaler.update()
    torch.testing.assert_close(weights(network), weights(plain), rtol=1e-5, atol=1e-6)


@every
def test_a_copy_of_the_optimizer_has_its_settings(case):
    """By deepcopy with the model; by pickle where no function is inside."""
    network = model()
    optimizer = build(case, network)
    train(network, optimizer, 3)
    twin, own = copy.deepcopy((network, optimizer))
    if case.inputs:
        return
    train(network, optimizer, 3, start=3)
    train(twin, own, 3, start=3)
    assert torch.equal(weights(network), weights(twin))


def test_a_pickled_optimizer_has_its_settings():
    network = model()
    network, optimizer = pickle.loads(pickle.dumps((network, optim.M3(network.parameters(), slow_period=3))))  # noqa: S301
    train(network, optimizer, 4)
    assert optimizer.options["slow_period"] == 3
    assert optimizer.state[network[0].weight]["phase"].item() == 1


@every
def test_describe_counts_what_is_kept(case):
    network = model()
    optimizer = build(case, network)
    before = {c.name: c.state_bytes for c in describe(network, optimizer).components if c.is_memory}
    train(network, optimizer, 12)
    owner = optimizer.inner if isinstance(optimizer, (optim.DGD, optim.Clocked)) else optimizer
    kept: dict[str, int] = {}
    for p in network.parameters():
        for name, slot in optimizer.state[p].items():
            title = f"{type(owner).__name__}.{name}"
            kept[title] = kept.get(title, 0) + (slot.nbytes if slot.numel() > 1 else 0)
    after = {c.name: c.state_bytes for c in describe(network, optimizer).components if c.is_memory}
    expected = {name: size for name, size in kept.items() if size}
    assert {name: size for name, size in after.items() if name != "Clocked.waiting"} == expected
    assert before == after or case is CASES["m3_scheduled"]


@every
def test_half_precision_is_refused_and_the_optimizer_stays_as_it_was(case):
    network = model()
    optimizer = build(case, network)
    count = len(optimizer.param_groups)
    with pytest.raises(ValueError, match=r"parameter 'h' is torch.bfloat16.*keep the weights in float32"):
        optimizer.add_param_group({"params": [("h", nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16)))]})
    with pytest.raises(ValueError, match=r"lr is -1; it must be a finite number >= 0; try 0.01"):
        optimizer.add_param_group({"params": [("h", nn.Parameter(torch.zeros(2, 2)))], "lr": -1})
    assert len(optimizer.param_groups) == count
    train(network, optimizer, 1)
    optimizer.param_groups[0]["lr"] = float("nan")
    before = bits(optimizer)
    with pytest.raises(ValueError, match=r"lr is nan"):
        train(network, optimizer, 1)
    assert same(bits(optimizer), before)


@pytest.mark.parametrize("case", [CASES["m3"]], ids=["m3"])
def test_a_compiled_step_gives_the_same_numbers(case):
    """Bit for bit: the step itself runs as it is written, within a compiled training step too."""
    network, plain = model(), model()
    optimizer, other = build(case, network), build(case, plain)
    train(plain, other, 4)

    @torch.compile(backend="eager")
    def step(x, y):
        optimizer.zero_grad()
        (network(x) - y).square().mean().backward()
        optimizer.step()

    for number in range(4):
        step(*batch(number))
    assert torch.equal(weights(network), weights(plain))
