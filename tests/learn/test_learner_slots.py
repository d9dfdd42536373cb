"""A learner with slots: `memorize` by hand, a part of the user's state, and nothing that the levels would notice."""

import math
from dataclasses import replace

import pytest
import torch

import everlearn
from everlearn.learn import GuardEvent, Learner, Tokens
from everlearn.learn.slots import look_up, memorize
from everlearn.levels import Level
from everlearn.memory import SlotMemory, without_slots
from everlearn.memory.in_state import SLOTS, numbers_of, read_documents, slots_of
from everlearn.models.hub import load_base
from everlearn.models.text import encode
from tests import tiny
from tests.learn.words import Words
from tests.pretrained import pretrained
from tests.tiny import CHUNK, assert_close, byte_model, fingerprint

MEMORY = SlotMemory(gate=0.9, newer=0.0, key_dtype=torch.float64)
FROZEN = (Level("fast", CHUNK, 0.0),)
TEXT, OTHER = tiny.TEXT[:24], b"0123456789 0123"
TALK = [("user", "my dog is rex. "), ("assistant", "a fine name for a dog! "), ("user", "he likes the sea.")]


def with_slots(model, store=None, memory: SlotMemory = MEMORY) -> Learner:
    return everlearn.Learner(model, store, slots=memory)


def text_of(learner: Learner, user: str = "ada") -> dict[str, bytes]:
    """Return what the slots hold of each document."""
    state = learner.state(user)
    own = MEMORY.contents(slots_of(state))[0]
    return {each.name: bytes(own.get(each.start, [])) for each in read_documents(state)}


def equal(a, b) -> None:
    assert sorted(a) == sorted(b)
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
def test_it_is_memorize_by_hand(name):
    """With levels that do not move: the scores, the slots, and what is then looked up, over two documents."""
    model = byte_model(name, levels=FROZEN)
    learner = with_slots(model)
    fresh = model.initial_state(1).detach()
    slots, number = MEMORY.initial_state(1, model.config.dim), 0
    for text in (TEXT, TEXT[:10] + OTHER):
        ids = encode(text)[None]
        score = learner.read(text, "ada")
        nll, slots, _ = memorize(model, MEMORY, slots, ids, fresh, document=number, chunk_size=CHUNK)
        torch.testing.assert_close(score.bits, nll[0] / math.log(2), atol=1e-10, rtol=0, equal_nan=True)
        equal(slots_of(learner.state("ada")).to_tensors(), slots.to_tensors())
        number += len(text) - 1
    with torch.no_grad():
        logits, _ = look_up(model, MEMORY, slots, encode(OTHER)[None])
    expected = -torch.log_softmax(logits[0, :-1], -1).gather(-1, encode(OTHER)[1:, None])[:, 0] / math.log(2)
    torch.testing.assert_close(learner.score(OTHER, "ada").bits[1:], expected, atol=1e-10, rtol=0)
    # greedy generation is the argmax of the mixture, token by token
    ids = encode(TEXT[:9])[None]
    for _ in range(6):
        with torch.no_grad():
            logits, _ = look_up(model, MEMORY, slots, ids)
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    new = learner.generate(TEXT[:9], "ada", max_new_tokens=6)
    assert new == bytes(ids[0, 9:].tolist()).decode(errors="replace")
    assert new != learner.generate(TEXT[:9], max_new_tokens=6)


@pytest.mark.parametrize("name, end", [("delta_net", "open"), ("delta_net", "drop"), ("transformer++", "flush")])
def test_the_levels_learn_what_they_learn_without_slots_bit_for_bit(name, end):
    model = byte_model(name)
    kept, plain = with_slots(model), Learner(model)
    for each in (kept, plain):
        steps = each.read(TEXT, "ada").steps
        more = each.read(TALK, "ada", end=end)
    a, b = without_slots(kept.state("ada")), plain.state("ada")
    assert steps and more.steps
    for layer, own in b.memory.items():
        assert all(torch.equal(tensor, a.memory[layer][leaf]) for leaf, tensor in own.items()), layer
    assert torch.equal(a.tokens_seen, b.tokens_seen)


@pytest.mark.parametrize("name, cut", [*(("delta_net", cut) for cut in (1, 4, 5, 7, 8)), ("transformer++", 6)])
def test_save_load_and_continue_is_never_having_stopped(name, cut, tmp_path):
    """At every offset over two chunks, bit for bit, the keys' tail and the unfinished chunk too."""
    model = byte_model(name)
    kept, stopped = with_slots(model), with_slots(model, tmp_path)
    for learner in (kept, stopped):
        learner.read(TEXT[:cut], "ada", name="cats", end="open")
    again = with_slots(model, tmp_path)
    bits = [learner.read(TEXT[cut:], "ada").bits for learner in (kept, again)]
    assert torch.equal(bits[0], bits[1])
    assert fingerprint(kept.state("ada")) == fingerprint(again.state("ada"))
    whole = with_slots(model)
    torch.testing.assert_close(whole.read(TEXT, "ada", name="cats").bits[cut:], bits[1], atol=1e-10, rtol=0)
    assert_close(whole.state("ada"), again.state("ada"))
    assert text_of(again) == {"cats": TEXT[1:]}


def test_users_in_one_batch_keep_slots_as_if_each_were_alone():
    """Texts of different lengths, one document open, and a second batch with what the first has left."""
    model = byte_model()
    together = with_slots(model)
    together.read(TEXT[:7], "ada", name="cats", end="open")
    texts, follow = {"ada": TEXT[7:], "bob": OTHER, "eve": b"xy"}, {"ada": OTHER, "bob": TEXT, "eve": TEXT}
    for batch in (texts, follow):
        together.read(batch, name="cats")
    for user, text in texts.items():
        alone = with_slots(model)
        alone.read((TEXT[:7] if user == "ada" else b"") + text, user, name="cats")
        alone.read(follow[user], user, name="cats")
        assert_close(together.state(user), alone.state(user))


def test_what_is_not_to_be_learned_is_not_kept():
    learner = with_slots(byte_model())
    learner.read(TALK, "ada", name="talk")
    assert text_of(learner) == {"talk": b"y dog is rex. he likes the sea."}  # nothing predicts the first letter
    ids = encode(TEXT)
    learner.read(Tokens(ids, torch.arange(len(ids)) >= 8), "bob", name="tokens")
    assert text_of(learner, "bob") == {"tokens": TEXT[1:8]}
    learner.read(TALK, "eve", learn_from=())
    assert text_of(learner, "eve") == {}


def test_an_unfinished_chunk_is_kept_when_it_is_learned_from_and_not_when_it_is_dropped():
    for end, left in (("flush", TEXT[1:10]), ("drop", TEXT[1:9]), ("open", TEXT[1:9])):
        learner = with_slots(byte_model())
        learner.read(TEXT[:10], "ada", name="cats", end=end)
        assert text_of(learner) == {"cats": left}, end
    learner.close("ada")
    assert text_of(learner) == {"cats": TEXT[1:9]} and not learner.state("ada").context


def test_slots_go_back_with_the_state_they_are_part_of():
    learner = with_slots(byte_model())
    learner.read(TEXT, "ada", name="cats")
    snapshot = learner.state("ada")
    learner.read(OTHER, "ada", name="numbers")
    assert set(text_of(learner)) == {"cats", "numbers"}
    learner.restore("ada", snapshot)
    assert fingerprint(learner.state("ada")) == fingerprint(snapshot)
    learner.read(OTHER, "ada", name="numbers")
    learner.restore("ada", snapshot, level="slow")
    assert set(text_of(learner)) == {"cats", "numbers"}  # one level is not the slots
    learner.restore("ada", without_slots(snapshot))  # one that was taken before slots were asked for
    learner.read(OTHER, "ada", name="numbers")
    assert set(text_of(learner)) == {"numbers"}


def test_forgetting_a_document_takes_its_slots_and_leaves_the_levels(tmp_path):
    learner = with_slots(byte_model(), tmp_path)
    for name, text in (("cats", TEXT), ("numbers", OTHER), ("cats", TEXT[5:20])):
        learner.read(text, "ada", name=name)
    before = without_slots(learner.state("ada"))
    assert [(d.name, d.slots, d.nbytes, d.versions) for d in learner.documents("ada")] == [
        ("cats", len(TEXT) - 1 + 14, 0, 0),
        ("numbers", len(OTHER) - 1, 0, 0),
    ]
    assert learner.forget_document("ada", "cats") and not learner.forget_document("ada", "cats")
    again = with_slots(learner.model, tmp_path)
    assert text_of(again) == text_of(learner) == {"numbers": OTHER[1:]}
    assert fingerprint(without_slots(again.state("ada"))) == fingerprint(before)
    learner.read(TEXT, "ada", name="open", end="open")
    assert learner.forget_document("ada", "open") and learner.position("ada") == 0
    assert set(text_of(learner)) == {"numbers"}
    assert not learner.forget_document("nobody", "numbers") and not learner.knows("nobody")


@pytest.mark.parametrize("period", [4 * CHUNK, "document"])
def test_forgetting_the_open_document_teaches_nothing_of_it(period):
    level = Level("fast", period, 0.3, finish=None if period == "document" else "document")
    learner = with_slots(byte_model(levels=[level]))
    before = learner.state("ada").memory
    learner.read(TEXT[: 2 * CHUNK + 2], "ada", name="secret", end="open")
    collected = {name for name, own in learner.state("ada").memory.items() if own.get("fast.tokens")}
    assert collected and learner.forget_document("ada", "secret")
    for name in collected:
        equal(learner.state("ada").memory[name], before[name])


def test_turns_of_one_conversation_are_one_document():
    learner = with_slots(byte_model())
    for words in ("my dog is rex", "he likes the sea"):
        learner.read(words, "ada", name="talk", event="turn")
    learner.read(TEXT, "ada", name="cats")
    assert text_of(learner) == {"talk": b"y dog is rexe likes the sea", "cats": TEXT[1:]}
    assert [each.start for each in read_documents(learner.state("ada"))] == [0, 27]
    learner.read("more", "ada", name="next talk", event="turn")
    learner.read("again", "ada", name="last talk", event="turn")
    assert set(text_of(learner)) == {"talk", "cats", "next talk", "last talk"}


def test_a_memory_from_before_slots_were_asked_for_gets_empty_ones(tmp_path):
    model = byte_model()
    everlearn.Learner(model, tmp_path).read(TEXT, "ada")
    learner = with_slots(model, tmp_path)
    assert learner.documents("ada") == []
    learner.read(OTHER, "ada", name="numbers")
    with pytest.raises(ValueError, match=r"holds slots, which this learner does not read; give it slots="):
        everlearn.Learner(model, tmp_path).state("ada")
    with pytest.raises(ValueError, match=r"span 3, fade 0.7 and a vocabulary of 256, here these are 2, 0.7, 256"):
        with_slots(model, tmp_path, SlotMemory(span=2, key_dtype=torch.float64)).state("ada")
    with pytest.raises(ValueError, match=r"slots/keys is torch.float64 .* torch.float16"):
        with_slots(model, tmp_path, SlotMemory()).state("ada")


def test_a_guard_judges_the_levels_and_leaves_the_slots():
    model = byte_model()
    fresh = model.initial_state(1).detach()

    def rolled_back(before, after):
        assert SLOTS not in before.memory and SLOTS not in after.memory
        kept = replace(before, context={}, tokens_seen=after.tokens_seen)
        return kept, GuardEvent("rolled back", 1.0, 0.0, 0.0)

    learner = everlearn.Learner(model, slots=MEMORY, guard=rolled_back)
    assert learner.read(TEXT, "ada", name="cats").event.action == "rolled back"
    assert_close(without_slots(learner.state("ada")), replace(fresh, tokens_seen=torch.tensor([len(TEXT) - 1])))
    assert text_of(learner) == {"cats": TEXT[1:]}


def test_slots_are_bounded_and_count_as_bytes():
    memory = SlotMemory(capacity=10, key_dtype=torch.float64)
    learner = everlearn.Learner(byte_model(), slots=memory)
    learner.read(TEXT, "ada", name="cats")
    state = learner.state("ada")
    assert int(slots_of(state).count()) == 10
    own = sum(tensor.numel() * tensor.element_size() for tensor in state.memory[SLOTS].values())
    assert state.nbytes() - without_slots(state).nbytes() == own > 10 * (8 * 8 + 13)


def test_a_model_that_does_not_show_its_inside_is_refused():
    with pytest.raises(ValueError, match=r"a Words does not show what it made .* leave slots out") as error:
        Learner(Words(), slots=MEMORY)
    assert "\n" not in str(error.value)
    assert Learner(Words()).read(TEXT, "ada").steps


def test_a_stacked_model_whose_last_mlp_is_not_known_is_refused(tmp_path):
    base, tokenizer = load_base(pretrained(tmp_path))
    model = everlearn.stack_levels(base, tokenizer, weights=["*.down_proj"])
    with pytest.raises(ValueError, match=r"stacked by patterns alone, so its last MLP is not known; give stack_levels"):
        Learner(model, slots=MEMORY)
    known = everlearn.stack_levels(model.unstack(), tokenizer, chunk_size=16)
    learner = Learner(known, slots=SlotMemory())
    learner.read(TEXT, "ada", name="cats")
    tokens = known.encode(TEXT).tolist()  # what opens a text is no part of it, and predicts its first token
    assert SlotMemory.contents(slots_of(learner.state("ada"))) == [{0: tokens}]
    assert learner.score(TEXT, "ada").bits_per_byte < learner.score(TEXT).bits_per_byte / 2


def test_a_document_must_be_open_to_be_memorized():
    """The number of a document is where it begins; the learner opens one for every text."""
    learner = with_slots(byte_model())
    learner.read(TEXT, "ada", end="open")
    assert numbers_of(learner.state("ada")).tolist() == [0]
    assert [each.name for each in read_documents(learner.state("ada"))] == ["document at 0"]
