"""Small records of four classes, and what feeds them to a strategy: shared by the tests of published strategies."""

from functools import partial

import torch

D, C, B = 6, 4, 5
SGD = partial(torch.optim.SGD, lr=0.1)


def encode(x):
    return x.float()


def records(count=60, seed=0, classes=C, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    return torch.randn(classes, D, generator=generator)[y] * 2 + spread * torch.randn(count, D, generator=generator), y


def learned(strategy, x, y, size=B):
    for batch in zip(x.split(size), y.split(size), strict=True):
        strategy.observe(*batch)
    return strategy


def weights_of(head):
    return {name: p.detach().clone() for name, p in head.named_parameters()}
