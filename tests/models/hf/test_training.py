"""Training in a plain loop: the gradients of the decoder, with and without checkpointing."""

from __future__ import annotations

import pytest
import torch

from tests.models.hf.small import make, same, tokens
from tests.tiny import KINDS


def counted_gradients(model, ids, **options) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradient of the loss, and how often the first block's mixer was computed for it."""
    calls = []
    hook = model.decoder.blocks[0].mixer.register_forward_hook(lambda *_: calls.append(1))
    model.zero_grad()
    model(ids, labels=ids, **options).loss.backward()
    hook.remove()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, len(calls)


@pytest.mark.parametrize("name", KINDS)
def test_checkpointing_changes_no_gradient_and_every_parameter_has_one(name):
    model, ids = make(name, torch.float64, window=4).train(), tokens(2, 13)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for options in ({}, {"attention_mask": mask}):
        plain, calls = counted_gradients(model, ids, **options)
        assert calls == 1
        assert all(float(grad.norm()) > 0 for grad in plain.values())
        for reentrant in (False, True):
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            again, calls = counted_gradients(model, ids, **options)
            assert calls == 2, "the block was not computed again for the backward pass"
            for parameter, grad in again.items():
                same(grad, plain[parameter], 1e-10)
            model.activation_checkpointing_disable()


@pytest.mark.parametrize("name", KINDS)
def test_a_plain_loop_learns_a_sentence(name):
    model = make(name).train()
    ids = model.reader().encode("to be or not to be")[None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.7
    assert model.lm_head.weight is model.decoder.embedding.weight


def test_loss_in_bfloat16_is_close_and_finite():
    """Eight bits of mantissa; 0.05 of a loss near 6 is 1 percent."""
    model, ids = make("delta_net"), tokens(2, 32)
    wanted = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        same(model(ids, labels=ids).loss, wanted, 0.05)
    found = model.to(torch.bfloat16)(ids, labels=ids).loss
    assert found.dtype == torch.float32
    same(found, wanted, 0.05)
