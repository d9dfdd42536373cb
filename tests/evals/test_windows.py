"""The reading protocol: what each target sees, and that a lesson comes only after its score."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from everlearn.evals.windows import Window, hf_logits, learn, score
from tests.evals.tiny_llama import tiny_llama

IDS = torch.arange(45) % 11


@pytest.mark.parametrize(("size", "chunk_size"), [(8, 4), (8, 8), (10, 3), (64, 64), (64, 1)])
def test_every_target_is_scored_once_with_the_context_it_is_due(size, chunk_size):
    """Literally: target t stands in chunk (t-1)//C, whose window starts at max(0, nC + C - size)."""
    model, window = tiny_llama(), Window(size, chunk_size)
    expected = []
    for t in range(1, len(IDS)):
        first = max(0, (t - 1) // chunk_size * chunk_size + chunk_size - size)
        with torch.no_grad():
            logits = hf_logits(model, IDS[None, first:t])[0, -1]
        expected.append(F.cross_entropy(logits, IDS[t]))
    expected = torch.stack(expected)
    # float64: only the order of sums differs
    torch.testing.assert_close(score(partial(hf_logits, model), IDS, window), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(score(partial(hf_logits, model), IDS, window, rows=1), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        learn(partial(hf_logits, model), IDS, window, lambda _: None), expected, atol=1e-10, rtol=0
    )


def test_a_lesson_changes_what_follows_and_nothing_before():
    model, window = tiny_llama(), Window(8, 4)
    frozen, losses = score(partial(hf_logits, model), IDS, window), []

    def step(loss):
        losses.append(loss.item())
        with torch.no_grad():
            model.model.norm.weight.mul_(0.5)

    nll = learn(partial(hf_logits, model), IDS, window, step)
    torch.testing.assert_close(nll[:4], frozen[:4], atol=1e-10, rtol=0)
    assert (nll[4:8] - frozen[4:8]).abs().min() > 1e-6
    torch.testing.assert_close(torch.tensor(losses), nll.reshape(-1, 4).mean(1).float())


def test_a_window_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="chunk_size 9 does not fit in a window of 8 tokens; give 1 to 8"):
        Window(8, 9)
    with pytest.raises(ValueError, match=r"shape \[1\]; one row of at least 2 tokens"):
        score(partial(hf_logits, tiny_llama()), IDS[:1], Window(8, 4))
