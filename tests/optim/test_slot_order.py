"""A state whose slots come back in another order, as out of a file, steps in the same bits."""

import torch

from everlearn.optim import DeepMomentum


def test_the_order_of_slots_decides_nothing():
    """Four matrices of one shape are stepped as a batch; with another order in each they must still be."""

    def trained(turn):
        torch.manual_seed(0)
        layers = torch.nn.ModuleList(torch.nn.Linear(64, 192, bias=False) for _ in range(4))
        optimizer, x = DeepMomentum(layers.named_parameters(), lr=0.01), torch.randn(4, 5, 64)
        for step in range(3):
            if step == 2 and turn:
                for n, layer in enumerate(layers):
                    slots = list(optimizer.state[layer.weight].items())
                    optimizer.state[layer.weight] = dict(slots[n:] + slots[:n])
            sum(layer(x[n]).square().mean() for n, layer in enumerate(layers)).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [layer.weight for layer in layers]

    assert all(map(torch.equal, trained(False), trained(True)))
