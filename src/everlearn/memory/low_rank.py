"""What was learned, in a few kilobytes: the difference to the learned start as a sum of few products, in int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everlearn.memory.state import LayerState, ModelState, Tensors, with_layers

STEPS = 127  # of int8 on each side of zero
FACTORS = ("left", "right", "scale")


@dataclass(frozen=True)
class LowRank:
    """A matrix as a sum of R products: delta = sum_r scale_r left_r right_r^T; leading dimensions are kept.

    Args:
        left: [..., R, out], int8, or the type of the matrix.
        right: [..., R, in], of the same type.
        scale: [..., R], of the type of the matrix.
    """

    left: Tensor
    right: Tensor
    scale: Tensor

    def nbytes(self) -> int:
        """Return the bytes that the factors hold."""
        return sum(t.numel() * t.element_size() for t in (self.left, self.right, self.scale))


@dataclass(frozen=True)
class PackedState:
    """What streams have taught, as differences to the start that they had.

    Args:
        layers: layer name -> name -> its difference: a matrix as `LowRank`, anything smaller as it is. What did not
            change is left out, and so are collected gradients, clocks and what rules keep.
        tokens_seen: [B] int64, of the state.
    """

    layers: dict[str, dict[str, LowRank | Tensor]]
    tokens_seen: Tensor

    def nbytes(self) -> int:
        """Return the bytes that all tensors hold, the counter included."""
        return sum(tensor.numel() * tensor.element_size() for tensor in to_tensors(self).values())


def compress(delta: Tensor, rank: int = 8, bits: int | None = 8) -> LowRank:
    """Keep the largest singular directions of a matrix, each vector in int8 with one scale for both.

        delta ~ sum_{r <= rank} sigma_r u_r v_r^T,  left_r = round(127 u_r / max|u_r|),  right_r alike

    No sum of `rank` products is nearer in the Frobenius norm (Eckart & Young 1936): the squared error is the sum of the
    squares of the singular values left out. Int8 adds at most 127 sum_r scale_r to any element.

    Args:
        delta: [..., out, in]; each matrix is compressed by itself.
        rank: directions to keep, >= 1; the rank that the matrix can have bounds it.
        bits: 8, or None to keep the factors as they are: exact up to rounding at full rank.
    Raises:
        ValueError: no matrix, NaN or infinity, a rank below 1, or other bits.
    """
    if rank < 1 or bits not in (8, None):
        raise ValueError(f"rank {rank} and bits {bits} do not fit; give rank >= 1, and bits=8 or None")
    if delta.ndim < 2 or not delta.is_floating_point():
        raise ValueError(f"a delta of shape {tuple(delta.shape)}, {delta.dtype}, is no matrix; give floats [out, in]")
    if not bool(torch.isfinite(delta).all()):
        raise ValueError("the delta holds NaN or infinity, so it was not compressed; go back to an earlier state")
    u, sigma, vt = torch.linalg.svd(delta.detach(), full_matrices=False)
    rank = min(rank, sigma.shape[-1])
    left, right, scale = u.mT[..., :rank, :], vt[..., :rank, :], sigma[..., :rank]
    if bits is None:
        return LowRank(left.contiguous(), right.contiguous(), scale.contiguous())
    (left, most_left), (right, most_right) = _to_int8(left), _to_int8(right)
    return LowRank(left, right, scale * most_left * most_right / STEPS**2)


def decompress(low_rank: LowRank) -> Tensor:
    """Return the matrix that `compress` kept, [..., out, in], in the type of the original."""
    dtype = low_rank.scale.dtype
    left = low_rank.left.to(dtype) * low_rank.scale[..., None]
    return left.mT @ low_rank.right.to(dtype)


def compress_state(
    state: ModelState, fresh: ModelState, layers: Collection[str], *, rank: int = 8, bits: int | None = 8
) -> PackedState:
    """Compress what streams have taught some memories: every matrix as its difference to the start.

    Args:
        state: [B] rows; its context, and memories that are not named, are left out.
        fresh: the model's `initial_state(1)`.
        layers: the memories to keep, such as `model.memories()`.
        rank: see `compress`.
        bits: see `compress`.
    Raises:
        ValueError: a memory that either state lacks, or that is not of one model; or what `compress` refuses.
    """
    packed: dict[str, dict[str, LowRank | Tensor]] = {}
    for layer in layers:
        for name, delta in deltas(state, fresh, layer).items():
            packed.setdefault(layer, {})[name] = compress(delta, rank, bits) if delta.ndim > 2 else delta
    return PackedState(packed, state.tokens_seen)


def deltas(state: ModelState, fresh: ModelState, layer: str) -> Tensors:
    """Return what streams have taught one memory: name -> difference to the start, of those that have changed.

    Args:
        state: [B] rows.
        fresh: the model's `initial_state(1)`.
        layer: its name.
    Raises:
        ValueError: a memory that either state lacks, or that is not of one model.
    """
    found: Tensors = {}
    for name, start in _weights(fresh, layer).items():
        learned = state.memory.get(layer, {}).get(name)
        if learned is None or learned.shape[1:] != start.shape[1:]:
            got = "nothing" if learned is None else f"{tuple(learned.shape[1:])} per row"
            raise ValueError(
                f"the state is another model's: {layer}/{name} is {got}, this model has "
                f"{tuple(start.shape[1:])} per row; compress it with the model that wrote it"
            )
        delta = learned.detach() - start
        if bool((delta != 0).any()):
            found[name] = delta
    return found


def decompress_state(packed: PackedState, fresh: ModelState) -> ModelState:
    """Return what `compress_state` kept as a state between two documents: start plus difference, clocks at zero.

    Args:
        packed: [B] rows.
        fresh: the model's `initial_state(1)`, as it was then.
    Raises:
        ValueError: a memory that this model lacks, or one of another shape.
    """
    rows = len(packed.tokens_seen)
    state = fresh.map(lambda t: t.expand(rows, *t.shape[1:]))
    memories: dict[str, LayerState] = {}
    for layer, deltas in packed.layers.items():
        own = dict(state.layer(layer).memory)
        for name, kept in deltas.items():
            delta = decompress(kept) if isinstance(kept, LowRank) else kept
            if name not in own or own[name].shape != delta.shape:
                got = tuple(own[name].shape) if name in own else "nothing"
                raise ValueError(
                    f"what was packed is another model's: {layer}/{name} is {tuple(delta.shape)}, this model has "
                    f"{got}; unpack it with the model that wrote it"
                )
            own[name] = own[name] + delta.to(own[name])
        memories[layer] = LayerState(own)
    state = with_layers(state, memories).new_segment()
    return replace(state, tokens_seen=packed.tokens_seen.to(fresh.tokens_seen.device))


def to_tensors(packed: PackedState) -> Tensors:
    """Return it as one flat dictionary, "<layer>/<name>/left" and so on, for `codec.save_tensors`."""
    flat = {"tokens_seen": packed.tokens_seen}
    for layer, deltas in packed.layers.items():
        for name, kept in deltas.items():
            parts = {part: vars(kept)[part] for part in FACTORS} if isinstance(kept, LowRank) else {"whole": kept}
            flat |= {f"{layer}/{name}/{part}": tensor for part, tensor in parts.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in flat.items()}


def from_tensors(tensors: Mapping[str, Tensor]) -> PackedState:
    """Rebuild it from `to_tensors`.

    Raises:
        ValueError: a tensor that it never has, or one that is missing.
    """
    found: dict[str, dict[str, Tensors]] = {}
    for path, tensor in tensors.items():
        layer, _, rest = path.partition("/")
        name, _, part = rest.rpartition("/")
        if name and part in (*FACTORS, "whole"):
            found.setdefault(layer, {}).setdefault(name, {})[part] = tensor
        elif path != "tokens_seen":
            raise ValueError(f"tensor {path!r} does not belong to a packed state; give a file that everlearn wrote")
    layers: dict[str, dict[str, LowRank | Tensor]] = {}
    for layer, names in found.items():
        for name, parts in names.items():
            if set(parts) not in ({*FACTORS}, {"whole"}):
                raise ValueError(f"{layer}/{name} has only {sorted(parts)}; the file is not whole, use a backup")
            layers.setdefault(layer, {})[name] = parts["whole"] if "whole" in parts else LowRank(**parts)
    if "tokens_seen" not in tensors:
        raise ValueError("tensor 'tokens_seen' is missing from a packed state; the file is not whole, use a backup")
    return PackedState(layers, tensors["tokens_seen"])


def _to_int8(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors, [..., R, n], in steps of a 127th of their largest element, and that element, [..., R]."""
    most = vectors.abs().amax(-1)
    steps = STEPS * vectors / most.clamp_min(torch.finfo(vectors.dtype).tiny)[..., None]
    return steps.round().to(torch.int8), most


def _weights(state: ModelState, layer: str) -> Tensors:
    """Return a memory's weights: neither collected gradients nor clocks nor what rules keep."""
    if layer not in state.memory:
        raise ValueError(
            f"there is no memory {layer!r} to compress, this model has {sorted(state.memory)}; "
            "name those that learn: model.memories()"
        )
    return {
        name: tensor
        for name, tensor in state.memory[layer].items()
        if tensor.is_floating_point() and not name.endswith(".grad") and ".slot." not in name
    }
