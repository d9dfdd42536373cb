"""A ledger of records: forgetting by id and by class, attribution, and two files that agree after any crash."""

import errno
import sqlite3

import pytest
import torch

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import HashedText, RawPixels
from everlearn.continual.ledger import Ledger, record_ids
from everlearn.memory import codec
from everlearn.memory.precision import PrecisionMemory, ridge

TEXTS = ["my money back", "refund the order", "it crashes", "a crash at start", "where is it", "not arrived"]
LABELS = ["billing", "billing", "bug", "bug", 7, 7]
KEPT = [0, 2, 3, 4, 5]


def learned(texts=TEXTS, labels=LABELS, ledger=None, **options):
    made = Classifier(HashedText(16), PrecisionMemory(16, **options), ledger=ledger)
    return made, made.learn(texts, labels)


def same(one, other):
    (a, a_meta), (b, b_meta) = one.memory.to_tensors(), other.memory.to_tensors()
    return a_meta == b_meta and all(torch.equal(a[name], b[name]) for name in a)


def only(rows):
    return learned([TEXTS[i] for i in rows], [LABELS[i] for i in rows])[0]


def test_an_id_is_a_hash_of_features_and_label():
    phi = torch.tensor([[0.5, -0.0], [0.5, 0.0], [0.5, 0.25]], dtype=torch.float64)
    same_record, zero, other = record_ids(phi, ["a", "a", "a"])
    assert same_record == zero != other and len(other) == 16
    assert record_ids(phi[:1], ["b"]) != [zero] != record_ids(phi[:1], [1]) != record_ids(phi[:1], ["1"])
    # with and without a ledger, and wherever it is learned
    assert learned()[1] == learned(TEXTS[::-1], LABELS[::-1])[1][::-1]


def test_learning_with_a_ledger_gives_the_same_ids_and_knowledge(tmp_path):
    made, ids = learned(ledger=tmp_path / "l")
    assert ids == learned()[1] and same(made, learned()[0])
    assert len(made.ledger) == 6 and made.ledger.counts == made.counts == {"billing": 2, "bug": 2, 7: 2}
    assert made.nbytes["ledger"] >= 6 * 16 * 4 and "ledger" not in learned()[0].nbytes


def test_forgotten_by_id_is_never_seen(tmp_path):
    made, ids = learned(ledger=tmp_path / "l")
    made.forget_records([ids[1]])
    assert same(made, only(KEPT)) and len(made.ledger) == 5
    with pytest.raises(ValueError, match=f"no record '{ids[1]}'"):
        made.forget_records([ids[1]])


def test_forgotten_class_is_never_seen(tmp_path):
    made, _ = learned(ledger=tmp_path / "l")
    assert made.forget_class(7) == 2
    assert same(made, only(range(4))) and made.labels == ("billing", "bug")


def test_the_same_record_twice_is_two_records(tmp_path):
    made, ids = learned(ledger=tmp_path / "l")
    assert made.learn([TEXTS[1]], [LABELS[1]]) == [ids[1]]
    made.forget_records([ids[1]])
    assert same(made, learned()[0])
    made.learn([TEXTS[1]], [LABELS[1]])
    made.forget_records([ids[1], ids[1]])
    assert same(made, only(KEPT))


def test_forgetting_by_text_takes_the_record_out_of_the_ledger_too(tmp_path):
    made, ids = learned(ledger=tmp_path / "l")
    made.forget([TEXTS[1]], ["billing"])
    assert same(made, only(KEPT)) and ids[1] not in made.ledger.of_class("billing")[0]
    with pytest.raises(ValueError, match="no such record of class 'billing'"):
        made.forget(["never seen"], ["billing"])
    assert same(made, only(KEPT)) and len(made.ledger) == 5


def test_an_encoder_that_is_not_exact_forgets_what_was_learned(tmp_path):
    """Read again, the item differs in the fourth digit: the ledger's own features are taken away."""
    made = Classifier(RawPixels(3), ledger=tmp_path / "l")
    made.learn(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), ["a", "b"])
    made.forget(torch.tensor([[1.0001, 2.0, 2.9999]]), ["a"])
    fresh = Classifier(RawPixels(3))
    fresh.learn(torch.tensor([[4.0, 5.0, 6.0]]), ["b"])
    assert same(made, fresh)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c, ids: c.forget_records(ids), r"needs a ledger.*ledger=PATH.*forget\(items, labels\)"),
        (lambda c, ids: c.forget_class("bug"), "forgetting a class needs a ledger"),
        (lambda c, ids: c.forget_records("abc"), "ids are one text"),
    ],
)
def test_what_needs_a_ledger_names_it(act, message):
    made, ids = learned()
    with pytest.raises(ValueError, match=message) as caught:
        act(made, ids)
    assert "\n" not in str(caught.value) and same(made, learned()[0])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c: c.forget_records(["0123456789abcdef"]), "no record '0123456789abcdef'"),
        (lambda c: c.forget_class("sales"), "class 'sales' is not known"),
        (lambda c: c.learn(["a"], [""]), "empty text"),
        (lambda c: c.learn(["a"], ["7"]), "as a number and as text"),
        (lambda c: c.merge(learned()[0]), "keeps no ledger"),
    ],
)
def test_bad_input_changes_neither_knowledge_nor_ledger(tmp_path, act, message):
    made, _ = learned(ledger=tmp_path / "l")
    before = made.ledger.checksum
    with pytest.raises(ValueError, match=message):
        act(made)
    assert same(made, learned()[0]) and made.ledger.checksum == before
    made.save(tmp_path / "c")
    assert Classifier.load(tmp_path / "c", ledger=tmp_path / "l").ledger.counts == made.counts


def test_one_bad_id_of_many_forgets_none(tmp_path):
    made, ids = learned(ledger=tmp_path / "l")
    with pytest.raises(ValueError, match="nothing was forgotten"):
        made.forget_records([ids[0], "0" * 16])
    assert same(made, learned()[0]) and len(made.ledger) == 6


def test_features_too_large_for_the_ledger_are_refused(tmp_path):
    made = Classifier(RawPixels(2), ledger=tmp_path / "l")
    with pytest.raises(ValueError, match="the ledger holds up to 32768"):
        made.learn(torch.tensor([[40_000.0, 0.0]]), ["a"])
    assert made.labels == () and len(made.ledger) == 0


def test_merge_takes_the_other_ledger_in(tmp_path):
    one, _ = learned(TEXTS[:3], LABELS[:3], tmp_path / "one")
    other, more = learned(TEXTS[3:], LABELS[3:], tmp_path / "other")
    one.merge(other)
    assert same(one, learned()[0]) and len(one.ledger) == 6
    one.forget_records([more[0]])
    assert same(one, only([0, 1, 2, 4, 5])) and len(other.ledger) == 3
    plain, _ = learned(TEXTS[:3], LABELS[:3])
    plain.merge(other)
    assert same(plain, learned()[0])


def saved(tmp_path):
    made, ids = learned(ledger=tmp_path / "l")
    made.save(tmp_path / "c")
    return made, ids


def test_state_and_ledger_come_back_and_go_on(tmp_path):
    _, ids = saved(tmp_path)
    back = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    back.forget_records([ids[1]])
    back.save(tmp_path / "c")
    again = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    assert same(again, only(KEPT)) and len(again.ledger) == 5


def test_without_its_ledger_a_state_answers_and_changes_nothing(tmp_path):
    made, _ = saved(tmp_path)
    alone = Classifier.load(tmp_path / "c")
    assert alone.predict(TEXTS) == made.predict(TEXTS)
    for act in (
        lambda: alone.learn(["a"], ["b"]),
        lambda: alone.forget(TEXTS[:1], LABELS[:1]),
        lambda: alone.save(tmp_path / "d"),
    ):
        with pytest.raises(ValueError, match=r"Classifier\.load\(path, ledger=\.\.\.\)"):
            act()


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["commit", "save_tensors", "settle"])
def test_a_crash_leaves_two_files_of_one_moment(tmp_path, monkeypatch, where):
    """Before the ledger is committed, before the state is written, and after: the old records, or the new ones."""
    _, ids = saved(tmp_path)
    made = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    made.forget_records([ids[0]])
    made.learn(["new"], ["new"])

    def killed(*arguments):
        raise Killed

    place = "everlearn.continual.classifier.save_tensors" if where == "save_tensors" else None
    with monkeypatch.context() as patch:
        patch.setattr(place, killed) if place else patch.setattr(Ledger, where, killed)
        with pytest.raises(Killed):
            made.save(tmp_path / "c")
    made.ledger.close()
    back = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    expected = learned()[0]
    if where == "settle":
        expected.forget(TEXTS[:1], LABELS[:1])
        expected.learn(["new"], ["new"])
    assert same(back, expected) and back.ledger.counts == expected.counts
    back.learn(["more"], ["more"])
    back.save(tmp_path / "c")
    assert Classifier.load(tmp_path / "c", ledger=tmp_path / "l").counts["more"] == 1


def stopped(made, path, monkeypatch, where):
    """Save, and fail at one place."""

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        if where == "settle":
            patch.setattr(Ledger, "settle", killed)
        else:
            patch.setattr("everlearn.continual.classifier.save_tensors", killed)
        with pytest.raises(Killed):
            made.save(path)


@pytest.mark.parametrize("where", [["save_tensors"] * 3, ["settle", "save_tensors"], ["settle", "settle"]])
def test_several_crashes_leave_two_files_of_one_moment(tmp_path, monkeypatch, where):
    """A full disk refuses a state several times; a process dies after a state, and the next before its own."""
    _, ids = saved(tmp_path)
    made = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    expected = [list(LABELS)]
    for number, place in enumerate(where):
        made.forget_records([ids[number]])
        made.learn(["new"], ["new"])
        expected.append([*expected[-1][1:], "new"])
        stopped(made, tmp_path / "c", monkeypatch, place)
        if place == "settle":
            made.ledger.close()
            made = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    made.ledger.close()
    back = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    wanted = expected[where.count("settle")]
    assert back.counts == back.ledger.counts == {label: wanted.count(label) for label in wanted}
    back.save(tmp_path / "c")
    assert Classifier.load(tmp_path / "c", ledger=tmp_path / "l").counts == back.counts


def test_what_is_forgotten_is_not_in_the_file_any_more(tmp_path):
    made = Classifier(RawPixels(8), ledger=tmp_path / "l")
    secret = torch.tensor([[0.1234567, 0.7654321, 0.5, 0.25, 0.333, 0.777, 0.111, 0.999]])
    (one,) = made.learn(secret, ["secret name"])
    made.learn(torch.ones(3, 8), ["a", "b", "a"])
    made.save(tmp_path / "c")
    grid = (secret.double() * 2**16).round().to(torch.int32).numpy().tobytes()
    assert grid in (tmp_path / "l").read_bytes()
    made.forget_records([one])
    made.save(tmp_path / "c")
    data = (tmp_path / "l").read_bytes()
    assert grid not in data and b"secret name" not in data and b"secret name" not in (tmp_path / "c").read_bytes()


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    saved(tmp_path)
    old = (tmp_path / "c").read_bytes()
    made = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    made.learn(["more"], ["more"])
    made.save(tmp_path / "c")
    (tmp_path / "old").write_bytes(old)
    with pytest.raises(ValueError, match="copied together"):
        Classifier.load(tmp_path / "old", ledger=tmp_path / "l")
    with pytest.raises(ValueError, match="holds 7 records, this classifier 0"):
        Classifier(HashedText(16), ledger=tmp_path / "l")
    with pytest.raises(ValueError, match="of format 1, dim 16"):
        Classifier(HashedText(8), ledger=tmp_path / "l")
    with pytest.raises(ValueError, match="is not there"):
        Classifier.load(tmp_path / "c", ledger=tmp_path / "none")
    learned()[0].save(tmp_path / "plain")
    with pytest.raises(ValueError, match="learned without a ledger"):
        Classifier.load(tmp_path / "plain", ledger=tmp_path / "l")
    (tmp_path / "x").write_text("no database, but some text that is long enough")
    with pytest.raises(ValueError, match="no whole ledger of records"):
        Classifier(HashedText(16), ledger=tmp_path / "x")
    with pytest.raises(OSError, match="cannot be opened"):
        Classifier(HashedText(16), ledger=tmp_path)
    with pytest.raises(ValueError, match="mkdir -p"):
        Classifier(HashedText(16), ledger=tmp_path / "no" / "l")
    with pytest.raises(ValueError, match="leave out one"):
        Classifier(HashedText(16), PrecisionMemory(16, half_life=5.0), ledger=tmp_path / "y")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE records SET features = zeroblob(64) WHERE row = 3", "do not fit their id"),
        ("UPDATE records SET features = zeroblob(60) WHERE row = 3", "features of another length"),
        ("UPDATE records SET label = '\"bux\"' WHERE row = 3", "do not fit their id|this classifier 6"),
        ("UPDATE records SET label = '\"bu' WHERE row = 3", "a cell that is no JSON"),
        ("UPDATE records SET id = 'xyz' WHERE row = 3", "an id is no number"),
        ("UPDATE about SET value = '\"' WHERE name = 'settled'", "a cell that is no JSON"),
        ("DROP TABLE records", "no such table"),
    ],
)
def test_a_damaged_ledger_is_refused_and_never_believed(tmp_path, damage, message):
    _, ids = saved(tmp_path)
    with sqlite3.connect(tmp_path / "l") as file:
        file.execute(damage)
    with pytest.raises(ValueError, match=message) as caught:
        back = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
        with pytest.raises(ValueError, match=message):
            back.explain([TEXTS[2]])
        with pytest.raises(ValueError, match=message):
            back.merge(back)
        assert same(back, learned()[0])
        back.forget_records([ids[2]])
    assert "\n" not in str(caught.value)


def test_pages_of_a_ledger_that_are_overwritten_are_refused(tmp_path):
    saved(tmp_path)
    data = bytearray((tmp_path / "l").read_bytes())
    for start in range(4_096, len(data), 4_096):
        data[start : start + 8] = b"\xff" * 8
    (tmp_path / "l").write_bytes(data)
    with pytest.raises(ValueError, match=r"no whole ledger of records \(database disk image is malformed\)"):
        Classifier.load(tmp_path / "c", ledger=tmp_path / "l")


def test_what_the_disk_refuses_has_the_number_that_the_system_gives_it(tmp_path):
    made, _ = saved(tmp_path)
    made.ledger._file.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OSError, match="full") as caught:
        made.learn([f"text {n}" for n in range(200)], ["more"] * 200)
    assert caught.value.errno == errno.ENOSPC and same(made, learned()[0])


def test_a_second_classifier_on_one_ledger_is_refused(tmp_path):
    """Both were loaded from one save; the second would drop from the state what the first has learned."""
    saved(tmp_path)
    first, second = (Classifier.load(tmp_path / "c", ledger=tmp_path / "l") for _ in range(2))
    first.learn(["one"], ["one"])
    first.save(tmp_path / "c")
    with pytest.raises(ValueError, match=r"is of save 2, it was opened at save 1.*load its state again"):
        second.learn(["two"], ["two"])
    with pytest.raises(ValueError, match=r"holds 7 records, this classifier 6"):
        second.save(tmp_path / "c")
    back = Classifier.load(tmp_path / "c", ledger=tmp_path / "l")
    assert back.counts == back.ledger.counts == first.counts and "two" not in second.labels


def test_a_ledger_that_lost_its_changes_is_not_saved_with_the_state(tmp_path):
    """SQLite rolls a transaction back by itself where the disk is full."""
    made, _ = saved(tmp_path)
    made.learn(["more"], ["more"])
    made.ledger._file.execute("ROLLBACK")
    with pytest.raises(ValueError, match="holds 6 records, this classifier 7"):
        made.save(tmp_path / "c")
    assert Classifier.load(tmp_path / "c", ledger=tmp_path / "l").counts == learned()[0].counts


def test_another_process_that_writes_is_told_from_a_full_disk(tmp_path):
    made, _ = saved(tmp_path)
    other = sqlite3.connect(tmp_path / "l", timeout=0)
    made.ledger._file.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match="database is locked"):
        made.learn(["a"], ["a"])
    assert "a" not in made.labels


@pytest.mark.parametrize("readout", [{}, {"readout": ridge}, {"shrinkage": 1.0}])
def test_the_parts_of_all_records_sum_to_the_score(tmp_path, readout):
    made, _ = learned(ledger=tmp_path / "l", **readout)
    for found in made.explain(["a refund", "crashed", "where"], top=99):
        best = found.classes[0]
        assert sum(part for _, part in found.records) == pytest.approx(best.score, abs=1e-9)
        assert {one for one, _ in found.records} == set(made.ledger.of_class(best.label)[0])
        parts = [part for _, part in found.records]
        assert parts == sorted(parts, reverse=True)


def test_the_record_itself_carries_its_answer(tmp_path):
    made, ids = learned(ledger=tmp_path / "l")
    for text, one in zip(TEXTS, ids, strict=True):
        (found,) = made.explain([text], top=1)
        assert found.records[0][0] == one


def test_classes_are_explained_by_the_parts_of_their_scores(tmp_path):
    made, _ = learned()
    (found,) = made.explain(["a crash"], top=2)
    scores = made.memory.scores(made.encoder(["a crash"]))[0]
    order = scores.argsort(descending=True)
    assert [part.label for part in found.classes] == [made.labels[i] for i in order[:2]]
    for part in found.classes:
        assert part.score == pytest.approx(part.evidence + part.bias)
        assert part.score == pytest.approx(scores[made.labels.index(part.label)].item()) and part.records == 2
        mean = made.memory.statistics.means[made.labels.index(part.label)]
        # the bias is half of what the class's own mean would have as evidence
        assert part.bias == pytest.approx(-made.memory.snapshot().weights[made.labels.index(part.label)] @ mean / 2)
    assert found.margin == pytest.approx((scores[order[0]] - scores[order[1]]).item())
    assert (found.records, found.familiarity, found.unknown) == ((), None, None)
    alone, _ = learned(TEXTS[:2], LABELS[:2])
    assert alone.explain(["x"])[0].margin is None
    with pytest.raises(ValueError, match="top 0"):
        made.explain(["x"], top=0)


def test_a_readout_of_ones_own_is_not_split_among_records(tmp_path):
    made, _ = learned(ledger=tmp_path / "l", readout=lambda statistics, shrinkage: ridge(statistics, shrinkage))
    with pytest.raises(ValueError, match="lda and ridge"):
        made.explain(["x"])


def test_a_state_without_a_ledger_says_nothing_of_one(tmp_path):
    learned()[0].save(tmp_path / "c")
    _, meta = codec.load_tensors(tmp_path / "c")
    assert set(meta) == {"kind", "encoder", "memory", "notes"}
