"""The feature cache: what is put comes back or is missing, whatever happens to the file and the processes."""

import contextlib
import copy
import hashlib
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import numpy
import pytest
from conftest import make_picture

from spacy_mmib.cache import database, digests
from spacy_mmib.cache import store as store_module
from spacy_mmib.cache.cache import FeatureCache, make_feature_cache_v1
from spacy_mmib.cache.codec import (
    decode_array,
    decode_regions,
    encode_array,
    encode_regions,
    round_array,
)
from spacy_mmib.cache.digests import ContentDigests
from spacy_mmib.cache.store import FeatureStore
from spacy_mmib.post.values import to_stored
from spacy_mmib.util import MMIBWarning

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def key(i):
    return hashlib.blake2b(str(i).encode(), digest_size=32).digest()


def value(i, size=3000):
    return random.Random(i).randbytes(size)


def content(numbers, size=3000):
    return {key(i): value(i, size) for i in numbers}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.sqlite"


@pytest.fixture
def filled(path):
    with FeatureStore(path) as store:
        store.put(content(range(20)), "vectors")
        store.put({key("r"): b"[]"}, "regions")
    return path


def execute(path, *statements):
    connection = sqlite3.connect(path)
    with connection:
        for statement, parameters in statements:
            connection.execute(statement, parameters)
    connection.close()


def check_file(path):
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    orphans = connection.execute(
        "SELECT count(*) FROM entries FULL JOIN payloads USING (id) WHERE data IS NULL OR key IS NULL"
        if sqlite3.sqlite_version_info >= (3, 39)
        else "SELECT count(*) FROM entries LEFT JOIN payloads USING (id) WHERE data IS NULL"
    )
    assert orphans.fetchall() == [(0,)]
    connection.close()


# Encoding


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(5, 7), (0, 7), (1, 0)])
def test_arrays_come_back(dtype, shape):
    array = numpy.random.default_rng(0).normal(size=shape).astype("float32")
    data = encode_array(array, dtype)
    again = decode_array(data)
    assert len(data) == 16 + array.size * int(dtype[5:]) // 8
    assert again.dtype == numpy.float32
    assert again.shape == shape
    assert again.flags.writeable
    numpy.testing.assert_array_equal(again, round_array(array, dtype))
    numpy.testing.assert_allclose(again, array, rtol=0 if dtype == "float32" else 1e-3, atol=1e-7)
    assert encode_array(again, dtype) == data  # rounding twice is rounding once


@pytest.mark.parametrize("odd", [65505.0, -1e9, numpy.inf, numpy.nan])
def test_what_float16_cannot_hold_stays_what_it_is(odd):
    array = numpy.array([[0.1, odd]], dtype="float32")
    numpy.testing.assert_array_equal(decode_array(encode_array(array, "float16")), array)
    numpy.testing.assert_array_equal(round_array(array, "float16"), array)
    largest = numpy.array([[65504.0]])
    assert len(encode_array(largest, "float16")) == 18
    assert decode_array(encode_array(largest, "float16")) == 65504.0


def test_arrays_of_other_kinds():
    rows = numpy.arange(12).reshape(3, 4)
    numpy.testing.assert_array_equal(decode_array(encode_array(rows.T, "float32")), rows.T)
    with pytest.raises(ValueError, match="rows x width"):
        encode_array(numpy.zeros(3), "float16")
    with pytest.raises(ValueError, match="int8"):
        encode_array(numpy.zeros((1, 1)), "int8")


def test_malformed_arrays_are_refused():
    data = encode_array(numpy.ones((2, 3)), "float16")
    huge = data[:8] + b"\xff" * 8
    for wrong in (b"", data[:10], data[:-1], data + b"\0", b"X" + data[1:], huge, b"[]", "text"):
        with pytest.raises(ValueError, match="not an array"):
            decode_array(wrong)
    for place in (*range(4), 4, 5, 6, 7, 8, 12):
        flipped = bytearray(data)
        flipped[place] ^= 0x40
        with pytest.raises(ValueError, match="not an array"):
            decode_array(bytes(flipped))


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


@pytest.mark.parametrize(
    "data", [b"", b"[", b"{}", b"3", b"[3]", b'[{"box": [1]}]', b"\xff", b"[" * 100_000, None]
)
def test_malformed_regions_are_refused(data):
    with pytest.raises(ValueError, match="not a list of regions"):
        decode_regions(data)


# The store


def test_what_is_put_is_there(filled):
    with FeatureStore(filled) as store:
        entries = content(range(20))
        keys = [key("missing"), *entries, key(3), key("r")]
        assert store.get(keys) == {**entries, key("r"): b"[]"}
        assert store.get(keys, "regions") == {key("r"): b"[]"}
        assert store.get([]) == {}
        store.put({key(3): b"new", key("empty"): b""}, "vectors")
        assert store.get([key(3), key("empty")]) == {key(3): b"new", key("empty"): b""}
        assert store.damaged == 0
        many = content(range(1000, 3000), size=10)
        store.put(many, "vectors")
        assert store.get(list(many)) == many
    check_file(filled)
    assert os.listdir(filled.parent) == [filled.name]


def test_what_the_file_says_of_itself(filled):
    connection = sqlite3.connect(filled)
    said = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "journal_mode", "auto_vacuum")
    }
    connection.close()
    assert said == {
        "application_id": 0x4D4D4942,
        "user_version": 1,
        "journal_mode": "wal",
        "auto_vacuum": 2,
    }
    with FeatureStore(filled) as store:
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (1,)


def test_statistics(filled):
    before = time.time()
    with FeatureStore(filled, max_gb=3) as store:
        store.put({key("more"): b"x" * 50}, "regions")
        store.get([key(0)])
        stats = store.stats()
    assert stats["entries"] == {"vectors": 20, "regions": 2}
    assert stats["bytes"] == {"vectors": 60_000, "regions": 52}
    assert stats["max_bytes"] == 3_000_000_000
    assert stats["oldest_use"] < before <= stats["newest_use"]
    assert stats["size_on_disk"] > 60_000
    assert stats["files"] == 0


def test_content_digest_tells_content_only(tmp_path):
    def digest_of(name, *puts):
        with FeatureStore(tmp_path / name) as store:
            for entries, kind in puts:
                store.put(entries, kind)
            return store.get_content_digest()

    expected = digest_of("a", (content(range(9)), "vectors"), ({key(9): b"1"}, "regions"))
    backwards = [(content([i]), "vectors") for i in reversed(range(9))]
    same = ({key(9): b"0"}, "regions"), *backwards, ({key(9): b"1"}, "regions")
    assert digest_of("b", *same) == expected
    assert digest_of("c", (content(range(9)), "vectors"), ({key(9): b"1"}, "vectors")) != expected
    assert digest_of("d", (content(range(9)), "vectors"), ({key(9): b"2"}, "regions")) != expected
    assert digest_of("e", (content(range(9)), "vectors")) != expected


@pytest.mark.parametrize("max_gb", [0, -1, float("inf"), float("nan")])
def test_a_limit_is_a_number_above_0(path, max_gb):
    for kind in (FeatureStore, FeatureCache):
        with pytest.raises(ValueError, match="max_gb"):
            kind(path, max_gb=max_gb)
    assert not path.exists()


# Damage

DAMAGE = {
    "a flipped bit": [
        ("UPDATE payloads SET data = ? WHERE id = 3", (b"\1" + value(2)[1:],)),
    ],
    "cut short": [("UPDATE payloads SET data = ? WHERE id = 3", (value(2)[:-1],))],
    "no data": [("DELETE FROM payloads WHERE id = 3", ())],
    "not bytes": [("UPDATE payloads SET data = 'text' WHERE id = 3", ())],
    "another kind": [("UPDATE entries SET kind = 'regions' WHERE id = 3", ())],
    "a kind that is no text": [("UPDATE entries SET kind = CAST(X'FF' AS TEXT) WHERE id = 3", ())],
    "the checksum": [("UPDATE entries SET checksum = zeroblob(16) WHERE id = 3", ())],
    "a letter of the kind that became data": [
        ("UPDATE entries SET kind = 'vector' WHERE id = 3", ()),
        ("UPDATE payloads SET data = ? WHERE id = 3", (b"s" + value(2),)),
    ],
    "no checksum": [("UPDATE entries SET checksum = 3 WHERE id = 3", ())],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_missing(filled, damage):
    execute(filled, *DAMAGE[damage])
    keys = [key(i) for i in range(20)]
    rest = content([0, 1, *range(3, 20)])
    with FeatureStore(filled, read_only=True) as store:
        assert store.get(keys) == rest
        assert store.damaged == 1
        assert store.get(keys) == rest  # still there, still noticed
        found = store.verify(remove=True)
        assert (found.sound, found.damaged, found.removed) == (20, 1, 0)
    with FeatureStore(filled) as store:
        found = store.verify()
        assert (found.sound, found.damaged, found.removed, found.file_error) == (20, 1, 0, None)
        assert store.get(keys) == rest
        assert store.damaged == 1
        assert store.get(keys) == rest
        assert store.damaged == 1  # it was taken out
        assert store.verify().damaged == 0
        store.put(content([2]), "vectors")
        assert store.get(keys) == content(range(20))
    check_file(filled)


def test_entries_of_others_are_missing(filled):
    """Sound data, under another key."""
    swap = [
        ("UPDATE payloads SET id = -1 WHERE id = 3", ()),
        ("UPDATE payloads SET id = 3 WHERE id = 4", ()),
        ("UPDATE payloads SET id = 4 WHERE id = -1", ()),
        ("UPDATE entries SET key = ? WHERE id = 7", (key("another"),)),
    ]
    execute(filled, *swap)
    with FeatureStore(filled) as store:
        found = store.verify(remove=True)
        assert (found.sound, found.damaged, found.removed) == (18, 3, 3)
        keys = [key(i) for i in range(20)]
        assert store.get([*keys, key("another")]) == content(set(range(20)) - {2, 3, 6})
        assert store.verify() == store_module.Verification(18, 0, 0, None)


def test_data_that_belongs_to_no_entry_is_damage(filled):
    execute(filled, ("INSERT INTO payloads VALUES (1000, X'00')", ()))
    with FeatureStore(filled) as store:
        assert store.verify().damaged == 1
        assert store.verify(remove=True).removed == 1
        assert store.verify().damaged == 0
    check_file(filled)


def test_a_file_cut_short_costs_one_warning(filled):
    size = filled.stat().st_size
    for left in (size - 4096, size // 2, 5000, 200):
        part = filled.with_name(f"{left}.sqlite")
        part.write_bytes(filled.read_bytes()[:left])
        with pytest.warns(MMIBWarning, match="spacy mmib cache clear") as caught:
            store = FeatureStore(part)
            for i in range(20):
                found = store.get([key(i)])
                assert found in ({}, content([i]))
            store.put(content(range(100, 150)), "vectors")
            store.get([key(100)])
        assert len(caught) == 1
        assert store.verify().file_error
        assert store.broken
        assert store.clear()
        store.put(content([1]), "vectors")
        assert store.get([key(1)]) == content([1])
        store.close()


def test_garbage_in_the_middle_of_a_file(filled):
    """Whatever is hit: entries are right or missing, and no error comes out."""
    good = filled.read_bytes()
    rng = random.Random(0)
    seen = set()
    for _ in range(60):
        bad = bytearray(good)
        start = rng.randrange(100, len(bad) - 600)
        length = rng.choice([1, 30, 500])
        bad[start : start + length] = rng.randbytes(length)
        filled.write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MMIBWarning)
            try:
                store = FeatureStore(filled)
            except ValueError:  # the tables' names
                seen.add("other")
                continue
            for i in range(20):
                assert store.get([key(i)]) in ({}, content([i]))
            store.put(content([3, 50]), "vectors")
            assert store.get([key(50)]) in ({}, content([50]))
            seen.add("broken" if store.broken else "damaged" if store.damaged else "sound")
            store.close()
    assert seen >= {"broken", "damaged"}


@pytest.mark.parametrize("name", ["text", "sqlite", "wal", "picture", "short", "sqlite header"])
def test_other_files_are_left_alone(path, name):
    if name in ("sqlite", "wal"):
        execute(path, ("CREATE TABLE entries (a)", ()), ("INSERT INTO entries VALUES (1)", ()))
        if name == "wal":
            execute(path, ("PRAGMA journal_mode = WAL", ()))
    elif name == "picture":
        make_picture("red").save(path, format="PNG")
    else:
        data = {"text": b"my notes\n" * 50, "short": b"x", "sqlite header": b"SQLite format 3\0"}
        path.write_bytes(data[name])
    before = path.read_bytes(), path.stat().st_mtime_ns
    for read_only in (False, True):
        with pytest.raises(ValueError, match="not a feature cache"):
            FeatureStore(path, read_only=read_only)
    with pytest.raises(ValueError, match="left as it is"):
        database.remove_files(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert os.listdir(path.parent) == [path.name]
    with pytest.warns(MMIBWarning, match="not a feature cache"):
        assert FeatureCache(path).get_vectors([key(1)]) == [None]


def test_other_versions_and_other_tables(filled):
    execute(filled, ("PRAGMA user_version = 2", ()))
    code = "import sys; from spacy_mmib.cache.store import FeatureStore; FeatureStore(sys.argv[1])"
    # This process has had the file open as one of this version; another one sees it first.
    result = subprocess.run(
        [sys.executable, "-c", code, str(filled)], capture_output=True, text=True, check=False
    )
    assert "ValueError" in result.stderr
    assert "another version" in result.stderr
    with pytest.raises(ValueError, match="another version"):
        FeatureStore(filled)
    execute(filled, ("PRAGMA user_version = 1", ()), ("CREATE VIEW a AS SELECT 1", ()))
    with pytest.raises(ValueError, match="another version"):
        FeatureStore(filled)


def test_places_where_no_file_can_be(tmp_path):
    with pytest.raises(OSError, match="no folder .*nowhere"):
        FeatureStore(tmp_path / "nowhere" / "f.sqlite")
    with pytest.raises(OSError, match="is a folder"):
        FeatureStore(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="not a feature cache"):
            FeatureStore(tmp_path / "pipe")


def test_places_that_cannot_be_written(filled, monkeypatch):
    folder = str(filled.parent)
    really = os.access  # the tests may run as root, who may write anywhere
    monkeypatch.setattr(os, "access", lambda p, mode: str(p) != folder and really(p, mode))
    with pytest.raises(OSError, match="read_only = true"):
        FeatureStore(filled)
    with FeatureStore(filled, read_only=True) as store:
        assert store.get([key(0)]) == content([0])


def test_read_only_writes_nothing(filled, tmp_path):
    before = filled.read_bytes()
    with FeatureStore(filled, read_only=True) as store:
        assert store.get([key(1)]) == content([1])
        store.put(content([99]), "vectors")
        store.put_digests({"a": ("1", b"2")})
        assert store.get([key(99)]) == {}
        with pytest.raises(ValueError, match="read only"):
            store.clear()
    assert filled.read_bytes() == before
    missing = tmp_path / "missing.sqlite"
    with FeatureStore(missing, read_only=True) as store:
        store.put(content([1]), "vectors")
        assert store.get([key(1)]) == {}
        assert store.get_digests({"a": "1"}) == {}
        assert store.verify().sound == 0
        assert store.stats()["entries"] == {}
        assert not missing.exists()
        with FeatureStore(missing) as writer:  # as soon as somebody makes it, it is read
            writer.put(content([1]), "vectors")
        assert store.get([key(1)]) == content([1])


def test_clear(filled):
    with FeatureStore(filled) as store:
        store.put_digests({"a": ("1", b"2" * 32)})
        large = filled.stat().st_size
        assert store.clear()
        assert store.get([key(1)]) == {}
        assert store.get_digests({"a": "1"}) == {}
        assert filled.stat().st_size < large
        store.put(content([1]), "vectors")
        assert store.get([key(1)]) == content([1])
    check_file(filled)


def test_a_file_removed_while_it_is_in_use(filled, tmp_path):
    """And its log, which must not be taken for that of the next one."""
    a, b = FeatureStore(filled), FeatureStore(filled)
    a.put(content(range(100, 200)), "vectors")
    os.unlink(filled)
    assert filled.with_name(filled.name + "-wal").exists()
    assert b.get([key(1)]) == {}
    b.put(content([7]), "vectors")
    assert a.get([key(1), key(7)]) == content([7])
    a.put(content([8]), "vectors")
    a.close()
    assert b.get([key(7), key(8)]) == content([7, 8])
    b.close()
    with FeatureStore(filled) as store:
        assert store.stats()["entries"] == {"vectors": 2}
        database.remove_files(filled)
        assert os.listdir(tmp_path) == []
        store.put(content([9]), "vectors")
    with FeatureStore(filled) as store:
        assert store.get([key(7), key(9)]) == content([9])
    check_file(filled)


def test_a_link_to_a_store(filled, tmp_path):
    link = tmp_path / "link.sqlite"
    link.symlink_to(filled)
    with FeatureStore(link) as store, FeatureStore(filled) as same:
        store.put(content([77]), "vectors")
        assert same.get([key(77)]) == content([77])
    database.remove_files(link)
    assert not filled.exists()


# Size


def size_of(path):
    return sum(file.stat().st_size for file in path.parent.iterdir())


def test_least_recently_used_goes_first(path):
    limit = 1_000_000
    with FeatureStore(path, max_gb=limit / 1e9) as store:
        for i in range(40):
            store.put(content([i], 20_000), "vectors")
        store.get([key(i) for i in range(5)])
        largest = 0
        for i in range(40, 60):
            store.put(content([i], 20_000), "vectors")
            largest = max(largest, path.stat().st_size)
        there = {i for i in range(60) if store.get([key(i)])}
        assert there >= {*range(5), *range(40, 60)}
        gone = set(range(60)) - there
        assert gone == set(range(5, 5 + len(gone)))  # the oldest of the others, in their order
        assert 10 <= len(gone) <= 25
        assert largest <= limit * 1.1
    assert size_of(path) <= limit
    check_file(path)
    with FeatureStore(path) as store:  # nothing else was lost
        assert {i for i in range(60) if store.get([key(i)])} == there


def test_eviction_really_makes_the_file_smaller(path):
    with FeatureStore(path) as store:
        for i in range(0, 400, 20):
            store.put(content(range(i, i + 20), 10_000), "vectors")
            store.put_digests({f"old {i}": ("1", b"2" * 32)})
    assert size_of(path) > 4_000_000
    with FeatureStore(path, max_gb=0.002) as store:
        store.put_digests({"new": ("1", b"2" * 32)})
        store.put(content([400], 10_000), "vectors")
        assert 1_500_000 < path.stat().st_size <= 1_850_000
        assert store.get([key(400), key(399), key(0)]) == content([400, 399], 10_000)
        assert list(store.get_digests({"new": "1", "old 0": "1"})) == ["new"]
    check_file(path)


def test_uses_are_remembered_by_close(path):
    with FeatureStore(path) as store:
        for i in range(30):
            store.put(content([i], 20_000), "vectors")
    before = path.read_bytes()
    with FeatureStore(path) as store:
        for _ in range(50):
            store.get([key(0)])
        assert path.read_bytes() == before  # no write per read
        assert not path.with_name(path.name + "-wal").stat().st_size
    with FeatureStore(path, max_gb=0.0004) as store:
        store.put(content([30], 20_000), "vectors")
        assert store.get([key(0), key(1), key(30)]).keys() == {key(0), key(30)}


def test_noted_uses_are_bounded(path, monkeypatch):
    monkeypatch.setattr(store_module, "_NOTED_USES", 10)
    with FeatureStore(path) as store:
        store.put(content(range(100), 10), "vectors")
        store.put_digests({str(i): ("1", b"2") for i in range(100)})
        for i in range(100):
            store.get([key(i)])
            store.get_digests({str(i): "1"})
            assert len(store._uses) + len(store._file_uses) < 20


def test_a_limit_smaller_than_anything(path):
    with FeatureStore(path, max_gb=1e-6) as store:
        store.put(content([1]), "vectors")
        store.put_digests({"a": ("1", b"2")})
        assert store.get([key(1)]) == {}
        assert store.get_digests({"a": "1"}) == {}
        store.put({key(i): b"" for i in range(10)}, "vectors")
    assert size_of(path) < 100_000


# Processes and threads

fork = multiprocessing.get_context("fork") if hasattr(os, "fork") else multiprocessing


def _write_slowly(path, start, seconds):
    with FeatureStore(path) as store:
        end = time.monotonic() + seconds
        i = start
        while time.monotonic() < end:
            store.put(content(range(i, i + 5)), "vectors")
            i += 5
    os._exit(0 if i > start else 1)


def _read_until_all_are_there(path, n):
    wrong = 0
    with FeatureStore(path, read_only=True) as store:
        deadline = time.monotonic() + 60
        while len(found := store.get([key(i) for i in range(n)])) < n:
            wrong += sum(found[k] != v for k, v in content(range(n)).items() if k in found)
            # A put is there as a whole or not at all.
            wrong += any((key(i) in found) != (key(i + 4) in found) for i in range(0, n, 5))
            if time.monotonic() > deadline or store.broken:
                os._exit(2)
        wrong += found != content(range(n)) or store.damaged
    os._exit(1 if wrong else 0)


@needs_fork
def test_readers_while_somebody_writes(path):
    readers = [fork.Process(target=_read_until_all_are_there, args=(path, 200)) for _ in range(2)]
    for reader in readers:
        reader.start()
    with FeatureStore(path) as store:
        for i in range(0, 200, 5):
            store.put(content(range(i, i + 5)), "vectors")
            time.sleep(0.005)
        for reader in readers:
            reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]
    check_file(path)


@needs_fork
def test_several_writers_make_one_store(path):
    """They start at once, so that they also make the file at once."""
    writers = [fork.Process(target=_write_slowly, args=(path, i * 10_000, 0.4)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with FeatureStore(path) as store:
        found = store.verify()
        assert found.damaged == 0
        assert found.sound >= 20
        for i in range(4):
            assert store.get([key(i * 10_000)])
    check_file(path)


def test_a_locked_file_costs_one_wait_and_one_warning(filled):
    blocker = sqlite3.connect(filled, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    store = FeatureStore(filled, timeout=0.05)
    with pytest.warns(MMIBWarning, match="locked") as caught:
        for i in range(100, 103):
            store.put(content([i]), "vectors")
    assert len(caught) == 1
    assert store.get([key(1), key(100)]) == content([1])
    assert store._connection.execute("PRAGMA busy_timeout").fetchone() == (0,)
    blocker.execute("ROLLBACK")
    store.put(content([103]), "vectors")
    assert store._connection.execute("PRAGMA busy_timeout").fetchone() == (50,)
    assert store.get([key(100), key(103)]) == content([103])
    blocker.close()
    store.close()


@needs_fork
def test_a_second_writer_waits(filled):
    def hold(ready):
        blocker = sqlite3.connect(filled, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        ready.set()
        time.sleep(0.3)
        blocker.execute("COMMIT")
        os._exit(0)

    ready = fork.Event()
    process = fork.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(30)
    with FeatureStore(filled) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put(content([100]), "vectors")
        assert store.get([key(100)]) == content([100])
    process.join()


def test_damage_that_cannot_be_removed_now_is_missing_all_the_same(filled):
    execute(filled, *DAMAGE["cut short"])
    blocker = sqlite3.connect(filled, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with FeatureStore(filled) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get([key(1), key(2)]) == content([1])
        blocker.execute("ROLLBACK")
        assert store.get([key(1), key(2)]) == content([1])
        assert store.verify().damaged == 0
    blocker.close()


N_KILLED, CHUNK = 600, 10


def _build(path, max_gb=20.0, reached=None, stop_after=0, stays=False):
    """What a resumable computation does: chunk after chunk, passing over what is there. With `reached`, says so
    after some new chunks, and may stay there.
    """
    new_chunks = 0
    with FeatureStore(path, max_gb=max_gb) as store:
        for i in range(0, N_KILLED, CHUNK):
            keys = [key(j) for j in range(i, i + CHUNK)]
            missing = [j for j in range(i, i + CHUNK) if keys[j - i] not in store.get(keys)]
            if missing:
                store.put(content(missing, 12_000), "vectors")
                store.put_digests({str(j): ("1", key(j)) for j in missing})
                new_chunks += 1
                if reached is not None and new_chunks == stop_after:
                    reached.send_bytes(b".")
                    time.sleep(60 * stays)
    os._exit(0)


@needs_fork
@pytest.mark.parametrize("max_gb", [20.0, 0.003])
def test_killed_at_any_moment(tmp_path, max_gb):
    """Also while it evicts. Then going on leads to what there would be without."""
    rng = random.Random(0)
    path = tmp_path / "killed.sqlite"
    done = []
    for i in range(18):
        theirs, ours = fork.Pipe()
        process = fork.Process(target=_build, args=(path, max_gb, theirs, rng.randint(1, 5), i == 12))
        process.start()
        theirs.close()
        if i < 12:  # whatever it is doing by then
            process.join(rng.uniform(0.002, 0.06))
        else:  # in its work, however slow the machine is
            with contextlib.suppress(EOFError):  # it had nothing left to do
                ours.recv_bytes()
            time.sleep(rng.uniform(0, 0.004))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if path.exists() and path.stat().st_size:
            copied = tmp_path / "copy"
            shutil.rmtree(copied, ignore_errors=True)
            copied.mkdir()
            for file in tmp_path.glob("killed.sqlite*"):
                shutil.copy(file, copied / file.name)
            with FeatureStore(copied / path.name) as store:
                found = store.verify()
                assert (found.damaged, found.file_error) == (0, None)
                done.append(sum(store.stats()["entries"].values()))
            check_file(copied / path.name)
    assert max(done) > 0
    if max_gb < 1:
        assert max(done) < N_KILLED
        return
    assert done == sorted(done)  # what was there stays
    assert any(n < N_KILLED for n in done)
    uninterrupted = tmp_path / "uninterrupted.sqlite"
    for file in (path, uninterrupted):
        process = fork.Process(target=_build, args=(file,))
        process.start()
        process.join()
        assert process.exitcode == 0
    with FeatureStore(path) as a, FeatureStore(uninterrupted) as b:
        assert a.verify().damaged == b.verify().damaged == 0
        assert a.stats()["entries"] == b.stats()["entries"] == {"vectors": N_KILLED}
        assert a.get_content_digest() == b.get_content_digest()
        keys = [key(i) for i in range(N_KILLED)]
        assert a.get(keys) == b.get(keys) == content(range(N_KILLED), 12_000)


@needs_fork
def test_a_forked_process_opens_the_file_itself(filled):
    store = FeatureStore(filled)
    store.get([key(0)])
    inherited = store._connection

    def child(results):
        results.put(store._connection is None)
        results.put(store.get([key(1)]) == content([1]))
        results.put(store._connection not in (None, inherited))
        store.put(content([200]), "vectors")
        store.close()

    results = fork.Queue()
    # As if another thread were in the middle of something.
    with store._lock:
        process = fork.Process(target=child, args=(results,))
        process.start()
    assert [results.get(timeout=30) for _ in range(3)] == [True, True, True]
    process.join()
    store.put(content([201]), "vectors")
    assert store.get([key(200), key(201)]) == content([200, 201])
    assert store._connection is inherited
    store.close()
    check_file(filled)


def test_threads_share_a_store(path):
    store = FeatureStore(path)
    errors = []

    def work(n):
        try:
            for i in range(n, 200, 4):
                store.put(content([i], 200), "vectors")
                assert store.get([key(i), key(i - 4)], "vectors")[key(i)] == value(i, 200)
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert store.get([key(i) for i in range(200)]) == content(range(200), 200)
    store.close()
    check_file(path)


def test_a_copy_has_the_settings_and_a_connection_of_its_own(filled):
    with FeatureStore(filled, max_gb=2, timeout=3) as store:
        for other in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
            assert (other.path, other.max_gb, other.read_only, other.timeout) == (
                store.path,
                2,
                False,
                3,
            )
            assert other.get([key(1)]) == content([1])
            assert other._connection is not store._connection
            other.close()
            assert store.get([key(1)]) == content([1])
    assert store.get([key(1)]) == content([1])  # opened again
    store.close()


# Digests of files


OLD = 1_500_000_000  # seconds since 1970


def write_old(path, data, ns=OLD * 10**9):
    path.write_bytes(data)
    os.utime(path, ns=(ns, ns))


def set_time(monkeypatch, time_ns):
    monkeypatch.setattr(digests, "time", SimpleNamespace(time_ns=time_ns))


@pytest.fixture
def later(monkeypatch):
    """Time passes: files that were just written are no longer new."""
    set_time(monkeypatch, lambda: time.time_ns() + 10**10)


@pytest.fixture
def opened(monkeypatch):
    names = []

    def note(path, flags):
        names.append(path)
        return os.open(path, flags)

    # For this module alone.
    monkeypatch.setattr(digests, "os", SimpleNamespace(**{**vars(os), "open": note}))
    return names


def test_one_file_has_one_digest(tmp_path):
    data = b"a picture"
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "other").write_bytes(b"another one")
    find = ContentDigests(None).digest
    assert len(find(data)) == 32
    names = ("a", "b", "link")
    assert {find(str(tmp_path / name)) for name in names} == {find(data)}
    assert find(str(tmp_path / "other")) != find(data)


def test_pixels_have_digests_of_their_own():
    find = ContentDigests(None).digest
    array = numpy.arange(2 * 3 * 3, dtype="uint8").reshape(2, 3, 3)
    pixels = to_stored(array)
    assert find(pixels) == find(to_stored(array.copy()))
    others = [to_stored(array.reshape(3, 2, 3)), to_stored(array + 1), pixels.data]
    assert len({find(pixels), *map(find, others)}) == 4


def test_what_cannot_be_read_has_no_digest(tmp_path):
    find = ContentDigests(None).digest
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"x" * 1001)
    names = [
        str(tmp_path / "missing"),
        str(tmp_path),
        str(tmp_path / "empty"),
        "a\0b",
        "",
        "x" * 5000,
    ]
    names += ["https://example.com/a.jpg", None, b"", 3, {"not": "ours"}, "/dev/zero"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        names.append(str(tmp_path / "pipe"))
    assert [find(name) for name in names] == [None] * len(names)
    for large in (str(tmp_path / "large"), b"x" * 1001):
        assert find(large, max_bytes=1000) is None
        assert find(large, max_bytes=1001) is not None
        assert find(large, max_bytes=1000) is None  # although it is known by now


def test_known_files_are_not_read(filled, tmp_path, later, opened):
    file = tmp_path / "a.jpg"
    write_old(file, b"first")
    with FeatureStore(filled) as store:
        find = ContentDigests(store)
        expected = find.digest(str(file))
        assert find.digest(str(file)) == expected
        assert len(opened) == 1
        find.write()
    with FeatureStore(filled, read_only=True) as store:
        assert ContentDigests(store).digest(str(file)) == expected
        assert len(opened) == 1
        (tmp_path / "link").symlink_to(file)
        assert ContentDigests(store).digest(str(tmp_path / "link")) == expected
        assert len(opened) == 1
    assert store.stats()["files"] == 1


def test_changed_files_are_read_again(filled, tmp_path, later, opened):
    file = tmp_path / "a.jpg"
    with FeatureStore(filled) as store:
        memory = ContentDigests(store)

        def check(data):
            expected = memory.digest(data)
            assert ContentDigests(store).digest(str(file)) == expected
            assert memory.digest(str(file)) == expected
            memory.write()

        write_old(file, b"first")
        check(b"first")
        before = file.stat()
        while True:  # the same size and the same mtime: only the ctime tells
            write_old(file, b"other", ns=before.st_mtime_ns)
            if file.stat().st_ctime_ns != before.st_ctime_ns:
                break
        assert file.stat().st_mtime_ns == before.st_mtime_ns
        check(b"other")
        write_old(tmp_path / "new", b"third", ns=before.st_mtime_ns)
        os.replace(tmp_path / "new", file)
        check(b"third")
        file.unlink()
        assert memory.digest(str(file)) is None
        write_old(file, b"fourth, longer")
        check(b"fourth, longer")


@pytest.mark.parametrize("mtime", ["now", "old"])
def test_new_files_are_not_trusted(filled, tmp_path, monkeypatch, opened, mtime):
    """A file can change within one tick of its clock, and nothing but its content tells."""
    file = tmp_path / "a.jpg"
    file.write_bytes(b"first")
    if mtime == "old":  # copied or unpacked
        write_old(file, b"first")
    monkeypatch.setattr(digests, "_describe", lambda info: "always the same")
    with FeatureStore(filled) as store:
        find = ContentDigests(store)
        first = find.digest(str(file))
        file.write_bytes(b"other")
        if mtime == "old":
            write_old(file, b"other")
        assert find.digest(str(file)) == find.digest(b"other") != first
        find.write()
        assert store.stats()["files"] == 0
        # A time in the future is no reason to read a file for ever.
        os.utime(file, ns=(4 * OLD * 10**9,) * 2)
        set_time(monkeypatch, lambda: file.stat().st_ctime_ns + 3 * 10**9)
        find.digest(str(file))
        n = len(opened)
        find.digest(str(file))
        assert len(opened) == n


def test_a_damaged_digest_is_missing(filled, tmp_path, later):
    file = tmp_path / "a.jpg"
    write_old(file, b"first")
    with FeatureStore(filled) as store:
        find = ContentDigests(store)
        expected = find.digest(str(file))
        find.write()
    execute(filled, ("UPDATE files SET digest = ?", (bytes(32),)))
    with FeatureStore(filled) as store:
        assert store.verify().damaged == 1
        assert ContentDigests(store).digest(str(file)) == expected
        assert store.damaged == 1
        assert store.verify().damaged == 0


def test_names_that_are_no_unicode(filled, tmp_path, later, opened):
    name = os.fsencode(tmp_path) + b"/\xff.jpg"
    try:
        with open(name, "wb") as file:
            file.write(b"first")
    except OSError:
        pytest.skip("the file system has Unicode names only")
    with FeatureStore(filled) as store:
        for _ in range(2):
            find = ContentDigests(store)
            assert find.digest(os.fsdecode(name)) == find.digest(b"first")
            find.write()
    assert len(opened) == 1


def test_remembered_files_are_bounded(tmp_path, later, monkeypatch):
    monkeypatch.setattr(digests, "_REMEMBERED", 3)
    find = ContentDigests(None)
    for i in range(6):
        write_old(tmp_path / str(i), b"x")
        find.digest(str(tmp_path / str(i)))
    assert len(find._memory) == 3
    assert not find._unwritten


# The setting


def vectors(seed, rows=3):
    return numpy.random.default_rng(seed).normal(size=(rows, 8)).astype("float32")


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
    cache.close()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_cached_vectors_are_the_rounded_ones(path, dtype):
    first, second = FeatureCache(path, dtype=dtype), FeatureCache(path, dtype=dtype)
    items = {key(i): vectors(i, rows=i) for i in range(4)}
    first.put_vectors(items)
    keys = [key(2), None, key("missing"), *items, key(2)]
    found = second.get_vectors(keys)
    assert len(found) == len(keys)
    assert found[1] is found[2] is None
    for k, rows in zip(keys, found):
        if k in items:
            numpy.testing.assert_array_equal(rows, first.round(items[k]))
    assert second.get_statistics() == {"hits": 6, "misses": 1, "damaged": 0}
    assert first.get_regions([key(2)]) == [None]  # of another kind
    first.close()
    second.close()


def test_regions_are_cached(path):
    cache = FeatureCache(path)
    cache.put_regions({key(1): REGIONS, key(2): []})
    assert cache.get_regions([key(2), key(1), None, key(3)]) == [[], REGIONS, None, None]
    cache.close()


def test_caches_of_different_precision_share_a_file(path):
    half, full = FeatureCache(path, dtype="float16"), FeatureCache(path, dtype="float32")
    rows = vectors(0)
    half.put_vectors({key(0): rows})
    assert full.get_vectors([key(0)]) == [None]
    full.put_vectors({key(0): rows})
    numpy.testing.assert_array_equal(full.get_vectors([key(0)])[0], rows)
    numpy.testing.assert_array_equal(half.get_vectors([key(0)])[0], half.round(rows))
    half.close()
    full.close()


def test_an_entry_that_is_sound_but_no_vectors(path):
    cache = FeatureCache(path)
    cache._store.put({key(1): b"something", key(2): b'{"not": "regions"}'}, "vectors")
    assert cache.get_vectors([key(1)]) == [None]
    cache._store.put({key(2): b'{"not": "regions"}'}, "regions")
    assert cache.get_regions([key(2)]) == [None]
    assert cache.get_statistics() == {"hits": 0, "misses": 2, "damaged": 2}
    cache.put_vectors({key(1): vectors(1)})
    assert cache.get_vectors([key(1)])[0].shape == (3, 8)
    cache.close()


def test_keys_are_unambiguous():
    parts = [(), ("",), (b"",), ("", ""), ("ab",), ("a", "b"), (b"a", "b"), ("a", b"b"), ("b", "a")]
    parts += [("a\0b",), ("as\1",), ("a", ""), ("", "a"), ("é",), ("é".encode(),), ("\udcff",)]
    keys = [FeatureCache.make_key(*p) for p in parts]
    assert len(set(keys)) == len(parts)
    assert {len(k) for k in keys} == {32}
    assert FeatureCache.make_key("a", b"b") == FeatureCache.make_key("a", b"b")


def test_without_a_usable_file_there_is_one_warning(tmp_path):
    cache = FeatureCache(tmp_path / "nowhere" / "f.sqlite")
    with pytest.warns(MMIBWarning, match="nowhere") as caught:
        assert cache.digest(b"a picture") is None
        assert cache.get_vectors([key(1), None]) == [None, None]
        cache.put_vectors({key(1): vectors(1)})
        cache.put_regions({key(1): []})
    assert len(caught) == 1
    assert cache.round(vectors(1)).shape == (3, 8)
    assert cache.get_statistics() == {"hits": 0, "misses": 1, "damaged": 0}
    cache.close()


def test_copies_of_a_cache(path):
    cache = FeatureCache(path, dtype="float32", max_gb=3)
    cache.put_vectors({key(1): vectors(1)})
    for other in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert (other.path, other.dtype, other.max_gb) == (str(path), "float32", 3)
        numpy.testing.assert_array_equal(other.get_vectors([key(1)])[0], vectors(1))
        assert other.get_statistics()["hits"] == 1
        other.close()
    assert cache.get_statistics()["hits"] == 0
    cache.close()


def test_a_cache_that_is_no_longer_used_is_closed(path, tmp_path, later):
    file = tmp_path / "a.jpg"
    write_old(file, b"a picture")
    cache = FeatureCache(path)
    cache.digest(str(file))
    cache.put_vectors({key(1): vectors(1)})
    write_old(file, b"another one")
    cache.digest(str(file))
    del cache
    assert not path.with_name(path.name + "-wal").exists()
    with FeatureStore(path) as store:
        assert store.stats()["files"] == 1
        assert store.stats()["entries"] == {"vectors": 1}


def test_digests_are_written_with_the_vectors(path, tmp_path, later):
    """Not only at the end, which a killed process doesn't reach."""
    write_old(tmp_path / "a.jpg", b"a picture")
    cache = FeatureCache(path)
    cache.digest(str(tmp_path / "a.jpg"))
    cache.put_vectors({key(1): vectors(1)})
    with FeatureStore(path) as store:
        assert store.stats()["files"] == 1
    cache.close()


LIGHT = """
import sys
import spacy  # with torch, through other packages
before = set(sys.modules)
import spacy_mmib.cache.cache, spacy_mmib.cli.cache
heavy = {"sqlite3", "torch", "torchvision", "PIL"} & (set(sys.modules) - before)
assert not heavy, heavy
# A Python without SQLite goes on without the cache.
sys.modules["sqlite3"] = None
cache = spacy_mmib.cache.cache.make_feature_cache_v1(sys.argv[1])
assert cache.get_vectors([bytes(32)]) == [None]
print("light")
"""


def test_importing_the_setting_is_light(path):
    result = subprocess.run(
        [sys.executable, "-c", LIGHT, str(path)], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "light", result.stderr[-2000:]
    assert "The feature cache is not used" in result.stderr
