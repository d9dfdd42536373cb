"""A training step on a text whose levels learn while it is read, with one backward pass for each chunk.  [NL eq. 71]"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from everlearn.learn.chunk import learn_chunk
from everlearn.memory.state import ModelState, with_layers
from everlearn.models import Decoder


def backward_while_reading(model: Decoder, ids: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
    """Read a text with levels that learn, and add the gradient of its mean loss to every parameter's `grad`.

    The gradient is of first order: what a level has learned is taken as given, so that of its learned start is the sum
    over the chunks of those of the weights that were read there. It is cut where a chunk ends, as the gradient that the
    levels follow is: what a chunk leaves behind for the next ones is trained through its own tokens alone. One pass
    serves both, and the graph of one chunk is all that is held. `learn.read` with `differentiable=True` and a backward
    pass at its end does not cut, and costs a second backward pass.

    Args:
        model: its parameters' `grad` are added to, as `backward` does.
        ids: [B, T] with T >= 2.
        state: what earlier texts left, cut from any graph; None starts fresh streams.
    Returns:
        nll: of each token but the first in nats, [B, T - 1], taken before anything was learned from it.
        state: after all tokens but the last.
    Raises:
        ValueError: fewer than two tokens in a row.
        NotFiniteError: see `learn_chunk`; the gradients of earlier chunks have been added.
    """
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise ValueError(f"ids have shape {tuple(ids.shape)}; a training step needs [B, T] with T of at least 2")
    state = (model.initial_state(len(ids)) if state is None else state).detach()
    parameters = [p for p in model.parameters() if p.requires_grad]
    share, scores = 1 / ids[:, 1:].numel(), []
    for start in range(0, ids.shape[1] - 1, model.chunk_size):
        window = ids[:, start : start + model.chunk_size + 1]
        report, state = learn_chunk(model, window, attached(model, state), also=parameters)
        for parameter, grad in zip(parameters, report.also, strict=True):
            parameter.grad = share * grad if parameter.grad is None else torch.add(parameter.grad, grad, alpha=share)
        scores.append(report.nll)
    return torch.cat(scores, 1), state


def attached(model: Decoder, state: ModelState) -> ModelState:
    """Return the state, bit for bit, in a graph where every weight is its learned start and what was learned since.

    Args:
        model: whose parameters the starts are.
        state: cut from any graph.
    """
    layers = {}
    for name, cms in model.memories().items():
        own = state.layer(name)
        weights = cms.weights(own)
        starts = cms.starts(list(dict.fromkeys(weight.partition(".")[0] for weight in weights)))
        held = {part: weight + (starts[part] - starts[part].detach()) for part, weight in weights.items()}
        layers[name] = replace(own, memory={**own.memory, **held})
    return with_layers(state, layers)
