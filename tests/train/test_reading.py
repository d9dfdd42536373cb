"""One backward pass for each chunk against backward passes of torch's own.  [NL eq. 71]"""

import pytest
import torch
import torch.nn.functional as F

from everlearn.learn.chunk import NotFiniteError, learn_chunk
from everlearn.learn.stream import read
from everlearn.levels import Level
from everlearn.train.reading import attached, backward_while_reading
from tests.tiny import CHUNK, LEVELS, assert_close, byte_model

IDS = torch.randint(256, (2, 11), generator=torch.Generator().manual_seed(3))


def grads(model):
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
@pytest.mark.parametrize("levels", [LEVELS, ()])
def test_a_text_of_one_chunk_is_a_plain_training_step(name, levels):
    model, ids = byte_model(name, levels=levels), IDS[:, : CHUNK + 1]
    nll, _ = backward_while_reading(model, ids)
    own = grads(model)
    logits, _ = model(ids[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    for part, grad in grads(model).items():
        torch.testing.assert_close(own[part], grad, atol=1e-12, rtol=0, msg=part)
    assert nll.shape == (2, CHUNK)


@pytest.mark.parametrize("cms", ["sequential", "nested", "independent"])
def test_each_chunk_adds_its_gradient_at_the_weights_that_were_read(cms):
    """The literal way: a copy whose own MLPs are one row's weights, its context given, one backward for each chunk.

    The shares add up to the mean over all ten targets, the last chunk of two included.
    """
    ids, levels = IDS[:1], (Level("fast", CHUNK, 0.3), Level("slow", 2 * CHUNK, 0.3))
    model = byte_model(levels=levels, cms=cms)
    nll, after = backward_while_reading(model, ids)
    own = grads(model)
    state, expected = model.initial_state(1).detach(), dict.fromkeys(own, 0)
    for start in range(0, 10, CHUNK):
        window = ids[:, start : start + CHUNK + 1]
        copy = byte_model(levels=levels, cms=cms)
        for layer, memory in copy.memories().items():
            for name, weight in memory.weights(state.layer(layer)).items():
                read_level, _, part = name.partition(".")
                mlp = memory.mlps["slow" if cms == "nested" else read_level]
                getattr(mlp, part).weight.data = weight[0].clone()
        mixers = {name: tensors for name, tensors in state.memory.items() if name.endswith("mixer")}
        logits, _ = copy(window[:, :-1], type(state)(mixers, state.context, state.tokens_seen, state.segment_len))
        (F.cross_entropy(logits[0], window[0, 1:], reduction="sum") / 10).backward()
        expected = {name: expected[name] + p.grad for name, p in copy.named_parameters()}
        _, state = learn_chunk(model, window, state)
    for name, grad in expected.items():
        torch.testing.assert_close(own[name], grad, atol=1e-12, rtol=0, msg=name)
    assert_close(after, state)
    report, _ = read(model, ids, model.initial_state(1).detach(), chunk_size=CHUNK)
    torch.testing.assert_close(nll, report.nll[:, 1:], atol=1e-12, rtol=0)


def test_gradients_are_added_and_rows_share_them():
    model = byte_model()
    backward_while_reading(model, IDS)
    both = grads(model)
    for row in (0, 1):
        backward_while_reading(model, IDS[row : row + 1])
    for name, grad in grads(model).items():
        torch.testing.assert_close(both[name], grad / 2, atol=1e-12, rtol=0, msg=name)


def test_a_state_goes_on_and_attaching_changes_no_bit():
    model = byte_model()
    _, state = backward_while_reading(model, IDS[:, : CHUNK + 1])
    held = attached(model, state)
    for layer, tensors in state.memory.items():
        assert all(torch.equal(tensor, held.memory[layer][name]) for name, tensor in tensors.items())
    later, end = backward_while_reading(model, IDS[:, CHUNK:], state)
    whole, expected = backward_while_reading(model, IDS)
    torch.testing.assert_close(later, whole[:, CHUNK:], atol=1e-12, rtol=0)
    assert_close(end, expected)
    assert not any(tensor.requires_grad for tensors in end.memory.values() for tensor in tensors.values())


def test_a_text_without_a_target_is_refused():
    with pytest.raises(ValueError, match=r"ids have shape \(2, 1\); a training step needs \[B, T\]"):
        backward_while_reading(byte_model(), IDS[:, :1])


def test_a_parameter_whose_gradient_is_not_finite_is_refused():
    """Its loss is finite and the levels' gradients are; the root of zero has an endless slope."""

    class Rooted:
        def __init__(self, model, root):
            self.model, self.root, self.memories = model, root, model.memories

        def __call__(self, ids, state, mask):
            logits, state = self.model(ids, state, mask)
            return logits + self.root.sqrt(), state

    root = torch.zeros((), dtype=torch.float64, requires_grad=True)
    model = Rooted(byte_model(), root)
    start = model.model.initial_state(2).detach()
    with pytest.raises(NotFiniteError):
        learn_chunk(model, IDS[:, : CHUNK + 1], start, also=[root])
    report, _ = learn_chunk(model, IDS[:, : CHUNK + 1], start)
    assert report.also == () and report.nll.isfinite().all()
