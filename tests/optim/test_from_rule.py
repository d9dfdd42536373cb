"""The shell that makes an optimizer of a rule: same numbers as torch's, captured inputs, resume, refusals."""

from functools import partial

import pytest
import torch
from torch import nn

from everlearn.levels import describe
from everlearn.optim import FromRule, capture
from everlearn.rules import adam, deep_momentum, dgd, gd, least_squares, m3, momentum, newton_schulz, owm


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(27, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def train(model, optimizer, steps=6, start=0, scheduler=None):
    for step in range(start, start + steps):
        images = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (gd, torch.optim.SGD),
        (adam, torch.optim.Adam),
        (partial(momentum, beta=0.8, average=False), partial(torch.optim.SGD, momentum=0.8)),
    ],
    ids=["gd", "adam", "momentum"],
)
def test_a_network_trains_as_with_torchs_optimizer(rule, theirs):
    """Convolutions, biases and groups with rates of their own, under a scheduler and with a closure."""

    def run(make):
        model = network()
        first, *rest = model.parameters()
        optimizer = make([{"params": rest}, {"params": [first], "lr": 0.002}])
        return train(model, optimizer, scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))

    ours, others = run(lambda groups: FromRule(groups, rule, lr=0.01)), run(lambda groups: theirs(groups, lr=0.01))
    torch.testing.assert_close(ours, others, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", [adam, deep_momentum, m3, momentum, newton_schulz])
def test_a_saved_optimizer_goes_on_bit_for_bit(rule, tmp_path):
    expected = network()
    train(expected, FromRule(expected.parameters(), rule, lr=0.01), 9)
    model = network()
    optimizer = FromRule(model.parameters(), rule, lr=0.01)
    train(model, optimizer, 4)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    saved = torch.load(tmp_path / "half.pt")
    other = network()
    other.load_state_dict(saved["model"])
    resumed = FromRule(other.parameters(), rule, lr=0.5)
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, 5, start=4)
    assert all(map(torch.equal, other.parameters(), expected.parameters()))


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_saved_optimizer_with_keys_goes_on_bit_for_bit(cut):
    """The keys of a step are used up by it, so the state of the rule is all there is to save."""
    x, y = torch.randn(9, 4, 3), torch.randn(9, 4, 2)

    def fit(weight, span, state):
        layer = nn.Linear(3, 2, bias=False)
        layer.weight.data.copy_(weight)
        optimizer = FromRule(layer.parameters(), owm, lr=0.5, inputs=capture(layer))
        if state is not None:
            optimizer.load_state_dict(state)
        for step in span:
            optimizer.zero_grad()
            (layer(x[step]) - y[step]).square().mean().backward()
            optimizer.step()
        return layer.weight.detach(), optimizer.state_dict()

    expected, _ = fit(torch.zeros(2, 3), range(9), None)
    weight, state = fit(torch.zeros(2, 3), range(cut), None)
    assert torch.equal(fit(weight, range(cut, 9), state)[0], expected)


def test_a_convolution_is_one_matrix():
    conv = nn.Conv2d(2, 3, 2, bias=False)
    start, grad = conv.weight.detach().clone(), torch.randn(3, 2, 2, 2)
    conv.weight.grad = grad
    FromRule(conv.parameters(), newton_schulz, lr=0.1).step()
    expected, _ = newton_schulz(start.flatten(1), grad.flatten(1), None, {}, eta=0.1)
    assert torch.equal(conv.weight.detach().flatten(1), expected)


def test_the_closure_runs_with_gradients_and_its_loss_is_returned():
    layer = nn.Linear(2, 1)
    optimizer = FromRule(layer.parameters(), gd, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first


def test_gradient_accumulation_is_one_large_batch():
    """Two backward passes before a step equal one over both halves; a reading without a gradient leaves no key."""
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    weights = []
    for parts in ([slice(0, 6)], [slice(0, 2), slice(2, 6)]):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
        optimizer = FromRule(layer.parameters(), least_squares, lr=1.0, inputs=capture(layer))
        for _ in range(3):
            optimizer.zero_grad()
            with torch.no_grad():
                layer(100 * x)
            layer(100 * x)
            for part in parts:
                (layer(x[part]) - y[part]).square().sum().div(2).backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-12, atol=1e-12)


def test_zeroed_gradients_take_their_keys_along():
    """As after an overflow under mixed precision: what belongs to a dropped gradient protects nothing."""
    x = torch.randn(4, 3)
    weights = []
    for dropped in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2, bias=False)
        optimizer = FromRule(layer.parameters(), owm, lr=0.1, inputs=capture(layer))
        if dropped:
            layer(torch.ones(2, 3)).sum().backward()
        # the loss is computed before zero_grad, as many training loops do
        loss = layer(x).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        weights.append(layer.weight.detach())
    assert torch.equal(*weights)


def test_a_shared_weight_collects_the_inputs_of_both_layers():
    one, two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    two.weight = one.weight
    model = nn.Sequential(one, two)
    inputs = capture(model)
    x = torch.randn(2, 5, 3)
    model(x).sum().backward()
    middle = one(x).detach().flatten(0, 1)
    assert sorted(inputs.of(one.weight).tolist()) == sorted(torch.cat([middle, x.flatten(0, 1)]).tolist())


def test_what_cannot_work_is_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"lr is -1.0; it must be a finite number >= 0"):
        FromRule(layer.parameters(), gd, lr=-1.0)
    with pytest.raises(ValueError, match="keep the weights in float32"):
        FromRule(nn.Linear(3, 2).bfloat16().parameters(), gd, lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ValueError, match="dgd got no key"):
        FromRule(layer.parameters(), dgd, lr=0.1).step()
    with pytest.raises(ValueError, match=r"none for a parameter \(2, 3\).*call capture\(model\) before"):
        FromRule(layer.parameters(), dgd, lr=0.1, inputs=capture(layer)).step()


@pytest.mark.parametrize("rule", [momentum, partial(adam, beta=0.8), m3, owm, least_squares])
def test_what_describe_counts_is_what_the_first_step_keeps(rule):
    layer = torch.nn.Linear(4, 3, bias=False)
    optimizer = FromRule(layer.parameters(), rule, 0.1, inputs=capture(layer))
    before = {c.name: c.state_bytes for c in describe(layer, optimizer).components if c.is_memory}
    layer(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    kept = {name: slot for name, slot in optimizer.state[layer.weight].items() if slot.numel() > 1}
    assert before == {f"FromRule.{name}": slot.numel() * slot.element_size() for name, slot in kept.items()}
    after = {c.name: c.state_bytes for c in describe(layer, optimizer).components if c.is_memory}
    assert after == before


def test_a_step_uses_its_keys_up_even_where_nobody_zeroes_the_gradients():
    """Gradients dropped by hand: the inputs of the first step do not come again in the second."""
    x = torch.randn(2, 4, 3)
    weights = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2, bias=False)
        optimizer = FromRule(layer.parameters(), owm, lr=0.1, inputs=capture(layer))
        for rows in x:
            layer(rows).square().sum().backward()
            optimizer.step()
            layer.weight.grad = None
            if not by_hand:
                optimizer.zero_grad()
        weights.append(layer.weight.detach())
    assert torch.equal(*weights)


def test_layers_of_one_shape_keep_their_own_keys():
    """Two layers with different inputs in one optimizer equal two optimizers."""
    x, together, alone = torch.randn(3, 2, 4, 3), [], []
    for parts in ([(0, 1)], [(0,), (1,)]):
        torch.manual_seed(0)
        layers = [nn.Linear(3, 2, bias=False) for _ in range(2)]
        made = [
            FromRule([layers[i].weight for i in part], owm, lr=0.1, inputs=capture(nn.ModuleList(layers)))
            for part in parts
        ]
        for rows in x:
            for optimizer in made:
                optimizer.zero_grad()
            sum(layer(own).square().sum() for layer, own in zip(layers, rows, strict=True)).backward()
            for optimizer in made:
                optimizer.step()
        (together if len(parts) == 1 else alone).extend(layer.weight.detach() for layer in layers)
    assert all(map(torch.equal, together, alone))
