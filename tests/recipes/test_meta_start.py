"""A start is learned over documents: against Adam on hand-made gradients, and against training without inner steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from everlearn.convert import stack_levels
from everlearn.learn.stream import read
from everlearn.levels import Level
from everlearn.recipes.meta_start import MetaStartRecipe, meta_start
from tests.convert.families_fixture import tiny, tokens

C, LENGTH = 8, 24
TEXT = tokens(1, 300)[0]


def stacked(period=C, eta=0.3, **options):
    return stack_levels(tiny(), levels=[Level("fast", period, eta)], chunk_size=C, **options)


def recipe(**changes):
    return MetaStartRecipe(**{"steps": 1, "rows": 3, "length": LENGTH, "lr": 0.01, **changes})


def documents(rows=3, seed=0):
    """Return the documents of the first step, cut by hand."""
    places = torch.randint(len(TEXT) - LENGTH, (rows,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([TEXT[place : place + LENGTH + 1] for place in places])


def adam(gradients, lr, total):
    """Return where torch's Adam leads from zero with these gradients and a rate that falls to zero."""
    weight = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=lr)
    for step, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / total)
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


def test_the_first_step_follows_what_reading_has_changed():
    """Adam's first step is its rate times the sign, against theta_0 - theta_T."""
    model, base = stacked(), tiny()
    losses = meta_start(model, TEXT, recipe())
    other = stacked()
    report, state = read(other, documents(), other.initial_state(3), chunk_size=C, end="flush")
    assert losses == [float(report.nll.nanmean())]
    for part, start in model.deltas.own_starts().items():
        moved = state.memory["stack"][f"fast.{part}"].mean(0)
        torch.testing.assert_close(start, adam([-moved], 0.01, 1), atol=1e-12, rtol=0)
        # what Adam adds to its root keeps tiny entries from a whole step
        assert float((start - 0.01 * moved.sign()).abs().max()) < 1e-4
    assert torch.equal(model.unstack()(TEXT[None, :20]).logits, base(TEXT[None, :20]).logits)


def test_the_next_step_reads_from_the_new_start():
    model = stacked()
    losses = meta_start(model, TEXT, recipe(steps=2))
    first = stacked()
    meta_start(first, TEXT, recipe(steps=1))
    dice = torch.Generator().manual_seed(0)
    places = [torch.randint(len(TEXT) - LENGTH, (3,), generator=dice) for _ in range(2)][1]
    second = torch.stack([TEXT[place : place + LENGTH + 1] for place in places])
    report, _ = read(first, second, first.initial_state(3), chunk_size=C, end="flush")
    assert losses[1] == float(report.nll.nanmean())


def test_with_one_step_a_document_it_is_plain_training_on_the_whole_document():
    """The control's gradient is that of the untouched model's loss, clipped for each row and matrix."""
    model, plain = stacked(period=LENGTH, window=C + LENGTH), tiny()
    name = model.matrices[0].name
    meta_start(model, TEXT, recipe(rows=1))
    ids, weight = documents(1), plain.get_submodule(name).weight
    gradient = 0
    for start in range(0, LENGTH, C):
        # what stands before a chunk is context that no gradient flows into
        whole = plain(ids[:, : start + C], output_hidden_states=False).logits[:, start:]
        gradient = (
            gradient
            + torch.autograd.grad(
                F.cross_entropy(whole[0], ids[0, start + 1 : start + C + 1], reduction="sum"), weight
            )[0]
        )
    found = model.deltas.own_starts()[name]
    # keys and values of the chunks before are stale in the model, so signs of small entries may differ
    large = gradient.abs() > gradient.abs().quantile(0.5)
    assert float((found.sign() == -gradient.sign())[large].double().mean()) > 0.95


def test_a_start_learns_more_from_a_document_than_none():
    """Documents of one kind, each with a secret of its own: the loss while reading falls with every start."""
    model = stacked(eta=0.5)
    losses = meta_start(model, TEXT, recipe(steps=12, lr=0.02))
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.1
    repeated = stacked(eta=0.5)
    assert meta_start(repeated, TEXT, recipe(steps=12, lr=0.02)) == losses


def test_what_it_cannot_start_is_refused():
    two = stack_levels(tiny(), levels=[Level("fast", C), Level("slow", 2 * C)], chunk_size=C)
    with pytest.raises(ValueError, match=r"\['fast', 'slow'\], which share one start"):
        meta_start(two, TEXT, recipe())
    with pytest.raises(ValueError, match="the text has 24 tokens, a document needs 25"):
        meta_start(stacked(), TEXT[:LENGTH], recipe())
