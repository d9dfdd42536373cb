"""One rule, two homes: a layer that an optimizer trains is an associative memory that is written.  [NL eq. 6]"""

import pytest
import torch
from torch import nn

from everlearn.memory import AssociativeMemory, Matrix, dot, l2
from everlearn.optim import FromRule, capture
from everlearn.rules import delta_momentum, dgd, gd, least_squares, momentum, newton_schulz

DIM, DIM_V, TOKENS = 5, 3, 12
PAIRS = [(rule, l2) for rule in (gd, momentum, delta_momentum, dgd, newton_schulz, least_squares)]
PAIRS += [(rule, dot) for rule in (gd, momentum, delta_momentum, dgd, newton_schulz)]


@pytest.mark.parametrize(("rule", "objective"), PAIRS, ids=lambda choice: choice.__name__)
def test_training_a_layer_and_writing_a_memory_give_the_same_weights(rule, objective):
    """Token by token, to 1e-12: the same products in another order."""
    torch.manual_seed(0)
    layer = nn.Linear(DIM, DIM_V, bias=False).double()
    memory = AssociativeMemory(Matrix(DIM, DIM_V), objective, rule=rule, eta=0.3).double()
    with torch.no_grad():
        memory.start["M"].copy_(layer.weight)
    keys = nn.functional.normalize(torch.randn(1, TOKENS, DIM, dtype=torch.float64), dim=-1)
    values = torch.randn(1, TOKENS, DIM_V, dtype=torch.float64)
    optimizer = FromRule(layer.parameters(), rule, lr=0.3, inputs=capture(layer))
    state = memory.init(1)
    for t in range(TOKENS):
        key, value = keys[:, t : t + 1], values[:, t : t + 1]
        optimizer.zero_grad()
        objective(layer(key), value).sum().backward()
        norm = layer.weight.grad.norm()
        optimizer.step()
        state, surprise = memory.write(state, key, value)
        torch.testing.assert_close(layer.weight, state.memory["M"][0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(surprise[0, 0], norm, rtol=1e-12, atol=1e-12)
