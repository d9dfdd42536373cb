"""Slots inside a state: names of documents, rows of different lengths, what a file may hold, and what is taken out."""

from dataclasses import replace

import pytest
import torch

from everlearn.memory import codec
from everlearn.memory.in_state import (
    DOCUMENT,
    NAME_BYTES,
    NUMBERS,
    SLOTS,
    Document,
    begin,
    empty_slots,
    forget_documents,
    numbers_of,
    open_document,
    read_documents,
    slots_of,
    trimmed,
    with_slots,
    without_slots,
)
from everlearn.memory.slots import SlotMemory
from everlearn.memory.state import ModelState, concat_rows
from tests.tiny import fingerprint

MEMORY, DIM, VOCAB = SlotMemory(key_dtype=torch.float64), 4, 10


def fresh(rows: int = 1, seen: int = 0, memory: SlotMemory = MEMORY) -> ModelState:
    zeros = torch.zeros(rows, dtype=torch.long)
    return ModelState({SLOTS: empty_slots(memory, DIM, VOCAB, rows, zeros.device)}, {}, zeros + seen, zeros)


def wrote(state: ModelState, name: str | None, tokens: list[int]) -> ModelState:
    """Read a document of these tokens into a state of one row."""
    state = begin(state, name)
    keys = torch.randn(1, len(tokens), DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(tokens)))
    ids = torch.tensor([tokens])
    slots = MEMORY.write(slots_of(state), keys, ids, ids.double(), numbers_of(state))
    return replace(with_slots(state, slots), context={}, tokens_seen=state.tokens_seen + len(tokens))


def contents(state: ModelState) -> dict[str, list[int]]:
    own = MEMORY.contents(slots_of(state))[0]
    return {each.name: own.get(each.start % NUMBERS, []) for each in read_documents(state)}


def test_each_document_s_tokens_are_found_under_its_name():
    state = wrote(wrote(wrote(fresh(), "a", [1, 2]), None, [3]), "\u00e9t\u00e9", [4, 5, 6])
    assert contents(state) == {"a": [1, 2], "document at 2": [3], "\u00e9t\u00e9": [4, 5, 6]}
    assert read_documents(state) == [Document("a", 0, 2), Document("document at 2", 2, 1), Document("été", 3, 3)]
    assert open_document(state) is None


def test_two_readings_of_one_name_are_told_apart_and_an_open_one_goes_on():
    state = wrote(wrote(fresh(), "a", [1, 2]), "a", [3])
    assert [(each.name, each.start) for each in read_documents(state)] == [("a", 0), ("a", 2)]
    reading = begin(begin(replace(state, tokens_seen=torch.tensor([7])), "b"), None)
    assert open_document(reading) == Document("b", 7)
    later = begin(replace(reading, tokens_seen=torch.tensor([9])), "c")
    assert open_document(later) == Document("c", 7)  # renamed, and still the same document
    assert [each.name for each in read_documents(later)] == ["a", "a", "c"]
    assert [each.name for each in read_documents(begin(fresh(), "\u0065\u0301"))] == ["\u00e9"]


def test_what_is_forgotten_is_in_no_tensor():
    state = wrote(wrote(fresh(), "secret", [7, 7, 7]), "other", [1, 2])
    left = forget_documents(state, MEMORY, [0])
    assert fingerprint(left) == fingerprint(
        replace(wrote(fresh(seen=3), "other", [1, 2]), tokens_seen=state.tokens_seen)
    )
    assert not any(b"secret" in codec.raw_bytes(tensor) for tensor in codec.to_tensors(left).values())
    assert contents(left) == {"other": [1, 2]}
    assert forget_documents(state, MEMORY, []) is state


def test_rows_of_a_batch_are_as_long_as_the_longest_and_alone_as_before():
    a, b = wrote(fresh(), "a", [1, 2, 3]), wrote(wrote(fresh(), "b", [4]), "c", [5])
    both = concat_rows([a, b, fresh()], fresh())
    assert both.memory[SLOTS]["tokens"].shape == (3, 3)
    for i, alone in enumerate((a, b, fresh())):
        assert fingerprint(trimmed(both.rows([i]))) == fingerprint(alone)


def test_names_without_slots_go_unless_they_are_open():
    small = SlotMemory(capacity=2, key_dtype=torch.float64)
    state = begin(fresh(), "first")
    keys, ids = torch.eye(4, dtype=torch.float64)[None], torch.tensor([[1, 2, 3, 4]])
    for name, at in (("first", 0), ("second", 2)):
        state = replace(state, context={}, tokens_seen=torch.tensor([at]))
        state = begin(state, name)
        part = slice(at, at + 2)
        slots = small.write(slots_of(state), keys[:, part], ids[:, part], ids[:, part].double(), at)
        state = with_slots(state, slots)
    assert [each.name for each in read_documents(trimmed(state))] == ["second"]  # the more surprising pushed it out
    assert [each.name for each in read_documents(trimmed(begin(fresh(), "new")))] == ["new"]
    assert [each.name for each in read_documents(trimmed(replace(begin(fresh(), "new"), context={})))] == []


def test_a_document_beyond_what_an_int32_counts_is_still_forgotten():
    state = wrote(fresh(seen=3 * NUMBERS + 5), "late", [1, 2])
    assert read_documents(state) == [Document("late", 3 * NUMBERS + 5, 2)]
    assert not read_documents(forget_documents(trimmed(state), MEMORY, [3 * NUMBERS + 5]))


def test_a_state_with_slots_goes_through_a_file():
    state = begin(wrote(fresh(), "a", [1, 2]), "b")
    back = codec.from_tensors(codec.to_tensors(state))
    assert fingerprint(back) == fingerprint(state)
    assert open_document(back) == Document("b", 2)
    codec.check_fits(back, fresh(), "it")
    codec.check_fits(without_slots(back), fresh(), "it")  # written before slots were asked for
    assert SLOTS not in without_slots(back).memory and DOCUMENT in without_slots(back).context


def changed(**tensors) -> ModelState:
    state = wrote(fresh(), "a", [1, 2])
    return replace(state, memory={SLOTS: {**state.memory[SLOTS], **tensors}})


REFUSED = {
    "a tensor too many": (changed(more=torch.zeros(1)), "slots/more is torch.float32"),
    "a length": (changed(tokens=torch.zeros(1, 3, dtype=torch.int32)), r"slots/tokens is torch.int32 \(1, 3\)"),
    "a type": (changed(tokens=torch.zeros(1, 2)), "slots/tokens is torch.float32"),
    "another size of keys": (changed(keys=torch.zeros(1, 2, 5, dtype=torch.float64)), r"slots/keys is .* \(1, 2, 5\)"),
    "names": (changed(names=torch.zeros(1, 2, NAME_BYTES, dtype=torch.uint8)), "slots/names is torch.uint8"),
    "no truth": (changed(valid=torch.zeros(())), "slots/document is torch.int32"),
    "a token": (
        changed(tokens=torch.tensor([[1, VOCAB]], dtype=torch.int32)),
        "token 10, the vocabulary ends",
    ),
    "below zero": (changed(tokens=torch.tensor([[-1, 3]], dtype=torch.int32)), "the vocabulary ends at 9"),
    "keys made otherwise": (wrote(fresh(memory=SlotMemory(span=2, key_dtype=torch.float64)), "a", [1]), "span 2"),
}


@pytest.mark.parametrize("state, words", REFUSED.values(), ids=REFUSED)
def test_slots_that_do_not_fit_are_refused_in_one_line(state, words):
    with pytest.raises(ValueError, match=words) as error:
        codec.check_fits(state, fresh(), "the file")
    assert "\n" not in str(error.value)


def test_slots_that_nobody_asked_for_are_refused():
    with pytest.raises(ValueError, match=r"holds slots, which this learner does not read; give it slots=SlotMemory"):
        codec.check_fits(fresh(), without_slots(fresh()), "the file")
    state = fresh()
    missing = {name: tensor for name, tensor in state.memory[SLOTS].items() if name != "made"}
    with pytest.raises(ValueError, match="slots/made is nothing"):
        codec.check_fits(replace(state, memory={SLOTS: missing}), state, "the file")


def test_a_name_must_be_one():
    for wrong in ("", "x" * 129, "a\nb"):
        with pytest.raises(ValueError, match=r"document name .* must have 1 to 128 printable characters"):
            begin(fresh(), wrong)
    longest = "\U0001f600" * 128
    assert open_document(begin(fresh(), longest)) == Document(longest, 0)
