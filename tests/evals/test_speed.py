"""The measurement of speed itself: ratios by hand, products against a formula, a peak that is known, and every row."""

import sys
import types

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from everlearn.evals.speed import (
    BASELINE,
    QUICK,
    Ratio,
    Sizes,
    footprint,
    interleave,
    markdown,
    measure,
    peers,
    rounds,
    subject,
    work,
)
from everlearn.evals.speed.products import Products, against_products, delta_run, self_modifying_run
from everlearn.evals.speed.subjects import tokens
from everlearn.evals.speed.tables import peer
from everlearn.learn.stream import read
from everlearn.models.presets import PRESETS

CPU = torch.device("cpu")
TINY = Sizes(dim=12, num_layers=1, num_heads=1, hidden_dim=12, length=64, contexts=(64, 128))


def test_a_ratio_is_taken_round_by_round():
    """A round that was slow for both does not count for either."""
    found = Ratio.of([2.0, 30.0, 3.0], [1.0, 10.0, 2.0])
    assert found == Ratio(median=2.0, low=1.5, high=3.0, best=2.0)


def test_subjects_run_in_turn_and_the_first_round_is_not_counted(monkeypatch):
    order, clock = [], iter(range(1000))
    monkeypatch.setattr(rounds, "now", lambda device: next(clock))
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = interleave(runs, 3, CPU)
    assert "".join(order) == "abababab" and {name: len(own) for name, own in seconds.items()} == {"a": 3, "b": 3}
    assert set(seconds["a"] + seconds["b"]) == {1}


def test_every_preset_has_the_width_the_depth_and_nearly_the_parameters_of_the_baseline():
    count = {name: sum(p.numel() for p in subject(name, Sizes()).parameters()) for name in PRESETS}
    assert count["hope_attention"] == count[BASELINE], "three levels share the hidden size of one MLP"
    for name in PRESETS:
        built = subject(name, QUICK).config
        assert (built.dim, built.num_layers) == (QUICK.dim, QUICK.num_layers)
        same = zip(subject(name, QUICK).parameters(), subject(name, QUICK).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)
    with pytest.raises(ValueError, match="hidden_dim 14 does not divide among the 3 levels of 'hope_attention'"):
        subject("hope_attention", Sizes(hidden_dim=14))


def test_decoding_is_the_full_pass_and_learning_is_reading():
    """What is timed is the real thing: the state is that of `learn.read` over the same tokens."""
    model = subject("hope_attention", TINY)
    plain, learning = (work.Decoding(model, 64, learning=learn) for learn in (False, True))
    ids = torch.cat([tokens(1, 64), plain.next], 1)
    plain(), learning()
    with torch.no_grad():
        _, after = model(ids[:, :128])
    assert plain.state.tokens_seen.item() == 128
    keys = [s.context["blocks.0.mixer"]["k"] for s in (plain.state, after, learning.state)]
    assert torch.allclose(keys[0], keys[1], atol=1e-5) and torch.allclose(keys[0], keys[2], atol=1e-5)
    start = model.initial_state(1).detach()
    _, frozen = read(model, ids[:, :65], start, chunk_size=64, learn=False)
    _, taught = read(model, ids[:, 65:], frozen, chunk_size=64)
    own, expected = (s.memory["blocks.0.mlp"]["fast.up"] for s in (learning.state, taught))
    assert torch.allclose(own, expected, atol=1e-6) and not torch.allclose(own, start.memory["blocks.0.mlp"]["fast.up"])


def test_training_steps_leave_no_gradient_and_learning_takes_none():
    model, ids = subject("hope_attention", TINY), tokens(1, 129)
    grads = []
    model.embedding.weight.register_post_accumulate_grad_hook(lambda p: grads.append(float(p.grad.norm())))
    for step, count in ((work.train, 1), (work.train_through, 2), (work.learn, 2)):
        step(model, ids)
        assert len(grads) == count and all(p.grad is None for p in model.parameters())
    assert all(norm > 0 for norm in grads)


def test_products_count_what_the_backward_pass_computes_too():
    a, b = torch.randn(3, 2, 4, requires_grad=True), torch.randn(3, 4, 5)
    with Products() as products:
        (a @ b).sum().backward()
        torch.addmm(torch.ones(2, 3), torch.ones(2, 7), torch.ones(7, 3))
        torch.ones(6, 2, 3).baddbmm_(torch.ones(6, 2, 1), torch.ones(6, 1, 3))
        torch.ones(2, 2) + 1
    assert dict(products.counts) == {(3, 2, 4, 5): 1, (3, 2, 5, 4): 1, (1, 2, 7, 3): 1, (6, 2, 1, 3): 1}
    assert products.flop() == 2 * (2 * 3 * 2 * 4 * 5 + 2 * 7 * 3 + 6 * 2 * 3)


@pytest.mark.parametrize("decay_first", [False, True])
def test_the_products_of_the_delta_rule_are_those_of_its_formula(decay_first):
    """Forward, per block of C tokens: products of C x C with D nine times, C x D x D three times; the gates' sums."""
    run = delta_run(1, 32, 2, 8, CPU, decay_first=decay_first, block_size=16)
    with Products() as products:
        run()
    with FlopCounterMode(display=False) as counter:
        run()
    blocks, c, d = 4, 16, 8
    assert products.flop() == counter.get_total_flops()
    forward = 2 * blocks * (5 * c * c * d + 3 * c * d * d + (c + 1) * c * c)
    assert forward < products.flop() <= 3.5 * forward


def test_the_products_of_self_modifying_matrices_are_those_of_their_formula():
    """Per token D x D: k, v, a value from each of five, what each holds, what each is given, and one read."""
    tokens, heads, c, d = 32, 2, 16, 8
    with Products() as products:
        self_modifying_run(1, tokens, heads, d, CPU, chunk_size=c)()
    forward = 2 * tokens * heads * (18 * d * d + 8 * c * d)
    # computed twice, and the gradients of both factors of each product
    assert 3 * forward < products.flop() < 5 * forward


def test_an_op_that_is_one_product_reaches_its_bound():
    a, b = torch.randn(4, 200, 200), torch.randn(4, 200, 200)
    found = against_products(lambda: torch.bmm(a, b), 100, 5, CPU)
    # the same product twice; a machine that others use may slow down one of them
    assert 0.4 < found.share < 2.5 and found.low <= found.share <= found.high
    assert found.flop_per_token == 2 * 4 * 200**3 / 100 and found.gflop_per_second > 0


def holds_64_mb(model, ids):
    torch.ones(2**24)


def holds_nothing(model, ids):
    pass


@pytest.mark.slow  # two processes of their own; how a process's size is read has a test below
def test_the_peak_is_what_a_step_holds():
    peaks = [footprint.peak_bytes(BASELINE, TINY, step, CPU) for step in (holds_64_mb, holds_nothing)]
    assert 60e6 < peaks[0] - peaks[1] < 75e6


def test_sizes_of_a_process_are_read_in_bytes(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 7 kB\n")
    assert footprint.resident("VmHWM", status) == 2 * 2**20 and footprint.resident("VmRSS", status) == 7 * 1024
    with pytest.raises(ValueError, match="has no field VmSwap"):
        footprint.resident("VmSwap", status)


class NeuralMemory(nn.Module):
    """Stands in for the layer of titans-pytorch: the same call; one linear map, or a hundred for an MLP."""

    def __init__(self, dim, chunk_size, batch_size, heads, dim_head, default_model_kwargs=None):
        super().__init__()
        assert chunk_size == batch_size == 64 and heads * dim_head == dim
        self.linear, self.times = nn.Linear(dim, dim), 1 if default_model_kwargs == {"depth": 1} else 400

    def forward(self, x):
        for _ in range(self.times):
            x = self.linear(x)
        return x, None


def test_a_peer_is_timed_beside_our_layers(monkeypatch):
    module = types.ModuleType("other_memory")
    module.NeuralMemory = NeuralMemory
    monkeypatch.setitem(sys.modules, "other_memory", module)
    found = peers.beside_titans_pytorch(["delta_net"], TINY, 2, CPU, module="other_memory")
    matrix, mlp = found.ratios["matrix"], found.ratios["MLP"]
    assert (
        list(matrix)
        == list(mlp)
        == ["mixer of delta_net", *(f"TitansMemory, {m}, chunks of 64" for m in ("MLP", "matrix"))]
    )
    for name in matrix:
        assert matrix[name].best > 1, "one linear map is faster than a memory"
        assert matrix[name].best > 10 * mlp[name].best, "and than four hundred"
    text = peer(found)
    row = next(line for line in text.splitlines() if line.startswith("| mixer of delta_net |"))
    assert f"| {mlp['mixer of delta_net'].best:.2f} (" in row and "x NeuralMemory, MLP | x NeuralMemory, matrix" in text


def test_the_table_of_the_peer_shows_the_best_by_the_best_and_the_spread_of_the_rounds():
    """Three rounds by hand: ratios 2, 3 and 1.5; smallest time 2 by smallest 1."""
    found = peers.Layers("9.9", 3, {"MLP": {"ours": Ratio.of([2.0, 30.0, 3.0], [1.0, 10.0, 2.0])}})
    assert "| ours | 2.00 (1.50-3.00) |" in peer(found) and "titans-pytorch 9.9 in the same 3 rounds" in peer(found)
    slow = peers.Layers("9.9", 2, {"MLP": {"ours": Ratio.of([4.0, 5.0], [1.0, 4.0])}})
    assert "| ours | 4.00 (1.25-4.00) |" in peer(slow), "the median of the ratios would be 2.62"


def test_the_real_peer_runs_where_it_is_installed():
    """Its memory takes the same sizes as ours, and none of the two is a hundred times the other."""
    if not peers.installed():
        pytest.skip("titans-pytorch is not installed")
    sizes = Sizes(dim=16, num_layers=1, num_heads=2, hidden_dim=16, length=128, contexts=(64,))
    found = peers.beside_titans_pytorch(["titans_lmm"], sizes, 1, CPU)
    assert found.version[0].isdigit()
    assert all(0.01 < ratio.best < 100 for ratios in found.ratios.values() for ratio in ratios.values())


def test_the_report_has_every_preset_and_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("everlearn.evals.speed.report.installed", lambda: False)
    held = {BASELINE: 1_000_000}
    monkeypatch.setattr("everlearn.evals.speed.report.peak_bytes", lambda name, *what: held.get(name, 2_500_000))
    said = []
    names = [BASELINE, "delta_net", "titans_mac", "hope_attention", "hope"]
    report = measure(names, TINY, CPU, rounds=1, on_part=said.append)
    text = markdown(report)
    for name in names:
        assert text.count(f"\n| {name} | ") == 1
    assert "titans-pytorch is not installed" in text and said[0].startswith("training steps of 5 presets")
    assert {"delta rule", "mixer of delta_net"} <= set(report.bounds) and "mixer of hope_attention" not in report.bounds
    heads = text.splitlines()[0].split(" | ")
    base = next(line for line in text.splitlines() if line.startswith(f"| {BASELINE} |")).split(" | ")
    hope = next(line for line in text.splitlines() if line.startswith("| hope_attention |")).split(" | ")
    assert len(heads) == len(base) == len(hope)
    assert base[heads.index("forward + backward")] == "1.00 (1.00-1.00)" and base[heads.index("reads and learns")] == ""
    assert hope[heads.index("peak memory")] == "2.50 (2 MB)" and base[heads.index("peak memory")] == "1.00 (1 MB)"
    assert all(hope), "a preset with levels has every column"
    assert report.growth["hope_attention"] == pytest.approx(
        report.seconds["decode 128, learning"]["hope_attention"][0]
        / report.seconds["decode 64, learning"]["hope_attention"][0]
    )


def test_a_ratio_needs_a_round_and_a_known_preset():
    with pytest.raises(ValueError, match="rounds is 0"):
        measure([], TINY, CPU, rounds=0)
    with pytest.raises(ValueError, match="preset 'hop' is unknown"):
        measure(["hop"], TINY, CPU)
