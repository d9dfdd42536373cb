"""The feed-forward layer: by hand, and with weights that each row owns."""

import math

import pytest
import torch

from everlearn.layers.mlp import SwiGLU, swiglu

PARTS = ("gate", "up", "down")


def test_one_hidden_unit_by_hand():
    x = torch.tensor([[[2.0, 3.0]]], dtype=torch.float64)
    gate = torch.tensor([[1.0, -1.0]], dtype=torch.float64)  # gate x = -1
    up = torch.tensor([[0.5, 1.0]], dtype=torch.float64)  # up x = 4
    down = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    hidden = -1 / (1 + math.e) * 4
    assert torch.allclose(swiglu(x, gate, up, down), torch.tensor([[[hidden, 2 * hidden]]], dtype=torch.float64))


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_with_their_own_weights_equal_each_row_alone(rows):
    torch.manual_seed(0)
    layers = [SwiGLU(4, 6).double() for _ in range(rows)]
    x = torch.randn(rows, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = [torch.stack([layer.get_parameter(f"{part}.weight") for layer in layers]) for part in PARTS]
    y = swiglu(x, *weights)
    want = torch.cat([layer(x[row : row + 1]) for row, layer in enumerate(layers)])
    assert torch.allclose(y, want, rtol=0, atol=1e-14)
    leaves = [p for layer in layers for p in layer.parameters()]
    got_grads, want_grads = (torch.autograd.grad((out**2).sum(), [x, *leaves]) for out in (y, want))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-13) for a, b in zip(got_grads, want_grads, strict=True))


def test_the_layer_is_the_function_and_its_three_matrices_are_called_as_layers():
    """So that who captures the inputs of linear layers sees them: x twice, and what is between."""
    torch.manual_seed(0)
    layer, x, seen = SwiGLU(4, 6).double(), torch.randn(2, 3, 4, dtype=torch.float64), {}
    for name, part in layer.named_children():
        part.register_forward_hook(lambda _, args, output, name=name: seen.update({name: args[0]}))
    y = layer(x)
    assert torch.equal(y, swiglu(x, **layer.weights()))
    assert seen["gate"] is x and seen["up"] is x
    torch.testing.assert_close(seen["down"] @ layer.down.weight.T, y, rtol=1e-12, atol=1e-14)
