"""Delta gradient descent around an optimizer: the penalised loss, the memory's rule, any base.  [NL eq. 56-57]"""

from functools import partial

import pytest
import torch
from torch import nn

from everlearn.memory import AssociativeMemory, Matrix, dot
from everlearn.optim import DGD, M3, capture
from everlearn.rules import dgd

BASES = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "muon": lambda parameters: torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=0.01),
    "m3": lambda parameters: M3([p for p in parameters if p.ndim > 1], lr=0.01),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 2, groups=2, bias=False), nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()


def batch(step):
    return torch.randn(6, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def penalty(model, x):
    """Return E |W x|^2 / |x|^2 of every layer, with the layer's input held fixed."""
    patches = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 2, 4)
    kernel = model[0].weight.reshape(2, 2, 4)
    total = (torch.einsum("goi,tgi->tgo", kernel, patches / patches.norm(dim=-1, keepdim=True))).square().sum()
    total = total / len(patches)
    for place in (2, 4):
        keys = model[:place](x).detach()
        keys = keys / keys.norm(dim=1, keepdim=True)
        total = total + (keys @ model[place].weight.T).square().sum(1).mean()
    return total


def test_around_sgd_it_is_gradient_descent_on_the_penalised_loss():
    """[NL eq. 56-57]: L + rho/2 E |W x|^2 over unit keys, for linear layers and a grouped convolution; 1e-12."""
    rho, lr = 0.7, 0.2
    ours, theirs = network(), network()
    optimizer = DGD(torch.optim.SGD(ours.parameters(), lr=lr), capture(ours), rho=rho)
    plain = torch.optim.SGD(theirs.parameters(), lr=lr)
    for step in range(8):
        x = batch(step)
        optimizer.zero_grad()
        (ours(x) - 1).square().mean().backward()
        optimizer.step()
        plain.zero_grad()
        ((theirs(x) - 1).square().mean() + rho / 2 * penalty(theirs, x)).backward()
        plain.step()
        torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-12, atol=1e-12)


def test_it_is_the_rule_that_a_memory_writes_with():
    """[NL eq. 57]: one token of unit length at a time, dot-product objective: the layer equals the written memory."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 3, bias=False).double()
    memory = AssociativeMemory(Matrix(5, 3), dot, rule=partial(dgd, implicit=False), eta=0.3).double()
    with torch.no_grad():
        memory.start["M"].copy_(layer.weight)
    optimizer, state = DGD(torch.optim.SGD(layer.parameters(), lr=0.3), capture(layer), rho=1.0), memory.init(1)
    keys = nn.functional.normalize(torch.randn(1, 12, 5, dtype=torch.float64), dim=-1)
    values = torch.randn(1, 12, 3, dtype=torch.float64)
    for t in range(12):
        optimizer.zero_grad()
        dot(layer(keys[:, t : t + 1]), values[:, t : t + 1]).sum().backward()
        optimizer.step()
        state, _ = memory.write(state, keys[:, t : t + 1], values[:, t : t + 1])
        torch.testing.assert_close(layer.weight, state.memory["M"][0], rtol=1e-12, atol=1e-12)


def test_the_implicit_rule_takes_a_shorter_step():
    """[NL eq. 57]: for one key of unit length `dgd` is this optimizer at lr = eta / (1 + eta rho)."""
    eta, rho = 0.8, 2.0
    layer, key = nn.Linear(5, 3, bias=False).double(), nn.functional.normalize(torch.randn(5).double(), dim=0)
    start, value = layer.weight.detach().clone(), torch.randn(3).double()
    optimizer = DGD(torch.optim.SGD(layer.parameters(), lr=eta / (1 + eta * rho)), capture(layer), rho=rho)
    dot(layer(key), value).backward()
    grad = layer.weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), dgd(start, grad, key, {}, eta=eta, rho=rho)[0])


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_any_optimizer_moves_by_its_own_step_and_the_decay(base):
    """The step with rho less the step without is -lr rho W C, whatever the optimizer inside."""
    models = [network(), network()]
    made = [base(list(model.parameters())) for model in models]
    optimizers = [DGD(made[0], capture(models[0]), rho=2.0), made[1]]
    starts = [p.detach().clone() for p in models[0].parameters()]
    x = batch(0)
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    weight, keys = models[0][2].weight, network()[:2](x).detach()
    keys = keys / keys.norm(dim=1, keepdim=True)
    expected = -made[0].param_groups[0]["lr"] * 2.0 * starts[1] @ (keys.T @ keys / len(keys))
    torch.testing.assert_close((weight - models[1][2].weight).detach(), expected, rtol=1e-9, atol=1e-12)


def test_biases_and_layers_that_are_not_captured_only_take_the_step_inside():
    models = [network(), network()]
    made = [BASES["adamw"](model.parameters()) for model in models]
    optimizers = [DGD(made[0], capture(models[0])), made[1]]
    for model, optimizer in zip(models, optimizers, strict=True):
        model(batch(0)).square().mean().backward()
        optimizer.step()
    assert torch.equal(models[0][2].bias, models[1][2].bias)
    assert not torch.equal(models[0][2].weight, models[1][2].weight)


def test_groups_have_their_own_weight_of_the_decay_and_rate():
    """rho 0 is the optimizer inside; a scheduler on this optimizer sets the decay with the rate."""
    models = [network(), network()]
    groups = [{"params": models[0][2].parameters(), "rho": 0.0}, {"params": models[0][4].parameters()}]
    optimizer = DGD(torch.optim.SGD(groups, lr=0.1), capture(models[0]), rho=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step == 0 else 0.0)
    plain = torch.optim.SGD([*models[1][2].parameters(), *models[1][4].parameters()], lr=0.1)
    for model, own in zip(models, (optimizer, plain), strict=True):
        model(batch(0)).square().mean().backward()
        own.step()
    assert torch.equal(models[0][2].weight, models[1][2].weight)
    assert not torch.equal(models[0][4].weight, models[1][4].weight)
    scheduler.step()
    before = models[0][4].weight.detach().clone()
    optimizer.zero_grad()
    models[0](batch(1)).sum().backward()
    optimizer.step()
    assert torch.equal(models[0][4].weight, before)


def test_a_step_uses_up_the_inputs_of_its_gradients():
    model = network()
    inputs = capture(model)
    optimizer = DGD(torch.optim.SGD(model.parameters(), lr=0.1), inputs, rho=1.0)
    model(batch(0)).square().mean().backward()
    assert inputs.of(model[2].weight) is not None
    optimizer.step()
    assert all(inputs.of(model[place].weight) is None for place in (0, 2, 4))


def test_its_state_is_that_of_the_optimizer_inside_and_either_loads_the_other():
    model = network()
    optimizer = DGD(BASES["adamw"](model.parameters()), capture(model), rho=2.0)
    model(batch(0)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved.keys() == BASES["adamw"](model.parameters()).state_dict().keys()
    plain = BASES["adamw"](network().parameters())
    plain.load_state_dict(saved)
    other = network()
    loaded = DGD(BASES["adamw"](other.parameters()), capture(other), rho=5.0)
    loaded.load_state_dict(BASES["adamw"](network().parameters()).state_dict())
    assert loaded.param_groups[0]["rho"] == 5.0
    loaded.load_state_dict(saved)
    assert loaded.param_groups[0]["rho"] == 2.0
    assert loaded.state[other[2].weight]["step"] == 1


def test_a_decay_that_overshoots_is_refused_and_nothing_changes():
    model = network()
    optimizer = DGD(torch.optim.SGD(model.parameters(), lr=0.5), capture(model), rho=3.0)
    model(batch(0)).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"lr is 0.5 and rho 3 for a parameter \(4, 1, 2, 2\).*set rho to 2 or less"):
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))
    with pytest.raises(ValueError, match=r"rho -1 is not the weight of a decay"):
        DGD(torch.optim.SGD(model.parameters(), lr=0.5), capture(model), rho=-1)
