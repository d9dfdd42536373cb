"""The rules that need no key, as the rule of a continuum memory system."""

import pytest
import torch

from everlearn import rules
from everlearn.layers import CMS
from everlearn.levels import Level

PERIOD, ETA = 4, 0.1
KEYLESS = [
    rules.momentum,
    rules.preconditioned,
    rules.adam,
    rules.delta_momentum,
    rules.delta_momentum_matrix,
    rules.newton_schulz,
    rules.m3,
    rules.deep_momentum,
]


def grads(rows, steps=6):
    """Return one gradient of each tensor for each chunk, of norm below the clip."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 5), (6, 5), (5, 6))
    return [[0.1 * torch.randn(rows, *shape, generator=generator) for shape in shapes] for _ in range(steps)]


@pytest.mark.parametrize("rule", KEYLESS, ids=lambda rule: rule.__name__)
def test_each_row_steps_by_the_rule_whenever_it_is_due(rule):
    """Row 1 reads half as many tokens, so it is due half as often: each equals the rule run on its own gradients."""
    torch.manual_seed(0)
    cms = CMS(5, 6, [Level("fast", update_period=PERIOD, eta=ETA)], chunk_size=PERIOD, rule=rule)
    state = cms.initial_state(2)
    expected = [[weight[row] for weight in cms.weights(state).values()] for row in range(2)]
    slots = [[{}, {}, {}], [{}, {}, {}]]
    collected = [[], []]
    for chunk in grads(2):
        state, _ = cms.write(cms.accumulate(state, chunk, torch.tensor([PERIOD, PERIOD // 2])))
        for row, due in ((0, 1), (1, 2)):
            collected[row].append([grad[row] for grad in chunk])
            if len(collected[row]) == due:
                mean = [torch.stack(parts).mean(0) for parts in zip(*collected[row], strict=True)]
                collected[row] = []
                for i, grad in enumerate(mean):
                    expected[row][i], slots[row][i] = rule(expected[row][i], grad, None, slots[row][i], eta=ETA)
    for row in range(2):
        for got, wanted in zip(cms.weights(state).values(), expected[row], strict=True):
            torch.testing.assert_close(got[row], wanted, rtol=1e-4, atol=1e-5)


def test_a_rule_that_needs_keys_is_refused():
    cms = CMS(5, 6, [Level("fast", update_period=PERIOD)], chunk_size=PERIOD, rule=rules.dgd)
    state = cms.accumulate(cms.initial_state(1), grads(1)[0], torch.tensor([PERIOD]))
    with pytest.raises(ValueError, match="dgd got no key"):
        cms.write(state)
