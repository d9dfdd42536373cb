"""What a model has to beat, against the packers' own programs and the n-gram's own numbers."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from everlearn.evals.ngram import ByteNgram
from everlearn.evals.yardsticks import counted, gzip_bits, trained_ngram, xz_bits

DATA = b"".join(b"line %d: the cat sat on the mat.\n" % i for i in range(50))


@pytest.mark.parametrize(
    ("words", "bits", "slack"), [(["gzip", "-9", "-n", "-c"], gzip_bits, 2), (["xz", "-9e", "-c"], xz_bits, 0)]
)
def test_a_packer_says_what_its_program_says(words, bits, slack):
    """gzip's program and Python's library may differ in a byte or two of the same format."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"there is no {words[0]} here")
    packed = subprocess.run(words, input=DATA, capture_output=True, check=True).stdout
    assert abs(bits(DATA) * len(DATA) / 8 - len(packed)) <= slack


def test_an_n_gram_is_scored_frozen_and_learning_and_left_as_it_was():
    model, text = trained_ngram([DATA, b"abc" * 20]), b"the dog sat on the dog"
    own = ByteNgram(5)
    own.train(DATA)
    own.train(b"abc" * 20)
    for _ in range(2):
        found = counted(model, text, trained=True)
        assert found.frozen == pytest.approx(float(np.mean(own.bits(text)[1:])))
        assert found.learning == pytest.approx(float(np.mean(own.copy().bits(text, learn=True)[1:])))
    empty = counted(trained_ngram([]), DATA, trained=False)
    assert empty.frozen is None
    assert 0 < empty.learning < 8
