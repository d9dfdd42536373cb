"""A learner that archives: each document by itself, whatever came before, and a crash at any write changes nothing."""

import math
import os
from functools import partial

import pytest
import torch

import everlearn
from everlearn.learn import Archive, Learner, ProbeGuard, read
from everlearn.learn.route import BASE, LIVE
from everlearn.levels import Level
from everlearn.memory import SlotMemory, codec
from everlearn.models.text import encode
from tests.tiny import CHUNK, TEXT, byte_model, fingerprint

CATS, NUMBERS, MORE = TEXT[:22], b"1 2 3 4 5 6 7 8 9", b"cats are no dogs"
DOCUMENTS = {"cats": CATS, "numbers": NUMBERS}
SLOTS = SlotMemory(gate=0.9, newer=0.0, key_dtype=torch.float64)
WHOLE = partial(Archive, rank=99, bits=None)


def taught(model, text: bytes):
    """Return what a text teaches from the base on, before its end is declared."""
    start = model.initial_state(1).detach()
    return read(model, encode(text)[None], start, chunk_size=CHUNK, end="flush")[1]


def bits_of(archive: Archive) -> dict[str, str]:
    return {entry.name: codec.digest(entry.to_tensors()) for entry in archive.entries()}


def tree(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_all(learner: Learner, user: str = "ada") -> Learner:
    for name, text in DOCUMENTS.items():
        learner.read(text, user, name=name)
    return learner


@pytest.mark.parametrize("name", ["delta_net", "transformer++"])
def test_it_is_an_archive_by_hand(name):
    """Every document from the base on, kept before its end; the live state is the base, but for its counters."""
    model = byte_model(name)
    learner, by_hand = read_all(Learner(model, archive=WHOLE)), WHOLE(model)
    for document, text in DOCUMENTS.items():
        by_hand.keep(document, taught(model, text))
    own = learner.user_archive("ada")
    for document in DOCUMENTS:
        for layer in model.memories():
            for leaf, tensor in by_hand.state(document).memory[layer].items():
                assert torch.equal(tensor, own.state(document).memory[layer][leaf]), leaf
    live, fresh = learner.state("ada"), model.initial_state(1)
    assert all(torch.equal(t, fresh.memory[layer][n]) for layer, own in live.memory.items() for n, t in own.items())
    assert live.tokens_seen.tolist() == [len(CATS) + len(NUMBERS) - 2] and not live.context
    nll, routes = by_hand.score(encode(MORE), chunk_size=CHUNK)
    score = learner.score(MORE, "ada")
    torch.testing.assert_close(score.bits, nll / math.log(2), atol=1e-12, rtol=0, equal_nan=True)
    assert [route.choice for route in score.routes] == [route.choice for route in routes]
    assert sum(score.readers.values()) == len(routes) == math.ceil(len(MORE) / CHUNK) - 1
    assert learner.score(MORE).routes == ()


def test_texts_go_to_the_document_that_is_like_them():
    learner = Learner(byte_model(), archive=Archive)
    for name, text in DOCUMENTS.items():
        learner.read(text * 4, "ada", name=name)
    for name, text in (("cats", CATS[3:]), ("numbers", b"9 1 2 3 4 5 6")):
        assert learner.route(text, "ada").choice == name
        score = learner.score(text, "ada")
        assert next(iter(score.readers)) == name
        assert score.bits_per_byte < learner.score(text).bits_per_byte
        # generating is generating with that document's state
        alone = Learner(learner.model)
        alone.restore("eve", learner.user_archive("ada").state(name))
        new = learner.generate(text, "ada", max_new_tokens=8)
        assert new == alone.generate(text, "eve", max_new_tokens=8) != learner.generate(text, max_new_tokens=8)
        assert new == learner.generate(text, "ada", max_new_tokens=8, route=learner.route(text, "ada"))
    assert learner.route("x", "ada") is None  # nothing in it is predicted
    assert learner.route(CATS, "bob") is None  # nothing to choose from


def test_what_one_document_taught_does_not_depend_on_the_others():
    model = byte_model()
    one, other = Learner(model, archive=Archive), Learner(model, archive=Archive)
    read_all(one)
    other.read(MORE, "ada", name="more")
    other.read(NUMBERS, "ada", name="numbers")
    a, b = (learner.user_archive("ada").entry("numbers").packed.layers for learner in (one, other))
    assert codec.digest(_flat(a)) == codec.digest(_flat(b))


def _flat(layers) -> dict[str, torch.Tensor]:
    return {
        f"{layer}/{name}/{part}": value
        for layer, own in layers.items()
        for name, kept in own.items()
        for part, value in ({"whole": kept} if isinstance(kept, torch.Tensor) else vars(kept)).items()
    }


@pytest.mark.parametrize("cut", [1, CHUNK, CHUNK + 1, 13, 21])
def test_a_document_that_is_open_survives_and_is_kept_under_its_name(cut, tmp_path):
    """The name is given with its first piece; while it is open it is a candidate by itself."""
    model = byte_model()
    whole = Learner(model, archive=Archive)
    whole.read(CATS, "ada", name="cats")
    everlearn.Learner(model, tmp_path, archive=Archive).read(CATS[:cut], "ada", name="cats", end="open")
    again = everlearn.Learner(model, tmp_path, archive=Archive)
    assert again.documents("ada") == [] and again.position("ada") == cut
    if cut > CHUNK:
        score = again.score(CATS[cut : cut + 1], "ada")
        plain = Learner(model)
        plain.read(CATS[:cut], "ada", end="open")
        torch.testing.assert_close(score.bits, plain.score(CATS[cut : cut + 1], "ada").bits, atol=1e-10, rtol=0)
        assert LIVE in again.route(CATS[cut:], "ada").losses if cut < 21 else True
    again.read(CATS[cut:], "ada")
    assert [document.name for document in again.documents("ada")] == ["cats"]
    assert bits_of(again.user_archive("ada")).keys() == bits_of(whole.user_archive("ada")).keys()
    for layer in model.memories():
        ours, theirs = (each.user_archive("ada").state("cats").memory[layer] for each in (again, whole))
        for leaf, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[leaf], atol=1e-10, rtol=0)


def test_users_in_one_batch_have_archives_of_their_own(tmp_path):
    model = byte_model()
    together = everlearn.Learner(model, tmp_path, archive=WHOLE)
    together.read({"ada": CATS, "bob": NUMBERS}, name={"ada": "cats", "bob": "numbers"})
    for user, name, text in (("ada", "cats", CATS), ("bob", "numbers", NUMBERS)):
        alone = Learner(model, archive=WHOLE)
        alone.read(text, user, name=name)
        assert [document.name for document in together.documents(user)] == [name]
        for layer in model.memories():
            ours, theirs = (each.user_archive(user).state(name).memory[layer] for each in (together, alone))
            for leaf, tensor in ours.items():
                torch.testing.assert_close(tensor, theirs[leaf], atol=1e-10, rtol=0)
    before = tree(tmp_path)
    together.forget("ada")
    left = tree(tmp_path)
    assert len(before) == 4 and len(left) == 2 and all(before[path] == data for path, data in left.items())
    assert together.documents("ada") == [] and len(together.documents("bob")) == 1


def test_another_user_s_folder_of_documents_is_refused(tmp_path):
    model = byte_model()
    learner = everlearn.Learner(model, tmp_path, archive=Archive)
    learner.read(CATS, "ada", name="cats")
    learner.store.shelf("ada").folder.rename(learner.store.shelf("bob").folder)
    with pytest.raises(ValueError, match="does not belong to user 'bob'"):
        everlearn.Learner(model, tmp_path, archive=Archive).documents("bob")


def test_scoring_writes_nothing_and_makes_no_folder(tmp_path):
    learner = everlearn.Learner(byte_model(), tmp_path, archive=Archive)
    learner.score(CATS, "ada")
    learner.generate("the", "ada", max_new_tokens=2)
    assert tree(tmp_path) == {} and list(tmp_path.iterdir()) == []
    read_all(learner)
    before = tree(tmp_path)
    learner.score(CATS, "ada")
    learner.generate("the cat", "ada", max_new_tokens=2)
    assert tree(tmp_path) == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(n: int, when: str, patch) -> None:
    """Die before or after the n-th time that a file gets its new content."""
    replace, left = os.replace, n

    def dying(*arguments, **options):
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            raise Killed
        replace(*arguments, **options)
        if left == 0:
            raise Killed

    patch.setattr(os, "replace", dying)


@pytest.mark.parametrize(("when", "slots"), [("before", SLOTS), ("after", None)], ids=["both", "archive"])
def test_killed_at_any_write_and_read_again_is_never_having_stopped(when, slots, tmp_path, monkeypatch):
    """Documents of one piece and of several, one read twice; what was archived before the commit is archived once."""
    model = byte_model(num_layers=1)
    texts = [("cats", CATS[:6]), ("short", b"ab"), ("cats", NUMBERS[:6]), ("last", MORE[:5])]

    def run(folder) -> None:
        learner = everlearn.Learner(model, folder, archive=partial(Archive, capacity=2), slots=slots)
        for number in range(learner.notes("ada").get("done", 0), len(texts)):
            name, text = texts[number]
            at = learner.position("ada")
            left = len(text) - at

            def note(scores, number=number, text=text):
                nonlocal left
                left -= len(scores["ada"].bits)
                return {"done": number + (left == 0)}

            for _ in learner.stream({"ada": text[at:]}, name=name, note=note):
                pass

    run(tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    for n in range(1, 40):
        folder = tmp_path / f"{n}"
        with monkeypatch.context() as patch:
            kill_at(n, when, patch)
            try:
                run(folder)
            except Killed:
                pass
            else:
                assert n > 8
                return
        run(folder)
        assert tree(folder) == whole, n
    raise AssertionError("it was never read to its end")


def test_a_crash_between_two_users_of_a_batch_makes_no_version_of_what_is_read_again(monkeypatch, tmp_path):
    """Alone the second user's numbers differ by rounding from those of the batch, and it is the same reading."""
    model = byte_model()
    learner = everlearn.Learner(model, tmp_path, archive=Archive)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(3, "after", patch)  # both archives, then the first user's state
        learner.read({"ada": CATS[:5], "bob": NUMBERS[:5]}, name="note")
    again = everlearn.Learner(model, tmp_path, archive=Archive)
    assert again.known_users() == ["ada"]
    again.read(NUMBERS[:5], "bob", name="note")
    for user in ("ada", "bob"):
        assert [(d.name, d.versions) for d in again.documents(user)] == [("note", 1)]


def test_reading_again_keeps_a_version_and_rolling_back_returns_it_bit_for_bit(tmp_path):
    learner = read_all(everlearn.Learner(byte_model(), tmp_path, archive=Archive, slots=SLOTS))
    before, slots = bits_of(learner.user_archive("ada")), learner.documents("ada")
    learner.read(MORE, "ada", name="cats")
    assert [(d.name, d.versions) for d in learner.documents("ada")] == [("numbers", 1), ("cats", 2)]
    learner.roll_back_document("ada", "cats")
    assert bits_of(learner.user_archive("ada")) == before
    assert {d.name: d.slots for d in learner.documents("ada")} == {d.name: d.slots for d in slots}
    again = everlearn.Learner(learner.model, tmp_path, archive=Archive, slots=SLOTS)
    assert again.documents("ada") == learner.documents("ada")
    learner.roll_back_document("ada", "cats")
    assert [d.name for d in learner.documents("ada")] == ["numbers"]
    with pytest.raises(ValueError, match="'cats' is not archived"):
        learner.roll_back_document("ada", "cats")
    for text in (CATS, MORE):  # one right after the other
        learner.read(text, "ada", name="twice")
    learner.roll_back_document("ada", "twice")
    kept = next(d for d in learner.documents("ada") if d.name == "twice")
    assert (kept.versions, kept.slots) == (1, len(CATS) - 1)
    learner.read(CATS[:5], "ada", name="twice", end="open")
    reading = learner.state("ada")
    with pytest.raises(ValueError, match="'twice' of user 'ada' is being read"):
        learner.roll_back_document("ada", "twice")
    assert learner.state("ada") is reading
    with pytest.raises(ValueError, match="cannot be rolled back without an archive"):
        Learner(learner.model).roll_back_document("ada", "cats")


def test_forgetting_a_document_is_never_having_read_it(tmp_path):
    """But for the counters: the other's entry, its slots and what is predicted are the same."""
    model = byte_model()
    with_it = read_all(everlearn.Learner(model, tmp_path, archive=Archive, slots=SLOTS))
    without = Learner(model, archive=Archive, slots=SLOTS)
    without.read(NUMBERS, "ada", name="numbers")
    assert with_it.forget_document("ada", "cats") and not with_it.forget_document("ada", "cats")
    assert bits_of_layers(with_it) == bits_of_layers(without)
    a, b = (learner.score(MORE, "ada").bits for learner in (with_it, without))
    assert torch.equal(a[1:], b[1:])
    again = everlearn.Learner(model, tmp_path, archive=Archive, slots=SLOTS)
    assert again.documents("ada") == with_it.documents("ada")
    assert [d.name for d in again.documents("ada")] == ["numbers"]


def bits_of_layers(learner: Learner) -> dict[str, str]:
    return {e.name: codec.digest(_flat(e.packed.layers)) for e in learner.user_archive("ada").entries()}


def test_forgetting_the_open_document_returns_to_the_base():
    learner = Learner(byte_model(), archive=Archive, slots=SLOTS)
    learner.read(CATS[:10], "ada", name="cats", end="open")
    assert learner.forget_document("ada", "cats")
    assert learner.position("ada") == 0 and learner.documents("ada") == []
    assert learner.score(MORE, "ada").bits_per_byte == learner.score(MORE).bits_per_byte


def test_turns_stay_live_and_become_a_document_before_the_next_begins():
    """A turn ends no document: the live state goes on, is a candidate, and is kept under its name in the end."""
    model = byte_model()
    learner, plain = Learner(model, archive=WHOLE), Learner(model)
    for each in (learner, plain):
        each.read(CATS, "ada", name="talk", event="turn")
        each.read(MORE, "ada", event="turn")
    for layer, own in plain.state("ada").memory.items():
        assert all(torch.equal(tensor, learner.state("ada").memory[layer][leaf]) for leaf, tensor in own.items())
    assert learner.documents("ada") == [] and LIVE in learner.route(CATS, "ada").losses
    learner.read(NUMBERS, "ada", name="numbers")
    assert [document.name for document in learner.documents("ada")] == ["talk", "numbers"]
    by_hand = WHOLE(model)
    by_hand.keep("talk", plain.state("ada"))
    for layer in model.memories():
        ours, theirs = (each.state("talk").memory[layer] for each in (learner.user_archive("ada"), by_hand))
        assert all(torch.equal(tensor, theirs[leaf]) for leaf, tensor in ours.items())
    assert LIVE not in learner.route(CATS, "ada").losses
    learner.read(CATS, "ada", name="second talk", event="turn")
    learner.read(CATS, "ada", name="third talk", event="turn")
    learner.tick("document", "ada")
    assert [d.name for d in learner.documents("ada")][2:] == ["second talk", "third talk"]


def test_a_document_that_taught_nothing_leaves_no_entry():
    learner = Learner(byte_model(), archive=Archive)
    assert learner.read("ab", "ada", name="two").steps == {}
    assert learner.documents("ada") == []


def test_a_level_that_steps_at_the_document_s_end_has_stepped_before_it_is_kept():
    """By hand: three tokens of a period of four are a share of a step, and a level may wait for the event itself."""
    levels = [Level("fast", CHUNK, reset="document", finish="document"), Level("slow", "document")]
    model = byte_model(levels=levels)
    learner = Learner(model, archive=WHOLE)
    score = learner.read("abcd", "ada", name="short")
    assert score.steps == {"fast": 1, "slow": 1}
    state = taught(model, b"abcd")
    kept = learner.user_archive("ada").state("short")
    for layer, memory in model.memories().items():
        expected = memory.write(state.layer(layer), "document")[0].memory
        for leaf in ("fast.up", "slow.down"):
            torch.testing.assert_close(kept.memory[layer][leaf], expected[leaf], atol=1e-12, rtol=0)


def test_what_leaves_a_full_archive_is_said():
    learner = Learner(byte_model(), archive=partial(Archive, capacity=1))
    assert learner.read(CATS, "ada", name="cats").dropped == ()
    assert learner.read(NUMBERS, "ada", name="numbers").dropped == ("cats",)
    assert [document.name for document in learner.documents("ada")] == ["numbers"]


def test_texts_without_a_name_are_told_apart():
    learner = Learner(byte_model(), archive=Archive)
    for text in DOCUMENTS.values():
        learner.read(text, "ada")
    assert [document.name for document in learner.documents("ada")] == ["document at 0", f"document at {len(CATS) - 1}"]


def test_what_does_not_go_together_is_refused_before_anything_is_learned():
    model = byte_model()
    with pytest.raises(ValueError, match=r"a guard and an archive were both given; .* leave the guard out"):
        Learner(model, archive=Archive, guard=ProbeGuard(model, CATS))
    learner = Learner(model, archive=Archive)
    for name, words in (
        (BASE, "stands for the model as it was"),
        (LIVE, "stands for what is being read"),
        ("", "1 to"),
    ):
        with pytest.raises(ValueError, match=words):
            learner.read(CATS, "ada", name=name)
    assert not learner.knows("ada")


def test_a_learner_saved_whole_keeps_its_documents_and_how_it_keeps_them(tmp_path):
    slots = SlotMemory(capacity=30, span=2, key_dtype=torch.float64)
    learner = read_all(Learner(byte_model(), archive=partial(Archive, rank=3, capacity=5), slots=slots))
    everlearn.save(learner, tmp_path / "s")
    again = everlearn.load(tmp_path / "s")
    assert again.slots == slots
    assert again.documents("ada") == learner.documents("ada")
    assert fingerprint(again.state("ada")) == fingerprint(learner.state("ada"))
    assert torch.equal(again.score(MORE, "ada").bits[1:], learner.score(MORE, "ada").bits[1:])
    archive = again.user_archive("ada")
    assert (archive.rank, archive.bits, archive.capacity) == (3, 8, 5)
    for each in (again, learner):
        each.read(MORE, "ada", name="more")
    assert bits_of(archive) == bits_of(learner.user_archive("ada"))
    odd = Learner(byte_model(), archive=lambda model, shelf: Archive(model, shelf))
    with pytest.raises(ValueError, match="cannot be written down; use Archive, or"):
        everlearn.save(odd, tmp_path / "t")
