"""The classifier: learning at any time, forgetting, merging, and files that come back or are refused."""

import pytest
import torch
from safetensors.torch import save

from everlearn.continual.classifier import Classifier
from everlearn.continual.features import HashedText, RandomReLU
from everlearn.memory import codec
from everlearn.memory.precision import PrecisionMemory, ridge
from tests.memory.careless import sealed

TEXTS = [
    "I want my money back",
    "please refund the order",
    "the app crashes at start",
    "a crash when I log in",
    "where is my parcel",
    "the parcel has not arrived",
]
LABELS = ["billing", "billing", "bug", "bug", "delivery", "delivery"]


def classifier(texts=TEXTS, labels=LABELS, **options):
    made = Classifier(HashedText(64), PrecisionMemory(64, **options))
    made.learn(texts, labels)
    return made


def same(one, other):
    return one.labels == other.labels and torch.equal(
        one.memory.scores(one.encoder(TEXTS)), other.memory.scores(other.encoder(TEXTS))
    )


def test_it_answers_and_takes_a_new_class_at_any_time():
    made = classifier(TEXTS[:4], LABELS[:4])
    assert made.predict(["refund my money"]) == ["billing"]
    made.learn(["where is my parcel"], ["delivery"])
    assert made.predict(["my parcel"]) == ["delivery"] and made.counts == {"billing": 2, "bug": 2, "delivery": 1}


def test_top_k_is_a_sorted_softmax_of_the_scores():
    made = classifier()
    (answer,) = made.predict(["crash"], top_k=2)
    scores = made.memory.scores(made.encoder(["crash"])).softmax(1)[0]
    assert [label for label, _ in answer] == [made.labels[i] for i in scores.argsort(descending=True)[:2]]
    assert answer[0][1] == pytest.approx(scores.max().item()) and answer[0][0] == made.predict(["crash"])[0]
    assert len(made.predict(["crash"], top_k=9)[0]) == 3


def test_forgotten_is_never_seen():
    made = classifier()
    made.forget([TEXTS[3]], [LABELS[3]])
    keep = [0, 1, 2, 4, 5]
    assert same(made, classifier([TEXTS[i] for i in keep], [LABELS[i] for i in keep]))
    made.forget([TEXTS[2]], [LABELS[2]])
    assert made.labels == ("billing", "delivery")


def test_the_state_does_not_grow_with_the_records():
    made = classifier()
    before = made.nbytes
    for _ in range(50):
        made.learn(TEXTS, LABELS)
    assert made.nbytes == before and made.counts == dict.fromkeys(set(LABELS), 2 * 51)


def test_merge_equals_one_classifier_that_saw_everything():
    one, other = classifier(TEXTS[:3], LABELS[:3]), classifier(TEXTS[3:], LABELS[3:])
    one.merge(other)
    assert same(one, classifier())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c: c.learn("one text", ["bug"]), "list of texts"),
        (lambda c: c.learn(["a", "b"], ["bug"]), "one label for each"),
        (lambda c: c.learn(["a"], [None]), "text or an integer"),
        (lambda c: c.learn(["a"], 3), "labels are one number, 3"),
        (lambda c: c.learn(["a"], torch.tensor(3)), "labels are one number"),
        (lambda c: c.forget(["never seen"], ["sales"]), "0 were learned"),
        (lambda c: c.predict(["a"], top_k=0), "top_k 0"),
        (lambda c: c.merge(Classifier(HashedText(64, seed=1))), "same encoder"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(act, message):
    made = classifier()
    with pytest.raises(ValueError, match=message):
        act(made)
    assert same(made, classifier())


def test_a_memory_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"PrecisionMemory\(64\)"):
        Classifier(HashedText(64), PrecisionMemory(65))


def test_a_saved_classifier_comes_back_and_goes_on(tmp_path):
    made = classifier(readout=ridge, shrinkage=0.2)
    made.save(tmp_path / "c")
    back = Classifier.load(tmp_path / "c")
    assert same(made, back) and back.memory.readout is ridge
    for one in (made, back):
        one.learn(["a new thing"], [7])
    assert same(made, back)


def test_equal_knowledge_gives_equal_files(tmp_path):
    classifier().save(tmp_path / "a")
    backwards = Classifier(HashedText(64))
    for text, label in zip(TEXTS[::-1], LABELS[::-1], strict=True):
        backwards.learn([text], [label])
    backwards.learn(["a secret"], ["private"])
    backwards.forget(["a secret"], ["private"])
    backwards.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_classifier_can_be_saved(tmp_path):
    Classifier(HashedText(8)).save(tmp_path / "c")
    assert Classifier.load(tmp_path / "c").labels == ()


def test_truncated_files_are_refused_at_every_length(tmp_path):
    classifier().save(tmp_path / "c")
    data = (tmp_path / "c").read_bytes()
    for length in [0, 1, 7, 8, 9, 200, len(data) // 2, len(data) - 1]:
        (tmp_path / "c").write_bytes(data[:length])
        with pytest.raises(ValueError, match="truncated") as caught:
            Classifier.load(tmp_path / "c")
        assert "\n" not in str(caught.value)


def test_a_changed_byte_is_refused_wherever_it_is(tmp_path):
    classifier().save(tmp_path / "c")
    data = (tmp_path / "c").read_bytes()
    for place in range(0, len(data), 97):
        (tmp_path / "c").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ValueError):
            Classifier.load(tmp_path / "c")


def rewritten(path, change_meta=lambda m: m, change_tensors=lambda t: t):
    """Write the file again with a valid checksum, as a careless tool would."""
    tensors, meta = codec.decode(path.read_bytes(), "c")
    path.write_bytes(sealed(change_tensors(tensors), change_meta(meta)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"change_meta": lambda m: m | {"kind": "reader"}}, "not a classifier's file"),
        ({"change_meta": lambda m: m | {"encoder": {"kind": "mine", "dim": 64}}}, "pass it as"),
        ({"change_tensors": lambda t: t | {"sums": t["sums"] * float("nan")}}, "NaN"),
    ],
)
def test_files_of_others_are_refused_even_with_a_good_checksum(tmp_path, changes, message):
    classifier().save(tmp_path / "c")
    rewritten(tmp_path / "c", **changes)
    with pytest.raises(ValueError, match=message):
        Classifier.load(tmp_path / "c")


def test_another_encoder_is_refused(tmp_path):
    classifier().save(tmp_path / "c")
    for encoder in (HashedText(64, seed=1), HashedText(32), RandomReLU(3, 64)):
        with pytest.raises(ValueError, match="same encoder"):
            Classifier.load(tmp_path / "c", encoder)


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match="is not there"):
            Classifier.load(path)
    (tmp_path / "other").write_bytes(save({"x": torch.zeros(1)}))
    with pytest.raises(ValueError, match="not written by everlearn"):
        Classifier.load(tmp_path / "other")


def test_a_file_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(codec, "FORMAT", codec.FORMAT + 1)
    classifier().save(tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="update everlearn"):
        Classifier.load(tmp_path / "c")


def test_notes_come_back_with_what_they_belong_to(tmp_path):
    classifier().save(tmp_path / "c", {"read": 6})
    made, notes = Classifier.load_with_notes(tmp_path / "c")
    assert notes == {"read": 6} and made.counts == classifier().counts


class Lengths:
    """A user's own encoder."""

    dim = 2

    def __call__(self, items):
        return torch.tensor([[len(item), item.count(" ")] for item in items], dtype=torch.float32)

    def settings(self):
        return {"kind": "lengths", "dim": 2}


def test_an_encoder_of_ones_own(tmp_path):
    made = Classifier(Lengths())
    made.learn(["a", "b", "a long text here", "one more long text"], ["short", "short", "long", "long"])
    made.save(tmp_path / "c")
    with pytest.raises(ValueError, match="pass it as"):
        Classifier.load(tmp_path / "c")
    assert Classifier.load(tmp_path / "c", Lengths()).predict(["c"]) == ["short"]
