"""A Continuum Memory System inside a network of your own: read, take the gradient, write what is due.

    python examples/01_cms_in_your_network.py

A stream of points changes its rule every 100 steps. The fast level follows it; the slow level, which moves a sixteenth
as often, keeps the average. Each row of the batch is a stream of its own and learns its own weights.
"""

import torch

from everlearn.layers import CMS
from everlearn.levels import Level

torch.set_num_threads(1)
torch.manual_seed(0)
ROWS, DIM, CHUNK = 4, 8, 8
cms = CMS(DIM, 32, [Level("fast", CHUNK, eta=0.2), Level("slow", 16 * CHUNK, eta=0.2)], chunk_size=CHUNK)
state = cms.initial_state(ROWS)
tokens = torch.full((ROWS,), CHUNK)

errors = []
for step in range(300):
    if step % 100 == 0:
        rule = torch.randn(ROWS, DIM, DIM) / DIM**0.5  # every row has a rule of its own
    x = torch.randn(ROWS, CHUNK, DIM)
    target = torch.einsum("btd,bed->bte", x, rule)

    state = cms.track(state)  # the weights as leaves of a graph
    y, _ = cms(x, state)  # reads only
    loss = ((y - target) ** 2).mean((1, 2))  # one mean loss per row: rows never mix
    grads = torch.autograd.grad(loss.sum(), list(cms.weights(state).values()))
    state = cms.accumulate(state, grads, tokens)
    state, updates = cms.write(state)  # the levels that are due step
    errors.append(float(loss.detach().mean()))

for change in range(0, 300, 100):
    early, late = (sum(errors[a:b]) / 20 for a, b in ((change, change + 20), (change + 80, change + 100)))
    print(f"rule {change // 100 + 1}: error {early:.3f} when it is new, {late:.3f} after 100 steps")
