"""What was encoded once is read from the disk, and only for the same texts by the same encoder."""

import pytest
import torch

from everlearn.continual import feature_cache
from everlearn.continual.feature_cache import FeatureCache
from everlearn.continual.features import HashedText

TEXTS = [f"text number {i}" for i in range(7)]


class Counting(HashedText):
    """Counts what it encodes; stops before a text that is named."""

    def __init__(self, dim=8, stop="", **options):
        super().__init__(dim, **options)
        self.seen, self.stop = [], stop

    def __call__(self, items):
        if self.stop in items:
            raise KeyboardInterrupt
        self.seen += items
        return super().__call__(items)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(feature_cache, "BLOCK", 3)


def test_texts_are_encoded_once(tmp_path):
    encoder, done = Counting(), []
    cached = FeatureCache(encoder, tmp_path / "new", on_items=done.append)
    assert torch.equal(cached(TEXTS), HashedText(8)(TEXTS)) and encoder.seen == TEXTS and done == [3, 3, 1]
    assert torch.equal(cached(TEXTS), HashedText(8)(TEXTS)) and encoder.seen == TEXTS
    assert cached([]).shape == (0, 8) and cached.settings() == encoder.settings()


def test_another_encoder_or_another_text_is_encoded_anew(tmp_path):
    FeatureCache(Counting(), tmp_path)(TEXTS)
    other = Counting(seed=1)
    assert torch.equal(FeatureCache(other, tmp_path)(TEXTS), HashedText(8, seed=1)(TEXTS)) and other.seen == TEXTS
    again = Counting()
    FeatureCache(again, tmp_path)([*TEXTS[:6], "another"])
    assert again.seen == ["another"]


def test_an_interrupted_run_goes_on_behind_the_last_whole_block(tmp_path):
    stopped = Counting(stop=TEXTS[4])
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(stopped, tmp_path)(TEXTS)
    encoder = Counting()
    FeatureCache(encoder, tmp_path)(TEXTS)
    assert stopped.seen == TEXTS[:3] and encoder.seen == TEXTS[3:]


def test_a_damaged_file_is_made_again_and_no_text_is_in_any(tmp_path):
    FeatureCache(Counting(), tmp_path)(TEXTS)
    for file in tmp_path.iterdir():
        assert b"text number" not in file.read_bytes()
        file.write_bytes(file.read_bytes()[:-4])
    encoder = Counting()
    assert torch.equal(FeatureCache(encoder, tmp_path)(TEXTS), HashedText(8)(TEXTS)) and encoder.seen == TEXTS


def test_items_that_are_no_text_are_known_by_their_key(tmp_path):
    """Files are known by what they hold: one that was renamed is not encoded again, one that was changed is."""

    class Lengths:
        dim = 1
        seen = 0

        def __call__(self, items):
            self.seen += len(items)
            return torch.tensor([[float(len(file.read_bytes()))] for file in items])

        def settings(self):
            return {"kind": "lengths"}

    one, other, encoder = tmp_path / "one", tmp_path / "other", Lengths()
    one.write_bytes(b"abc")
    cached = FeatureCache(encoder, tmp_path / "kept", key=lambda file: file.read_text())
    assert cached([one]).tolist() == [[3.0]] and encoder.seen == 1
    one.rename(other)
    assert cached([other]).tolist() == [[3.0]] and encoder.seen == 1
    other.write_bytes(b"abcd")
    assert cached([other]).tolist() == [[4.0]] and encoder.seen == 2
