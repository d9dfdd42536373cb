"""Two processes that share the parameters (FSDP2) take the steps that one process takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from everlearn.optim import FromRule
from everlearn.optim.views import shared
from everlearn.rules import momentum
from tests.optim.cases import CASES, Case, batch, build

ROOT = Path(__file__).resolve().parents[2]
STEPS = 13
# inputs are captured in each process for its own rows, so optimizers with keys are not part of this
SHARED = {name: case for name, case in CASES.items() if not case.inputs}


def network() -> nn.Sequential:
    """Return layers whose rows two processes cannot share equally, one of which has a single row."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 1), nn.Tanh(), nn.Linear(1, 3)).double()


def run(case: Case, model: nn.Module, rows: slice, steps: range, optimizer: torch.optim.Optimizer) -> None:
    for step in steps:
        x, y = batch(step)
        optimizer.zero_grad()
        (model(x[rows]) - y[rows]).square().mean().backward()
        optimizer.step()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if shared(tensor) else tensor


def two_processes(rank: int, folder: Path) -> None:
    """Train every row of the suite on half of each batch, and write what one process must have."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh, results = init_device_mesh("cpu", (2,)), {}
    for name, case in SHARED.items():
        model = network()
        fully_shard(model, mesh=mesh)
        optimizer = build(case, model)
        run(case, model, slice(rank * 4, rank * 4 + 4), range(STEPS), optimizer)
        first = model[0].weight
        like = [slot for slot in optimizer.state[first].values() if slot.shape == first.shape]
        assert like
        # five of the nine rows here, four there
        assert all(shared(slot) and slot.to_local().shape[0] == (5, 4)[rank] for slot in like)
        found = {weight: {key: whole(slot) for key, slot in slots.items()} for weight, slots in optimizer.state.items()}
        slots = [found[weight] for weight in model.parameters()]
        before = [whole(weight).clone() for weight in model.parameters()]
        if rank == 1:
            first.grad.to_local()[0, 0] = float("nan")
        with pytest.raises(ValueError, match=r"'0.weight' has NaN"):
            optimizer.step()
        assert all(torch.equal(whole(weight), old) for weight, old in zip(model.parameters(), before, strict=True))
        results[name] = (before, slots)
    if rank == 0:
        torch.save(results, folder / "two.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.optim.test_shared_parameters"]
    both = [
        subprocess.Popen([*command, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    return torch.load(folder / "two.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_two_processes_take_the_steps_of_one(name, results):
    """To the rounding of the gradient, which is the mean of two halves there; weights and all that is kept."""
    model = network()
    optimizer = build(SHARED[name], model)
    run(SHARED[name], model, slice(0, 8), range(STEPS), optimizer)
    weights, slots = results[name]
    for parameter, weight, kept in zip(model.parameters(), weights, slots, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-9, atol=1e-10)
        own = optimizer.state[parameter]
        assert set(own) == set(kept)
        for slot in own:
            expected = own[slot].expand(kept[slot].shape) if own[slot].ndim == kept[slot].ndim else own[slot]
            torch.testing.assert_close(expected, kept[slot], rtol=1e-8, atol=1e-9)


def test_one_process_without_any_group_shares_nothing():
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    FromRule([weight], momentum, lr=0.5).step()
    assert torch.equal(weight.detach(), torch.full((3,), 0.5))
    assert not shared(weight)


if __name__ == "__main__":
    two_processes(int(sys.argv[1]), Path(sys.argv[2]))
