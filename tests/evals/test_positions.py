import os
import zlib

import numpy as np
import pytest

from everlearn.evals.positions import bucket_means, gzip_bits


def test_bucket_means_by_hand():
    assert bucket_means(np.array([1.0, 3.0, 5.0, 9.0]), [(0, 2), (2, 4), (0, 4)]) == [2.0, 7.0, 4.5]


def test_gzip_ranges_add_up_to_the_whole_stream():
    data = b"".join(b"line %d of a text\n" % (i * i) for i in range(300))
    buckets = [(0, 100), (100, 1_000), (1_000, len(data))]
    bits = gzip_bits(data, buckets)
    total = sum(b * (end - start) for b, (start, end) in zip(bits, buckets, strict=True))
    assert total == pytest.approx(8 * (len(zlib.compress(data, 9)) - len(zlib.compress(b"", 9))), abs=1e-9)


def test_gzip_pays_for_noise_and_not_for_what_it_saw():
    noise = os.urandom(4_000)
    assert gzip_bits(noise, [(1_000, 4_000)])[0] == pytest.approx(8, abs=0.05)
    assert gzip_bits(noise, [(1_000, 4_000)], context=noise)[0] < 0.2


@pytest.mark.parametrize("bucket", [(0, 5), (3, 3), (-1, 2)])
def test_refuses_a_bucket_that_does_not_fit(bucket):
    with pytest.raises(ValueError, match=r"does not fit: got a document of 4 bytes"):
        bucket_means(np.zeros(4), [bucket])
    with pytest.raises(ValueError, match="does not fit"):
        gzip_bits(b"abcd", [bucket])
