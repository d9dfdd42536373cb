"""What layers have read: patches, tokens, small batches, tied heads, checkpoints, compiled models, processes."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from everlearn.optim import DGD, OWM, FromRule, capture
from everlearn.optim.statistics import Moment, Sketch
from everlearn.rules import gd

ROOT = Path(__file__).resolve().parents[2]


def moments(model):
    inputs = capture(model)
    inputs.collect(Moment.of)
    return inputs


def literal(keys):
    """Return the mean of x x^T / |x|^2, one key after the other."""
    return sum(torch.outer(x, x) / (x @ x) for x in keys) / len(keys)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv1d(2, 3, 3, stride=2, padding=2), (2, 7)),
        (nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(1, 2)), (2, 5, 6)),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
        (nn.Conv2d(4, 6, 2, groups=2), (4, 4, 5)),
        (nn.Conv1d(3, 3, 2, groups=3), (3, 6)),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_a_convolution_is_its_patches_times_its_matrices(conv, shape):
    """Weight times keys gives the convolution's own output, group by group."""
    conv = conv.double()
    reading = capture(conv).readings(conv.weight)[0]
    x = torch.randn(2, *shape, dtype=torch.float64)
    matrices, keys = reading.matrices(conv.weight), reading.keys(x)
    said = torch.einsum("goi,gti->tgo", *(t.reshape(-1, *t.shape[-2:]) for t in (matrices, keys))).flatten(1)
    expected = (conv(x) - conv.bias.reshape(-1, *[1] * (len(shape) - 1))).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(said, expected, rtol=1e-12, atol=1e-12)


def test_the_moment_of_a_layer_is_the_mean_over_its_unit_keys():
    layer = nn.Linear(3, 2).double()
    inputs = moments(layer)
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    layer(x).sum().backward()
    torch.testing.assert_close(inputs.of(layer.weight), literal(x.flatten(0, 1)), rtol=1e-13, atol=1e-13)


def test_an_embedding_counts_its_tokens_and_leaves_the_padding_out():
    table = nn.Embedding(4, 2, padding_idx=0).double()
    inputs = moments(table)
    tokens = torch.tensor([[3, 1, 3, 0, 0]])
    table(tokens).sum().backward()
    assert inputs.of(table.weight).flatten().tolist() == pytest.approx([0.0, 0.2, 0.0, 0.4])
    one_hot = inputs.readings(table.weight)[0].keys(tokens)
    torch.testing.assert_close((one_hot.mT @ one_hot) / 5, inputs.of(table.weight))


def test_micro_batches_of_any_size_add_up():
    x = torch.randn(9, 3, dtype=torch.float64)
    layer = nn.Linear(3, 2).double()
    inputs = moments(layer)
    for part in (x[:2], x[2:3], x[3:]):
        layer(part).sum().backward()
    torch.testing.assert_close(inputs.of(layer.weight), literal(x), rtol=1e-13, atol=1e-13)


def test_a_sketch_of_full_rank_is_the_moment_and_holds_rank_rows():
    x = torch.randn(200, 6, dtype=torch.float64)
    layer = nn.Linear(6, 2).double()
    for rank in (6, 3):
        inputs = capture(layer)
        inputs.collect(lambda reading, x, rank=rank: Sketch.of(reading, x, rank=rank))
        for part in x.split(80):
            layer(part).sum().backward()
        rows = inputs.of(layer.weight)
        missing = literal(x) - rows.mT @ rows
        assert rows.shape == (rank, 6)
        # rounding of a mean of 200 unit keys
        assert float(torch.linalg.eigvalsh(missing)[0]) > -1e-14
        assert (float(missing.abs().max()) < 1e-14) == (rank == 6)
        inputs.close()


def test_a_tied_head_counts_what_the_head_has_read_and_no_look_up():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.middle = nn.Embedding(7, 3), nn.Linear(3, 3)
            self.head = nn.Linear(3, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            self.read = self.middle(self.table(tokens)).tanh()
            return self.head(self.read)

    model = Tied().double()
    inputs = moments(model)
    model(torch.tensor([[1, 2, 6, 2]])).sum().backward()
    expected = literal(model.read.detach().flatten(0, 1))
    torch.testing.assert_close(inputs.of(model.head.weight), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_count_once(reentrant):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for forward in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        inputs = capture(model)
        forward(x).square().sum().backward()
        found.append([inputs.of(model[place].weight) for place in (0, 2)])
        inputs.close()
    assert all(map(torch.equal, *found))


def test_a_reading_without_a_backward_pass_leaves_nothing():
    layer = nn.Linear(3, 2)
    inputs = capture(layer)
    layer(torch.ones(1, 3))
    with torch.no_grad():
        layer(torch.ones(1, 3))
    assert inputs.of(layer.weight) is None


def test_memory_between_steps_does_not_grow_with_the_tokens():
    layer = nn.Linear(3, 2)
    inputs = moments(layer)
    for _ in range(5):
        layer(torch.randn(1000, 3)).sum().backward()
    assert inputs.of(layer.weight).untyped_storage().nbytes() == 9 * 4
    held = inputs._seen.values()
    assert [part.total.untyped_storage().nbytes() for part in held] == [9 * 4]


def test_hooks_can_be_taken_off():
    layer = nn.Linear(3, 2)
    with capture(layer) as inputs:
        layer(torch.ones(1, 3)).sum().backward()
    layer(torch.ones(4, 3)).sum().backward()
    assert inputs.of(layer.weight).shape == (1, 3)
    assert not layer._forward_hooks


def test_inputs_given_by_name_are_seen():
    layer = nn.Linear(3, 2)
    inputs = capture(layer)
    layer(input=torch.ones(2, 3)).sum().backward()
    assert inputs.of(layer.weight).shape == (2, 3)


def test_one_set_of_inputs_serves_one_optimizer():
    layer = nn.Linear(3, 2, bias=False)
    inputs = capture(layer)
    OWM(layer.parameters(), 0.1, inputs=inputs)
    with pytest.raises(ValueError, match=r"already serve an optimizer.*call capture\(model\) once more"):
        DGD(torch.optim.SGD(layer.parameters(), 0.1), inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda model, inputs: DGD(torch.optim.SGD(model.parameters(), 0.1), inputs),
        lambda model, inputs: OWM([model[0].weight], 0.1, inputs=inputs),
    ],
    ids=["DGD", "OWM"],
)
def test_a_layer_that_was_not_seen_is_refused_by_its_name_and_nothing_changes(make, request):
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 3)).sum().backward()
    optimizer = make(model, capture(model))
    who = request.node.callspec.id
    with pytest.raises(ValueError, match=rf"{who} has seen no input for '0'.*call capture\(model\) before the first"):
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))


def test_a_parameter_without_a_layer_is_refused_where_inputs_are_needed():
    layer = nn.Linear(3, 2)
    optimizer = OWM(layer.parameters(), 0.1, inputs=capture(layer))
    layer(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ValueError, match=r"no layer that reads through a parameter \(2,\).*elementwise=True"):
        optimizer.step()


@pytest.mark.parametrize("after", [True, False], ids=["captured first", "compiled first"])
def test_a_compiled_model_gives_the_same_numbers_or_is_refused(after):
    """Hooks that come after torch.compile never fire, and the refusal says so; before it they break the graph."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    plain = moments(model)
    model(x).sum().backward()
    expected = [plain.of(model[place].weight) for place in (0, 2)]
    plain.close()
    model.zero_grad()
    if not after:
        compiled = torch.compile(model, backend="eager")
        compiled(x)
    inputs = capture(model)
    optimizer = DGD(torch.optim.SGD(model.parameters(), 0.0), inputs)
    compiled = torch.compile(model, backend="aot_eager") if after else compiled
    compiled(x).sum().backward()
    found = [inputs.of(model[place].weight) for place in (0, 2)]
    torch._dynamo.reset()
    if after or found[0] is not None:
        torch.testing.assert_close(found, expected)
    else:
        with pytest.raises(ValueError, match=r"before torch\.compile"):
            optimizer.step()


SCRIPT = """
import sys
import torch
from torch import distributed as dist, nn
from torch.distributed.fsdp import fully_shard
from tests.optim.test_inputs import WAYS, network, steps
dist.init_process_group("gloo")
rank = dist.get_rank()
for name, make in WAYS.items():
    for shard in (False, True):
        model = network()
        if shard:
            fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
        steps(model, make(model), slice(4 * rank, 4 * rank + 4), average=not shard)
        whole = [p.full_tensor() if shard else p for p in model.parameters()]
        if rank == 0:
            torch.save([p.detach() for p in whole], f"{sys.argv[1]}/{name}-{shard}.pt")
dist.destroy_process_group()
"""
WAYS = {
    "dgd": lambda model: DGD(torch.optim.AdamW(model.parameters(), 0.05), capture(model)),
    "owm": lambda model: OWM([model[0].weight, model[2].weight], 0.3, inputs=capture(model)),
    "sketch": lambda model: OWM([model[0].weight, model[2].weight], 0.3, inputs=capture(model), rank=8),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False)).double()


def steps(model, optimizer, rows, *, average=False):
    """Train on some rows of each batch of eight; with `average` the gradients are those of all processes."""
    for step in range(5):
        x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))[rows]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if average:
            for parameter in model.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
        optimizer.step()


class TwoThreads:
    """What torch.distributed does for two processes, done for two threads."""

    def __init__(self):
        self.barrier, self.given = threading.Barrier(2, timeout=60), {}

    def exchange(self, tensor):
        self.given[threading.get_ident()] = tensor.clone()
        self.barrier.wait()
        both = list(self.given.values())
        self.barrier.wait()
        return both

    def all_reduce(self, tensor, group=None):
        tensor.copy_(sum(self.exchange(tensor)))

    def all_gather(self, parts, tensor, group=None):
        for part, given in zip(parts, self.exchange(tensor), strict=True):
            part.copy_(given)


@pytest.mark.parametrize("name", ["dgd", "owm", "sketch"])
def test_two_that_read_half_a_batch_each_and_add_up_are_one(name, monkeypatch):
    """With averaged gradients, in float64; sums in another order are all that differs."""
    together = TwoThreads()
    whole = network()
    steps(whole, WAYS[name](whole), slice(None))
    halves = [network(), network()]
    optimizers = [WAYS[name](half) for half in halves]
    for call in ("all_reduce", "all_gather"):
        monkeypatch.setattr(torch.distributed, call, getattr(together, call))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    rows = [slice(0, 4), slice(4, 8)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(partial(steps, average=True), halves, optimizers, rows))
    for half in halves:
        torch.testing.assert_close(list(half.parameters()), list(whole.parameters()), rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """With averaged gradients and under FSDP2, in float64; sums in another order are all that differs."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(tmp_path / "script.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, make in WAYS.items():
        model = network()
        steps(model, make(model), slice(None))
        for shard in (False, True):
            found = torch.load(tmp_path / f"{name}-{shard}.pt")
            torch.testing.assert_close(found, [p.detach() for p in model.parameters()], rtol=1e-9, atol=1e-10)


def test_rules_without_keys_are_as_they_were():
    layer = nn.Linear(3, 2, bias=False)
    optimizer = FromRule(layer.parameters(), gd, 0.1, inputs=capture(layer))
    start = layer.weight.detach().clone()
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), start - 0.1)
