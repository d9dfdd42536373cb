"""Facts: stated where they should be, and ranked as a small table worked out by hand says."""

import pytest
import torch
import torch.nn.functional as F

from everlearn.evals.facts import continuation_scores, hide, invent, name_scores, newer_first, ranks, renamed
from everlearn.evals.windows import hf_logits
from tests.evals.tiny_llama import tiny_llama

PROSE = ". ".join(f"Sentence {n} says little" for n in range(60)) + "."


def test_facts_are_different_and_a_seed_is_one_choice():
    facts = invent(20, seed=3)
    assert facts == invent(20, seed=3) != invent(20, seed=4)
    assert all(len({f[i] for f in [(x.role, x.place, x.name) for x in facts]}) == 20 for i in range(3))
    with pytest.raises(ValueError, match="21 facts were asked for; 1 to 20"):
        invent(21)


def test_a_fact_changes_its_name_and_nothing_else():
    facts = invent(5)
    later = renamed(facts)
    assert [f.question for f in later] == [f.question for f in facts]
    assert sorted(f.name for f in later) == sorted(f.name for f in facts)
    assert all(new.name != old.name for new, old in zip(later, facts, strict=True))


def test_hidden_facts_stand_between_sentences_and_the_text_is_otherwise_whole():
    facts = invent(6)
    text = hide(facts, PROSE, times=2, seed=1)
    assert all(text.count(f.sentence) == 2 for f in facts)
    for fact in facts:
        text = text.replace(f"{fact.sentence} ", "")
    assert text == PROSE
    with pytest.raises(ValueError, match="59 places between sentences, but 120 facts"):
        hide(invent(20), PROSE, times=6)


def test_a_continuation_costs_what_its_tokens_cost_one_by_one():
    model, question = tiny_llama(), torch.tensor([1, 2, 3])
    names = [torch.tensor([4]), torch.tensor([5, 6, 7])]
    expected = []
    for name in names:
        ids, total = question, 0.0
        for token in name:
            with torch.no_grad():
                total += F.log_softmax(hf_logits(model, ids[None])[0, -1], -1)[token].item()
            ids = torch.cat([ids, token[None]])
        expected.append(total)
    found = continuation_scores(lambda ids: hf_logits(model, ids), question, names)
    assert found.tolist() == pytest.approx(expected, abs=1e-10)


def test_ranks_take_out_what_a_name_scores_anywhere():
    """The third name is likely everywhere; against its mean it is right for the third question only."""
    table = torch.tensor([[-5.0, -9.0, -1.0], [-9.0, -5.0, -1.0], [-9.0, -9.0, 0.0]])
    scores = name_scores(lambda question, _: table[int(question)], [torch.tensor(n) for n in range(3)], [])
    assert ranks(scores, [0, 1, 2]).tolist() == [1.0, 1.0, 1.0]
    assert ranks(scores, [1, 0, 0]).tolist() == [3.0, 3.0, 2.5]
    assert newer_first(scores, [1, 1, 1], [0, 0, 0]) == pytest.approx((1 + 0 + 0.5) / 3)
    assert newer_first(scores, [1, 1, 2], [0, 2, 0]) == pytest.approx((1 + 0 + 0) / 3)
