"""The codec: what comes back is what went in, to the bit, or it is refused."""

import json
import math
import struct

import pytest
import safetensors.torch
import torch

from everlearn.memory import codec
from everlearn.memory.codec import (
    check_fits,
    decode,
    digest,
    encode,
    from_tensors,
    load_tensors,
    save_tensors,
    to_tensors,
)
from everlearn.memory.state import ModelState
from everlearn.models.text import encode as tokens
from tests.memory.careless import sealed
from tests.tiny import byte_model, fingerprint

SMALL = {"w": torch.tensor([[1.5, -0.0]]), "n": torch.tensor([3])}


def used_state() -> ModelState:
    model = byte_model()
    return model(tokens(b"a text with a context")[None], model.initial_state(1))[1].detach()


def test_a_state_comes_back_to_the_bit(tmp_path):
    state = used_state()
    save_tensors(tmp_path / "file", to_tensors(state), {"user": "Zo\u00eb", "list": [1, None, {"a": 0.1}]})
    tensors, meta = load_tensors(tmp_path / "file")
    back = from_tensors(tensors)
    assert meta == {"user": "Zo\u00eb", "list": [1, None, {"a": 0.1}]}
    assert fingerprint(back) == fingerprint(state)
    for part, other in ((back.memory, state.memory), (back.context, state.context)):
        assert {layer: set(leaves) for layer, leaves in part.items()} == {n: set(ls) for n, ls in other.items()}
        for layer, leaves in other.items():
            for leaf, tensor in leaves.items():
                assert part[layer][leaf].dtype == tensor.dtype
                assert torch.equal(part[layer][leaf], tensor)


def test_names_tell_part_layer_and_leaf():
    one = torch.ones(1)
    state = ModelState({"blocks.0.mlp": {"fast.up": one}}, {"open": {"ids": one}}, one.long(), one.long())
    assert set(to_tensors(state)) == {"memory/blocks.0.mlp/fast.up", "context/open/ids", "tokens_seen", "segment_len"}


def test_the_tensors_are_copies():
    state = used_state()
    to_tensors(state)["tokens_seen"].zero_()
    assert state.tokens_seen.tolist() == [21]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other/a/b": torch.ones(1)}, "tensor 'other/a/b' does not belong to a state"),
        ({"memory/a": torch.ones(1)}, "tensor 'memory/a' does not belong to a state"),
        ({"tokens_seen": None}, "tensor 'tokens_seen' is missing"),
        ({"segment_len": None}, "tensor 'segment_len' is missing"),
    ],
)
def test_what_is_no_state_is_refused(change, message):
    tensors = {name: tensor for name, tensor in (to_tensors(used_state()) | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        from_tensors(tensors)


def test_equal_knowledge_gives_equal_bytes():
    assert encode(SMALL, {"a": 1, "b": 2}) == encode(dict(reversed(SMALL.items())), {"b": 2, "a": 1})
    assert encode(SMALL, {"a": 1}) != encode(SMALL, {"a": 2})


def test_every_flipped_byte_and_every_truncation_is_refused():
    """One bit of each byte, another bit from byte to byte; a byte of the header's padding may be any blank."""
    data = encode(SMALL, {"user": "ada", "steps": 3})
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="the file"):
            decode(bytes(broken), "the file")
    for length in range(len(data)):
        with pytest.raises(ValueError, match="the file is truncated or no safetensors file"):
            decode(data[:length], "the file")
    with pytest.raises(ValueError, match="the file"):
        decode(data + b"\0", "the file")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_its_tensor(wrong):
    tensors = SMALL | {"bad": torch.tensor([0.0, wrong])}
    with pytest.raises(ValueError, match="'bad' holds NaN or infinity, so it was not saved"):
        encode(tensors, {})
    with pytest.raises(ValueError, match="the file holds NaN or infinity in 'bad'"):
        decode(sealed(tensors, {}), "the file")


def test_a_newer_format_is_refused_and_this_one_is_read(monkeypatch):
    monkeypatch.setattr(codec, "FORMAT", 2)
    newer, same = encode(SMALL, {}), encode(SMALL, {})
    assert torch.equal(decode(same, "x")[0]["w"], SMALL["w"])
    monkeypatch.setattr(codec, "FORMAT", 1)
    with pytest.raises(ValueError, match="has format 2, this version reads up to 1; update everlearn"):
        decode(newer, "the file")


def test_a_file_of_another_program_is_refused():
    with pytest.raises(ValueError, match="was not written by everlearn"):
        decode(safetensors.torch.save(SMALL), "the file")
    with pytest.raises(ValueError, match="was not written by everlearn"):
        decode(safetensors.torch.save(SMALL, metadata={"format": "pt"}), "the file")
    with pytest.raises(ValueError, match="its header is damaged"):
        decode(safetensors.torch.save(SMALL, metadata={"everlearn": "{"}), "the file")
    with pytest.raises(ValueError, match="was changed after it was saved"):
        decode(safetensors.torch.save(SMALL, metadata={"everlearn": '{"format": 1, "meta": {}}'}), "the file")


def test_tensors_of_one_file_under_the_header_of_another_are_refused():
    """Both are whole; only the hash ties a header to its tensors."""
    one, two = encode(SMALL, {"user": "ada"}), encode(SMALL | {"w": torch.tensor([[1.5, 2.0]])}, {"user": "ada"})
    size = 8 + struct.unpack("<Q", one[:8])[0]
    assert len(one) == len(two)
    with pytest.raises(ValueError, match="was changed after it was saved"):
        decode(one[:size] + two[size:], "the file")


def test_the_header_says_format_and_version_of_torch():
    data = encode(SMALL, {"user": "ada"})
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    content = json.loads(header["everlearn"])
    assert (content["format"], content["torch"], content["meta"]) == (1, torch.__version__, {"user": "ada"})


def test_a_digest_sees_names_types_shapes_bits_and_text():
    base = {"a": torch.tensor([0.0, 1.0])}
    others = [
        {"b": torch.tensor([0.0, 1.0])},
        {"a": torch.tensor([-0.0, 1.0])},
        {"a": torch.tensor([[0.0, 1.0]])},
        {"a": torch.tensor([0.0, 1.0]).view(torch.int32)},
        {"a": torch.tensor([0.0]), "b": torch.tensor([1.0])},
        {},
    ]
    assert len({digest(tensors) for tensors in [base, *others]}) == 7
    assert digest(base) == digest({"a": torch.tensor([[0.0, 5.0], [1.0, 5.0]])[:, 0]})  # not how it lies in memory
    assert digest(base, "x") != digest(base)
    assert len(digest(base)) == 64


def test_a_state_fits_the_model_that_made_it_and_no_other():
    model = byte_model()
    fresh, state = model.initial_state(1), used_state()
    check_fits(state, fresh, "it")
    with pytest.raises(ValueError, match="it has 3 rows, 1 needed"):
        check_fits(state.rows([0, 0, 0]), fresh, "it")

    def changed(layer, leaf, tensor):
        memory = {name: dict(tensors) for name, tensors in state.memory.items()}
        memory.setdefault(layer, {})[leaf] = tensor
        if tensor is None:
            del memory[layer][leaf]
        return ModelState(memory, state.context, state.tokens_seen, state.segment_len)

    name, old = "blocks.1.mlp", state.memory["blocks.1.mlp"]["fast.up"]
    for tensor, got in ((None, "nothing"), (old.float(), "torch.float32"), (old[:, :-1], r"\(1, 7, 8\)")):
        with pytest.raises(ValueError, match=rf"it does not fit this model: {name}/fast.up is .*{got}.*load it with"):
            check_fits(changed(name, "fast.up", tensor), fresh, "it")
    with pytest.raises(ValueError, match=r"it holds a memory 'blocks.9.mlp' that this model lacks"):
        check_fits(changed("blocks.9.mlp", "fast.up", old), fresh, "it")
    with pytest.raises(ValueError, match=r"it holds a memory 'blocks.1.mlp/mid.up' that this model lacks"):
        check_fits(changed(name, "mid.up", old), fresh, "it")
    check_fits(changed(name, "fast.up.slot.m", old), fresh, "it")  # what a rule keeps appears with its first step


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.float64])
def test_a_column_of_one_row_has_the_hash_and_the_bytes_of_a_plain_copy(dtype):
    """Its stride is that of the row it was cut from, though torch calls it contiguous."""
    column = torch.arange(7).to(dtype)[None][:, -1]
    assert column.stride() == (7,)
    assert digest({"a": column}) == digest({"a": torch.tensor([6], dtype=dtype)})
