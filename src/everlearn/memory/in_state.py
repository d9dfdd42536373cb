"""Slots inside a stream's state, so that both are one value and one file; and the document that is being read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from everlearn.memory.slots import SlotMemory, SlotState
from everlearn.memory.state import ModelState, Tensors
from everlearn.memory.users import LONGEST, plain_name

SLOTS = "slots"  # the memory that holds them, and the names of the documents they are from
DOCUMENT = "document"  # the context that names the document which is open
NAME_BYTES = 4 * LONGEST  # the longest name in UTF-8
FIELDS = tuple(field.name for field in fields(SlotState))
NUMBERS = 2**31  # of documents: what an int32 holds


@dataclass(frozen=True)
class Document:
    """A document that a stream has read, or is reading.

    Args:
        name: as it was given.
        start: tokens that the stream had seen before it; this tells two readings of one name apart.
        slots: how many slots hold a token of it.
    """

    name: str
    start: int
    slots: int = 0


def empty_slots(memory: SlotMemory, dim: int, vocab_size: int, batch_size: int, device: torch.device) -> Tensors:
    """Return the tensors of streams that have read nothing: slots with keys of size `dim`, and no document."""
    made = torch.tensor([[memory.span, memory.fade, vocab_size]], dtype=torch.float64, device=device)
    return memory.initial_state(batch_size, dim, device).to_tensors() | {
        "made": made.expand(batch_size, -1).contiguous(),
        "starts": torch.zeros(batch_size, 0, dtype=torch.long, device=device),
        "names": torch.zeros(batch_size, 0, NAME_BYTES, dtype=torch.uint8, device=device),
    }


def slots_of(state: ModelState) -> SlotState:
    """Return the slots that a state holds.

    Raises:
        KeyError: it holds none.
    """
    return SlotState.from_tensors({name: state.memory[SLOTS][name] for name in FIELDS})


def with_slots(state: ModelState, slots: SlotState, like: ModelState | None = None) -> ModelState:
    """Return a state with these slots; the names of documents come from `like`, which is `state` itself by default."""
    own = (like or state).memory[SLOTS]
    return replace(state, memory={**state.memory, SLOTS: own | slots.to_tensors()})


def filled(state: ModelState, fresh: ModelState) -> ModelState:
    """Return a state of one row with empty slots where it has none and `fresh` has: it is from before they were."""
    if SLOTS in state.memory or SLOTS not in fresh.memory:
        return state
    return replace(state, memory={**state.memory, SLOTS: fresh.memory[SLOTS]})


def without_slots(state: ModelState) -> ModelState:
    """Return what the model itself knows of a state, such as for `StackedModel.save_adapter`."""
    return replace(state, memory={name: own for name, own in state.memory.items() if name != SLOTS})


def open_document(state: ModelState) -> Document | None:
    """Return the document that a stream of one row is reading, or None."""
    if DOCUMENT not in state.context:
        return None
    own = state.context[DOCUMENT]
    return Document(_text(own["name"][0]), int(own["start"][0]))


def begin(state: ModelState, name: str | None) -> ModelState:
    """Say which document a stream of one row is reading from here on; one that is open goes on.

    Args:
        state: left untouched.
        name: of the document; None keeps that of the open one, or makes one of the place where it starts.
    Raises:
        ValueError: not a name of 1 to 128 printable characters.
    """
    old = open_document(state)
    start = int(state.tokens_seen[0]) if old is None else old.start
    if name is None:
        name = f"document at {start}" if old is None else old.name
    encoded = _bytes(plain_name(name, "document name")).to(state.tokens_seen.device)
    at = state.tokens_seen.new_tensor([start])
    state = replace(state, context={**state.context, DOCUMENT: {"name": encoded[None], "start": at}})
    if SLOTS not in state.memory:
        return state
    own = dict(state.memory[SLOTS])
    others = own["starts"][0] != start
    own["starts"] = torch.cat([own["starts"][:, others], at[None]], 1)
    own["names"] = torch.cat([own["names"][:, others], encoded[None, None]], 1)
    return replace(state, memory={**state.memory, SLOTS: own})


def numbers_of(state: ModelState) -> Tensor:
    """Return the number under which the slots of each row's open document are written, [B]: where it starts."""
    return state.context[DOCUMENT]["start"] % NUMBERS


def read_documents(state: ModelState) -> list[Document]:
    """Return the documents that slots of one row are from, in the order of their reading."""
    return documents_in(state.memory.get(SLOTS, {}))


def documents_in(own: Tensors) -> list[Document]:
    """Return the documents of one row's tensors; see `read_documents`."""
    if not own:
        return []
    numbers = own["document"][0][own["valid"][0]].long()
    found = [
        Document(_text(name), int(start), int((numbers == start % NUMBERS).sum()))
        for start, name in zip(own["starts"][0], own["names"][0], strict=True)
    ]
    return sorted((document for document in found if document.name), key=lambda document: document.start)


def forget_documents(state: ModelState, memory: SlotMemory, starts: Collection[int]) -> ModelState:
    """Return a state of one row without the slots and the names of the documents that begin at `starts`."""
    if SLOTS not in state.memory or not starts:
        return state
    return trimmed(with_slots(state, memory.forget(slots_of(state), [start % NUMBERS for start in starts])))


def trimmed(state: ModelState) -> ModelState:
    """Return a state of one row without empty slots, and without names of which no slot is left and that are not open.

    Rows that were read in one batch are as long as the longest.
    """
    if SLOTS not in state.memory:
        return state
    slots, own = slots_of(state).packed(), state.memory[SLOTS]
    used = torch.isin(own["starts"][0] % NUMBERS, slots.document[0].to(own["starts"]))
    if (reading := open_document(state)) is not None:
        used |= own["starts"][0] == reading.start
    used &= (own["names"][0] != 0).any(1)
    names = {"starts": own["starts"][:, used], "names": own["names"][:, used]}
    return replace(state, memory={**state.memory, SLOTS: own | slots.to_tensors() | names})


def check_slots(own: Tensors, fresh: Tensors, name: str) -> None:
    """Refuse slots that are not whole, or that were not made as those of `fresh` are.

    Args:
        own: what was loaded, one row or several.
        fresh: `empty_slots` of the same number of rows.
        name: what to call the state in an error.
    Raises:
        ValueError: a tensor too many, too few, or of another shape or type; or keys that are made in another way.
    """
    rows, count = own["valid"].shape if own.get("valid", torch.empty(0)).ndim == 2 else (-1, -1)
    names = own["starts"].shape[1] if own.get("starts", torch.empty(0)).ndim == 2 else -1
    for leaf in sorted({*own, *fresh}):
        found, known = own.get(leaf), fresh.get(leaf)
        length = {"made": 3, "starts": names, "names": names}.get(leaf, count)
        fits = found is not None and known is not None and rows == len(known) and found.dtype == known.dtype
        if not fits or found.shape != (rows, length, *known.shape[2:]):  # type: ignore[union-attr]
            got = "nothing" if found is None else f"{found.dtype} {tuple(found.shape)}"
            wanted = "nothing" if known is None else f"{known.dtype} [{len(known)}, N{', D' * (known.ndim - 2)}]"
            raise ValueError(
                f"{name} does not fit this model's slots: {SLOTS}/{leaf} is {got}, {wanted} is needed; load it with "
                "the model and the SlotMemory that wrote it"
            )
    (span, fade, vocab), here = own["made"][0].tolist(), fresh["made"][0].tolist()
    if not torch.equal(own["made"].cpu(), fresh["made"].cpu()):
        raise ValueError(
            f"{name} holds slots made with span {span:g}, fade {fade:g} and a vocabulary of {vocab:g}, here these are "
            f"{', '.join(f'{value:g}' for value in here)}; load it with the model and the SlotMemory that wrote it"
        )
    if own["tokens"].numel() and not 0 <= int(own["tokens"].min()) <= int(own["tokens"].max()) < vocab:
        raise ValueError(
            f"{name} holds slots with token {int(own['tokens'].max())}, the vocabulary ends at {vocab - 1:g}; "
            "use a snapshot or a backup"
        )


def _bytes(name: str) -> Tensor:
    """Return a name as NAME_BYTES numbers, zeros behind it."""
    data = name.encode()
    return torch.tensor([*data, *[0] * (NAME_BYTES - len(data))], dtype=torch.uint8)


def _text(name: Tensor) -> str:
    """Return the name that `_bytes` wrote."""
    return bytes(name.tolist()).rstrip(b"\0").decode(errors="replace")
