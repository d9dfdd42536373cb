"""What would be read or learned as something else is refused in one line that says the repair, and changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.layers import CMS, Attention, DeltaMemory
from everlearn.learn import Learner, NotFiniteError, learn_chunk, read
from everlearn.levels import Level
from everlearn.memory.codec import digest, to_tensors
from everlearn.memory.state import LayerState
from everlearn.models import PRESETS, Decoder, preset

LEVELS = (Level("fast", 4, reset="document"), Level("slow", 8))
TEXT = "to be or not to be, that is the question"


def make(name: str = "delta_net", levels=LEVELS, **changes) -> Decoder:
    torch.manual_seed(0)
    sizes = {"dim": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "chunk_size": 4}
    return Decoder(preset(name, levels=levels, **{**sizes, **changes}))


MODEL, WIDE, ATTENTION = make(), make(dim=32), make("transformer++")
IDS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(2, 9, dtype=torch.bool)
FRESH = MODEL.initial_state(2).detach()
ONE, WIDER, OTHER = MODEL(IDS[:1])[1].detach(), WIDE(IDS)[1].detach(), ATTENTION(IDS)[1].detach()
DEEPER, SHALLOWER = (make(num_layers=n)(IDS)[1].detach() for n in (3, 1))
X = torch.zeros(2, 5, 16)
ALONE = CMS(16, 12, LEVELS, chunk_size=4)
ZEROS = [torch.zeros_like(w) for w in ALONE.weights(ALONE.initial_state(2)).values()]

TOKENS = {
    "mask too short": ({"mask": MASK[:, :5]}, r"shape \(2, 5\), but must be bool of shape \(2, 9\)"),
    "mask of fewer rows": ({"mask": MASK[:1]}, "must be bool of shape"),
    "mask of numbers": ({"mask": MASK.long()}, r"mask is torch\.int64"),
    "ids too large": ({"ids": IDS + 300}, "the vocabulary from 0 to 255"),
    "ids negative": ({"ids": IDS * 0 - 1}, "ids reach from -1 to -1"),
    "ids not whole": ({"ids": IDS.float()}, r"ids are torch\.float32"),
    "no row": ({"ids": IDS[:0], "state": FRESH.rows(torch.tensor([], dtype=torch.long))}, "hold no row; give at least"),
    "ids without rows": ({"ids": IDS[0]}, r"give token numbers \[B, T\]"),
    "state of fewer rows": ({"state": ONE}, "the state has 1 rows, ids have 2"),
    "state of a wider model": ({"state": WIDER}, "another model's"),
    "state of a deeper model": ({"state": DEEPER}, r"holds a (layer|memory) 'blocks\.2\.mixer' that this model lacks"),
    "state of a shallower model": (
        {"state": SHALLOWER},
        r"it holds nothing of 'blocks\.1\.mixer', but of other layers",
    ),
    "state of another preset": ({"state": OTHER}, "another model's"),
}


def forward(ids=IDS, state=FRESH, mask=None):
    return MODEL(ids, state, mask)


def reading(ids=IDS, state=FRESH, mask=None):
    return read(MODEL, ids, state, mask, chunk_size=4)


def chunk(ids=IDS, state=FRESH, mask=None):
    return learn_chunk(MODEL, ids, state, mask)


@pytest.mark.parametrize("function", [forward, reading, chunk])
@pytest.mark.parametrize(("arguments", "match"), TOKENS.values(), ids=TOKENS)
def test_tokens_masks_and_states_that_do_not_fit(function, arguments, match):
    with pytest.raises(ValueError, match=match):
        function(**arguments)


CALLS = {
    "delta state in attention": (lambda: ATTENTION(IDS, MODEL(IDS)[1]), "another model's"),
    "keys of a deeper model": (
        lambda: ATTENTION(IDS, make("transformer++", num_layers=3)(IDS)[1]),
        r"holds a layer 'blocks\.2\.mixer' that this model lacks",
    ),
    "keys of a shallower model": (
        lambda: ATTENTION(IDS, make("transformer++", num_layers=1)(IDS)[1]),
        r"it holds nothing of 'blocks\.1\.mixer', but of other layers of its kind",
    ),
    "levels of a part": (
        lambda: MODEL(IDS, replace(FRESH, memory={n: m for n, m in FRESH.memory.items() if n != "blocks.1.mlp"})),
        r"it holds nothing of 'blocks\.1\.mlp', but of other layers of its kind",
    ),
    "documents": (lambda: MODEL(IDS, document_ids=IDS[:, :3]), "number of its document for each token"),
    "event rows": (lambda: MODEL.tick(FRESH, "document", torch.tensor([0, 1])), "rows are"),
    "chunk_size 0": (lambda: read(MODEL, IDS, FRESH, chunk_size=0), "below 1"),
    "chunk_size 3": (lambda: read(MODEL, IDS, FRESH, chunk_size=3), "does not divide update_period 4"),
    "chunk_size 8": (lambda: read(MODEL, IDS, FRESH, chunk_size=8), "does not divide update_period 4"),
    "end": (lambda: read(MODEL, IDS, FRESH, chunk_size=4, end="stop"), "choose one of open, flush, drop"),
    "left padding": (lambda: learn_chunk(MODEL, IDS, FRESH, torch.arange(9).expand(2, 9) > 2), "to the left"),
    "small vocabulary": (lambda: Learner(make(vocab_size=11)), "vocab_size is 11"),
    "rows of a memory": (lambda: ALONE(X, ALONE.initial_state(1)), "has 1 rows, the input has 2"),
    "input of a memory": (lambda: ALONE(X[..., :5]), r"reads \[B, T, 16\]"),
    "size of a memory": (lambda: ALONE(X, CMS(16, 20, LEVELS, chunk_size=4).initial_state(2)), "another memory's"),
    "levels of a memory": (
        lambda: ALONE(X, CMS(16, 12, [Level("mid", 4)], chunk_size=4).initial_state(2)),
        "fast.gate is nothing",
    ),
    "write to nothing": (lambda: ALONE.write(LayerState()), "initial_state"),
    "weights of nothing": (lambda: ALONE.weights(LayerState()), "initial_state"),
    "counts": (lambda: ALONE.accumulate(ALONE.initial_state(2), ZEROS, torch.tensor([4])), "one count a row"),
    "gradients": (
        lambda: ALONE.accumulate(ALONE.initial_state(2), [z[:1] for z in ZEROS], torch.tensor([4, 4])),
        "one gradient",
    ),
    "rows of a mixer": (lambda: DeltaMemory(16, 2)(X, DeltaMemory(16, 2).initial_state(1)), "has 1 rows"),
    "heads": (lambda: Attention(16, 2)(X, Attention(16, 4)(X)[1]), r"\(4, 4\), this layer has"),
}


@pytest.mark.parametrize(("call", "match"), CALLS.values(), ids=CALLS)
def test_misuse_of_models_and_layers(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def bits(learner: Learner, user: str = "ada") -> str:
    return digest(to_tensors(learner.state(user)))


@pytest.fixture
def learner() -> Learner:
    learner = Learner(MODEL)
    learner.read(TEXT, user="ada")
    return learner


def snapshot(model: Decoder):
    learner = Learner(model)
    learner.read(TEXT, user="ada")
    return learner.state("ada")


LEARNER = {
    "no text": (lambda el: el.read({}), "no text was given"),
    "an empty text": (lambda el: el.read({"ada": TEXT, "bob": ""}), "text for user 'bob' is empty"),
    "no user": (lambda el: el.read(TEXT), "user=NAME"),
    "a user twice": (lambda el: el.read({"ada": TEXT}, user="ada"), "user=NAME"),
    "an empty name": (lambda el: el.read(TEXT, user=""), "user name"),
    "a number for a name": (lambda el: el.read({5: TEXT}), "user name"),
    "a number for a text": (lambda el: el.read(5, user="ada"), "str or bytes"),
    "half a surrogate pair": (lambda el: el.read("a\ud800", user="ada"), "not valid Unicode at character 1"),
    "an unknown end": (lambda el: el.read(TEXT, user="ada", end="stop"), "choose one of"),
    "a wider snapshot": (lambda el: el.restore("ada", snapshot(WIDE)), "snapshot does not fit this model"),
    "another preset's": (lambda el: el.restore("ada", snapshot(ATTENTION)), "snapshot does not fit this model"),
    "its level": (lambda el: el.restore("ada", snapshot(WIDE), level="fast"), "snapshot does not fit"),
    "two rows": (lambda el: el.restore("ada", FRESH), "has 2 rows, 1 needed"),
    "an unknown level": (lambda el: el.restore("ada", el.state("ada"), level="mid"), "no level 'mid'"),
    "not finite": (
        lambda el: el.restore("ada", el.state("ada").map(lambda t: t / 0 if t.is_floating_point() else t)),
        "NaN or inf",
    ),
    "no new text": (lambda el: el.generate("a", max_new_tokens=0), "give a number >= 1"),
    "a temperature below 0": (lambda el: el.generate("a", temperature=-1.0), "temperature -1.0"),
    "a temperature that is none": (lambda el: el.generate("a", temperature=math.nan), "temperature nan"),
}


@pytest.mark.parametrize(("call", "match"), LEARNER.values(), ids=LEARNER)
def test_a_refused_call_leaves_every_memory_as_it_was(learner, call, match):
    before = bits(learner)
    with pytest.raises(ValueError, match=match):
        call(learner)
    assert bits(learner) == before
    assert learner.known_users() == ["ada"]


def test_a_step_that_is_too_large_is_refused_or_stays_finite():
    """One byte 2,000 times with eta 1e6, and a step that overflows: every committed memory can be read again."""
    for eta in (1e6, 1e30, 3e38):
        learner = Learner(make(levels=[Level("fast", 4, eta), Level("slow", 8, eta)]))
        pieces = learner.stream({"ada": b"a" * 2_000})
        before = bits(learner)
        try:
            for _ in pieces:
                assert learner.state("ada").is_finite()
                before = bits(learner)
        except NotFiniteError as error:
            assert "nothing was learned" in str(error)
        assert bits(learner) == before


@pytest.mark.parametrize("levels", [LEVELS, ()], ids=["cms", "mlp"])
def test_nan_in_a_model_is_refused_half_way_and_what_was_committed_stays(levels):
    model = make(levels=levels)
    learner = Learner(model)
    pieces = learner.stream({"ada": TEXT}, end="open")
    next(pieces), next(pieces)
    before, score = bits(learner), learner.score(TEXT, "ada").bits
    with torch.no_grad():
        model.blocks[0].mixer_norm.weight.mul_(math.nan)
    with pytest.raises(NotFiniteError, match="nothing was learned"):
        next(pieces)
    assert bits(learner) == before
    assert learner.position("ada") == 9
    for call in (learner.score, learner.generate):
        with pytest.raises(
            NotFiniteError, match="the model predicts NaN, so it says nothing of this text; look for NaN in"
        ):
            call(TEXT, "ada")
    assert bits(learner) == before
    with torch.no_grad():
        model.blocks[0].mixer_norm.weight.fill_(1.0)
    assert torch.equal(learner.score(TEXT, "ada").bits, score)
    rest = learner.read(TEXT[9:], user="ada", end="open")
    whole = Learner(model).read(TEXT, user="ada", end="open")
    assert torch.equal(rest.bits, whole.bits[9:])


@pytest.mark.parametrize("name", PRESETS)
def test_no_token_reads_nothing_and_one_token_predicts_the_next(name):
    """Length 0 leaves a state as it was; length 1 gives the row's first logits, and a text of one byte has no cost."""
    model = make(name)
    _, state = model(IDS)
    logits, after = model(IDS[:, :0], state)
    assert logits.shape == (2, 0, 256)
    for layer, parts in state.memory.items():
        assert all(torch.equal(tensor, after.memory[layer][leaf]) for leaf, tensor in parts.items())
    assert torch.equal(after.tokens_seen, state.tokens_seen)
    torch.testing.assert_close(model(IDS[:, 8:], model(IDS[:, :8])[1])[0], model(IDS)[0][:, 8:], atol=1e-5, rtol=0)
    learner = Learner(model)
    before = bits(learner)
    assert math.isnan(learner.score("a").bits_per_byte), "nothing predicts the first byte"
    for call in (learner.score, learner.generate):
        with pytest.raises(ValueError, match="is empty; give at least one character"):
            call("")
    assert bits(learner) == before


# of each kind of state one: a matrix, what attention sees, both beside an MLP's, and memories that write themselves
@pytest.mark.parametrize("name", ["delta_net", "transformer++", "titans_mac", "hope"])
@settings(max_examples=7, deadline=None)
@given(data=st.data())
def test_users_who_take_turns_in_any_order_learn_as_if_alone(name, data):
    """Several users, each with texts of any length, read alone or together, closed or open: 1e-10 in float64."""
    model = make(name).double()
    texts = st.text("abc \n", min_size=1, max_size=13)
    end = st.sampled_from(["open", "flush", "drop"])
    users = st.sets(st.sampled_from(["ada", "bob", "eve"]), min_size=1)
    rounds = data.draw(
        st.lists(users.flatmap(lambda u: st.tuples(st.fixed_dictionaries(dict.fromkeys(u, texts)), end)), max_size=4)
    )
    together, alone = Learner(model), {name: Learner(model) for name in ("ada", "bob", "eve")}
    for pieces, how in rounds:
        scores = together.read(pieces, end=how)
        for user, text in pieces.items():
            own = alone[user].read(text, user=user, end=how)
            torch.testing.assert_close(scores[user].bits, own.bits, atol=1e-10, rtol=1e-10, equal_nan=True)
            assert {k: v for k, v in scores[user].steps.items() if v} == own.steps
        for user, own in alone.items():
            assert together.position(user) == own.position(user)
            one, other = together.state(user), own.state(user)
            for layer, tensors in other.memory.items():
                for leaf, tensor in tensors.items():
                    torch.testing.assert_close(one.memory[layer][leaf], tensor, atol=1e-10, rtol=1e-10)
