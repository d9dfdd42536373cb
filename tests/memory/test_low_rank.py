"""States in few bytes: numpy's singular values and the steps of int8 say how near they stay."""

import math

import numpy as np
import pytest
import torch

from everlearn.learn import read
from everlearn.memory import codec
from everlearn.memory.low_rank import (
    PackedState,
    compress,
    compress_state,
    decompress,
    decompress_state,
    from_tensors,
    to_tensors,
)
from everlearn.models.text import encode
from tests.tiny import CHUNK, TEXT, byte_model, fingerprint


def learned(model, text: bytes = TEXT, rows: int = 1):
    with torch.no_grad():
        start = model.initial_state(rows)
    return read(model, encode(text)[None].expand(rows, -1), start, chunk_size=CHUNK, end="flush")[1]


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7), (2, 3, 6, 4)])
def test_the_error_is_that_of_the_singular_values_left_out(shape):
    """Eckart and Young: no matrix of the rank is nearer; numpy gives the singular values."""
    delta = torch.randn(*shape, dtype=torch.float64)
    sigma = np.linalg.svd(delta.numpy(), compute_uv=False)
    for rank in range(1, min(shape[-2:]) + 1):
        error = (decompress(compress(delta, rank, bits=None)) - delta).square().sum((-2, -1))
        np.testing.assert_allclose(error.numpy(), (sigma[..., rank:] ** 2).sum(-1), atol=1e-12)
        other = torch.randn(*shape[:-1], rank, dtype=torch.float64) @ torch.randn(
            *shape[:-2], rank, shape[-1], dtype=torch.float64
        )
        assert bool((error <= (other - delta).square().sum((-2, -1))).all())


def test_full_rank_without_int8_is_exact():
    delta = torch.randn(3, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(decompress(compress(delta, 4, bits=None)), delta, atol=1e-13, rtol=0)
    torch.testing.assert_close(decompress(compress(delta, 99, bits=None)), delta, atol=1e-13, rtol=0)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_int8_stays_within_its_bound_and_is_no_better_than_it_should_be(size):
    delta = size * torch.randn(4, 30, 20, dtype=torch.float64)
    exact, small = compress(delta, 5, bits=None), compress(delta, 5)
    assert small.left.dtype == small.right.dtype == torch.int8
    error = (decompress(small) - decompress(exact)).abs().amax((-2, -1))
    assert bool((error <= 127 * small.scale.sum(-1)).all())
    # rounding to 127 steps is visible: a bound that everything keeps would test nothing
    assert bool((error > 0.02 * 127 * small.scale.sum(-1)).all())


def test_a_product_of_two_vectors_by_hand():
    """The steps of (1, -0.5) are 127 and -63.5, rounded to the even -64; those of (2, 0) are 127 and 0."""
    delta = torch.outer(torch.tensor([1.0, -0.5]), torch.tensor([2.0, 0.0])).double()
    small = compress(delta, 1)
    assert small.left.abs().tolist() == [[127, 64]]
    assert small.right.abs().tolist() == [[127, 0]]
    expected = torch.tensor([[2.0, 0.0], [-128 / 127, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(decompress(small), expected, atol=1e-12, rtol=0)


def test_each_matrix_is_compressed_by_itself():
    delta = torch.randn(3, 6, 5)
    whole, changed = compress(delta, 2), compress(delta * torch.tensor([1.0, 0.0, 7.0])[:, None, None], 2)
    for name, tensor in vars(whole).items():
        assert torch.equal(vars(changed)[name][0], tensor[0])
    for i in range(3):
        # another batch shape may round in another way
        torch.testing.assert_close(decompress(compress(delta[i], 2)), decompress(whole)[i], atol=1e-6, rtol=0)


def test_nothing_learned_is_nothing_and_bytes_are_counted():
    assert torch.equal(decompress(compress(torch.zeros(4, 3))), torch.zeros(4, 3))
    # the last down_proj of a small model: 8 x (128 + 352) bytes of int8, 8 scales of 4 bytes
    assert compress(torch.randn(128, 352)).nbytes() == 8 * 480 + 8 * 4
    assert compress(torch.randn(128, 352), bits=None).nbytes() == 4 * 8 * 481


@pytest.mark.parametrize(
    ("delta", "options", "words"),
    [
        (torch.ones(2, 2), {"rank": 0}, "rank 0"),
        (torch.ones(2, 2), {"bits": 4}, "bits 4"),
        (torch.ones(3), {}, "is no matrix"),
        (torch.ones(3, 3).long(), {}, "is no matrix"),
        (torch.full((2, 2), math.nan), {}, "NaN"),
    ],
)
def test_what_cannot_be_compressed_is_refused(delta, options, words):
    with pytest.raises(ValueError, match=words):
        compress(delta, **options)


def test_a_state_of_full_rank_comes_back_whole_between_two_documents():
    """Only weights come back: collected gradients and clocks are those of the start."""
    model = byte_model()
    with torch.no_grad():
        fresh = model.initial_state(1)
    state = learned(model, rows=2)
    packed = compress_state(state, fresh, model.memories(), rank=99, bits=None)
    back = decompress_state(packed, fresh)
    assert back.context == {} and back.segment_len.tolist() == [0, 0]
    assert back.tokens_seen.tolist() == state.tokens_seen.tolist()
    for layer, memory in fresh.memory.items():
        for name, start in memory.items():
            is_weight = layer in model.memories() and not name.endswith((".grad", ".tokens"))
            wanted = state.memory[layer][name] if is_weight else start.expand_as(back.memory[layer][name])
            torch.testing.assert_close(back.memory[layer][name], wanted, atol=1e-12, rtol=0)
    moved = sum(name in deltas for deltas in packed.layers.values() for name in ("fast.down", "slow.up"))
    assert moved == 4  # both levels of both layers


def test_what_did_not_change_takes_no_byte():
    model = byte_model()
    with torch.no_grad():
        fresh = model.initial_state(1)
    packed = compress_state(fresh, fresh, model.memories())
    assert packed.layers == {} and packed.nbytes() == 8
    assert fingerprint(decompress_state(packed, fresh)) == fingerprint(fresh)


def test_a_packed_state_survives_the_file_bit_for_bit(tmp_path):
    model = byte_model()
    with torch.no_grad():
        fresh = model.initial_state(1)
    packed = compress_state(learned(model), fresh, model.memories(), rank=3)
    codec.save_tensors(tmp_path / "a.safetensors", to_tensors(packed), {})
    tensors, _ = codec.load_tensors(tmp_path / "a.safetensors")
    assert fingerprint(decompress_state(from_tensors(tensors), fresh)) == fingerprint(decompress_state(packed, fresh))
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == packed.nbytes()


def test_a_packed_state_of_another_model_or_with_a_part_missing_is_refused():
    model, other = byte_model(), byte_model(hidden_dim=6)
    with torch.no_grad():
        fresh, foreign = model.initial_state(1), other.initial_state(1)
    state = learned(model)
    packed = compress_state(state, fresh, model.memories())
    with pytest.raises(ValueError, match=r"is \(1, 8, 8\), this model has \(1, 6, 8\)"):
        decompress_state(packed, foreign)
    with pytest.raises(ValueError, match=r"is \(8, 8\) per row, this model has \(6, 8\) per row"):
        compress_state(state, foreign, other.memories())
    with pytest.raises(ValueError, match="there is no memory 'no' to compress"):
        compress_state(state, fresh, ["no"])
    tensors = to_tensors(packed)
    name = next(name for name in tensors if name.endswith("/scale"))
    for changed, words in (
        ({n: t for n, t in tensors.items() if n != name}, "not whole"),
        ({n: t for n, t in tensors.items() if n != "tokens_seen"}, "'tokens_seen' is missing"),
        (tensors | {"x": torch.zeros(1)}, "'x' does not belong"),
    ):
        with pytest.raises(ValueError, match=words):
            from_tensors(changed)
    assert isinstance(from_tensors(tensors), PackedState)
