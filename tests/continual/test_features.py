"""Features that never look at the data, and do not depend on the other items of a call."""

import math

import numpy as np
import pytest
import torch

from everlearn.continual.features import HashedText, RandomReLU, RawPixels, encoder_from_settings

TEXTS = ["where is my parcel", "", "refund the order, please", "Wo ist mein Paket?", "42"]


def test_random_relu_equals_its_formula():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = np.random.RandomState(7)
    matrix, bias = draw.standard_normal((3, 4)) * 2 / 3**0.5, draw.standard_normal(4)
    expected = np.maximum(0, x.numpy() * 0.5 @ matrix + bias)
    got = RandomReLU(3, 4, scale=0.5, seed=7)(x)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_an_image_has_the_same_features_in_any_batch(size):
    x = torch.randint(0, 17, (100, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    encoder = RandomReLU(64, 500, scale=1 / 16)
    assert torch.equal(torch.cat([encoder(part) for part in x.split(size)]), encoder(x))


def test_a_text_has_the_same_features_in_any_batch():
    encoder = HashedText(32)
    together = encoder(TEXTS)
    assert torch.equal(torch.cat([encoder([text]) for text in TEXTS]), together)
    assert together.shape == (5, 32) and not together[1].any()
    assert encoder([]).shape == (0, 32)


def test_hashed_text_keeps_the_angles_of_its_counts():
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = ["the parcel is late", "the parcel was late", "my cat likes fish"]
    counts = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=2**14).transform(texts)
    exact = torch.from_numpy((counts @ counts.T).toarray())
    phi = HashedText(1024)(texts).double()
    # the error of a random projection to 1,024 numbers is about 1/32
    assert ((phi @ phi.mT) / 1024 - exact).abs().max() < 5 / math.sqrt(1024)


@pytest.mark.parametrize("encoder", [RandomReLU(4, 3, scale=0.5, seed=1), HashedText(8, ngrams=(1, 2)), RawPixels(4)])
def test_settings_rebuild_an_encoder(encoder):
    items = TEXTS if isinstance(encoder, HashedText) else torch.randn(3, 4)
    again = encoder_from_settings(encoder.settings())
    assert again is not None and again.settings() == encoder.settings() and torch.equal(again(items), encoder(items))


def test_settings_of_strangers_are_not_guessed():
    assert encoder_from_settings({"kind": "somebody's", "dim": 3}) is None


def test_bad_items_and_settings_are_refused():
    for items in (torch.zeros(2, 5), torch.zeros(4)):
        with pytest.raises(ValueError, match="items of 4 numbers"):
            RandomReLU(4, 3)(items)
    with pytest.raises(ValueError, match="item 1 is of type int"):
        HashedText(8)(["text", 3])
    with pytest.raises(ValueError, match="list of texts"):
        HashedText(8)("one text")
    with pytest.raises(ValueError, match="above zero"):
        RandomReLU(4, 3, scale=0)
    with pytest.raises(ValueError, match="wrong way round"):
        HashedText(8, ngrams=(4, 2))
