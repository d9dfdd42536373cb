"""Associative memory: architecture x objective x retention x rule.  [NL eq. 6]"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from everlearn.levels.component import TOKENS, Component, row_bytes, rule_name
from everlearn.memory.architectures import Architecture, NonParametric
from everlearn.memory.combinations import SHORTENS_ITSELF, bare, refusal
from everlearn.memory.objectives import Objective, l2
from everlearn.memory.retention import Decay, Keep, Retention
from everlearn.memory.state import LayerState, Tensors, where_rows
from everlearn.rules import Rule, gd
from everlearn.rules.shapes import root


class AssociativeMemory(nn.Module):
    """Map keys to values by fitting them, one pair after the other.  [NL eq. 6, 62, 64-65, 67-68]

        M_t = after(rule(before(M_{t-1}), grad), M_{t-1}),   grad = grad_M sum_{i = t-c+1..t} L(M_{t-1}(k_i); v_i)

    Four choices make a memory. Written generically, with `torch.func.grad`, a token at a time: this is the readable
    form and the oracle; where a combination has a fast form (`ops.delta_rule`), use that in a network. The parameters
    `start` hold the meta-learned memory that every stream begins with; the state holds what a stream has taught.
    Everything is differentiable, the inner gradient too. It computes in its own dtype, also under autocast.

    Args:
        architecture: what answers: Vector, Matrix, ResidualMLP or NonParametric.
        objective: what is fitted: dot, l2, Lp(p), Huber(delta), kl, or a function like them.
        retention: what holds the memory back: Keep(), Decay(alpha), Anchor(decay) or TrustRegion(radius).
        rule: how a step is taken, from `everlearn.rules`; None for NonParametric, whose fit is exact.
        eta: step size, >= 0; `write` takes one per token instead. NonParametric takes no steps and needs none.
        window: c, the last tokens whose objective is summed (the Omega rule where c > 1), >= 1.
    Raises:
        ValueError: choices that do not fit together, or a number outside its range.
    Example:
        >>> from everlearn.memory import Matrix
        >>> memory = AssociativeMemory(Matrix(2), eta=1.0)
        >>> key, value = torch.tensor([[[0.6, 0.8]]]), torch.tensor([[[2.0, -1.0]]])
        >>> state, surprise = memory.write(memory.init(1), key, value)
        >>> memory.read(state, key).flatten().tolist(), round(surprise.item(), 3)
        ([2.0, -1.0], 2.236)
    """

    witness: Tensor

    def __init__(
        self,
        architecture: Architecture | NonParametric,
        objective: Objective = l2,
        retention: Retention | None = None,
        rule: Rule | None = gd,
        *,
        eta: float | None = None,
        window: int = 1,
    ) -> None:
        super().__init__()
        retention = Keep() if retention is None else retention
        if reason := refusal(architecture, objective, retention, rule, window):
            raise ValueError(reason)
        if (eta is None) != (rule is None) or (eta is not None and not 0 <= eta < math.inf):
            needed = "a number >= 0" if rule is not None else "None, since no steps are taken"
            raise ValueError(f"eta is {eta}, {needed} is needed; set eta={'1.0' if rule is not None else 'None'}")
        self.architecture, self.objective, self.retention, self.rule = architecture, objective, retention, rule
        self.eta, self.window = eta, window
        start = {} if isinstance(architecture, NonParametric) else architecture.start()
        self.start = nn.ParameterDict(start)
        # no state: it knows the device and dtype where there is no parameter to ask
        self.register_buffer("witness", torch.zeros(()), persistent=False)

    def init(self, batch_size: int) -> LayerState:
        """Return what fresh streams begin with: the learned start for each row, and nothing written.

        Returns:
            memory: each weight [B, out, in]; "tokens", pairs written, [B] long; with a window, its keys and values
                [B, window - 1, ...]; after the first write "<weight>.slot.<name>", what the rule keeps.
            context: of NonParametric, the pairs; it grows with the segment, or fills `window` places.
        """
        like = self.witness
        tokens = torch.zeros(batch_size, dtype=torch.long, device=like.device)
        if isinstance(self.architecture, NonParametric):
            return LayerState({"tokens": tokens}, self.architecture.start(batch_size, like))
        memory = {name: weight.expand(batch_size, *weight.shape) for name, weight in self.start.items()}
        if self.window > 1:
            memory["window.keys"] = like.new_zeros(batch_size, self.window - 1, self.architecture.dim)
            memory["window.values"] = like.new_zeros(batch_size, self.window - 1, self.architecture.dim_v)
        return LayerState({**memory, "tokens": tokens})

    def read(self, state: LayerState, queries: Tensor) -> Tensor:
        """Ask the memory; nothing is written.

        Args:
            state: from `init` or `write`.
            queries: [B, T, dim].
        Returns:
            [B, T, dim_v], in the dtype of the queries.
        Raises:
            ValueError: queries that do not fit the memory or the state.
        """
        self._check(state, queries=queries)
        with torch.autocast(queries.device.type, enabled=False):
            return self._answer(state, queries.to(self.witness.dtype)).to(queries.dtype)

    def write(
        self,
        state: LayerState,
        keys: Tensor,
        values: Tensor,
        *,
        eta: Tensor | None = None,
        alpha: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[LayerState, Tensor]:
        """Write pairs into the memory, one token after the other.

        Args:
            state: from `init` or an earlier write; left untouched.
            keys: [B, T, dim]; of unit norm unless the step size is chosen for others.
            values: [B, T, dim_v].
            eta: step sizes, [B, T]; None takes the memory's own for every token.
            alpha: retention, [B, T] in [0, 1], for a memory with Decay; None takes its own.
            mask: [B, T] bool, True for a real token; the others change nothing, bit for bit. None means all are real.
        Returns:
            state: what the rows hold now.
            surprise: Frobenius norm of the gradient that drove each write over all tensors of the row, [B, T]; of
                NonParametric that with respect to its answer, |y - v|; 0 where masked.
        Raises:
            ValueError: shapes that do not fit, or a setting that this memory does not have.
        """
        self._check(state, keys=keys, values=values, eta=eta, alpha=alpha, mask=mask)
        state, surprise, _ = self._scan(state, keys, values, eta, alpha, mask)
        return state, surprise

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        state: LayerState | None = None,
        *,
        eta: Tensor | None = None,
        alpha: Tensor | None = None,
        mask: Tensor | None = None,
        read_after_write: bool = True,
    ) -> tuple[Tensor, LayerState]:
        """Write each token and read it: a sequence layer.

        Args:
            queries: [B, T, dim].
            keys: [B, T, dim].
            values: [B, T, dim_v].
            state: what earlier pieces left; None starts fresh.
            eta: as in `write`.
            alpha: as in `write`.
            mask: as in `write`.
            read_after_write: whether a token's answer knows its own pair.
        Returns:
            y: [B, T, dim_v].
            state: to pass to the next call.
        Raises:
            ValueError: as in `read` and `write`.
        """
        state = self.init(keys.shape[0]) if state is None else state
        self._check(state, queries=queries, keys=keys, values=values, eta=eta, alpha=alpha, mask=mask)
        state, _, y = self._scan(state, keys, values, eta, alpha, mask, queries, read_after_write)
        return y.to(queries.dtype), state

    def _scan(
        self,
        state: LayerState,
        keys: Tensor,
        values: Tensor,
        eta: Tensor | None,
        alpha: Tensor | None,
        mask: Tensor | None,
        queries: Tensor | None = None,
        read_after_write: bool = True,
    ) -> tuple[LayerState, Tensor, Tensor]:
        """Write token by token, and read between where there are queries; return the state, surprise and answers."""
        dtype = self.witness.dtype
        if mask is not None:
            # what stands at a padded place may be anything, also not a number
            keys, values = (x.masked_fill(~mask.unsqueeze(-1), 0) for x in (keys, values))
            eta, alpha = (None if x is None else x.masked_fill(~mask, 1) for x in (eta, alpha))
        keys, values = keys.to(dtype), values.to(dtype)
        surprise, y = [keys.new_zeros(len(keys), 0)], [keys.new_zeros(len(keys), 0, self.architecture.dim_v)]
        with torch.autocast(keys.device.type, enabled=False):
            for t in range(keys.shape[1]):
                before = state
                step, gate = (None if x is None else x[:, t].to(dtype) for x in (eta, alpha))
                live = None if mask is None else mask[:, t]
                state, size = self._write_one(state, keys[:, t], values[:, t], step, gate, live)
                surprise.append(size.unsqueeze(1))
                if queries is not None:
                    y.append(self._answer(state if read_after_write else before, queries[:, t : t + 1].to(dtype)))
        return state, torch.cat(surprise, 1), torch.cat(y, 1)

    def _answer(self, state: LayerState, queries: Tensor) -> Tensor:
        """Ask the memory in its own dtype."""
        if isinstance(self.architecture, NonParametric):
            return self.architecture.read(state.context, queries)
        return self.architecture.apply(self._weights(state.memory), queries)

    def _write_one(
        self,
        state: LayerState,
        key: Tensor,
        value: Tensor,
        eta: Tensor | None,
        alpha: Tensor | None,
        live: Tensor | None,
    ) -> tuple[LayerState, Tensor]:
        """Write one pair per row, key [B, dim]; return the new state and the surprise, [B]."""
        rows = key.shape[0]
        count = torch.ones(rows, dtype=torch.long, device=key.device) if live is None else live.long()
        tokens = {"tokens": state.memory["tokens"] + count}
        if isinstance(self.architecture, NonParametric):
            pairs, surprise = self._keep(state.context, key, value, alpha, count > 0)
            return LayerState(tokens, pairs), surprise
        memory, surprise = self._step(state.memory, key, value, eta, alpha)
        if live is not None:
            memory = {
                name: where_rows(live, new, state.memory.get(name, torch.zeros_like(new)))
                for name, new in memory.items()
            }
            surprise = torch.where(live, surprise, 0)
        return LayerState(memory | tokens, state.context), surprise

    def _keep(
        self, pairs: Tensors, key: Tensor, value: Tensor, alpha: Tensor | None, live: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Add a pair to a non-parametric memory."""
        assert isinstance(self.architecture, NonParametric)
        if alpha is None:
            own = self.retention.alpha if isinstance(self.retention, Decay) else 1.0
            alpha = torch.as_tensor(own, dtype=key.dtype, device=key.device).expand(len(key))
        error = self.architecture.read(pairs, key.unsqueeze(1)).squeeze(1) - value
        surprise = torch.where(live, root(error.square().sum(-1)), 0)
        return self.architecture.write(pairs, key, value, alpha, live), surprise

    def _step(
        self, memory: Tensors, key: Tensor, value: Tensor, eta: Tensor | None, alpha: Tensor | None
    ) -> tuple[Tensors, Tensor]:
        """Step once in every row: the new weights, slots and window, and the gradient's norm."""
        assert self.rule is not None and self.eta is not None and not isinstance(self.architecture, NonParametric)
        old = self._weights(memory)
        keys, values, valid = self._recent(memory, key, value)
        grads = torch.func.grad(self._loss)(old, keys, values, valid)
        retention = self.retention
        if alpha is not None:
            assert isinstance(retention, Decay)
            retention = replace(retention, alpha=per_row(alpha))
        step = torch.as_tensor(self.eta, dtype=key.dtype, device=key.device) if eta is None else eta
        shortened = self.architecture.implicit and bare(self.rule) not in SHORTENS_ITSELF
        new: Tensors = {}
        for name, inputs in self.architecture.inputs(old, keys).items():
            size = per_row(step.expand(len(key)))
            if shortened:
                size = size / (1 + size * per_row(inputs.square().sum((1, 2))))
            base = retention.before(old[name], self.start[name])
            slots = {n.removeprefix(f"{name}.slot."): x for n, x in memory.items() if n.startswith(f"{name}.slot.")}
            weights, slots = self.rule(base, grads[name], inputs, slots, eta=size)
            new[name] = retention.after(weights, old[name])
            # what a rule counts once becomes each row's own: a zero has not started, so rows may begin at any time
            new |= {f"{name}.slot.{slot}": x.expand(len(key), *x.shape[1:]) for slot, x in slots.items()}
        if self.window > 1:
            new |= {"window.keys": keys[:, 1:], "window.values": values[:, 1:]}
        square = torch.stack([grad.square().sum((1, 2)) for grad in grads.values()]).sum(0)
        return new, root(square)

    def _loss(self, weights: Tensors, keys: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """Return the objective of the window, summed over tokens and rows; rows have weights of their own."""
        assert not isinstance(self.architecture, NonParametric)
        loss = self.objective(self.architecture.apply(weights, keys), values)
        return torch.where(valid, loss, 0).sum()

    def _recent(self, memory: Tensors, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last c keys and values, [B, c, ...], and which of them are there, [B, c]."""
        if self.window == 1:
            return key.unsqueeze(1), value.unsqueeze(1), torch.ones(len(key), 1, dtype=torch.bool, device=key.device)
        keys = torch.cat([memory["window.keys"], key.unsqueeze(1)], 1)
        values = torch.cat([memory["window.values"], value.unsqueeze(1)], 1)
        age = torch.arange(self.window - 1, -1, -1, device=key.device)
        return keys, values, age <= memory["tokens"].unsqueeze(1)

    def _weights(self, memory: Tensors) -> Tensors:
        """Return the fast weights alone."""
        return {name: memory[name] for name in self.start}

    def _check(self, state: LayerState, **given: Tensor | None) -> None:
        """Raise one clear line for a state or a tensor that does not fit."""
        self._check_state(state)
        rows = len(state.memory["tokens"])
        sizes = {"queries": self.architecture.dim, "keys": self.architecture.dim, "values": self.architecture.dim_v}
        length: int | None = None
        for name, x in given.items():
            if x is None:
                continue
            if not isinstance(x, Tensor):
                raise ValueError(f"{name} is a {type(x).__name__}; give a tensor with a number for each token, [B, T]")
            length = x.shape[1] if length is None and x.ndim > 1 else length
            wanted = (rows, "T" if length is None else length, *([sizes[name]] if name in sizes else []))
            if tuple(x.shape) != wanted:
                raise ValueError(f"{name} has shape {tuple(x.shape)}, {wanted} is needed; reshape it or use its state")
            if not (x.dtype == torch.bool if name == "mask" else x.is_floating_point()):
                allowed = "bool, True for a real token" if name == "mask" else "a floating-point type"
                raise ValueError(f"{name} is {x.dtype}; {allowed} is needed: convert it")
        if given.get("alpha") is not None and not isinstance(self.retention, Decay):
            raise ValueError(
                f"alpha was given to a memory with {self.retention}; build it with Decay() or leave it out"
            )
        if given.get("eta") is not None and self.rule is None:
            raise ValueError("eta was given to a non-parametric memory, which takes no steps; leave it out")

    def _check_state(self, state: LayerState) -> None:
        """Refuse the state of a memory with other choices, before it fails or answers in another size."""
        fresh = self.init(0)
        # how many pairs there are is compared in a window alone; elsewhere they grow
        grows = isinstance(self.architecture, NonParametric) and self.architecture.window is None
        for held, own, first in ((state.memory, fresh.memory, 1), (state.context, fresh.context, 2 if grows else 1)):
            for name, x in own.items():
                if name in held and held[name].shape[first:] == x.shape[first:] and held[name].dtype == x.dtype:
                    continue
                shapes = {name: (*x.shape[1:], x.dtype) for name, x in held.items()}
                raise ValueError(f"the state holds {shapes} per row, which is another memory's; start from init()")

    def components(self) -> list[Component]:
        """Return what each row holds, and the start that training has learned."""
        fresh, objective = self.init(1), rule_name(self.objective)
        if isinstance(self.architecture, NonParametric):
            # what one more pair takes: its key, its value, its weight, and whether it is there
            pair = (self.architecture.dim + self.architecture.dim_v + 1) * self.witness.element_size() + 1
            grows = self.architecture.window is None
            held = row_bytes([*fresh.memory.values(), *fresh.context.values()])
            rule, token_bytes = (
                "keep every token" if grows else f"keep the last {self.architecture.window}",
                pair if grows else 0,
            )
        else:
            # a first write of nothing shows what the rule keeps
            nothing = (self.witness.new_zeros(1, 1, size) for size in (self.architecture.dim, self.architecture.dim_v))
            with torch.no_grad():
                held = row_bytes(self.write(fresh, *nothing)[0].memory.values())
            assert self.rule is not None
            rule, token_bytes = f"{rule_name(self.rule)}, eta {self.eta:g}, {self.retention}", 0
        memory = Component(
            name="",
            kind=f"{type(self.architecture).__name__} memory",
            update_period=1,
            unit=TOKENS,
            state_bytes=held,
            token_bytes=token_bytes,
            objective=objective,
            rule=rule,
            context_flow="pairs that are written",
            start_from=("start",),
        )
        return [memory, Component(name="start", kind="learned start", owns=("start",))]


def per_row(x: Tensor) -> Tensor:
    """Return one number per row, [B], as [B, 1, 1]."""
    return x.reshape(-1, 1, 1)
