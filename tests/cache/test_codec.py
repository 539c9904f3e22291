"""Vectors and regions as bytes."""

import numpy
import pytest

from spacy_mmib.cache.codec import decode_array, decode_regions, encode_array, encode_regions, round_array


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(5, 7), (0, 7), (1, 0)])
def test_arrays_come_back(dtype, shape):
    array = numpy.random.default_rng(0).normal(size=shape).astype("float32")
    data = encode_array(array, dtype)
    again = decode_array(data, dtype)
    assert len(data) < 16 + array.size * int(dtype[5:]) // 8
    assert again.dtype == numpy.float32
    assert again.shape == shape
    assert again.flags.writeable
    numpy.testing.assert_array_equal(again, round_array(array, dtype))
    numpy.testing.assert_allclose(again, array, rtol=0 if dtype == "float32" else 1e-3, atol=1e-7)
    assert encode_array(again, dtype) == data  # rounding twice is rounding once


@pytest.mark.parametrize("odd", [65505.0, -1e9, numpy.inf, numpy.nan])
def test_what_float16_cannot_hold_stays_what_it_is(odd):
    array = numpy.array([[0.1, odd]], dtype="float32")
    numpy.testing.assert_array_equal(decode_array(encode_array(array, "float16"), "float16"), array)
    numpy.testing.assert_array_equal(round_array(array, "float16"), array)
    assert decode_array(encode_array(numpy.array([[65504.0]]), "float16"), "float16") == 65504.0


def test_arrays_in_another_order():
    rows = numpy.arange(12).reshape(3, 4)
    numpy.testing.assert_array_equal(decode_array(encode_array(rows.T, "float32"), "float32"), rows.T)


def test_malformed_arrays_are_missing():
    data = encode_array(numpy.ones((2, 3)), "float16")
    huge = data[:2] + b"\xff" * 10
    for wrong in (b"", data[:6], data[:-1], data + b"\0", b"X" + data[1:], huge, b"[]", b"O8" + data[2:]):
        assert decode_array(wrong, "float16") is None


REGIONS = [
    "crops/a.jpg",
    "not/utf8 \udcff.jpg",
    {"box": [0.1, 2.0, 1 / 3, 4e9], "label": "été", "score": 0.123456789},
    {"box": [0.0, 0.0, float("inf"), 1.0], "label": None, "score": None},
]


def test_regions_come_back():
    assert decode_regions(encode_regions(REGIONS)) == REGIONS
    assert decode_regions(encode_regions([])) == []
    assert encode_regions([(1, 2, 3, 4)]) == encode_regions([{"box": [1.0, 2.0, 3.0, 4.0]}])


@pytest.mark.parametrize("data", [b"", b"[", b"{}", b"3", b"[3]", b'[{"box": [1]}]', b"\xff", b"[" * 100_000])
def test_malformed_regions_are_missing(data):
    assert decode_regions(data) is None
