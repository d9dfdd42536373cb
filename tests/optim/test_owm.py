"""Orthogonal weight modification as an optimizer: the rule on captured inputs, kept tasks, memory.  [NL eq. 47]"""

import pytest
import torch
from torch import nn

from everlearn.optim import OWM, capture, groups
from everlearn.rules import owm, owm_low_rank


@pytest.mark.parametrize(("rank", "rule"), [(None, owm), (3, owm_low_rank)])
def test_a_step_is_the_rule_on_what_the_layer_has_read(rank, rule):
    """[NL eq. 47]: twelve steps of five keys; the sketch is built from another sketch, hence the wider tolerance."""
    layer, own = nn.Linear(6, 4, bias=False).double(), {"rank": rank} if rank else {"refresh_period": 3}
    weights, slots = layer.weight.detach().clone(), {}
    optimizer = OWM(layer.parameters(), 0.4, inputs=capture(layer), kappa=2.0, **own)
    for x in torch.randn(12, 5, 6, dtype=torch.float64):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        if rank:
            # what arrives at the rule is the sketch of rank 3 of five keys
            rows = optimizer.inputs.of(layer.weight)
            weights, slots = rule_by_rows(weights, layer.weight.grad, rows, slots)
        else:
            weights, slots = rule(weights, layer.weight.grad, x, slots, eta=0.4, kappa=2.0, **own)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), weights, rtol=1e-10, atol=1e-11)


def rule_by_rows(weights, grad, rows, slots):
    """Write S and P out from the rows: top three eigenvectors less the fourth eigenvalue."""
    held = slots.get("S", torch.zeros(6, 6).double()) + rows.mT @ rows
    values, axes = torch.linalg.eigh(held)
    S = axes[:, 3:] @ torch.diag(values[3:] - values[2]) @ axes[:, 3:].mT
    m, t = 0.9 * slots.get("m", 0.0) + 0.1 * grad, slots.get("t", 0) + 1
    step = (m / (1 - 0.9**t)) @ torch.linalg.inv(torch.eye(6).double() + 2.0 * S)
    return weights - 0.4 * step, {"S": S, "m": m, "t": t}


def tasks():
    """Return five regressions of one network whose inputs lie in five planes of fifteen dimensions."""
    torch.manual_seed(0)
    planes = torch.linalg.qr(torch.randn(15, 15))[0].split(3)
    return [(torch.randn(40, 3) @ plane, torch.randn(40, 2)) for plane in planes]


@pytest.mark.parametrize("rank", [None, 12])
def test_what_was_learned_is_kept_where_inputs_differ(rank):
    """Five tasks, 150 steps each: the old losses rise by less than half of what they do under SGD with momentum."""
    found = {}
    for name in ("owm", "sgd"):
        torch.manual_seed(0)
        layer = nn.Linear(15, 2, bias=False)
        optimizer = (
            OWM(layer.parameters(), 2.0, inputs=capture(layer), rank=rank)
            if name == "owm"
            else torch.optim.SGD([layer.weight], 0.3, momentum=0.9)
        )
        mixed = nn.Linear(15, 15, bias=False)
        ends = []
        for x, y in tasks():
            x = x + 0.3 * mixed(x).detach()
            for _ in range(150):
                optimizer.zero_grad()
                (layer(x) - y).square().mean().backward()
                optimizer.step()
            ends.append(((layer(x) - y).square().mean().item(), x, y))
        old = sum((layer(x) - y).square().mean().item() - end for end, x, y in ends[:-1]) / 4
        found[name] = old, ends[-1][0]
    assert found["owm"][0] < 0.5 * found["sgd"][0]


def test_convolutions_and_embeddings_are_protected_part_by_part():
    """By hand: a token that was seen in half of the keys has P = 1 / (1 + 1/2), a patch group its own."""
    table = nn.Embedding(4, 2).double()
    start = table.weight.detach().clone()
    optimizer = OWM(table.parameters(), 1.0, inputs=capture(table), beta=0.0, refresh_period=1)
    (table(torch.tensor([1, 1, 2, 3])) * torch.tensor([1.0, 2.0])).sum().backward()
    optimizer.step()
    moved = start - table.weight.detach()
    expected = torch.tensor([0.0, 2 / 1.5, 1 / 1.25, 1 / 1.25]).double()
    torch.testing.assert_close(moved, expected[:, None] * torch.tensor([1.0, 2.0]).double())
    conv = nn.Conv1d(2, 2, 1, groups=2, bias=False).double()
    start = conv.weight.detach().clone()
    optimizer = OWM(conv.parameters(), 1.0, inputs=capture(conv), beta=0.0, refresh_period=1)
    x = torch.tensor([[[2.0, 3.0], [5.0, 0.0]]]).double()
    conv(x).sum().backward()
    optimizer.step()
    expected = torch.tensor([5.0 / 2, 5.0 / 1.5]).double().reshape(2, 1, 1)
    torch.testing.assert_close(start - conv.weight.detach(), expected)


def test_groups_of_a_model_work_and_choose_their_rank():
    model = nn.Sequential(nn.Embedding(9, 12), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 9))
    both = groups(model, adamw_lr=0.01)
    optimizer = OWM([both[0] | {"rank": 2}, both[1]], 0.3, inputs=capture(model))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.arange(9)), torch.arange(9).flip(0))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert optimizer.state[model[1].weight]["sketch"].shape == (2, 12)
    assert set(optimizer.state[model[0].weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.inputs.inputs._seen == {}


def test_the_memory_is_what_the_docstring_says():
    """Bytes per parameter of 256 x 256, 1024 x 256 and 256 x 1024, in float32; a rank makes it 4 r in."""
    for out, width, said in ((256, 256, 12), (1024, 256, 6), (256, 1024, 36)):
        for rank in (None, 16):
            layer = nn.Linear(width, out, bias=False)
            optimizer = OWM(layer.parameters(), 0.1, inputs=capture(layer), rank=rank)
            size = sum(part.state_bytes for part, _ in optimizer.memories())
            assert size == (said * out * width if rank is None else 4 * out * width + 4 * 16 * width)
