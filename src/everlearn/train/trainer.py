"""One run in memory: a model, its optimizers, and what each step does to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint as recomputed

from everlearn.learn.chunk import token_nll
from everlearn.levels.component import Describable
from everlearn.memory.state import ModelState, Tensors, where_rows
from everlearn.models.decoder import Decoder
from everlearn.train.config import RunConfig
from everlearn.train.corpus import Corpus
from everlearn.train.loop import muon, muon_in_float32, optimizers, schedule
from everlearn.train.order import Batch, Order, Strips, Windows
from everlearn.train.processes import Processes, shared, whole


@dataclass(frozen=True)
class Step:
    """What one optimizer step showed.

    Args:
        number: steps done, this one included.
        nats: loss of its targets together, before the step.
        tokens: its targets.
        bytes: that they stand for.
        norm: of the whole gradient before clipping.
        lr: of the matrices.
    """

    number: int
    nats: float
    tokens: int
    bytes: int
    norm: float
    lr: float

    @property
    def bits_per_byte(self) -> float:
        """Return the loss in bits per byte."""
        return self.nats / math.log(2) / self.bytes


class Trainer:
    """Trains a decoder step by step; everything that the next step depends on can be saved and loaded.

    Args:
        config: of the run; the model's vocab_size is that of the corpus.
        corpus: documents as tokens.
        processes: who shares the work.
    Raises:
        ValueError: too little text, windows that the processes cannot share, or a model whose state cannot be carried.
    """

    def __init__(self, config: RunConfig, corpus: Corpus, processes: Processes | None = None) -> None:
        self.config, self.corpus, self.processes = config, corpus, processes or Processes()
        self.share = self.processes.share(config.rows)
        training = config.training
        order = Strips if config.carry else Windows
        self.order: Order = order(corpus.train, training.batch_size, training.length, training.seed)
        torch.manual_seed(training.seed)
        self.model = Decoder(replace(config.model, vocab_size=corpus.alphabet.size))
        self.model.alphabet = corpus.alphabet
        self.model.to(self.processes.device)
        _prepare(self.model, config)
        self.processes.shard(self.model, self.model.blocks)
        if config.carry:
            check_carry(self.model, self.processes)
        self.optimizers = optimizers(self.model, training, of_matrices=muon if config.bf16 else muon_in_float32)
        self.step_number = 0
        self.states: list[ModelState | None] = [None] * config.accumulate

    @property
    def device(self) -> torch.device:
        """Return where this process computes."""
        return self.processes.device

    def step(self) -> Step:
        """Take one step.

        Raises:
            ValueError: the loss or the gradient is not finite; the weights are as they were.
        """
        training, number = self.config.training, self.step_number
        batch = self.order.batch(number)
        targets = batch.ids[:, 1:][batch.real]
        rate = schedule(number, training)
        self.model.train()
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in range(self.config.accumulate):
            rows = batch.rows(part * self.config.rows, (part + 1) * self.config.rows)
            rows = rows.rows(self.share.start, self.share.stop)
            nll = self._losses(rows, part)
            # the gradients of the processes are averaged, so each counts its own targets that many times
            (nll.sum() * (self.processes.count / len(targets))).backward()
            nats += nll.detach().double().sum()
        nats = self.processes.sum(nats)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        loss, size = float(nats), float(whole(norm))
        if not (math.isfinite(loss) and math.isfinite(size)):
            self._forget_gradients()
            raise ValueError(
                f"step {number + 1} has a loss of {loss / len(targets):.4g} nats per token and a gradient of norm "
                f"{size:.4g}; both must be finite, and nothing of this step was kept; begin a new run with lower rates "
                f"(lr was {training.lr:g}, adamw_lr {training.adamw_lr:g}), a longer warmup ({training.warmup} steps), "
                "or without bf16"
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            optimizer.step()
        self._forget_gradients()
        self.step_number += 1
        counted = int(self.corpus.alphabet.count_bytes(targets).sum())
        return Step(self.step_number, loss, len(targets), counted, size, training.lr * rate)

    def validate(self, limit: int | None = None) -> float:
        """Return the bits per byte of the held-out text, read in windows that begin anew.

        Args:
            limit: tokens to read at most, from windows spread over all of it; None reads all.
        """
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        count = 0
        self.model.eval()
        with torch.no_grad():
            for batch in self._held_out(limit):
                count += int(self.corpus.alphabet.count_bytes(batch.ids[:, 1:][batch.real]).sum())
                nats += self._losses(batch.rows(self.share.start, self.share.stop)).double().sum()
        return float(self.processes.sum(nats)) / math.log(2) / count

    def weights(self) -> Tensors:
        """Return every parameter whole, on the CPU; every process has to ask."""
        return {name: whole(parameter) for name, parameter in self.model.named_parameters()}

    def decoder(self, weights: Tensors) -> Decoder:
        """Return a plain model with these weights, apart from the one that is trained."""
        with torch.device("meta"):
            model = Decoder(self.model.config)
        model.alphabet = self.model.alphabet
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def parameters(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def _losses(self, batch: Batch, part: int | None = None) -> Tensor:
        """Return the loss of each target, [R, L] nats, 0 where there is none; `part` says whose state goes on."""
        ids, state = batch.ids.to(self.device), None
        if part is not None and self.config.carry:
            state = begin(self.model, self.states[part], batch.fresh.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            logits, after = self.model(ids[:, :-1], state)
        if part is not None and self.config.carry:
            self.states[part] = after.detach()
        return token_nll(logits, ids[:, 1:]) * batch.real.to(self.device)

    def _held_out(self, limit: int | None) -> Iterator[Batch]:
        """Yield batches of windows of the held-out text, the last filled up with rows that do not count."""
        length, rows = self.config.training.length, self.config.rows
        windows = [
            document[start : start + length + 1]
            for document in self.corpus.valid
            for start in range(0, len(document) - 1, length)
        ]
        if limit is not None and len(windows) * length > limit:
            windows = windows[:: math.ceil(len(windows) / max(1, limit // length))]
        for first in range(0, len(windows), rows):
            ids = torch.zeros(rows, length + 1, dtype=torch.long)
            real = torch.zeros(rows, length, dtype=torch.bool)
            for row, window in enumerate(windows[first : first + rows]):
                ids[row, : len(window)] = window.long()
                real[row, : len(window) - 1] = True
            yield Batch(ids, real, torch.ones(rows, dtype=torch.bool))

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def begin(model: Decoder, state: ModelState | None, fresh: Tensor) -> ModelState | None:
    """Let rows begin a stream of their own, from what the parameters say; the others go on.

    Args:
        model: whose memories of levels are read from the parameters, as in all training.
        state: where the rows are; None where all of them begin.
        fresh: [B] bool, the rows that begin.
    """
    if state is None or bool(fresh.all()):
        return None
    if not bool(fresh.any()):
        return state
    memory = {
        layer: {name: where_rows(fresh, tensor, state.memory[layer][name]) for name, tensor in own.items()}
        for layer, own in carried(model, len(fresh)).memory.items()
    }
    context = pytree.tree_map(lambda tensor: where_rows(fresh, torch.zeros_like(tensor), tensor), state.context)
    counts = (where_rows(fresh, torch.zeros_like(n), n) for n in (state.tokens_seen, state.segment_len))
    return ModelState(memory, context, *counts)


def carried(model: Decoder, rows: int) -> ModelState:
    """Return what fresh streams start from, without the memories of levels, which training reads as parameters."""
    start = model.initial_state(rows)
    levels = model.memories()
    return replace(start, memory={layer: own for layer, own in start.memory.items() if layer not in levels})


def check_carry(model: Decoder, processes: Processes) -> None:
    """Refuse to carry the state of a model whose state grows with the text, or whose start is shared by processes.

    Raises:
        ValueError: it does.
    """
    layers = [module for module in model.modules() if isinstance(module, Describable)]
    growing = [c for layer in layers for c in layer.components() if c.token_bytes and c.max_tokens is None]
    if growing:
        raise ValueError(
            f"a {growing[0].kind} keeps every token it has read, so its state cannot be carried through a document; "
            "carry is for memories of a fixed size or attention with a window; leave it out, or choose another model"
        )
    tensors = pytree.tree_leaves(carried(model, 1))
    if processes.count > 1 and any(shared(t) or t.requires_grad for t in tensors):
        raise ValueError(
            f"the state of this model starts from parameters, which {processes.count} processes share; carry works "
            "there for memories that start empty; leave it out, or train in one process"
        )


def _prepare(model: Decoder, config: RunConfig) -> None:
    """Make the blocks compute again what they do not keep, and compile them, where that is asked for."""
    for block in model.blocks:
        if config.recompute:
            block.forward = partial(recomputed, block.forward, use_reentrant=False)
        if config.compile:
            block.compile()
