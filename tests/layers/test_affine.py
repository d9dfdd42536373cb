"""The matrix of a linear layer, also of one that an adapter stands around."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from everlearn.layers import CMS, DeltaMemory, SwiGLU, TitansMemory
from everlearn.layers.affine import affine, affine_in
from everlearn.levels import Level


class Adapter(nn.Module):
    """A frozen layer and what is learned beside it, as LoRA puts it in a layer's place: W x + B A x."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base, self.in_features = base.requires_grad_(False), base.in_features
        self.down = nn.Parameter(torch.randn(rank, base.in_features, dtype=base.weight.dtype))
        self.up = nn.Parameter(torch.randn(base.out_features, rank, dtype=base.weight.dtype))

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.down.mT @ self.up.mT


@pytest.mark.parametrize("bias", [True, False])
def test_the_matrix_of_an_adapter_is_that_of_its_merged_layer(bias):
    """W + B A, and the bias as it is; of a plain layer the parameters themselves."""
    plain = nn.Linear(5, 3, bias=bias, dtype=torch.float64)
    weight, same_bias = affine(plain)
    assert weight is plain.weight and same_bias is plain.bias
    adapter, x = Adapter(plain), torch.randn(4, 5, dtype=torch.float64)
    found, found_bias = affine(adapter)
    assert torch.allclose(found, plain.weight + adapter.up @ adapter.down, atol=1e-12)
    assert (found_bias is None) is not bias
    assert torch.allclose(F.linear(x, found, found_bias), adapter(x), atol=1e-12)
    for layer in (plain, adapter):
        assert torch.allclose(affine_in(torch.float64, layer, x.float()), layer(x.float().double()), atol=1e-12)
        assert affine_in(torch.float32, layer, x).dtype == torch.float32


LAYERS = {
    "mlp": (lambda: SwiGLU(8, 6), ("gate", "up", "down")),
    "delta": (lambda: DeltaMemory(8, 2), ("gates",)),
    "titans": (lambda: TitansMemory(8, 2), ("gates",)),
}


@pytest.mark.parametrize(("make", "names"), LAYERS.values(), ids=LAYERS)
def test_an_adapter_changes_what_a_layer_says_as_if_it_were_merged_and_learns(make, names):
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(2, 7, 8, dtype=torch.float64)
    before = first(layer(x))
    for name in names:
        setattr(layer, name, Adapter(layer.get_submodule(name)))
    adapted = first(layer(x))
    assert not torch.allclose(adapted, before)
    adapted.square().sum().backward()
    for name in names:
        adapter = layer.get_submodule(name)
        assert adapter.down.grad.norm() > 0 and adapter.up.grad.norm() > 0 and adapter.base.weight.grad is None
        with torch.no_grad():
            adapter.base.weight += adapter.up @ adapter.down
        setattr(layer, name, adapter.base)
    assert torch.allclose(first(layer(x)), adapted, atol=1e-10)


def test_a_stream_starts_from_the_adapted_weights_and_reads_like_the_parameters():
    torch.manual_seed(0)
    cms = CMS(8, 6, [Level("fast", 4, 0.3)], chunk_size=4)
    cms.mlps["fast"].up = Adapter(cms.mlps["fast"].up)
    x = torch.randn(2, 3, 8)
    assert torch.allclose(cms(x, cms.initial_state(2))[0], cms(x)[0], atol=1e-6)
    assert torch.equal(cms.initial_state(2).memory["fast.up"][1], affine(cms.mlps["fast"].up)[0])


def first(output: torch.Tensor | tuple[torch.Tensor, object]) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
