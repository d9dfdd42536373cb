"""The learner: each user alone, whoever sits beside; stopping anywhere costs the chunk in flight and nothing else."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import everlearn
from everlearn.learn import Learner, read
from everlearn.learn.generation import pick
from everlearn.levels import Level
from everlearn.models import PRESETS, Decoder
from everlearn.models.text import encode
from tests.tiny import CHUNK, LEVELS, STATES, TEXT, assert_close, byte_model, fingerprint

OTHER = b"0123456789 abcdefg"


def bits_of(model: Decoder, data: bytes) -> torch.Tensor:
    """Return the cost in bits of every byte after the first, by one full pass."""
    ids = encode(data)
    logits, _ = model(ids[None, :-1])
    return F.cross_entropy(logits[0], ids[1:], reduction="none").detach() / math.log(2)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", PRESETS)
def test_a_score_is_the_negative_log_likelihood_in_bits(name):
    model = byte_model(name)
    score = Learner(model).score(TEXT)
    assert math.isnan(score.bits[0])
    close(score.bits[1:], bits_of(model, TEXT))
    assert score.bits_per_byte == pytest.approx(float(bits_of(model, TEXT).mean()), abs=1e-12)
    assert score.steps == {}


@pytest.mark.parametrize("end", ["open", "drop", "flush"])
def test_reading_in_pieces_is_reading_at_once(end):
    """`stream` cuts a text so that each piece closes one chunk; the rows of one `read` know nothing of pieces."""
    model = byte_model()
    learner = Learner(model)
    score = learner.read(TEXT, user="ada", end=end)
    report, state = read(model, encode(TEXT)[None], model.initial_state(1).detach(), chunk_size=CHUNK, end=end)
    close(score.bits, report.nll[0] / math.log(2))
    assert score.steps == {name: int(steps[0]) for name, steps in report.steps.items()}
    if end != "open":
        state, _ = model.tick(state, "document")
    assert_close(learner.state("ada"), state)


def test_each_piece_closes_one_chunk_and_is_committed_before_it_is_shown(tmp_path):
    """42 bytes in chunks of 4: five bytes close the first chunk, four each of the others, one is left."""
    learner = everlearn.Learner(byte_model(), tmp_path)
    sizes, steps = [], []
    for scores in learner.stream({"ada": TEXT}, end="open"):
        sizes.append(len(scores["ada"].bits))
        steps.append(scores["ada"].steps)
        stored = learner.store.load("ada")
        assert stored is not None
        assert fingerprint(stored[0]) == fingerprint(learner.state("ada"))
        assert learner.position("ada") == sum(sizes)
    assert sizes == [5, *[4] * 9, 1]
    assert steps[:2] == [{"fast": 1}, {"fast": 1, "slow": 1}]
    assert steps[-1] == {}


# a document's end is the same code for every state: each has one of the three, and one preset has all
ENDS = {name: ("open", "drop", "flush")[n % 3] for n, name in enumerate(STATES)}
EVERY_END = [(name, end) for name in ("delta_net",) for end in ("open", "drop", "flush")]


@pytest.mark.parametrize(("name", "end"), sorted({*ENDS.items(), *EVERY_END}))
def test_users_in_one_batch_learn_as_if_each_were_alone(name, end):
    """Three users whose documents stand at different places, with texts of different lengths."""
    model = byte_model(name)
    opened = {"ada": TEXT[:11], "bob": OTHER[:2], "eve": b""}
    texts = {"ada": TEXT[11:17], "bob": OTHER[2:], "eve": TEXT[20:21]}
    together, follow = Learner(model), {"ada": b"and then", "bob": b"the end of it", "eve": b"one more"}
    for user, start in opened.items():
        if start:
            together.read(start, user=user, end="open")
    scores = together.read(texts, end=end)
    later = together.read(follow)
    for user, start in opened.items():
        alone = Learner(model)
        if start:
            alone.read(start, user=user, end="open")
        own = alone.read(texts[user], user=user, end=end)
        close(scores[user].bits, own.bits)
        assert scores[user].steps == own.steps
        close(later[user].bits, alone.read(follow[user], user=user).bits)
        assert_close(together.state(user), alone.state(user))


@pytest.mark.parametrize("name", STATES)
def test_another_content_of_the_other_user_changes_no_bit(name):
    model = byte_model(name)
    states, bits = [], []
    text = TEXT[:22]
    for other in (text[::-1], text[5:] + text[:5]):
        learner = Learner(model)
        bits.append(learner.read({"ada": text, "bob": other})["ada"].bits)
        states.append(fingerprint(learner.state("ada")))
    assert torch.equal(bits[0][1:], bits[1][1:])
    assert states[0] == states[1]


def test_scoring_and_generating_change_nothing(tmp_path):
    learner = everlearn.Learner(byte_model(), tmp_path)
    learner.read(TEXT[:15], user="ada", end="open")
    before, files = fingerprint(learner.state("ada")), [p.read_bytes() for p in tmp_path.iterdir()]
    first = learner.score(OTHER, user="ada").bits
    learner.generate("the", user="ada", max_new_tokens=3)
    learner.generate("the", user="nobody", temperature=1.0, max_new_tokens=3)
    assert torch.equal(learner.score(OTHER, user="ada").bits, first)
    assert fingerprint(learner.state("ada")) == before
    assert [p.read_bytes() for p in tmp_path.iterdir()] == files
    assert learner.known_users() == ["ada"]


# one model is cut at every offset over two chunks; the others where one has not closed and where one just has
CUTS = [("delta_net", cut) for cut in range(1, 2 * CHUNK + 2)]
CUTS += [(name, cut) for name in STATES if name != "delta_net" for cut in (2, CHUNK + 1)]


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_save_load_and_continue_is_never_having_stopped(name, cut, tmp_path):
    """At every offset over two chunks, bit for bit for the same calls, and 1e-10 for one call."""
    model, text = byte_model(name), TEXT[:20]
    kept, stopped = Learner(model), everlearn.Learner(model, tmp_path)
    for learner in (kept, stopped):
        learner.read(text[:cut], user="ada", end="open")
    again = everlearn.Learner(model, tmp_path)
    assert again.position("ada") == cut
    bits = [learner.read(text[cut:], user="ada").bits for learner in (kept, again)]
    assert torch.equal(bits[0], bits[1])
    assert fingerprint(kept.state("ada")) == fingerprint(again.state("ada"))
    whole = Learner(model)
    close(whole.read(text, user="ada").bits[cut:], bits[1])
    assert_close(whole.state("ada"), again.state("ada"))


@pytest.mark.parametrize("pieces", [1, 2, 5, 10])
def test_a_new_process_goes_on_after_any_piece_bit_for_bit(pieces, tmp_path):
    """Stopped inside the next piece, before its commit: what that piece had computed is lost and computed again."""
    model = byte_model()
    whole = everlearn.Learner(model, tmp_path / "whole")
    bits = torch.cat([scores["ada"].bits for scores in whole.stream({"ada": TEXT})])

    def stop(scores):
        seen.append(scores)
        if len(seen) > pieces:
            raise KeyboardInterrupt
        return {}

    seen: list = []
    with pytest.raises(KeyboardInterrupt):
        list(everlearn.Learner(model, tmp_path / "cut").stream({"ada": TEXT}, note=stop))
    again = everlearn.Learner(model, tmp_path / "cut")
    at = again.position("ada")
    assert at == 4 * pieces + 1
    rest = torch.cat([scores["ada"].bits for scores in again.stream({"ada": TEXT[at:]})])
    assert torch.equal(rest, bits[at:])
    assert fingerprint(again.state("ada")) == fingerprint(whole.state("ada"))


def test_an_open_document_goes_on_and_its_first_byte_is_predicted():
    learner, whole = Learner(byte_model()), Learner(byte_model())
    first = learner.read(TEXT[:10], user="ada", end="open")
    assert learner.position("ada") == 10
    second = learner.read(TEXT[10:], user="ada")
    expected = whole.read(TEXT, user="ada")
    close(torch.cat([first.bits, second.bits]), expected.bits)
    assert {n: first.steps.get(n, 0) + second.steps[n] for n in expected.steps} == expected.steps
    assert learner.position("ada") == 0


def test_a_score_beside_an_open_document_is_that_of_its_next_bytes():
    """The memory of the closed chunks, the context and the bytes of the unfinished one all count."""
    model = byte_model(levels=[Level("fast", CHUNK, 0.0)])  # nothing moves, so a full pass is the answer
    learner = Learner(model)
    learner.read(TEXT[:10], user="ada", end="open")
    close(learner.score(TEXT[10:20], user="ada").bits, bits_of(model, TEXT[:20])[9:])
    assert math.isnan(learner.score(TEXT[10:20]).bits[0])


@pytest.mark.parametrize("name", STATES)
def test_generating_is_the_argmax_of_a_full_pass(name):
    model = byte_model(name)
    learner = Learner(model)
    learner.read(TEXT[:10], user="ada", end="open")
    for user, before in ((None, b""), ("ada", TEXT[8:10])):
        # ada's closed chunks are in her state, her two waiting bytes come before the prompt
        state = None if user is None else learner.state(user)
        ids = encode(before + b"the c")[None]
        for _ in range(5):
            logits, _ = model(ids, state)
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
        expected = bytes(ids[0, -5:].tolist()).decode(errors="replace")
        assert learner.generate("the c", user=user, max_new_tokens=5) == expected


def test_sampling_follows_the_shares_and_its_seed():
    """Logits 0 and ln 3 are shares of 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10."""
    logits = torch.tensor([[0.0, math.log(3)]]).expand(4000, 2)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        drawn = pick(logits, temperature, torch.Generator().manual_seed(0)).double().mean()
        # four standard deviations of 4,000 draws
        assert abs(float(drawn) - share) < 4 * math.sqrt(share * (1 - share) / 4000)
    assert pick(logits, 0.0, torch.Generator()).unique().tolist() == [1]
    learner = Learner(byte_model())
    texts = [learner.generate("x", temperature=1.0, seed=seed, max_new_tokens=12) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_a_user_is_rolled_back_whole_or_by_one_level(tmp_path):
    model = byte_model(levels=[Level("fast", CHUNK, 0.3), Level("slow", 2 * CHUNK, 0.3)])
    learner = everlearn.Learner(model, tmp_path)
    learner.read(TEXT[:20], user="ada", end="open")
    snapshot = learner.state("ada")
    for _ in learner.stream({"ada": TEXT[20:]}, end="open", note=lambda scores: {"pages": 3}):
        pass
    later = learner.state("ada")
    learner.restore("ada", snapshot, level="slow")
    rolled = everlearn.Learner(model, tmp_path).state("ada")
    for layer, tensors in rolled.memory.items():
        for leaf, tensor in tensors.items():
            origin = snapshot if leaf.startswith("slow.") else later
            assert torch.equal(tensor, origin.memory[layer][leaf]), leaf
        if layer.endswith("mlp"):
            assert not torch.equal(tensors["slow.up"], later.memory[layer]["slow.up"])
    learner.restore("ada", snapshot)
    again = everlearn.Learner(model, tmp_path)
    assert fingerprint(again.state("ada")) == fingerprint(snapshot)
    assert again.notes("ada") == {"pages": 3}


def test_a_named_event_moves_the_level_that_waits_for_it_and_one_user_only(tmp_path):
    model = byte_model(levels=[Level("fast", CHUNK, 0.3), Level("slow", "session", 0.3)])
    learner = everlearn.Learner(model, tmp_path)
    learner.read({"ada": TEXT, "bob": OTHER})
    start, bob = model.memories()["blocks.0.mlp"].mlps["slow"].up.weight, fingerprint(learner.state("bob"))
    assert torch.equal(learner.state("ada").memory["blocks.0.mlp"]["slow.up"][0], start)
    learner.tick("turn", "ada")
    assert torch.equal(learner.state("ada").memory["blocks.0.mlp"]["slow.up"][0], start)
    learner.tick("session", "ada")
    assert not torch.equal(everlearn.Learner(model, tmp_path).state("ada").memory["blocks.0.mlp"]["slow.up"][0], start)
    assert fingerprint(learner.state("bob")) == bob


def test_a_document_s_end_restarts_the_fast_level_and_keeps_the_slow_one():
    learner = Learner(byte_model())
    start = learner.state("ada").memory["blocks.0.mlp"]
    learner.read(TEXT, user="ada", end="open")
    opened = learner.state("ada").memory
    learner.close("ada")
    ended = learner.state("ada").memory
    for part in ("gate", "up", "down"):
        assert not torch.equal(opened["blocks.0.mlp"][f"fast.{part}"], start[f"fast.{part}"])
        assert torch.equal(ended["blocks.0.mlp"][f"fast.{part}"], start[f"fast.{part}"])
        assert torch.equal(ended["blocks.0.mlp"][f"slow.{part}"], opened["blocks.0.mlp"][f"slow.{part}"])
    assert not bool(ended["blocks.0.mixer"]["S"].any())


def test_closing_a_document_is_dropping_its_last_chunk():
    closed, dropped = Learner(byte_model()), Learner(byte_model())
    closed.read(TEXT[:15], user="ada", end="open")
    closed.close("ada", {"page": 1})
    dropped.read(TEXT[:15], user="ada", end="drop")
    assert fingerprint(closed.state("ada")) == fingerprint(dropped.state("ada"))
    assert closed.notes("ada") == {"page": 1}
    assert closed.position("ada") == 0


def test_notes_are_committed_with_their_piece_and_stay_without_new_ones(tmp_path):
    learner = everlearn.Learner(byte_model(), tmp_path)
    counter = itertools.count(1)
    for _ in learner.stream({"ada": TEXT[:13]}, end="open", note=lambda scores: {"piece": next(counter)}):
        again = everlearn.Learner(learner.model, tmp_path)
        assert again.notes("ada") == learner.notes("ada")
        assert again.position("ada") == 4 * again.notes("ada")["piece"] + 1
    learner.read(TEXT[13:], user="ada")
    assert everlearn.Learner(learner.model, tmp_path).notes("ada") == {"piece": 3}
    assert learner.notes("nobody") == {}


def test_a_commit_that_fails_leaves_what_was_visible(tmp_path, monkeypatch):
    """Durable first, visible after: with a full disk the learner still answers from the last commit."""
    learner = everlearn.Learner(byte_model(), tmp_path)
    learner.read(TEXT[:9], user="ada", end="open")
    before = fingerprint(learner.state("ada"))

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(learner.store, "save", full)
    with pytest.raises(OSError, match="no space"):
        learner.read(TEXT[9:], user="ada")
    assert fingerprint(learner.state("ada")) == before
    assert fingerprint(everlearn.Learner(learner.model, tmp_path).state("ada")) == before


def test_users_are_known_by_their_memories_here_and_in_the_store(tmp_path):
    learner = everlearn.Learner(byte_model(), tmp_path)
    assert learner.known_users() == []
    for user in ("bob", "ada"):
        learner.read(OTHER, user=user)
    assert learner.known_users() == everlearn.Learner(learner.model, tmp_path).known_users() == ["ada", "bob"]
    alone = Learner(learner.model)
    alone.read(OTHER, user="eve")
    assert alone.known_users() == ["eve"]


def test_one_name_in_two_spellings_is_one_user(tmp_path):
    """Composed and decomposed letters name one file, so they must name one memory in the process too."""
    composed, decomposed = "zo\u00eb", "zoe\u0308"
    learner, plain = everlearn.Learner(byte_model(), tmp_path), Learner(byte_model())
    for spelling in (composed, decomposed, composed):
        learner.read(OTHER, user=spelling)
        plain.read(OTHER, user="zoe")
    assert learner.known_users() == [composed]
    assert fingerprint(learner.state(decomposed)) == fingerprint(plain.state("zoe"))
    assert fingerprint(everlearn.Learner(learner.model, tmp_path).state(composed)) == fingerprint(plain.state("zoe"))
    with pytest.raises(ValueError, match="one user in several spellings"):
        learner.read({composed: "one", decomposed: "two"})


def test_what_cannot_be_read_is_refused_before_anything_is_learned():
    learner = Learner(byte_model())
    with pytest.raises(ValueError, match="the text for user 'bob' is empty"):
        learner.read({"ada": TEXT, "bob": ""})
    with pytest.raises(ValueError, match="the text is empty"):
        learner.score("")
    for wrong in ({"text": TEXT}, {"text": {"ada": TEXT}, "user": "ada"}):
        with pytest.raises(ValueError, match=r"give read\(text, user=NAME\)"):
            learner.read(**wrong)
    assert learner.known_users() == []


@pytest.mark.parametrize("levels", [(), LEVELS], ids=["mlp", "cms"])
def test_a_loss_that_is_not_finite_is_refused_and_what_was_committed_stays(levels, tmp_path):
    """Also without levels: nothing steps there, but the mixer's memory would carry the NaN for ever."""
    model = byte_model(levels=levels)
    learner = everlearn.Learner(model, tmp_path)
    learner.read(TEXT[:9], user="ada", end="open")
    before = fingerprint(learner.state("ada"))
    with torch.no_grad():
        model.embedding.weight[ord("~")] = math.nan
    with pytest.raises(ValueError, match="nothing was learned from it"):
        learner.read(TEXT[9:], user="ada")
    assert fingerprint(learner.state("ada")) == before
    stored = everlearn.Learner(byte_model(levels=levels), tmp_path)
    assert fingerprint(stored.state("ada")) == before
