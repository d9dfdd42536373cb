"""Ways to learn while reading without levels: the baselines of level stacking, in one protocol."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from everlearn.evals.windows import Window, hf_logits, learn, score
from everlearn.learn.chunk import token_nll
from everlearn.rules import clip_rows, gd

Grads = list[Tensor]


class Way(Protocol):
    """A model that reads a stream in some way; what it learns stays with it until it is thrown away."""

    def read(self, ids: Tensor) -> Tensor:
        """Read one document, [T], learning; return the nats of every token but the first, each before its lesson."""
        ...

    def end_document(self) -> None:
        """Say that the document is over: what is to be forgotten with it is forgotten."""
        ...

    def score(self, ids: Tensor) -> Tensor:
        """Score a text, [T], without learning, with what has been learned; nats, [T - 1]."""
        ...

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of what comes next, [B, T, V], for any tokens, [B, T], with what has been learned."""
        ...

    def state_bytes(self) -> int:
        """Return the bytes of what it carries beside the model."""
        ...


class Frozen:
    """The model as it came.

    Args:
        model: a Hugging Face causal language model, left untouched.
        window: what each target sees; a larger one is the baseline "longer window".
    """

    def __init__(self, model: nn.Module, window: Window) -> None:
        self.model, self.window = model, window

    def read(self, ids: Tensor) -> Tensor:
        """Score a document."""
        return self.score(ids)

    def end_document(self) -> None:
        """Do nothing: there is nothing to forget."""

    def score(self, ids: Tensor) -> Tensor:
        """Score a text."""
        return score(self.logits, ids, self.window)

    def logits(self, ids: Tensor) -> Tensor:
        """Return the model's logits."""
        return hf_logits(self.model, ids)

    def state_bytes(self) -> int:
        """Return 0."""
        return 0


class Optimizer(Protocol):
    """How weights of a model step: given the loss of a chunk, it changes them in place."""

    def __call__(self, loss: Tensor) -> None:
        """Take one step."""
        ...


class Steps:
    """A copy of the model, some of whose weights take one step after every chunk.

    With every weight and clipped gradient descent this is dynamic evaluation (Krause et al. 2018).

    Args:
        model: a Hugging Face causal language model, left untouched; the copy takes its place.
        window: what each target sees; one step after each of its chunks.
        prepare: changes the copy and returns the parameters that learn; they alone carry gradients.
        optimizer: made with these parameters.
        replay: chance, in [0, 1], that a step also learns from an earlier window of what was read, drawn evenly.
        seed: of that draw.
    """

    def __init__(
        self,
        model: nn.Module,
        window: Window,
        prepare: Callable[[nn.Module], Iterable[nn.Parameter]],
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        *,
        replay: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model, self.window, self.replay = copy.deepcopy(model).eval(), window, replay
        self.model.requires_grad_(False)
        self.learned = list(prepare(self.model))
        for parameter in self.learned:
            parameter.requires_grad_()
        self._step = optimizer(self.learned)
        self._kept: list[Tensor] = []
        self._random = random.Random(seed)

    def read(self, ids: Tensor) -> Tensor:
        """Read and learn."""
        nll = learn(self.logits, ids, self.window, self._learn)
        if self.replay:
            whole = self.window.size + 1
            self._kept += [ids[i : i + whole] for i in range(0, len(ids) - whole + 1, self.window.size)]
        return nll

    def end_document(self) -> None:
        """Do nothing: what was learned stays."""

    def score(self, ids: Tensor) -> Tensor:
        """Score a text with the weights as they are."""
        return score(self.logits, ids, self.window)

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of the copy."""
        return hf_logits(self.model, ids)

    def state_bytes(self) -> int:
        """Return the bytes of the weights that learn, without the optimizer's moments and without kept text."""
        return sum(p.numel() * p.element_size() for p in self.learned)

    def _learn(self, loss: Tensor) -> None:
        """Step on the chunk, and by chance on an earlier window as well."""
        if self._kept and self._random.random() < self.replay:
            ids = self._random.choice(self._kept)[None]
            with torch.enable_grad():
                loss = loss + token_nll(self.logits(ids[:, :-1]), ids[:, 1:]).mean()
        self._step(loss)


def every_weight(model: nn.Module) -> list[nn.Parameter]:
    """Return all parameters: dynamic evaluation."""
    return list(model.parameters())


def named(*endings: str) -> Callable[[nn.Module], list[nn.Parameter]]:
    """Return what picks the parameters whose name ends with one of `endings`.

    Raises:
        ValueError: raised by the picker where no parameter has such a name.
    """

    def pick(model: nn.Module) -> list[nn.Parameter]:
        picked = [parameter for name, parameter in model.named_parameters() if name.endswith(endings)]
        if not picked:
            raise ValueError(
                f"no parameter's name ends with one of {list(endings)}; this model has names such as "
                f"{next(iter(model.state_dict()))!r}; give endings that occur"
            )
        return picked

    return pick


class ClippedDescent:
    """Gradient descent with the norm of each tensor's gradient bounded, as the levels step.

    Args:
        parameters: changed in place.
        eta: step size, in units of the clipped gradient.
        max_norm: bound on the Frobenius norm of each tensor's gradient.
        fisher: how much each weight mattered for what was known, one tensor for each parameter; with it every step
            ends with the exact minimiser of elastic weight consolidation's penalty
            `strength / 2 sum_i F_i (w_i - w0_i)^2 + |w - w'|^2 / (2 eta)`, w' the weights after the plain step:
            stable however large F is (Kirkpatrick et al. 2017 take a gradient step on the sum).
        strength: of that penalty.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        eta: float,
        max_norm: float = 1.0,
        fisher: Grads | None = None,
        strength: float = 0.0,
    ) -> None:
        self.parameters, self.eta, self.max_norm = parameters, eta, max_norm
        self.start = [parameter.detach().clone() for parameter in parameters] if fisher else []
        self.pull = [1 / (1 + eta * strength * weight) for weight in fisher or []]

    def __call__(self, loss: Tensor) -> None:
        """Take one step."""
        grads = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for parameter, grad in zip(self.parameters, grads, strict=True):
                clipped, _ = clip_rows(grad[None], self.max_norm)
                parameter.copy_(gd(parameter, clipped[0], None, {}, eta=self.eta)[0])
            if self.pull:
                for parameter, start, pull in zip(self.parameters, self.start, self.pull, strict=True):
                    parameter.copy_(start + pull * (parameter - start))


class Adam:
    """torch's Adam, one step a chunk.

    Args:
        parameters: changed in place.
        eta: learning rate.
    """

    def __init__(self, parameters: list[nn.Parameter], *, eta: float) -> None:
        self.optimizer = torch.optim.Adam(parameters, lr=eta)

    def __call__(self, loss: Tensor) -> None:
        """Take one step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def fisher(model: nn.Module, ids: Tensor, window: Window, parameters: list[nn.Parameter]) -> Grads:
    """Estimate how much each weight matters for a text: the mean square of its gradient, over chunks.

    Args:
        model: whose `parameters` are asked about; left untouched.
        ids: [T], text of what was known.
        window: one gradient for each of its chunks.
        parameters: of the model, with gradients switched on.
    Returns:
        one tensor for each parameter, scaled so that the mean over all weights is 1.
    """
    sums = [torch.zeros_like(parameter) for parameter in parameters]

    def add(loss: Tensor) -> None:
        for total, grad in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            total.add_(grad.square())

    learn(partial(hf_logits, model), ids, window, add)
    mean = sum(float(total.sum()) for total in sums) / sum(total.numel() for total in sums)
    return [total / mean for total in sums]
