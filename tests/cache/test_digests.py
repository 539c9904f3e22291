"""Names of pictures by their content."""

import os
import time
from contextlib import closing
from types import SimpleNamespace

import numpy
import pytest

from spacy_mmib.cache import cache as cache_module
from spacy_mmib.cache.cache import FeatureCache, make_key
from spacy_mmib.images.errors import ReadingLimits
from spacy_mmib.images.values import to_stored

OLD = 1_500_000_000  # seconds since 1970


def write_old(path, data, ns=OLD * 10**9):
    path.write_bytes(data)
    os.utime(path, ns=(ns, ns))


def set_time(monkeypatch, time_ns):
    monkeypatch.setattr(cache_module, "time", SimpleNamespace(time_ns=time_ns))


@pytest.fixture
def later(monkeypatch):
    """Time passes: files that were just written are no longer new."""
    set_time(monkeypatch, lambda: time.time_ns() + 10**10)


@pytest.fixture
def cache(tmp_path):
    cache = FeatureCache(tmp_path / "features.sqlite")
    with closing(cache.store):
        yield cache


@pytest.fixture
def find(cache):
    return cache.digest


@pytest.fixture
def read(monkeypatch):
    """What was read to be named."""
    contents = []

    def make(*parts):
        if parts[0] == "picture":
            contents.append(parts[1])
        return make_key(*parts)

    monkeypatch.setattr(cache_module, "make_key", make)
    return contents


def test_keys_are_unambiguous():
    parts = [(), ("",), (b"",), ("", ""), ("ab",), ("a", "b"), (b"a", "b"), ("a", b"b"), ("b", "a")]
    parts += [("a\0b",), ("as\1",), ("a", ""), ("", "a"), ("é",), ("é".encode(),), ("\udcff",)]
    keys = [make_key(*p) for p in parts]
    assert len(set(keys)) == len(parts)
    assert {len(k) for k in keys} == {32}
    assert make_key("a", b"b") == make_key("a", b"b")


def test_one_file_has_one_digest(tmp_path, find):
    data = b"a picture"
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "other").write_bytes(b"another one")
    assert len(find(data)) == 32
    assert {find(str(tmp_path / name)) for name in ("a", "b", "link")} == {find(data)}
    assert find(str(tmp_path / "other")) != find(data)


def test_pixels_have_digests_of_their_own(find):
    array = numpy.arange(2 * 3 * 3, dtype="uint8").reshape(2, 3, 3)
    pixels = to_stored(array)
    assert find(pixels) == find(to_stored(array.copy()))
    others = [to_stored(array.reshape(3, 2, 3)), to_stored(array + 1), pixels.data]
    assert len({find(pixels), *map(find, others)}) == 4


def test_what_cannot_be_read_has_no_digest(tmp_path, find):
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"x" * 1001)
    names = [str(tmp_path / "missing"), str(tmp_path), str(tmp_path / "empty"), "a\0b", "", "x" * 5000]
    names += ["https://example.com/a.jpg", None, b"", 3, {"not": "ours"}, "/dev/zero"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        names.append(str(tmp_path / "pipe"))
    assert [find(name) for name in names] == [None] * len(names)
    for large in (str(tmp_path / "large"), b"x" * 1001):
        assert find(large, ReadingLimits(max_bytes=1000)) is None
        assert find(large, ReadingLimits(max_bytes=1001)) is not None
        assert find(large, ReadingLimits(max_bytes=1000)) is None  # although it is known by now


def test_known_files_are_not_read(tmp_path, later, read, cache):
    file = tmp_path / "a.jpg"
    write_old(file, b"first")
    digests = {cache.digest(str(file)) for _ in range(2)}
    other = FeatureCache(cache.store.path, read_only=True)
    with closing(other.store):
        digests.add(other.digest(str(file)))
    assert len(digests) == len(read) == 1
    assert cache.store.stats()["files"] == 1


def test_changed_files_are_read_again(tmp_path, later, find):
    file = tmp_path / "a.jpg"

    def check(data):
        assert find(str(file)) == find(str(file)) == find(data)

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
    assert find(str(file)) is None
    write_old(file, b"fourth, longer")
    check(b"fourth, longer")


@pytest.mark.parametrize("mtime", ["now", "old"])
def test_new_files_are_not_trusted(tmp_path, monkeypatch, mtime, find, read, cache):
    """A file can change within one tick of its clock, and nothing but its content tells."""
    file = tmp_path / "a.jpg"
    file.write_bytes(b"first")
    if mtime == "old":  # copied or unpacked
        write_old(file, b"first")
    monkeypatch.setattr(cache_module, "_describe", lambda info: "always the same")
    first = find(str(file))
    file.write_bytes(b"other")
    if mtime == "old":
        write_old(file, b"other")
    assert find(str(file)) == find(b"other") != first
    assert cache.store.stats()["files"] == 0
    # A time in the future is no reason to read a file for ever.
    os.utime(file, ns=(4 * OLD * 10**9,) * 2)
    set_time(monkeypatch, lambda: file.stat().st_ctime_ns + 3 * 10**9)
    find(str(file))
    n = len(read)
    find(str(file))
    assert len(read) == n


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, find):
    (tmp_path / "a.jpg").write_bytes(b"first")
    descriptions = iter("aab")
    monkeypatch.setattr(cache_module, "_describe", lambda info: next(descriptions))
    assert find(str(tmp_path / "a.jpg")) is None


def test_names_that_are_no_unicode(tmp_path, later, read, find):
    name = os.fsencode(tmp_path) + b"/\xff.jpg"
    try:
        with open(name, "wb") as file:
            file.write(b"first")
    except OSError:
        pytest.skip("the file system has Unicode names only")
    assert find(os.fsdecode(name)) == find(os.fsdecode(name)) is not None
    assert read == [b"first"]
