"""The setting `cache` of picture encoders."""

import copy
import hashlib
import os
import pickle
import subprocess
import sys
import warnings

import numpy
import pytest

from spacy_mmib.cache.cache import (
    FeatureCache,
    decode_array,
    decode_regions,
    encode_array,
    encode_regions,
    make_feature_cache_v1,
    round_array,
)
from spacy_mmib.util import MMIBWarning


def key(i):
    return hashlib.blake2b(str(i).encode(), digest_size=32).digest()


def vectors(seed, rows=3):
    return numpy.random.default_rng(seed).normal(size=(rows, 8)).astype("float32")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.sqlite"


def test_make_feature_cache(path, monkeypatch):
    assert make_feature_cache_v1() is None
    assert make_feature_cache_v1("") is None
    with pytest.raises(ValueError, match="int8"):
        make_feature_cache_v1(path, dtype="int8")
    monkeypatch.chdir(path.parent)
    cache = make_feature_cache_v1("relative.sqlite")
    assert os.listdir(path.parent) == []  # opened at the first use
    monkeypatch.chdir("/")
    cache.put_vectors({key(1): vectors(1)})
    assert (path.parent / "relative.sqlite").exists()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_cached_vectors_are_the_rounded_ones(path, dtype):
    first, second = FeatureCache(path, dtype=dtype), FeatureCache(path, dtype=dtype)
    items = {key(i): vectors(i, rows=i) for i in range(4)}
    first.put_vectors(items)
    keys = [key(2), key("missing"), key("missing"), *items, key(2)]
    found = second.get_vectors(keys)
    assert len(found) == len(keys)
    assert found[1] is found[2] is None
    for k, rows in zip(keys, found):
        if k in items:
            numpy.testing.assert_array_equal(rows, round_array(items[k], dtype))
    assert first.get_regions(key(2)) is None  # of another kind


def test_regions_are_cached(path):
    cache = FeatureCache(path)
    regions = ["crops/a.jpg", {"box": [0.1, 2.0, 3.0, 4e9], "label": "été", "score": 0.1}]
    cache.put_regions({key(1): regions, key(2): []})
    assert [cache.get_regions(key(i)) for i in (2, 1, 3)] == [[], regions, None]


def test_caches_of_different_precision_share_a_file(path):
    half, full = FeatureCache(path, dtype="float16"), FeatureCache(path, dtype="float32")
    rows = vectors(0)
    half.put_vectors({key(0): rows})
    assert full.get_vectors([key(0)]) == [None]
    full.put_vectors({key(0): rows})
    numpy.testing.assert_array_equal(full.get_vectors([key(0)])[0], rows)
    numpy.testing.assert_array_equal(half.get_vectors([key(0)])[0], round_array(rows, "float16"))


def test_an_entry_that_is_sound_but_no_vectors(path):
    cache = FeatureCache(path)
    cache.store.put({key(1): b"something"}, "vectors")
    cache.store.put({key(2): b'{"not": "regions"}'}, "regions")
    assert cache.get_vectors([key(1)]) == [cache.get_regions(key(2))] == [None]
    cache.put_vectors({key(1): vectors(1)})
    assert cache.get_vectors([key(1)])[0].shape == (3, 8)


def test_without_a_usable_file_there_is_one_warning(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a picture")
    cache = FeatureCache(tmp_path / "nowhere" / "f.sqlite")
    with pytest.warns(MMIBWarning, match="there is no folder .*nowhere") as caught:
        assert cache.digest(str(tmp_path / "a.png")) is None
        assert cache.get_vectors([key(1)]) == [None]
        cache.put_vectors({key(1): vectors(1)})
        cache.put_regions({key(1): []})
    assert len(caught) == 1


def test_a_relative_path_that_leads_nowhere_is_no_warning(tmp_path, monkeypatch, caplog):
    """A pipeline remembers it, and is used in another folder than it was trained in."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", logger="spacy")
    cache = FeatureCache(os.path.join("project", "features.sqlite"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert cache.get_vectors([bytes(32)]) == [None]
    assert caplog.text.count("There is no feature cache at") == 1


def test_copies_of_a_cache(path):
    cache = FeatureCache(path, dtype="float32", max_gb=3)
    cache.put_vectors({key(1): vectors(1)})
    for other in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert (other.store.path, other.dtype, other.store.max_gb) == (path, "float32", 3)
        numpy.testing.assert_array_equal(other.get_vectors([key(1)])[0], vectors(1))


LIGHT = """
import sys
sys.modules["torch"] = None  # which spaCy imports, if it is there
import spacy
before = set(sys.modules)
import spacy_mmib.cache.cache, spacy_mmib.cli.cache
heavy = {"sqlite3", "torch", "torchvision", "PIL"} & (set(sys.modules) - before)
assert not heavy, heavy
# A Python without SQLite goes on without the cache.
sys.modules["sqlite3"] = None
assert spacy_mmib.cache.cache.make_feature_cache_v1(sys.argv[1]) is None
print("light")
"""


def test_importing_the_setting_is_light(path):
    command = [sys.executable, "-c", LIGHT, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "light", result.stderr[-2000:]
    assert "The feature cache is not used" in result.stderr


# Vectors and regions as bytes


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
