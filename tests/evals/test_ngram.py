"""The n-gram against a second writing of the equation, one dictionary per context, byte by byte."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.evals.ngram import ByteNgram

TEXTS = st.binary(max_size=60).map(lambda data: bytes(b"ab\x00\xff"[b % 4] for b in data))


class Naive:
    """Interpolated Witten-Bell as it is printed: counts in a dictionary, one byte at a time."""

    def __init__(self, order):
        self.order, self.counts = order, {}

    def probability(self, context, byte):
        p = 1 / 256
        for k in range(min(self.order, len(context)) + 1):
            followers = self.counts.get(context[len(context) - k :])
            if followers:
                n, t = sum(followers.values()), len(followers)
                p = (followers[byte] + t * p) / (n + t)
        return p

    def learn(self, context, byte):
        for k in range(min(self.order, len(context)) + 1):
            self.counts.setdefault(context[len(context) - k :], Counter())[byte] += 1

    def read(self, data, learn):
        bits = []
        for i, byte in enumerate(data):
            context = data[max(0, i - self.order) : i]
            bits.append(-np.log2(self.probability(context, byte)))
            if learn:
                self.learn(context, byte)
        return np.array(bits)


def test_hand_case():
    # after "aab" at order 0: a 2 of 3, b 1 of 3, two kinds; P(a) = (2 + 2/256) / (3 + 2)
    model = ByteNgram(order=0)
    model.train(b"aab")
    assert model.bits(b"a")[0] == pytest.approx(-np.log2((2 + 2 / 256) / 5), abs=1e-12)
    assert model.bits(b"z")[0] == pytest.approx(-np.log2((2 / 256) / 5), abs=1e-12)
    # at order 1 "a" was followed by a once and b once: P(b | a) = (1 + 2 P(b)) / (2 + 2)
    model = ByteNgram(order=1)
    model.train(b"aab")
    lower = (1 + 2 / 256) / 5
    assert model.bits(b"ab")[1] == pytest.approx(-np.log2((1 + 2 * lower) / 4), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(train=TEXTS, data=TEXTS, order=st.integers(0, 7), learn=st.booleans())
def test_equals_the_equation_byte_by_byte(train, data, order, learn):
    model, naive = ByteNgram(order), Naive(order)
    model.train(train)
    naive.read(train, learn=True)
    # the same sums in the same order: only the rounding of log2 may differ
    np.testing.assert_allclose(model.bits(data, learn), naive.read(data, learn), rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.bits(data), naive.read(data, learn=False), rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(train=TEXTS, context=TEXTS, order=st.integers(0, 7))
def test_the_distribution_sums_to_one_and_is_what_bits_scores(train, context, order):
    model = ByteNgram(order)
    model.train(train)
    distribution = model.distribution(context)
    assert distribution.sum() == pytest.approx(1, abs=1e-12)
    assert distribution.min() > 0
    scored = [model.bits(context + bytes([byte]))[-1] for byte in b"ab\x00\xffz"]
    np.testing.assert_allclose(-np.log2(distribution[list(b"ab\x00\xffz")]), scored, rtol=0, atol=1e-12)


def test_frozen_reading_changes_nothing_and_learning_does():
    model = ByteNgram()
    model.train(b"the cat sat on the mat")
    before = model.bits(b"a dog sat on a log")
    assert np.array_equal(model.bits(b"a dog sat on a log"), before)
    model.copy().bits(b"a dog sat on a log", learn=True)
    assert np.array_equal(model.bits(b"a dog sat on a log"), before)
    model.bits(b"a dog sat on a log", learn=True)
    assert model.bits(b"a dog sat on a log").sum() < before.sum()


def test_learning_while_reading_leaves_what_training_leaves():
    data = b"one fish two fish red fish blue fish"
    read, trained = ByteNgram(), ByteNgram()
    read.bits(data, learn=True)
    trained.train(data)
    assert np.array_equal(read.bits(b"old fish new fish"), trained.bits(b"old fish new fish"))


def test_a_byte_is_scored_before_it_is_counted():
    # the first byte of an empty model costs 8 bits, whatever it is; the second "a" is then cheaper
    bits = ByteNgram().bits(b"aa", learn=True)
    assert bits[0] == 8
    assert bits[1] == pytest.approx(-np.log2((1 + 1 / 256) / 2), abs=1e-12)


def test_empty_and_short_texts():
    model = ByteNgram()
    model.train(b"")
    assert len(model.bits(b"")) == 0
    assert model.bits(b"xyz").tolist() == [8, 8, 8]


def test_refuses_an_order_out_of_range():
    with pytest.raises(ValueError, match="order 9 of the n-gram must be 0 to 7"):
        ByteNgram(9)
