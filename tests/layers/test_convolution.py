"""The short convolution against torch's own."""

import torch
import torch.nn.functional as F

from everlearn.layers.convolution import convolve


def test_equals_a_grouped_convolution_of_torch_also_in_two_calls():
    generator = torch.Generator().manual_seed(0)
    x, kernel = torch.randn(2, 9, 5, generator=generator).double(), torch.randn(4, 5, generator=generator).double()
    padded = F.pad(x.mT, (3, 0))
    want = F.silu(F.conv1d(padded, kernel.mT.unsqueeze(1), groups=5)).mT
    y, tail = convolve(x, kernel, None, None)
    assert torch.allclose(y, want, atol=1e-14) and torch.equal(tail, x[:, -3:])
    first, middle = convolve(x[:, :2], kernel, None, None)
    second, end = convolve(x[:, 2:], kernel, middle, None)
    assert torch.allclose(torch.cat([first, second], 1), want, atol=1e-14) and torch.equal(end, tail)


def test_a_row_keeps_its_own_last_real_inputs():
    x = torch.arange(1.0, 7.0).reshape(1, 6, 1).expand(3, 6, 1)
    mask = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    _, tail = convolve(x, torch.ones(3, 1), None, mask)
    assert tail.flatten(1).tolist() == [[5, 6], [3, 4], [0, 1]]
