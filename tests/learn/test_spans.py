"""Reading a conversation: whose words give a gradient, and whose are context alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from everlearn.learn import Learner, Tokens, learn_chunk, read
from everlearn.levels import Level
from everlearn.memory.codec import from_tensors, to_tensors
from everlearn.memory.state import concat_rows
from everlearn.models.text import encode
from tests.learn.words import Words
from tests.tiny import CHUNK, TEXT, assert_close, byte_model, fingerprint

IDS = encode(TEXT)[None]
SKIP = torch.arange(len(TEXT))[None] % 7 < 3
TALK = [("user", "my dog is rex. "), ("assistant", "a fine name for a dog! "), ("user", "he likes the sea.")]
ONE = (Level("only", CHUNK, 0.3),)


def run(model, ids=IDS, state=None, **options):
    return read(model, ids, state or model.initial_state(1).detach(), chunk_size=CHUNK, **options)


def test_only_targets_that_are_not_skipped_give_the_gradient():
    """By hand: the step of one chunk is that of the mean loss over the four targets that are left."""
    model = byte_model(levels=(Level("only", 4, 0.3),), chunk_size=4)
    ids, skip = IDS[:, :9], torch.tensor([[0, 0, 1, 0, 1, 0, 1, 0, 1]]).bool()
    start = model.initial_state(1).detach()
    name, cms = next(iter(model.memories().items()))
    report, state = learn_chunk(model, ids, start, skip=skip)
    weight = cms.mlps["only"].up.weight
    logits, _ = model(ids[:, :-1])
    nll = F.cross_entropy(logits[0], ids[0, 1:], reduction="none")
    torch.testing.assert_close(report.nll[0], nll.detach(), atol=1e-12, rtol=0)
    (grad,) = torch.autograd.grad(nll[[0, 2, 4, 6]].mean(), [weight])
    expected = weight - 0.3 * grad / max(1.0, float(grad.norm()))
    torch.testing.assert_close(state.memory[name]["only.up"][0], expected.detach(), atol=1e-12, rtol=0)


def test_skipping_nothing_is_the_reading_without_it_bit_for_bit():
    model = byte_model()
    (a, one), (b, two) = run(model), run(model, skip=torch.zeros_like(SKIP))
    assert torch.equal(a.nll.nan_to_num(), b.nll.nan_to_num())
    assert all(torch.equal(v, two.memory[n][leaf]) for n, t in one.memory.items() for leaf, v in t.items())


def test_skipping_everything_is_reading_without_learning():
    model = byte_model()
    (a, one), (b, two) = run(model, skip=torch.ones_like(SKIP), end="flush"), run(model, learn=False, end="drop")
    torch.testing.assert_close(a.nll, b.nll, atol=1e-10, rtol=0, equal_nan=True)
    assert a.steps == {}
    fresh = model.initial_state(1).memory
    for name in model.memories():
        for leaf, value in one.memory[name].items():
            assert torch.equal(value, fresh[name][leaf]), leaf
    assert_close(one, two)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8, 18, 40])
def test_a_cut_anywhere_keeps_what_is_skipped(cut):
    """Split: also where the tokens that wait for their chunk were saved to a file in between."""
    model = byte_model()
    _, whole = run(model, skip=SKIP)
    _, state = run(model, IDS[:, :cut], skip=SKIP[:, :cut])
    _, state = run(model, IDS[:, cut:], from_tensors(to_tensors(state)), skip=SKIP[:, cut:])
    assert_close(whole, state)


def test_rows_with_and_without_skipping_share_a_batch():
    """A row whose waiting tokens are all learned from stays so beside one whose are not."""
    model = byte_model()
    _, plain = run(model, IDS[:, :7])
    _, skipping = run(model, IDS[:, :7], skip=SKIP[:, :7])
    both = concat_rows([plain, skipping], model.initial_state(1).detach())
    _, both = run(model, IDS[:, 7:].expand(2, -1), both, skip=torch.cat([SKIP & False, SKIP])[:, 7:])
    for row, (start, skip) in enumerate([(plain, None), (skipping, SKIP[:, 7:])]):
        _, alone = run(model, IDS[:, 7:], start, skip=skip)
        assert_close(both.rows([row]), alone)


def test_a_conversation_is_its_words_in_order_with_the_models_own_left_out():
    learner, model = Learner(byte_model()), byte_model()
    score = learner.read(TALK, "ada", end="open")
    ids = encode("".join(words for _, words in TALK))[None]
    start = len(TALK[0][1])
    skip = torch.zeros_like(ids, dtype=torch.bool)
    skip[:, start : start + len(TALK[1][1])] = True
    report, state = run(model, ids, skip=skip)
    assert_close(learner.state("ada"), state)
    torch.testing.assert_close(score.bits, report.nll[0] / math.log(2), atol=1e-10, rtol=0, equal_nan=True)


def test_the_caller_says_which_roles_are_learned_from():
    """All roles together are the plain text; no role at all learns nothing."""
    plain, every, none = (Learner(byte_model()) for _ in range(3))
    plain.read("".join(words for _, words in TALK), "ada")
    every.read(TALK, "ada", learn_from={"user", "assistant"})
    none.read(TALK, "ada", learn_from=())
    assert fingerprint(every.state("ada")) == fingerprint(plain.state("ada"))
    moved = {**none.state("ada").memory["blocks.0.mlp"]}
    fresh = byte_model().initial_state(1).memory["blocks.0.mlp"]
    assert all(torch.equal(moved[name], value) for name, value in fresh.items())


def test_tokens_are_read_as_they_are_and_open_nothing_themselves():
    model = Words()
    learner, by_hand = Learner(model), Learner(Words())
    ids = torch.cat([torch.tensor(model.start_ids), model.encode(TEXT)])
    score = learner.read(Tokens(ids, torch.zeros_like(ids, dtype=torch.bool)), "ada")
    by_hand.read(TEXT, "ada")
    assert fingerprint(learner.state("ada")) == fingerprint(by_hand.state("ada"))
    assert bool(score.bits[0].isnan()) and len(score.bits) == len(ids)


REFUSED = {
    "no pair": (lambda: Learner(byte_model()).read(["hello"], "ada"), r"list of \(role, text\), but it holds 'hello'"),
    "no text": (lambda: Learner(byte_model()).read(3, "ada"), "got int where a text is needed"),
    "empty talk": (lambda: Learner(byte_model()).read([("user", "")], "ada"), "for user 'ada' is empty"),
    "skip of tokens": (lambda: Learner(byte_model()).read(Tokens(IDS[0], SKIP[0, 1:]), "ada"), "one truth value"),
    "skip of read": (lambda: run(byte_model(), skip=SKIP[:, 1:]), r"skip is torch.bool of shape \(1, 41\)"),
    "skip of a chunk": (
        lambda: learn_chunk(byte_model(), IDS, byte_model().initial_state(1), skip=SKIP.long()),
        "skip is torch.int64",
    ),
}


@pytest.mark.parametrize("call, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_conversation_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_role_that_nobody_named_is_refused_before_anything_is_learned():
    """A misspelt "user" would be read as context, and the user would never know why nothing was learned."""
    learner = Learner(byte_model())
    for talk in ([("usr", "my dog is rex.")], [*TALK, ("npc", "who goes there?")]):
        role = talk[-1][0]
        with pytest.raises(
            ValueError, match=rf"role '{role}' is unknown, the roles here are .*, user; correct it, name"
        ) as e:
            learner.read(talk, "ada")
        assert "\n" not in str(e.value) and not learner.knows("ada")
    talk = [*TALK, ("npc", "who goes there?")]
    learner.read(talk, "ada", learn_from={"npc"})
    learner.read(talk, "bob", context={"npc", "user", "assistant"}, learn_from=())
    fresh = byte_model().initial_state(1).memory["blocks.0.mlp"]["slow.up"]
    assert not torch.equal(learner.state("ada").memory["blocks.0.mlp"]["slow.up"], fresh)
    assert torch.equal(learner.state("bob").memory["blocks.0.mlp"]["slow.up"], fresh)
    assert learner.score(talk, "ada").bits.shape == learner.score("".join(w for _, w in talk), "ada").bits.shape


def test_roles_that_are_one_text_are_refused():
    """Letters of a word would be looked for as roles: "use" is in "user"."""
    with pytest.raises(ValueError, match=r"learn_from 'user' is one text; give a set of roles, such as \{'user'\}"):
        Learner(byte_model()).read(TALK, "ada", learn_from="user")
