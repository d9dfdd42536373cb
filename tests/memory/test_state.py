"""States as values: rows are picked, joined and rolled back, and nothing else moves."""

import pytest
import torch

from everlearn.memory.state import (
    LayerState,
    ModelState,
    all_finite,
    concat_rows,
    row_chooser,
    take_level,
    where_rows,
    with_layers,
)
from everlearn.models.text import encode
from tests.tiny import byte_model, fingerprint


def state(rows: int, length: int = 3, seed: int = 0) -> ModelState:
    torch.manual_seed(seed)
    memory = {"a": {"fast.up": torch.randn(rows, 2, 3), "slow.up": torch.randn(rows, 2, 3)}}
    context = {"a": {"k": torch.randn(rows, length, 2)}, "open": {"count": torch.arange(rows)}}
    return ModelState(memory, context, torch.arange(rows) + 7, torch.arange(rows) + 1)


def test_picking_rows_and_joining_them_is_the_identity():
    whole = state(4)
    parts = [whole.rows([0]), whole.rows([1, 2]), whole.rows([3])]
    assert [part.batch_size for part in parts] == [1, 2, 1]
    assert fingerprint(concat_rows(parts, state(1))) == fingerprint(whole)
    assert fingerprint(concat_rows(parts, state(1)).rows(torch.tensor([1, 2]))) == fingerprint(parts[1])
    swapped = whole.rows([3, 3, 0])
    assert torch.equal(swapped.memory["a"]["slow.up"], whole.memory["a"]["slow.up"][[3, 3, 0]])
    assert swapped.tokens_seen.tolist() == [10, 10, 7]
    assert swapped.segment_len.tolist() == [4, 4, 1]


def test_joining_pads_shorter_contexts_with_zeros_at_their_end():
    short, long = state(1, length=2), state(1, length=5, seed=1)
    both = concat_rows([short, long], state(1))
    assert torch.equal(both.context["a"]["k"][0, :2], short.context["a"]["k"][0])
    assert both.context["a"]["k"][0, 2:].tolist() == [[0.0, 0.0]] * 3
    assert torch.equal(both.context["a"]["k"][1], long.context["a"]["k"][0])


def test_joining_fills_what_a_stream_lacks_from_the_fresh_start():
    used, fresh = state(2), state(1, seed=3)
    unused = ModelState({}, {}, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    both = concat_rows([used, unused], ModelState(fresh.memory, {}, fresh.tokens_seen, fresh.segment_len))
    assert torch.equal(both.memory["a"]["fast.up"][2], fresh.memory["a"]["fast.up"][0])
    assert torch.equal(both.memory["a"]["fast.up"][:2], used.memory["a"]["fast.up"])
    assert not bool(both.context["a"]["k"][2].any())
    assert both.context["open"]["count"].tolist() == [0, 1, 0]
    assert both.tokens_seen.tolist() == [7, 8, 0]


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
def test_rows_joined_at_different_places_go_on_as_if_alone(name):
    """A padded context is read as the unpadded one."""
    model = byte_model(name)
    one, two = (model(encode(text)[None])[1].detach() for text in (b"ab", b"abcdefgh"))
    more = encode(b"xyz")[None]
    both, _ = model(more.expand(2, -1), concat_rows([one, two], model.initial_state(1)))
    for row, own in enumerate((one, two)):
        torch.testing.assert_close(both[row], model(more, own)[0][0], atol=1e-10, rtol=0)


def test_taking_a_level_back_touches_that_level_only():
    early, late = state(2), state(2, seed=1)
    late.memory["a"]["fast.up.slot.m"] = torch.ones(2, 2, 3)
    back = take_level(late, early, "fast")
    assert torch.equal(back.memory["a"]["fast.up"], early.memory["a"]["fast.up"])
    assert torch.equal(back.memory["a"]["slow.up"], late.memory["a"]["slow.up"])
    assert "fast.up.slot.m" not in back.memory["a"]  # what the level gathered since the snapshot goes with it
    assert back.context == late.context
    assert torch.equal(back.tokens_seen, late.tokens_seen)
    assert torch.equal(late.memory["a"]["fast.up"], state(2, seed=1).memory["a"]["fast.up"])  # the argument stays
    with pytest.raises(ValueError, match="the snapshot has no level 'mid'"):
        take_level(late, early, "mid")


def test_a_level_s_name_is_not_the_beginning_of_another_s():
    early, late = state(1), state(1, seed=1)
    for one in (early, late):
        one.memory["a"]["faster.up"] = one.memory["a"].pop("slow.up")
    back = take_level(late, early, "fast")
    assert torch.equal(back.memory["a"]["faster.up"], late.memory["a"]["faster.up"])


def test_a_layer_that_the_snapshot_lacks_keeps_its_level():
    early, late = state(1), state(1, seed=1)
    late.memory["b"] = {"fast.up": torch.ones(1, 2)}
    back = take_level(late, early, "fast")
    assert torch.equal(back.memory["b"]["fast.up"], torch.ones(1, 2))


def test_a_new_segment_drops_the_context_and_keeps_the_memory():
    one = state(2)
    ended = one.new_segment()
    assert ended.context == {}
    assert ended.memory == one.memory
    assert ended.segment_len.tolist() == [0, 0]
    assert torch.equal(ended.tokens_seen, one.tokens_seen)
    assert torch.equal(one.segment_len, torch.tensor([1, 2]))


def test_replacing_layers_leaves_the_others_and_drops_what_is_empty():
    one = state(1)
    new = with_layers(one, {"a": LayerState({"S": torch.ones(1)}), "b": LayerState({}, {"k": torch.ones(1)})})
    assert set(new.memory["a"]) == {"S"}
    assert "a" not in new.context and set(new.context["b"]) == {"k"} and "b" not in new.memory
    assert new.context["open"] is one.context["open"]
    assert set(one.memory["a"]) == {"fast.up", "slow.up"} and "a" in one.context
    assert new.layer("a").memory["S"].tolist() == [1.0]
    assert new.layer("nothing") == LayerState()


def test_where_rows_keeps_the_others_bit_for_bit():
    old, new = torch.tensor([[0.0, -0.0], [1.0, 2.0]]), torch.tensor([[9.0, 9.0], [torch.nan, 3.0]])
    taken = where_rows(torch.tensor([True, False]), new, old)
    assert taken.tolist() == [[9.0, 9.0], [1.0, 2.0]]
    assert where_rows(torch.tensor([True, False]), torch.tensor([5, 6]), torch.tensor([1, 2])).tolist() == [5, 2]


def test_bytes_and_detaching():
    one = state(2)
    # two tensors of 12 floats, one of 12, and three of 2 integers of 8 bytes
    assert one.nbytes() == 4 * (12 + 12 + 12) + 8 * 6
    grown = ModelState({"a": {"w": torch.ones(1, requires_grad=True) * 2}}, {}, one.tokens_seen, one.segment_len)
    assert not grown.detach().memory["a"]["w"].requires_grad
    assert grown.memory["a"]["w"].requires_grad


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_number_that_is_not_finite_is_found_wherever_it_stands(value, dtype):
    tensors = [torch.arange(3), torch.zeros(0), torch.randn(2, 3).to(dtype), torch.full((2,), -1e30, dtype=dtype)]
    assert all_finite(tensors)
    tensors[2][1, 1] = value
    assert not all_finite(tensors)


def test_where_rows_takes_a_row_that_stands_for_all():
    new, old = torch.tensor([[1.0, 2.0]]), torch.zeros(3, 2)
    assert where_rows(torch.tensor([True, True, True]), new, old).tolist() == [[1.0, 2.0]] * 3


@pytest.mark.parametrize("where", [0, 7, 255])
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_found_anywhere(where, number):
    bad = torch.ones(256)
    bad[where] = number
    assert not all_finite([torch.ones(3), bad.view(2, 8, 16), torch.arange(4)])
    assert not all_finite([torch.tensor(number).expand(3, 4)])
    assert not all_finite([torch.stack([torch.tensor(torch.inf), torch.tensor(-torch.inf)])])


def test_large_numbers_whose_sum_overflows_are_finite():
    large = torch.full((64,), 3e38)
    assert not bool(torch.isfinite(large.sum()))
    assert all_finite([large, torch.zeros(1).expand(5, 6), torch.zeros(0)])
    assert all_finite([])


def test_a_state_that_is_mapped_keeps_its_shape_and_shows_every_tensor():
    whole = state(3)
    doubled = whole.map(lambda tensor: 2 * tensor)
    assert [tuple(t.shape) for t in doubled.tensors()] == [tuple(t.shape) for t in whole.tensors()]
    assert all(torch.equal(a, 2 * b) for a, b in zip(doubled.tensors(), whole.tensors(), strict=True))
    assert sum(1 for _ in whole.tensors()) == 6
    assert whole.nbytes() == sum(t.numel() * t.element_size() for t in whole.tensors())


def test_rows_are_chosen_bit_for_bit():
    new, old = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    chosen = row_chooser(torch.tensor([True, False, True]))(new, old)
    assert torch.equal(chosen, torch.stack([new[0], old[1], new[2]]))
    assert row_chooser(torch.ones(3, dtype=torch.bool))(new, old) is new
    # one value for all rows is spread over them
    assert torch.equal(row_chooser(torch.ones(3, dtype=torch.bool))(new[:1], old), new[:1].expand(3, 2, 2))
