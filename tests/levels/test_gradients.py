"""Optimizers as memories: counted as torch allocates them, and learning as their objective and rule say."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from everlearn.levels import describe
from everlearn.levels.gradients import KNOWN
from everlearn.rules import gd

OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 0.1}, []),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}, ["momentum_buffer"]),
    (torch.optim.Adam, {}, ["exp_avg", "exp_avg_sq"]),
    (torch.optim.Adam, {"amsgrad": True}, ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
    (torch.optim.AdamW, {"betas": (0.8, 0.95)}, ["exp_avg", "exp_avg_sq"]),
    (torch.optim.NAdam, {}, ["exp_avg", "exp_avg_sq"]),
    (torch.optim.RAdam, {}, ["exp_avg", "exp_avg_sq"]),
    (torch.optim.Adamax, {}, ["exp_avg", "exp_inf"]),
    (torch.optim.RMSprop, {}, ["square_avg"]),
    (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}, ["square_avg", "momentum_buffer", "grad_avg"]),
    (torch.optim.Adagrad, {}, ["sum"]),
    (torch.optim.Adadelta, {}, ["square_avg", "acc_delta"]),
    (torch.optim.Muon, {}, ["momentum_buffer"]),
]


def matrices() -> nn.Module:
    """Return a model of matrices alone, as Muon asks for, in two precisions."""
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False).double())


def step(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(("make", "settings", "slots"), OPTIMIZERS)
def test_memories_are_counted_as_torch_allocates_them(make, settings, slots):
    model = matrices()
    optimizer = make(model.parameters(), **settings)
    memories = [c for c in describe(model, optimizer).components if c.shared]
    assert [c.name for c in memories] == [f"{make.__name__}.{slot}" for slot in slots]
    step(optimizer, model)
    for memory, slot in zip(memories, slots, strict=True):
        kept = [state[slot] for state in optimizer.state.values()]
        assert memory.state_bytes == sum(t.numel() * t.element_size() for t in kept) == 12 * 4 + 8 * 8
    every = {name for state in optimizer.state.values() for name, t in state.items() if t.ndim and t is not None}
    assert every == set(slots)


def test_every_optimizer_that_is_known_is_tested():
    assert {make for make, _, _ in OPTIMIZERS} == set(KNOWN)


@pytest.mark.parametrize(("make", "settings", "slots"), OPTIMIZERS)
def test_a_memory_takes_the_step_of_gradient_descent_that_is_named(make, settings, slots):
    """[NL eq. 10-13, 101-105]: m - step * gradient of the objective, from a random m, against torch's own numbers.

    The gradient of |m - x|^2 / 2 is m - x, that of -<m, x> is -x; tolerance for one float64 rounding.
    """
    parameter = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    optimizer = make([parameter], **settings)
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    g = parameter.grad = torch.randn_like(parameter)
    before = {slot: optimizer.state[parameter][slot].clone() for slot in slots}
    optimizer.step()
    targets = {"g": g, "g^2": g * g}
    model = nn.Module()
    model.weight = parameter
    checked = set()
    for memory in (c for c in describe(model, optimizer).components if c.shared):
        slot = memory.name.partition(".")[2]
        found = re.fullmatch(r"(?:L2 \|m - (.+)\|\^2|dot -<m, ([^,>]+)>)", memory.objective)
        target = targets.get(found[1] or found[2]) if found else None
        if target is None:
            continue
        checked.add(slot)
        m = before[slot]
        size = re.search(r"step ([\d.e-]+)", memory.rule)
        retention = re.search(r"retention ([\d.e-]+)", memory.rule)
        m_kept = m * float(retention[1]) if retention else m
        grad = m - target if found[1] else -target
        want, _ = gd(m_kept, grad, None, {}, eta=float(size[1]) if size else 1.0)
        torch.testing.assert_close(optimizer.state[parameter][slot], want, rtol=1e-12, atol=1e-14)
    # no gradient step is claimed for maxima, nor checked for averages of the optimizer's own steps
    others = {"max_exp_avg_sq", "exp_inf", "acc_delta"} | (
        {"momentum_buffer"} if make is torch.optim.RMSprop else set()
    )
    assert checked == set(slots) - others


def test_groups_that_differ_are_told_apart():
    model = matrices()
    groups = [{"params": [p], "momentum": m} for p, m in zip(model.parameters(), (0.5, 0.9), strict=True)]
    system = describe(model, torch.optim.SGD(groups, lr=0.1))
    first, second = (c for c in system.components if c.shared)
    assert (first.rule, second.rule) == ("gd, step 1, retention 0.5", "gd, step 1, retention 0.9")
    assert (first.state_bytes, second.state_bytes) == (12 * 4, 8 * 8)
    assert first.name != second.name


def test_two_optimizers_share_a_model():
    """Muon for a matrix, AdamW for what is not one: three memories, and the weights say who steps them."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    muon = torch.optim.Muon([model[0].weight])
    adam = torch.optim.AdamW([model[0].bias, *model[1].parameters()])
    system = describe(model, [muon, adam])
    assert {c.name: c.state_bytes for c in system.components if c.shared} == {
        "Muon.momentum_buffer": 12 * 4,
        "AdamW.exp_avg": 12 * 4,
        "AdamW.exp_avg_sq": 12 * 4,
    }
    assert {(c.rule, c.parameters) for c in system.levels[-1].components} == {("Muon", 12), ("AdamW", 4), ("AdamW", 8)}
    assert system.depth == 2


class Odd(torch.optim.Optimizer):
    """An optimizer of a user: one moving vector per row and a counter."""

    def __init__(self, params) -> None:
        super().__init__(params, {})

    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {"rows": parameter.new_zeros(parameter.shape[0]), "count": torch.tensor(1)}


def test_an_unknown_optimizer_is_described_by_what_it_keeps():
    model = matrices()
    optimizer = Odd(model.parameters())
    before = describe(model, optimizer)
    assert before.optimizer_bytes == 0
    assert "Odd is not an optimizer that is known here and has taken no step yet" in before.notes[0]
    assert before.levels[-1].title == "every optimizer step"
    optimizer.step()
    (memory,) = [c for c in describe(model, optimizer).components if c.shared]
    assert (memory.name, memory.state_bytes, memory.objective) == ("Odd.rows", 4 * 4 + 2 * 8, "-")
    assert memory.rule == "state of Odd"
    assert describe(model, optimizer).notes == ()
