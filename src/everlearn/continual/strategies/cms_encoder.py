"""An encoder whose last MLPs are the levels of a CMS: features drift slowly under an exact memory of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from everlearn.continual.strategies.base import Loss, loss_over_batch, tensor_bytes
from everlearn.layers.leveled import LeveledMemory
from everlearn.levels.clock import Level
from everlearn.memory.precision import PrecisionMemory
from everlearn.memory.state import LayerState


class ModuleLevels(LeveledMemory):
    """Let chosen matrices of a module learn in levels, while the module itself stays as it is.  [NL eq. 71]

    Args:
        module: records [B, ...] -> features [B, D]; its parameters take no gradient.
        matrices: level name -> names of the module's parameters that are this level, each [out, in].
        levels: see `Level`; every one has its matrices.
        chunk_size: records of a batch; divides every period.
        max_norm: bound on the gradient of a matrix.
    Raises:
        ValueError: a level without matrices, or a name that is no matrix of the module.
    """

    def __init__(
        self,
        module: nn.Module,
        matrices: Mapping[str, Sequence[str]],
        levels: Sequence[Level],
        *,
        chunk_size: int,
        max_norm: float = 1.0,
    ) -> None:
        super().__init__(levels, chunk_size=chunk_size, max_norm=max_norm)
        known = {name: p for name, p in module.named_parameters() if p.ndim == 2}
        named = [name for level in self.levels for name in matrices.get(level.name, ())]
        wrong = [name for name in named if name not in known]
        if wrong or any(not matrices.get(level.name) for level in self.levels):
            raise ValueError(
                f"levels {[level.name for level in self.levels]} got the matrices {dict(matrices)}, and {wrong} are "
                f"none; give every level some of the module's matrices, such as {list(known)[-1:]}"
            )
        self.module = module.requires_grad_(False)
        self.matrices = {level.name: tuple(matrices[level.name]) for level in self.levels}

    def learned_start(self, level: str) -> Mapping[str, Tensor]:
        """Return the module's own matrices."""
        return {name: self.module.get_parameter(name) for name in self.matrices[level]}

    def forward(self, x: Tensor, state: LayerState) -> Tensor:
        """Return the features of records, [B, D], with what the levels have learned."""
        learned = {name.partition(".")[2]: weight[0] for name, weight in self.weights(state).items()}
        return functional_call(self.module, learned, (x,))

    def _links(self) -> dict[str, str]:
        return {}


class CMSEncoder:
    """Fine-tune an encoder in levels by a masked loss, and answer from a precision memory of its features.

    The levels follow the gradient of a linear read-out that is thrown away; a record's features enter the sums when it
    comes and are not refreshed when the encoder moves on, so it must move slowly: small steps, and periods that keep
    most of it still most of the time. Or it moves during a warm-up alone: its records are held until then and written
    again, and from there on the sums are exact.
    With all levels at eta 0 it is streaming LDA on the encoder as it was, bit for bit, which is the first control; one
    pace for all levels at matched rates is the second (`one_rate_levels`). Kept are the levels with their gradients,
    the read-out and the memory's sums; no record after the warm-up, and no boundary is needed.

    Args:
        levels: the encoder with its levels.
        dim: D.
        num_classes: C.
        memory: what answers, of dim D; empty.
        readout_lr: step of the linear read-out per batch.
        loss: which classes compete.
        warmup: records after which the encoder stands still; None lets it move on for ever.
    """

    stores_images = False

    def __init__(
        self,
        levels: ModuleLevels,
        dim: int,
        num_classes: int,
        memory: PrecisionMemory,
        *,
        readout_lr: float,
        loss: Loss = loss_over_batch,
        warmup: int | None = None,
    ) -> None:
        self.levels, self.memory, self.readout_lr, self.loss = levels, memory, readout_lr, loss
        self.warmup = warmup
        self.state = levels.track(None)
        self.readout = [torch.zeros(num_classes, dim), torch.zeros(num_classes)]
        self.seen = torch.zeros(num_classes, dtype=torch.bool)
        self.held: list[tuple[Tensor, Tensor]] = []  # the records of a warm-up that is not over
        self._records = 0

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Write the batch's features into the memory, then step the read-out and the levels that are due."""
        self.seen[y] = True
        if self.warmup is not None and self._records >= self.warmup:
            self.memory.write(self.features(x), y)
            return
        self._step(x, y)
        if self.warmup is None:
            return
        self._records += len(y)
        self.held.append((x, y))
        if self._records >= self.warmup:
            self.rewrite(*(torch.cat(parts) for parts in zip(*self.held, strict=True)))
            self.held = []

    def rewrite(self, x: Tensor, y: Tensor) -> None:
        """Begin the memory anew with records as the encoder sees them now, [N, ...] and [N]."""
        old = self.memory
        self.memory = PrecisionMemory(old.dim, shrinkage=old.shrinkage, readout=old.readout, resolution=old.resolution)
        self.memory.write(self.features(x), y)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the features of records as they are now, [B, D]."""
        return self.levels(x, self.state)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the best class seen so far, [B]."""
        return torch.tensor(self.memory.labels)[self.memory.scores(self.features(x)).argmax(1)]

    def stores_bytes(self) -> int:
        """Return the bytes of the levels with their gradients and clocks, the read-out, the memory and what is held."""
        held = [tensor for pair in self.held for tensor in pair]
        return tensor_bytes([*self.state.memory.values(), *self.readout, *self.memory.to_tensors()[0].values(), *held])

    def _step(self, x: Tensor, y: Tensor) -> None:
        """Learn from a batch: the memory, the read-out, the levels."""
        state = self.levels.track(self.state)
        weights = list(self.levels.weights(state).values())
        phi = self.levels(x, state)
        self.memory.write(phi.detach(), y)
        weight, bias = (tensor.detach().requires_grad_() for tensor in self.readout)
        loss = self.loss(phi @ weight.mT + bias, y, self.seen)
        *grads, of_weight, of_bias = torch.autograd.grad(loss, [*weights, weight, bias])
        self.readout = [(weight - self.readout_lr * of_weight).detach(), (bias - self.readout_lr * of_bias).detach()]
        state = self.levels.accumulate(state, grads, torch.tensor([len(y)]))
        state, _ = self.levels.write(state)
        self.state = LayerState({name: tensor.detach() for name, tensor in state.memory.items()})


class ResidualMLPs(nn.Module):
    """Blocks of MLPs on features, which change nothing at first: an encoder's last MLPs where features are given.

        x <- x + B relu(A x),   B = 0 at first

    Args:
        dim: length of a feature vector.
        hidden: units of a block.
        blocks: how many, >= 1.
        seed: of the start; the global generator stays as it was.
    """

    def __init__(self, dim: int, hidden: int, blocks: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.up = nn.ModuleList(nn.Linear(dim, hidden, bias=False) for _ in range(blocks))
            down = [nn.Linear(hidden, dim, bias=False) for _ in range(blocks)]
        for layer in down:
            nn.init.zeros_(layer.weight)
        self.down = nn.ModuleList(down)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, dim] to [B, dim]."""
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(up(x).relu())
        return x
