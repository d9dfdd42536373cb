"""Every combination works, or is refused with the reason that the guide prints.  [NL eq. 6]"""

import itertools
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import combinations as bench
from everlearn.memory import (
    LADDER,
    AssociativeMemory,
    Decay,
    Keep,
    LayerState,
    Matrix,
    NonParametric,
    ResidualMLP,
    TrustRegion,
    Vector,
    dot,
    l2,
    refusal,
)
from everlearn.rules import adam, delta_momentum_printed, dgd, gd, least_squares, momentum, oja, omega

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "combinations.md"
BATCHES = bench.batches()
SAMPLE = ("gd", "newton_schulz", "least_squares", "exact")


def name(batch: list[bench.Combination]) -> str:
    one = batch[0]
    own = f"{one.objective} {one.retention} " if len(batch) == 1 else ""
    return f"{one.architecture} {own}{one.rule} {one.window}"


def build(batch: list[bench.Combination]) -> AssociativeMemory:
    torch.manual_seed(0)
    side = bench.Beside()
    return batch[0].build() if len(batch) == 1 else bench.build(batch[0], side, side)


def streams(batch: list[bench.Combination], length: int) -> list[Tensor]:
    return [
        torch.cat(x)[:, :length]
        for x in list(zip(*(bench.stream(o.objective, length) for o in batch), strict=True))[:2]
    ]


def tensors(state: LayerState) -> dict[str, Tensor]:
    return {**state.memory, **state.context}


@pytest.mark.parametrize("batch", BATCHES, ids=name)
def test_a_few_writes_are_finite_may_be_cut_anywhere_and_leave_other_rows_alone(batch):
    memory = build(batch).double()
    keys, values = (x.double() for x in streams(batch, 6))
    with torch.no_grad():
        whole, surprise = memory.write(memory.init(len(keys)), keys, values)
        half, before = memory.write(memory.init(len(keys)), keys[:, :2], values[:, :2])
        again, after = memory.write(half, keys[:, 2:], values[:, 2:])
        changed = keys.clone()
        changed[1 :: bench.ROWS] = changed[1 :: bench.ROWS].flip(1, 2)
        other, _ = memory.write(memory.init(len(keys)), changed, values)
    assert surprise.isfinite().all()
    torch.testing.assert_close(torch.cat([before, after], 1), surprise, rtol=1e-10, atol=1e-10)
    rest = torch.arange(len(keys)) % bench.ROWS != 1
    for entry, tensor in tensors(whole).items():
        assert tensor.isfinite().all(), entry
        torch.testing.assert_close(tensors(again)[entry], tensor, rtol=1e-10, atol=1e-10)
        assert torch.equal(tensors(other)[entry][rest], tensor[rest]), entry


@pytest.mark.parametrize("batch", [batch for batch in BATCHES if len(batch) > 1], ids=name)
def test_each_combination_alone_is_what_it_is_beside_the_others(batch):
    together = build(batch).double()
    keys, values = (x.double() for x in streams(batch, 2))
    with torch.no_grad():
        state, _ = together.write(together.init(len(keys)), keys, values)
        for number, one in enumerate(batch):
            if one.refusal() is not None:
                continue
            rows = slice(number * bench.ROWS, (number + 1) * bench.ROWS)
            torch.manual_seed(0)
            alone = one.build().double()
            mine, _ = alone.write(alone.init(bench.ROWS), keys[rows], values[rows])
            for entry, tensor in mine.memory.items():
                torch.testing.assert_close(state.memory[entry][rows], tensor, rtol=1e-10, atol=1e-10)


def test_every_allowed_combination_runs_in_a_batch():
    run = {one for batch in BATCHES for one in batch}
    assert {one for one in bench.combinations() if one.refusal() is None} <= run


def test_a_combination_is_refused_exactly_where_the_constructor_refuses():
    for one in bench.combinations():
        if (reason := one.refusal()) is None:
            one.build()
        else:
            with pytest.raises(ValueError, match=re.escape(reason)):
                one.build()


def test_the_guide_says_of_every_combination_what_the_code_says():
    """Read from the page without the code that wrote it."""
    text = PAGE.read_text(encoding="utf-8").partition("<!-- begin tables -->")[2].partition("<!-- end tables -->")[0]
    tables, _, why = text.partition("\n## Why not")
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", why, re.M))
    told = {}
    for section in tables.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        architecture = title[0].lower() + title[1:]
        for line in re.findall(r"^\|.*\|$", section, re.M)[2:]:
            objectives, retentions, works, fails = (cell.strip() for cell in line.strip("|").split("|"))
            known = dict.fromkeys(read_rules(works))
            for number, rules in re.findall(r"\((\d+)\) ([^;]+)", fails):
                known |= dict.fromkeys(read_rules(rules), reasons[number])
            for objective, retention in itertools.product(objectives.split(", "), retentions.split(", ")):
                told |= {(architecture, objective, retention, rule): why for rule, why in known.items()}
    code = {
        (o.architecture, o.objective, o.retention, o.rule): o.refusal() for o in bench.combinations() if o.window == 1
    }
    assert told == code, "run `python benchmarks/combinations.py --page`"


def read_rules(cell: str) -> list[str]:
    """Return the rules that a cell names."""
    found = re.findall(r"`(\w+)`", cell)
    found += [rule for rule in bench.RULES if rule != "exact" and "every rule" in cell]
    return found + (["exact"] if re.search(r"\bexact\b", cell) else [])


def test_reasons_that_are_not_in_the_guide():
    """Windows, configured rules, plain steps of an MLP, rules that are printed but overflow."""
    assert "overflows" in refusal(Matrix(4), l2, Keep(), delta_momentum_printed)
    assert refusal(Matrix(4), dot, Keep(), oja) is None
    assert "window=1" in refusal(Matrix(4), dot, Keep(), partial(oja), window=2)
    assert "window=1" in refusal(Matrix(4), l2, Keep(), partial(omega, window=3), window=2)
    assert "window=1" in refusal(Matrix(4), l2, Keep(), least_squares, window=2)
    assert "implicit" in refusal(Matrix(4, implicit=True), l2, Keep(), least_squares)
    assert "NonParametric(window" in refusal(NonParametric(4), l2, Keep(), None, window=2)
    assert "no matrix" in refusal(Vector(4), l2, Keep(), partial(dgd, rho=0.5))
    plain = ResidualMLP(4, 8, implicit=False)
    assert "exponentially" in refusal(plain, dot, Keep(), partial(momentum, beta=0.5))
    assert refusal(plain, dot, TrustRegion(0.5), gd) is None
    assert refusal(plain, dot, Keep(), adam) is None
    assert refusal(plain, l2, Keep(), gd) is None


def test_two_layers_and_dot_do_grow_exponentially_where_that_is_refused():
    """One pair without end: the logarithm of the answer more than doubles with twice the writes."""
    unchecked = ResidualMLP(8, 16, implicit=False)

    def same_as_dot(prediction: Tensor, value: Tensor) -> Tensor:
        return dot(prediction, value)

    torch.manual_seed(0)
    for retention in (Keep(), Decay(0.99)):
        memory = AssociativeMemory(unchecked, same_as_dot, retention, eta=0.3).double()
        key, value = (torch.nn.functional.normalize(torch.randn(1, 1, 8).double(), dim=-1) for _ in range(2))
        state, sizes = memory.init(1), []
        for _ in range(2):
            state, _ = memory.write(state, key.expand(1, 15, 8), value.expand(1, 15, 8))
            sizes.append(math.log(memory.read(state, key).norm().item()))
        assert sizes[1] > 2 * sizes[0] > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "batch", [b for b in BATCHES if b[0].rule in ("gd", "newton_schulz", "least_squares")], ids=name
)
def test_ten_thousand_writes_stay_finite(batch):
    for row in bench.measure(batch):
        if bench.Combination(**row["combination"]).refusal() is None:
            assert all(row["finite"]), row["combination"]


@pytest.mark.slow
@pytest.mark.parametrize("rung", LADDER)
def test_ten_thousand_writes_leave_every_row_of_the_ladder_finite(rung):
    memory = LADDER[rung](8)
    keys, values, _ = bench.stream("L2", bench.WRITES)
    with torch.no_grad():
        state, _ = memory.write(memory.init(bench.ROWS), keys, values)
    assert all(x.isfinite().all() for x in tensors(state).values())
    # what fits pairs answers with about what it was given; only the dot product may grow with the writes
    # and a sum of 10,000 float32 numbers of norm 1 may be rounded by as many units of 1e-7 each
    bound = 1.001 * bench.WRITES if rung in ("linear attention", "RetNet") else 20
    assert memory.read(state, keys[:, -100:]).norm(dim=-1).max() <= bound
