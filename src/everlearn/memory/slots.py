"""Facts from one exposure: what stood where, kept as it was read, and looked up by likeness."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from everlearn.memory.state import Tensors


@dataclass(frozen=True)
class SlotState:
    """What streams have put into their slots; [B] rows, each slot valid or empty, in the order of writing.

    The tokens ARE the text that was read, and can be read back (`SlotMemory.contents`): treat a file of them as a copy
    of the documents.

    Args:
        keys: unit vectors, [B, N, D].
        tokens: what came after each key, [B, N] int32.
        surprise: what that token cost when it was read, in nats, [B, N] float32.
        document: number of the document that it is from, [B, N] int32.
        valid: [B, N] bool; what is not valid is empty and zero.
    """

    keys: Tensor
    tokens: Tensor
    surprise: Tensor
    document: Tensor
    valid: Tensor

    def count(self) -> Tensor:
        """Return how many slots of each row are in use, [B]."""
        return self.valid.sum(1)

    def nbytes(self) -> int:
        """Return the bytes that all slots hold, empty ones too."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.to_tensors().values())

    def rows(self, index: Tensor | list[int]) -> SlotState:
        """Pick rows: one row of a batch, or one row several times."""
        index = torch.as_tensor(index, dtype=torch.long, device=self.valid.device)
        return SlotState(**{name: tensor.index_select(0, index) for name, tensor in self.to_tensors().items()})

    def packed(self) -> SlotState:
        """Return it without empty slots beyond the most that a row has."""
        return _pack(self, self.valid)

    def to_tensors(self) -> Tensors:
        """Return its tensors by name, for `codec.save_tensors`."""
        return {field.name: vars(self)[field.name] for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SlotState:
        """Rebuild it from `to_tensors`.

        Raises:
            ValueError: a tensor too many or too few, or of another size than the rest.
        """
        names = [field.name for field in fields(cls)]
        if sorted(tensors) != sorted(names) or any(t.shape[:2] != tensors["valid"].shape for t in tensors.values()):
            found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(f"{found} are no slots; {names} with the same rows are needed: give a file of slots")
        return cls(**tensors)


pytree.register_dataclass(SlotState, field_names=[field.name for field in fields(SlotState)], drop_field_names=[])


@dataclass(frozen=True)
class SlotMemory:
    """A non-parametric associative memory: inner representation -> the token that came next.

        key_t = sum_{j < span} fade^j shift_j(h_{t-j} / |h_{t-j}|),  shift_j moves a vector's elements on by j places
        s_i = tau cos(key_i, key) + newer i / N,  i = 1..N in the order of writing
        p(v) = (1 - w) p_model(v) + w sum_{i: token_i = v} softmax_i(s_i)    where max_i cos(key_i, key) > gate
        p(v) = p_model(v)                                                    elsewhere

    It is the nearest-neighbour language model of Khandelwal et al. (2020), with a cosine for their distance, a gate,
    and a bound on what is kept. One reading binds a name to its sentence, which gradient steps of the levels do not; it
    generalises to nothing else, and its bytes grow with the text up to the bound. Keys belong to the weights with which
    they were made: ask with weights that are near. What a small model makes of one token says little of the words
    before it, so a key holds that of a few; the shifts tell their places apart without making it longer.

    Args:
        capacity: slots per row; beyond it the least surprising go, the newest first where they are equal.
        span: tokens that a key is made of, the current one included, >= 1.
        fade: weight of each earlier token against the one after it, in [0, 1].
        tau: sharpness of the look-up, > 0; large follows the nearest slot alone.
        weight: share of the slots in the mixture where the gate is open, in [0, 1).
        gate: the cosine, in [-1, 1], that the nearest slot must exceed.
        newer: nats by which the newest slot goes before the oldest where both are equally near, finite, >= 0: what was
            read as one thing and later as another is known as the latter.
        key_dtype: how keys are stored.
    Raises:
        ValueError: a setting outside its range.
    """

    capacity: int = 4096
    span: int = 3
    fade: float = 0.7
    tau: float = 60.0
    weight: float = 0.25
    gate: float = 0.8
    newer: float = 8.0
    key_dtype: torch.dtype = torch.float16

    def __post_init__(self) -> None:
        allowed = {
            "capacity": (self.capacity >= 1, "at least 1"),
            "span": (self.span >= 1, "at least 1"),
            "fade": (0 <= self.fade <= 1, "in [0, 1]"),
            "tau": (0 < self.tau < math.inf, "above 0 and finite"),
            "weight": (0 <= self.weight < 1, "in [0, 1)"),
            "gate": (-1 <= self.gate <= 1, "in [-1, 1]"),
            "newer": (0 <= self.newer < math.inf, "at least 0 and finite"),
        }
        for name, (fits, words) in allowed.items():
            if not fits:
                raise ValueError(f"{name} is {vars(self)[name]}, but must be {words}; leave it out for the default")

    def initial_state(self, batch_size: int, dim: int, device: torch.device | None = None) -> SlotState:
        """Return empty slots for `batch_size` streams with keys of size `dim`."""
        shape, on = (batch_size, 0), device
        return SlotState(
            torch.zeros(*shape, dim, dtype=self.key_dtype, device=on),
            torch.zeros(shape, dtype=torch.int32, device=on),
            torch.zeros(shape, dtype=torch.float32, device=on),
            torch.zeros(shape, dtype=torch.int32, device=on),
            torch.zeros(shape, dtype=torch.bool, device=on),
        )

    def keys(self, hidden: Tensor, tail: Tensor | None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Make the keys of tokens from what a model made of them.

        Args:
            hidden: [B, T, D], of any length.
            tail: what the tokens before left, [B, span - 1, D]; None where a text begins.
            mask: [B, T] bool, right padding only.
        Returns:
            keys: [B, T, D].
            tail: to pass with the next tokens.
        """
        units, before = _unit(hidden), self.span - 1
        tail = units.new_zeros(len(units), before, units.shape[-1]) if tail is None else tail.to(units)
        joined, length = torch.cat([tail, units], 1), units.shape[1]
        keys = torch.zeros_like(units)
        for j in range(self.span):
            keys = keys + self.fade**j * joined[:, before - j : before - j + length].roll(j, -1)
        count = length if mask is None else mask.sum(1, keepdim=True)
        last = torch.arange(before, device=units.device).expand(len(units), -1) + count
        return keys, joined.take_along_dim(last[..., None], 1)

    def read(self, state: SlotState, keys: Tensor, logits: Tensor) -> Tensor:
        """Mix what is recalled into what the model expects; nothing is written.

        Args:
            state: of as many rows as the keys.
            keys: [B, T, D], of any length.
            logits: of the model, [B, T, V]; a gradient reaches them alone.
        Returns:
            logits of the mixture, [B, T, V], with the model's own normaliser; the model's own, bit for bit, where the
            gate is closed, and so everywhere while the slots are empty.
        Raises:
            ValueError: shapes that do not fit the slots, or a slot's token that the vocabulary lacks.
        """
        _check(state, keys)
        if not state.valid.shape[1]:
            return logits
        if int(state.tokens.max()) >= logits.shape[-1]:
            raise ValueError(
                f"the slots hold token {int(state.tokens.max())}, the vocabulary ends at {logits.shape[-1] - 1}; "
                "read with the model that wrote them"
            )
        with torch.no_grad():
            shares, is_open = self._look_up(state, keys)
            recalled = torch.zeros_like(logits, dtype=shares.dtype)
            tokens = state.tokens.long()[:, None].expand_as(shares)
            recalled = recalled.scatter_add(-1, tokens, shares)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = math.log1p(-self.weight) + wide
        found = recalled.log() + (math.log(self.weight) if self.weight else -math.inf)
        mixed = torch.logaddexp(own, found + wide.logsumexp(-1, keepdim=True))
        return torch.where(is_open[..., None], mixed.to(logits.dtype), logits)

    def write(
        self,
        state: SlotState,
        keys: Tensor,
        tokens: Tensor,
        surprise: Tensor,
        document: int | Tensor,
        mask: Tensor | None = None,
    ) -> SlotState:
        """Put (key, the token after it) into slots, and drop the least surprising beyond the capacity.

        Args:
            state: left untouched.
            keys: [B, T, D], of any length.
            tokens: what came next, [B, T].
            surprise: what it cost, in nats, [B, T].
            document: number of each row's document, one for all or [B]; `forget` takes it.
            mask: [B, T] bool, False writes nothing.
        Raises:
            ValueError: shapes that do not fit, or NaN or infinity; nothing was written.
        """
        _check(state, keys)
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        if tokens.shape != keys.shape[:2] or surprise.shape != tokens.shape or real.shape != tokens.shape:
            raise ValueError(
                f"keys are {tuple(keys.shape)}, tokens {tuple(tokens.shape)}, surprise {tuple(surprise.shape)}, mask "
                f"{tuple(real.shape)}; give one of each for every token, [B, T]"
            )
        keys = _unit(keys.detach())
        if not bool(torch.isfinite(keys[real]).all() and torch.isfinite(surprise[real]).all()):
            raise ValueError("keys or surprise hold NaN or infinity, so nothing was written; look into the state")
        number = torch.as_tensor(document, device=tokens.device).expand(len(tokens))[:, None].expand_as(tokens)
        new = SlotState(keys, tokens, surprise.detach(), number, real).to_tensors()
        old = state.to_tensors()
        joined = SlotState(**{name: torch.cat([old[name], new[name].to(old[name])], 1) for name in old})
        # stable, so that of equals the oldest stays
        order = torch.where(joined.valid, joined.surprise, -math.inf).argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        return _pack(joined, joined.valid & (rank < self.capacity))

    def forget(self, state: SlotState, documents: Collection[int], rows: Tensor | None = None) -> SlotState:
        """Remove every slot of some documents; the new state holds nothing of them.

        Args:
            state: left untouched: whoever holds it, or a file of it, still has the text.
            documents: their numbers.
            rows: [B] bool, the streams concerned; None means all.
        """
        numbers = torch.tensor(sorted(documents), dtype=state.document.dtype, device=state.document.device)
        gone = torch.isin(state.document, numbers)
        return _pack(state, state.valid & ~(gone if rows is None else gone & rows[:, None]))

    @staticmethod
    def contents(state: SlotState) -> list[dict[int, list[int]]]:
        """Return the tokens that each row holds of each document, in the order of reading: the stored text itself."""
        found: list[dict[int, list[int]]] = []
        for tokens, document, valid in zip(state.tokens, state.document, state.valid, strict=True):
            own: dict[int, list[int]] = {}
            for token, number in zip(tokens[valid].tolist(), document[valid].tolist(), strict=True):
                own.setdefault(number, []).append(token)
            found.append(own)
        return found

    def _look_up(self, state: SlotState, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share of every slot, [B, T, N], and where the gate is open, [B, T]."""
        keys = _unit(keys)
        cosine = keys @ state.keys.to(keys).mT
        cosine = cosine.masked_fill(~state.valid[:, None], -math.inf)
        is_open = cosine.amax(-1) > self.gate
        age = torch.arange(1, cosine.shape[-1] + 1, device=cosine.device) / state.count().clamp_min(1)[:, None]
        scores = self.tau * cosine + self.newer * age.to(cosine)[:, None]
        # a row without slots would be a softmax over nothing
        return torch.softmax(torch.where(is_open[..., None], scores, 0), -1), is_open


def _unit(keys: Tensor) -> Tensor:
    """Bring keys to length 1, in at least float32."""
    return F.normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=-1)


def _pack(state: SlotState, keep: Tensor) -> SlotState:
    """Keep some slots, [B, N] bool, moved to the left in their order; no trace of the others stays."""
    size = int(keep.sum(1).amax()) if keep.numel() else 0
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :size]
    kept = keep.gather(1, order)
    packed = {}
    for name, tensor in state.to_tensors().items():
        sizes = (*order.shape, *[1] * (tensor.ndim - 2))
        # what is empty is zero, whatever a padded token had left there
        packed[name] = tensor.take_along_dim(order.reshape(sizes), 1).masked_fill(~kept.reshape(sizes), 0)
    return SlotState(**packed)


def _check(state: SlotState, keys: Tensor) -> None:
    """Refuse keys of other rows or another size than those of the slots."""
    rows, _, dim = state.keys.shape
    if keys.ndim != 3 or len(keys) != rows or keys.shape[-1] != dim:
        raise ValueError(
            f"keys are {tuple(keys.shape)}, the slots have {rows} rows and keys of size {dim}; give [{rows}, T, {dim}]"
        )
