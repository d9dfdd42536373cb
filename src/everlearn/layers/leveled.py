"""Weights that change in levels: their state, what they collect, and when they step or restart.  [NL eq. 71]"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from everlearn.layers.level_step import Update, step_level
from everlearn.levels.clock import Level, check_levels
from everlearn.levels.component import Component, pace, row_bytes, rule_name
from everlearn.memory.state import LayerState, Tensors, row_chooser, where_rows
from everlearn.rules import Rule, gd


class LeveledMemory(nn.Module, ABC):
    """Matrices that change at paces of their own; between its updates a level is bit-identical.  [NL eq. 71]

        theta_l <- theta_l - eta_l clip_1(mean gradient of the tokens of its last period)

    A level with `mean_of` is the running mean of another one's weights instead; see `Level`. The state holds the
    absolute weights of every level that learns, "level.part" -> [B, out, in], one row per stream; what they start
    from, and how they are read, is what a subclass says. Reading and writing are two steps, because the gradient of a
    task belongs to the whole model:

        state = memory.track(state)                                  # the weights as leaves of a graph
        ...                                                          # read them: a loss of the whole model
        grads = torch.autograd.grad(loss, list(memory.weights(state).values()))
        state = memory.accumulate(state, grads, tokens)              # MEAN gradients and how many tokens they average
        state, updates = memory.write(state)                         # the levels that are due step

    Inside a model `learn.learn_chunk` takes these steps.

    Args:
        levels: in order of application; see `Level`.
        chunk_size: tokens that share one gradient anchor; divides every update_period.
        rule: how a level steps, from `everlearn.rules`.
        max_norm: bound on the gradient of one row and tensor; math.inf removes it.
        reduce: "mean" over the tokens of a period, or "sum", which the equation prints.
    Raises:
        ValueError: levels that do not fit chunk_size or each other, or another word for `reduce`.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        *,
        chunk_size: int = 64,
        rule: Rule = gd,
        max_norm: float = 1.0,
        reduce: str = "mean",
    ) -> None:
        super().__init__()
        if reduce not in ("mean", "sum"):
            raise ValueError(f"reduce {reduce!r} is unknown; choose 'mean' (measured to work) or 'sum' (as printed)")
        self.levels = check_levels(levels, chunk_size)
        self.chunk_size, self.rule, self.max_norm, self.reduce = chunk_size, rule, max_norm, reduce
        self._sizes: dict[str, Mapping[str, torch.Size]] = {}
        self._slower = self._links()
        self._means = {level.mean_of: level for level in self.levels if level.mean_of is not None}

    @abstractmethod
    def learned_start(self, level: str) -> Mapping[str, Tensor]:
        """Return what a fresh stream's level starts from: part -> [out, in]; a part's name may hold dots.

        It is asked for levels that are no running mean and that restart from no other.
        """

    @abstractmethod
    def _links(self) -> dict[str, str]:
        """Return which level restarts from the weights of which other; the rest own a learned start each."""

    @property
    def read_levels(self) -> tuple[Level, ...]:
        """Return the levels that an output may read: all but the running means."""
        return tuple(level for level in self.levels if level.mean_of is None)

    @property
    def learning_levels(self) -> tuple[Level, ...]:
        """Return the levels that can ever change; the others are read from the parameters."""
        return tuple(lv for lv in self.levels if lv.update_period != math.inf or lv.mean_of is not None)

    @property
    def _stepping(self) -> tuple[Level, ...]:
        """Return the levels that collect a gradient and step."""
        return tuple(level for level in self.learning_levels if level.mean_of is None)

    def initial_state(self, batch_size: int) -> LayerState:
        """Return what a fresh stream starts from: the learned weights for each row, and clocks at zero."""
        memory: Tensors = {}
        for level in self.learning_levels:
            for part, weight in self._start(level.name, {}).items():
                rows = weight.expand(batch_size, *weight.shape)
                memory[f"{level.name}.{part}"] = rows
                if level.mean_of is None:
                    memory[f"{level.name}.{part}.grad"] = torch.zeros_like(rows)
            if level.mean_of is None:
                memory[f"{level.name}.tokens"] = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        return LayerState(memory)

    def weights(self, state: LayerState) -> Tensors:
        """Return the weights that are both read and learned: "level.part" -> [B, out, in].

        Raises:
            ValueError: the state is not one of this memory.
        """
        self._check(state)
        return {
            f"{level.name}.{part}": state.memory[f"{level.name}.{part}"]
            for level in self._stepping
            if level.name not in self._slower.values()
            for part in self._parts(level.name)
        }

    def track(self, state: LayerState | None, batch_size: int = 1) -> LayerState:
        """Return the state with its weights ready for `torch.autograd.grad`.

        Weights that already belong to a graph (a state that is trained through) stay in it, under a name of their own,
        so that the gradient is that of this reading alone; others become leaves.
        """
        state = state if state and state.memory else self.initial_state(batch_size)
        leaves = {
            name: weight.view_as(weight) if weight.requires_grad else weight.detach().requires_grad_()
            for name, weight in self.weights(state).items()
        }
        return replace(state, memory=state.memory | leaves)

    def accumulate(
        self, state: LayerState, grads: Sequence[Tensor], tokens: Tensor, *, summed: bool = False
    ) -> LayerState:
        """Add a chunk's gradient to what each level has collected since its last update.

        Args:
            state: with the weights that `grads` belong to.
            grads: MEAN gradient over each row's tokens, in the order of `weights(state)`, each [B, out, in]; one taken
                with create_graph keeps its graph, so that an outer gradient is of second order.
            tokens: how many tokens each row's mean is over, [B]; 0 leaves the row untouched, bit for bit.
            summed: `grads` are SUMS over each row's tokens instead, which are taken as they are.
        Raises:
            ValueError: gradients or tokens that do not fit the state.
        """
        memory, weights = dict(state.memory), self.weights(state)
        for (name, weight), grad in zip(weights.items(), grads, strict=True):
            if grad.shape != weight.shape or tokens.shape != weight.shape[:1]:
                raise ValueError(
                    f"for {name!r} the gradient is {tuple(grad.shape)} and tokens {tuple(tokens.shape)}; "
                    f"{tuple(weight.shape)} and {tuple(weight.shape[:1])} are needed: one gradient and one count a row"
                )
        choose = row_chooser(tokens > 0)
        # a level that has collected no token holds zeros
        empty = {level.name for level in self._stepping if not bool(memory[f"{level.name}.tokens"].any())}
        for name, grad in zip(weights, grads, strict=True):
            read, _, part = name.partition(".")
            total = grad if summed else grad * tokens.reshape(-1, 1, 1).to(grad.dtype)
            for follower in self._chain(read):
                old = memory[f"{follower}.{part}.grad"]
                memory[f"{follower}.{part}.grad"] = choose(total if follower in empty else old + total, old)
        for level in self._stepping:
            memory[f"{level.name}.tokens"] = memory[f"{level.name}.tokens"] + tokens
        return replace(state, memory=memory)

    def write(
        self, state: LayerState, event: str | None = None, rows: Tensor | None = None
    ) -> tuple[LayerState, dict[str, Update]]:
        """Let the levels step whose period is over.  [NL eq. 71]

        Args:
            state: after `accumulate`.
            event: None while tokens are read, or the event that the caller declares.
            rows: [B] bool, the rows that the event concerns; None means all.
        Returns:
            state: levels and rows that were not due are bit-identical.
            updates: level name -> what it did; only levels that changed a row are listed.
        """
        self._check(state)
        memory, updates = dict(state.memory), {}
        for level in self._stepping:
            tokens = memory[f"{level.name}.tokens"]
            due = level.due(tokens, event)
            due = due if rows is None else due & rows
            if bool(due.any()):
                updates[level.name] = Update(due, self._step(level, memory, due, level.share(tokens, event)))
                memory[f"{level.name}.tokens"] = torch.where(due, 0, tokens)
                self._restart_faster(level.name, memory, due)
                if level.name in self._means:
                    updates[self._means[level.name].name] = self._follow(level.name, memory, due)
        return replace(state, memory=memory), updates

    def tick(self, state: LayerState, event: str, rows: Tensor | None = None) -> tuple[LayerState, dict[str, Update]]:
        """Declare an event: levels whose period it is step, then levels whose reset it is restart.

        Args:
            state: what the streams have taught.
            event: such as "document", "turn" or "session".
            rows: [B] bool, the rows that it concerns; None means all.
        """
        state, updates = self.write(state, event, rows)
        memory = dict(state.memory)
        # a mean first: what restarts from it at the same event starts where it does
        for level in sorted(self.learning_levels, key=lambda level: level.mean_of is None):
            if level.reset == event:
                one = next(iter(memory.values()))
                every = torch.ones(len(one), dtype=torch.bool, device=one.device)
                self._restart(level.name, memory, every if rows is None else rows)
        return replace(state, memory=memory), updates

    def discard(self, state: LayerState, event: str) -> LayerState:
        """Drop what has been collected for a step at an event, so that declaring it teaches nothing; clocks go to 0.

        Args:
            state: what the streams have taught.
            event: such as "document".
        """
        self._check(state)
        memory = dict(state.memory)
        for level in self._stepping:
            if event in (level.update_period, level.finish):
                for name in (*(f"{part}.grad" for part in self._parts(level.name)), "tokens"):
                    memory[f"{level.name}.{name}"] = torch.zeros_like(memory[f"{level.name}.{name}"])
        return replace(state, memory=memory)

    def starts(self, levels: Sequence[str]) -> Tensors:
        """Return the parameters that hold the learned start of some levels: "level.part" -> [out, in].

        Raises:
            ValueError: a level that is not there or never learns, two that share one start, or one without parameters.
        """
        starts: Tensors = {}
        for name in levels:
            if name not in [level.name for level in self.learning_levels]:
                raise ValueError(
                    f"level {name!r} is none of those that learn here, which are "
                    f"{[level.name for level in self.learning_levels]}; name one of them"
                )
            for part, weight in self._start(name, {}).items():
                if not isinstance(weight, nn.Parameter):
                    raise ValueError(
                        f"level {name!r} starts from no parameter of its own, so nothing can be learned into it; merge "
                        "what a row has learned into the pretrained model with unstack(state)"
                    )
                if any(weight is other for other in starts.values()):
                    raise ValueError(f"levels {list(levels)} share one learned start; name one of them, and once")
                starts[f"{name}.{part}"] = weight
        return starts

    def shrink(self, state: LayerState, share: float) -> LayerState:
        """Pull what every level has learned toward its learned start, running means too.

        Args:
            state: what the streams have taught.
            share: of the distance that is kept, in [0, 1]; 0 is the learned start.
        """
        self._check(state)
        memory = dict(state.memory)
        for level in self.learning_levels:
            for part, start in self._start(level.name, {}).items():
                memory[f"{level.name}.{part}"] = torch.lerp(
                    start.expand_as(state.memory[f"{level.name}.{part}"]), state.memory[f"{level.name}.{part}"], share
                )
        return replace(state, memory=memory)

    def with_levels(self, levels: Sequence[Level]) -> Self:
        """Return this memory with other periods and step sizes; parameters are shared, and states fit both.

        Args:
            levels: as many as it has, with the same names and means in the same order.
        Raises:
            ValueError: other names or means.
        """
        if [(lv.name, lv.mean_of) for lv in levels] != [(lv.name, lv.mean_of) for lv in self.levels]:
            raise ValueError(
                f"levels {[level.name for level in levels]} do not fit this memory, whose levels are "
                f"{[level.name for level in self.levels]}; keep the names, their order and their means"
            )
        other = copy.copy(self)
        other.levels = check_levels(levels, self.chunk_size)
        other._slower = other._links()
        other._means = {level.mean_of: level for level in other.levels if level.mean_of is not None}
        return other

    def level_components(self, kind: str, start_from: Mapping[str, str]) -> list[Component]:
        """Return what `describe` shows of each level that learns: its weights, and what belongs to them, per row.

        Args:
            kind: architecture of the memory.
            start_from: level -> the parameters, or the other level, that it restarts from; none for a start at zero.
        """
        state, found = self.initial_state(0).memory, []
        periods = {level.name: pace(level.update_period) for level in self.levels}
        sources = {**start_from, **{level: mean.name for level, mean in self._means.items()}}
        for level in self.learning_levels:
            own = [tensor for name, tensor in state.items() if name.startswith(f"{level.name}.")]
            mean = level.mean_of is not None
            slots = [] if mean else [s for part in self._start(level.name, {}).values() for s in self._slots(part)]
            period, unit = periods[self._followed(level.name)]
            component = Component(
                name=level.name,
                kind=kind,
                update_period=period,
                unit=unit,
                state_bytes=row_bytes([*own, *slots]),
                objective="-" if mean else "loss of the next token",
                rule=f"running mean, decay {level.decay:g}" if mean else f"{rule_name(self.rule)}, eta {level.eta:g}",
                context_flow=f"weights of {level.mean_of}" if mean else "gradients of the row",
                start_from=(sources[level.name],) if level.name in sources else (),
            )
            found.append(component)
        return found

    def _slots(self, weight: Tensor) -> list[Tensor]:
        """Return what the rule keeps for one tensor of one row after its first step, without computing it."""
        row = torch.empty((1, *weight.shape), dtype=weight.dtype, device="meta")
        return list(self.rule(row, row, None, {}, eta=1.0)[1].values())

    def _step(self, level: Level, memory: Tensors, due: Tensor, share: Tensor | None) -> Tensor:
        """Change one level's entries of `memory` in the rows that are due; return each row's surprise, [B]."""
        start, rule = self._start(level.name, memory), self.rule
        return step_level(memory, level, start, due, rule=rule, max_norm=self.max_norm, reduce=self.reduce, share=share)

    def _follow(self, level: str, memory: Tensors, rows: Tensor) -> Update:
        """Move the running mean of a level that has just stepped in some rows."""
        mean, choose = self._means[level], row_chooser(rows)
        for part in self._parts(level):
            name = f"{mean.name}.{part}"
            memory[name] = choose(torch.lerp(memory[name], memory[f"{level}.{part}"], 1 - mean.decay), memory[name])
        return Update(rows, torch.zeros(len(rows), dtype=torch.float64, device=rows.device))

    def _restart(self, level: str, memory: Tensors, rows: Tensor) -> None:
        """Set a level back in some rows: weights to its mean or start; gradient, clock and what its rule keeps to 0."""
        own_mean = self._means.get(level)
        start = self._start(level, memory) if own_mean is None else self._level_weights(own_mean.name, memory)
        for name in [n for n in memory if n.startswith(f"{level}.")]:
            fresh = start.get(name.removeprefix(f"{level}."), torch.zeros_like(memory[name]))
            memory[name] = where_rows(rows, fresh.expand_as(memory[name]), memory[name])
        self._restart_faster(level, memory, rows)

    def _restart_faster(self, level: str, memory: Tensors, rows: Tensor) -> None:
        """Restart the levels that start from this one's weights, which have just changed in some rows."""
        for fast, slow in self._slower.items():
            if slow == level:
                self._restart(fast, memory, rows)

    def _chain(self, level: str) -> list[str]:
        """Return a level that is read and the slower ones that learn from its gradient, without those that never do."""
        learning = [lv.name for lv in self._stepping]
        chain = [level]
        while (slower := self._slower.get(chain[-1])) in learning:
            chain.append(slower)
        return chain

    def _check(self, state: LayerState) -> None:
        """Refuse a state without this memory's weights, what they have collected, and their clocks."""
        for level in self.learning_levels:
            for part, size in self._parts(level.name).items():
                found = state.memory.get(f"{level.name}.{part}")
                if found is None or found.shape[1:] != size:
                    got = "nothing" if found is None else f"{tuple(found.shape[1:])} per row"
                    raise ValueError(
                        f"the state is another memory's: {level.name}.{part} is {got}, here it is {tuple(size)}; "
                        "start from initial_state(batch_size)"
                    )
        for level in self._stepping:
            for name in (*(f"{part}.grad" for part in self._parts(level.name)), "tokens"):
                if f"{level.name}.{name}" not in state.memory:
                    raise ValueError(
                        f"the state is another memory's: {level.name}.{name} is missing, which a level that learns "
                        "has here; start from initial_state(batch_size)"
                    )

    def _parts(self, level: str) -> Mapping[str, torch.Size]:
        """Return the parts of a level and their sizes, which never change."""
        if level not in self._sizes:
            self._sizes[level] = {part: start.shape for part, start in self._start(level, {}).items()}
        return self._sizes[level]

    def _start(self, level: str, memory: Tensors) -> Tensors:
        """Return what a level starts from: its learned start, or the weights of the level that it is nested in.

        A running mean starts where the level that it follows does.
        """
        level = self._followed(level)
        if level in self._slower:
            return self._level_weights(self._slower[level], memory)
        return dict(self.learned_start(level))

    def _followed(self, level: str) -> str:
        """Return the level that a running mean follows; any other level is its own."""
        return next((followed for followed, mean in self._means.items() if mean.name == level), level)

    def _level_weights(self, level: str, memory: Tensors) -> Tensors:
        """Return one level's weights: its stream's where it has any, else what it starts from."""
        start = self._start(level, memory)
        return {part: memory.get(f"{level}.{part}", weight) for part, weight in start.items()}
