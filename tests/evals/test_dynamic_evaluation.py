"""Dynamic evaluation against a copy of the model for each row, stepped by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from everlearn.evals.dynamic_evaluation import dynamic_evaluation, score_with
from everlearn.models.text import encode
from tests.tiny import CHUNK, STATES, TEXT, byte_model

IDS = torch.stack([encode(TEXT[:19]), encode(TEXT[10:29])])


def by_hand(model, ids, eta):
    """Score and step one row's own copy, chunk by chunk; return the losses and the copy."""
    own, state, losses = copy.deepcopy(model), None, []
    for start in range(0, len(ids) - 1, CHUNK):
        piece = ids[start : start + CHUNK + 1]
        logits, state = own(piece[None, :-1], state)
        state = state.detach()
        loss = F.cross_entropy(logits[0], piece[1:], reduction="none")
        losses.append(loss.detach())
        if len(piece) == CHUNK + 1:
            own.zero_grad()
            loss.mean().backward()
            with torch.no_grad():
                for parameter in own.parameters():
                    if parameter.grad is not None:
                        parameter -= eta * parameter.grad / max(1.0, float(parameter.grad.norm()))
    return torch.cat(losses), own


@pytest.mark.parametrize("name", STATES)
def test_each_row_is_a_copy_of_the_model_stepped_by_hand(name):
    """Nineteen bytes: four chunks that are learned from, and two bytes that are only scored."""
    model = byte_model(name)
    before = model.fingerprint()
    nll, weights = dynamic_evaluation(model, IDS, eta=0.5)
    assert bool(nll[:, 0].isnan().all())
    for row, ids in enumerate(IDS):
        losses, own = by_hand(model, ids, eta=0.5)
        torch.testing.assert_close(nll[row, 1:], losses, atol=1e-10, rtol=0)
        for label, parameter in own.named_parameters():
            torch.testing.assert_close(weights[label][row], parameter.detach(), atol=1e-10, rtol=0, msg=label)
    assert model.fingerprint() == before


def test_it_goes_on_from_given_weights_and_leaves_them_alone():
    model = byte_model()
    _, weights = dynamic_evaluation(model, IDS[:, :9], eta=0.5)
    kept = {name: weight.clone() for name, weight in weights.items()}
    assert not any(weight.requires_grad for weight in weights.values())
    nll, more = dynamic_evaluation(model, IDS, eta=0.5, weights=weights)
    assert all(torch.equal(weights[name], weight) for name, weight in kept.items())
    assert not any(weight.requires_grad for weight in (*weights.values(), *more.values()))
    own = copy.deepcopy(model)
    own.load_state_dict({name: weight[1] for name, weight in weights.items()})
    torch.testing.assert_close(nll[1, 1:], by_hand(own, IDS[1], 0.5)[0], atol=1e-10, rtol=0)


def test_at_eta_zero_it_is_the_frozen_score_and_scoring_by_weights_is_too():
    model = byte_model()
    nll, weights = dynamic_evaluation(model, IDS, eta=0.0)
    expected = F.cross_entropy(model(IDS[:, :-1])[0].flatten(0, 1), IDS[:, 1:].flatten(), reduction="none").detach()
    torch.testing.assert_close(nll[:, 1:].flatten(), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(score_with(model, weights, IDS).flatten(), expected, atol=1e-10, rtol=0)


def test_learning_helps_on_a_repeated_text():
    ids = encode(b"abcd" * 30)[None]
    model = byte_model()
    learned, frozen = (dynamic_evaluation(model, ids, eta=eta)[0] for eta in (0.3, 0.0))
    assert learned[0, -20:].mean() < 0.6 * frozen[0, -20:].mean()
    assert math.isclose(learned[0, 1], frozen[0, 1], abs_tol=1e-12)
