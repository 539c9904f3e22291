"""The database: what is put comes back or is missing, whatever happens to the file and the processes."""

import gc
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing

import pytest
from conftest import make_picture

from spacy_mmib.cache import store as store_module
from spacy_mmib.cache.cache import FeatureCache
from spacy_mmib.cache.store import FeatureStore, remove_files

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def key(i):
    return hashlib.blake2b(str(i).encode(), digest_size=32).digest()


def value(i, size=3000):
    return random.Random(i).randbytes(size)


def content(numbers, size=3000):
    return {key(i): value(i, size) for i in numbers}


def get(store, numbers):
    return store.get([key(i) for i in numbers], "vectors")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.sqlite"


@pytest.fixture
def filled(path):
    with closing(FeatureStore(path)) as store:
        store.put(content(range(20)), "vectors")
        store.put({key("r"): b"[]"}, "regions")
    return path


def execute(path, *statements):
    connection = sqlite3.connect(path)
    with connection:
        for statement, *parameters in statements:
            connection.execute(statement, parameters)
    connection.close()


def query(path, statement):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def is_intact(path):
    return query(path, "PRAGMA integrity_check") == [("ok",)] and FeatureStore(path).verify()[1] == 0


@pytest.fixture
def said(monkeypatch):
    """What a store warns of."""
    messages = []
    monkeypatch.setattr(store_module, "warn", messages.append)
    return messages


def test_what_is_put_is_there(filled, said):
    with closing(FeatureStore(filled)) as store:
        assert get(store, ["missing", *range(20), 3, "r"]) == content(range(20))
        assert store.get([key(3), key("r")], "regions") == {key("r"): b"[]"}
        assert store.get([], "vectors") == {}
        store.put({key(3): b"new", key("empty"): b""}, "vectors")
        assert get(store, [3, "empty"]) == {key(3): b"new", key("empty"): b""}
        many = content(range(1000, 3000), size=10)
        store.put(many, "vectors")
        assert get(store, range(1000, 3000)) == many
    assert is_intact(filled)
    gc.collect()
    assert os.listdir(filled.parent) == [filled.name]
    assert not said


def test_statistics(filled):
    before = int(time.time())
    with closing(FeatureStore(filled, max_gb=3)) as store:
        store.put({key("more"): b"x" * 50}, "regions")
        store.put({key("a file"): bytes(32)}, "files")
        stats = store.stats()
    assert stats["entries"] == {"vectors": 20, "regions": 2}
    assert stats["bytes"] == {"vectors": 60_000, "regions": 52}
    assert stats["files"] == 1
    assert stats["max_bytes"] == 3_000_000_000
    assert before - 60 < stats["oldest_use"] <= stats["newest_use"]
    assert stats["size_on_disk"] > 60_000


def test_content_digest_tells_content_only(tmp_path):
    def digest_of(name, *puts):
        with closing(FeatureStore(tmp_path / name)) as store:
            for entries, kind in puts:
                store.put(entries, kind)
            return store.stats()["content_digest"]

    vectors = (content(range(9)), "vectors")
    expected = digest_of("a", vectors, ({key(9): b"1"}, "regions"))
    backwards = [(content([i]), "vectors") for i in reversed(range(9))]
    same = [({key(9): b"0"}, "regions"), *backwards, ({key(9): b"1"}, "regions"), ({key(0): b"1"}, "files")]
    assert digest_of("b", *same[:-1], ({key("f"): b"1"}, "files")) == expected
    assert digest_of("c", vectors, ({key(9): b"1"}, "vectors")) != expected
    assert digest_of("d", vectors, ({key(9): b"2"}, "regions")) != expected
    assert digest_of("e", vectors) != expected


@pytest.mark.parametrize("max_gb", [0, -1, float("inf"), float("nan")])
def test_a_limit_is_a_number_above_0(path, max_gb):
    for kind in (FeatureStore, FeatureCache):
        with pytest.raises(ValueError, match="max_gb"):
            kind(path, max_gb=max_gb)
    assert not path.exists()


# Damage

DAMAGE = {
    "a flipped bit": ("UPDATE entries SET value = ? WHERE rowid = 3", b"\1" + value(2)[1:]),
    "cut short": ("UPDATE entries SET value = ? WHERE rowid = 3", value(2)[:-1]),
    "not bytes": ("UPDATE entries SET value = 'text' WHERE rowid = 3",),
    "a number": ("UPDATE entries SET value = 3 WHERE rowid = 3",),
    "another kind": ("UPDATE entries SET kind = 'regions' WHERE rowid = 3",),
    "a kind that is no text": ("UPDATE entries SET kind = CAST(X'FF' AS TEXT) WHERE rowid = 3",),
    "the checksum": ("UPDATE entries SET checksum = zeroblob(16) WHERE rowid = 3",),
    "no checksum": ("UPDATE entries SET checksum = 3 WHERE rowid = 3",),
    "a letter of the kind that became data": (
        "UPDATE entries SET kind = 'vector', value = ? WHERE rowid = 3",
        b"s" + value(2),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_missing(filled, said, damage):
    execute(filled, DAMAGE[damage])
    rest = content([0, 1, *range(3, 20)])
    with closing(FeatureStore(filled, read_only=True)) as store:
        assert get(store, range(20)) == rest
        assert store.verify() == (20, 1, None)
        assert json.dumps(store.stats())
    with closing(FeatureStore(filled)) as store:
        store.put(content([2]), "vectors")
        assert get(store, range(20)) == content(range(20))
        assert store.verify() == (21, 0, None)
    execute(filled, DAMAGE["cut short"], ("UPDATE entries SET value = ? WHERE key = ?", b"x", key(5)))
    with closing(FeatureStore(filled)) as store:
        assert store.verify(remove=True)[1] >= 1
        assert store.verify()[1] == 0
    assert is_intact(filled)
    assert not said


def test_sound_data_under_another_key_is_missing(filled):
    swap = [
        ("UPDATE entries SET key = X'00' WHERE key = ?", key(2)),
        ("UPDATE entries SET key = ? WHERE key = ?", key(2), key(3)),
        ("UPDATE entries SET key = ? WHERE key = X'00'", key(3)),
        ("UPDATE entries SET key = ? WHERE key = ?", key("another"), key(6)),
    ]
    execute(filled, *swap)
    with closing(FeatureStore(filled)) as store:
        assert get(store, [*range(20), "another"]) == content(set(range(20)) - {2, 3, 6})
        assert store.verify(remove=True) == (18, 3, None)
        assert store.verify() == (18, 0, None)


def test_a_file_cut_short_costs_one_warning(filled, said):
    size = filled.stat().st_size
    for left in (size - 4096, size // 2, 5000, 600):
        part = filled.with_name(f"{left}.sqlite")
        part.write_bytes(filled.read_bytes()[:left])
        del said[:]
        store = FeatureStore(part)
        for i in range(20):
            assert get(store, [i]) in ({}, content([i]))
        store.put(content(range(100, 150)), "vectors")
        get(store, [100])
        assert store.verify()[2]
        assert len(said) == 1
        assert "is damaged" in said[0]
        assert f"spacy mmib cache clear {part}" in said[0]
        remove_files(part)
        store.put(content([1]), "vectors")
        assert get(store, [1]) == content([1])
        store.close()


def damage(data, rng):
    """Change a file as disks, other programs, and enemies do."""
    bad = bytearray(data)
    for _ in range(rng.choice([1, 1, 4, 30])):
        start = rng.randrange(len(bad)) if rng.random() < 0.7 else rng.randrange(min(len(bad), 9000))
        length = rng.choice([1, 2, 30, 500])
        match rng.choice(["flip", "garbage", "zeros", "copy"]):
            case "flip":
                bad[start] ^= 1 << rng.randrange(8)
            case "garbage":
                bad[start : start + length] = rng.randbytes(len(bad[start : start + length]))
            case "zeros":
                bad[start : start + length] = bytes(len(bad[start : start + length]))
            case "copy":
                page, other = (rng.randrange(len(bad) // 4096) * 4096 for _ in range(2))
                bad[page : page + 4096] = bad[other : other + 4096]
    return bytes(bad[: rng.randrange(len(bad))] if rng.random() < 0.1 else bad)


def look_into_damaged_files(folder, n_files, n_looks, seed=0):
    """RETURNS (Counter): Of what was found. Also a script to run at length."""
    rng = random.Random(seed)
    counts = dict.fromkeys(("found", "missing", "wrong", "warned too often", "unusable"), 0)
    good = {}
    for wal in (False, True):  # with the log of a writer that was killed, too
        path = folder / f"good{wal}.sqlite"
        with closing(FeatureStore(path)) as store:
            sizes = [(i, rng.choice([10, 300, 3000, 20_000])) for i in range(60)]
            store.put({key(i): value(i, size) for i, size in sizes}, "vectors")
            ends = ("", "-wal") if wal else ("",)
            if not wal:
                store.close()
            good[wal] = {end: folder.joinpath(path.name + end).read_bytes() for end in ends}, dict(sizes)
    for i in range(n_files):
        data, sizes = good[i % 4 == 0]
        path = folder / f"{i}.sqlite"
        hit = rng.choice(list(data))
        for end, content in data.items():
            path.with_name(path.name + end).write_bytes(damage(content, rng) if end == hit else content)
        store = FeatureStore(path, read_only=rng.random() < 0.2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for look in range(n_looks):
                j = rng.randrange(70)
                found = get(store, [j])
                right = found in ({}, {key(j): value(j, sizes.get(j, 5))})
                counts["wrong" if not right else "found" if found else "missing"] += 1
                if look % 50 == 25:
                    store.put({key(j): value(j, sizes.get(j, 5))}, "vectors")
            store.stats()
            store.verify(remove=not store.read_only and rng.random() < 0.5)
        counts["warned too often"] += len(caught) > 1
        counts["unusable"] += bool(caught)
        store.close()
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)
    return counts


def test_damaged_files_give_nothing_wrong(tmp_path):
    counts = look_into_damaged_files(tmp_path, n_files=40, n_looks=100)
    assert counts["wrong"] == counts["warned too often"] == 0
    assert counts["found"] > 500
    assert 0 < counts["unusable"] < 40


@pytest.mark.parametrize("name", ["text", "sqlite", "wal", "picture", "short", "sqlite header"])
def test_other_files_are_left_alone(path, name, said):
    if name in ("sqlite", "wal"):
        execute(path, ("CREATE TABLE entries (a)",), ("INSERT INTO entries VALUES (1)",))
        if name == "wal":
            query(path, "PRAGMA journal_mode = WAL")
    elif name == "picture":
        make_picture("red").save(path, format="PNG")
    else:
        data = {"text": b"my notes\n" * 50, "short": b"x", "sqlite header": b"SQLite format 3\0"}
        path.write_bytes(data[name])
    before = path.read_bytes(), path.stat().st_mtime_ns
    for read_only in (False, True):
        store = FeatureStore(path, read_only=read_only)
        store.put(content([1]), "vectors")
        assert get(store, [1]) == {}
        store.close()
    assert len(said) == 2
    assert all("not a feature cache, and is left as it is" in message for message in said)
    with pytest.raises(ValueError, match="left as it is"):
        remove_files(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("change", ["PRAGMA user_version = 1", "CREATE VIEW a AS SELECT 1"])
def test_other_versions_and_other_tables(filled, said, change):
    execute(filled, (change,))
    store = FeatureStore(filled)
    assert get(store, [1]) == get(store, [2]) == {}
    assert len(said) == 1
    assert "another version" in said[0]
    assert f"spacy mmib cache clear {filled}" in said[0]
    remove_files(filled)
    store.put(content([1]), "vectors")
    assert get(store, [1]) == content([1])


def test_places_where_no_file_can_be(tmp_path, said):
    places = {tmp_path / "nowhere" / "f.sqlite": "there is no folder", tmp_path: "not a feature cache"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        places[tmp_path / "pipe"] = "not a feature cache"
    for place, message in places.items():
        store = FeatureStore(place)
        store.put(content([1]), "vectors")
        with pytest.raises(OSError, match=message):
            store.check_writable()
        assert get(store, [1]) == {}
        assert message in said.pop()
        assert not said


def test_read_only_writes_nothing(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_USE_STEP", -1)
    before = filled.read_bytes()
    with closing(FeatureStore(filled, read_only=True)) as store:
        assert get(store, [1]) == content([1])
        store.put(content([99]), "vectors")
        assert get(store, [99]) == {}
        with pytest.raises(OSError, match="read_only = true"):
            store.check_writable()
    assert filled.read_bytes() == before
    assert os.listdir(tmp_path) == [filled.name]
    missing = tmp_path / "missing.sqlite"
    with closing(FeatureStore(missing, read_only=True)) as store:
        store.put(content([1]), "vectors")
        assert get(store, [1]) == {}
        assert store.verify() == (0, 0, None)
        assert store.stats()["entries"] == {}
        assert not missing.exists()
        with closing(FeatureStore(missing)) as writer:  # as soon as somebody makes it, it is read
            writer.put(content([1]), "vectors")
        assert get(store, [1]) == content([1])


READ_ONLY_FOLDER = """
import os, sys
from spacy_mmib.cache.store import FeatureStore
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for read_only in (True, False):
    store = FeatureStore(sys.argv[1], read_only=read_only)
    print(len(store.get([bytes.fromhex(sys.argv[2])], "vectors")), store.problem)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs users")
def test_a_folder_that_cannot_be_written(tmp_path, filled):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # others may enter
        shutil.copy(filled, folder)
        os.chmod(os.path.join(folder, filled.name), 0o444)
        os.chmod(folder, 0o555)
        command = [sys.executable, "-c", READ_ONLY_FOLDER, os.path.join(folder, filled.name), key(1).hex()]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert os.listdir(folder) == [filled.name]
        os.chmod(folder, 0o755)
    lines = result.stdout.splitlines()
    assert lines[0] == "1 None", result.stderr
    assert "take another, or read_only = true" in lines[1]


def test_a_file_removed_while_it_is_in_use(filled, tmp_path):
    """And its log, which must not be taken for that of the next one."""
    a, b = FeatureStore(filled), FeatureStore(filled)
    a.put(content(range(100, 200)), "vectors")
    os.unlink(filled)
    assert filled.with_name(filled.name + "-wal").exists()
    assert get(b, [1]) == {}
    b.put(content([7]), "vectors")
    assert get(a, [1, 7]) == content([7])
    a.put(content([8]), "vectors")
    a.close()
    assert get(b, [7, 8]) == content([7, 8])
    remove_files(filled)
    assert os.listdir(tmp_path) == []
    b.put(content([9]), "vectors")
    b.close()
    with closing(FeatureStore(filled)) as store:
        assert get(store, [7, 9]) == content([9])
    assert is_intact(filled)


def test_a_link_to_a_store(filled, tmp_path):
    link = tmp_path / "link.sqlite"
    link.symlink_to(filled)
    with closing(FeatureStore(link)) as store, closing(FeatureStore(filled)) as same:
        store.put(content([77]), "vectors")
        assert get(same, [77]) == content([77])
    remove_files(link)
    assert not filled.exists()


# Size


def file_sizes(path):
    return [file.stat().st_size for file in path.parent.iterdir()]


def size_of(path):
    return sum(file_sizes(path))


@pytest.fixture
def clock(monkeypatch):
    """An hour passes with every look at the time."""
    hours = iter(range(3600, 10**9, 3600))
    monkeypatch.setattr(store_module.time, "time", lambda: next(hours))


def test_least_recently_used_goes_first(path, clock):
    limit = 1_000_000
    with closing(FeatureStore(path, max_gb=limit / 1e9)) as store:
        for i in range(40):
            store.put(content([i], 20_000), "vectors")
        get(store, range(5))
        largest = 0
        for i in range(40, 60):
            store.put(content([i], 20_000), "vectors")
            largest = max(largest, path.stat().st_size)
        there = {i for i in range(60) if get(store, [i])}
        assert there >= {*range(5), *range(40, 60)}
        gone = set(range(60)) - there
        assert gone == set(range(5, 5 + len(gone)))  # the oldest of the others, in their order
        assert 10 <= len(gone) <= 25
        assert largest <= limit * 1.1
    assert size_of(path) <= limit
    assert is_intact(path)
    with closing(FeatureStore(path)) as store:  # nothing else was lost
        assert {i for i in range(60) if get(store, [i])} == there


def test_a_lower_limit_makes_the_file_smaller(path):
    with closing(FeatureStore(path)) as store:
        for i in range(0, 400, 20):
            store.put(content(range(i, i + 20), 10_000), "vectors")
    assert size_of(path) > 4_000_000
    with closing(FeatureStore(path, max_gb=0.002)) as store:
        store.put(content([400], 10_000), "vectors")
        assert get(store, [400, 399, 0]) == content([400, 399], 10_000)
    assert 1_400_000 < size_of(path) <= 2_000_000
    assert is_intact(path)


def test_a_use_is_noted_once_in_a_while(path):
    with closing(FeatureStore(path)) as store:
        store.put(content(range(30)), "vectors")
    before = path.read_bytes()
    with closing(FeatureStore(path)) as store:
        for _ in range(50):
            get(store, range(10))
        assert path.read_bytes() == before  # no write per read
        assert not path.with_name(path.name + "-wal").stat().st_size
    assert path.read_bytes() == before


def test_a_limit_smaller_than_anything(path):
    with closing(FeatureStore(path, max_gb=1e-6)) as store:
        store.put(content([1]), "vectors")
        assert get(store, [1]) == {}
        store.put({key(i): b"" for i in range(10)}, "vectors")
    assert size_of(path) < 100_000


# Processes and threads

fork = multiprocessing.get_context("fork") if hasattr(os, "fork") else multiprocessing


def _write_slowly(path, start, seconds):
    with closing(FeatureStore(path)) as store:
        end = time.monotonic() + seconds
        i = start
        while time.monotonic() < end:
            store.put(content(range(i, i + 5)), "vectors")
            i += 5
    os._exit(1 if i == start or store.problem else 0)


def _read(path, seconds):
    found = {}
    with closing(FeatureStore(path, read_only=True)) as store:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not store.problem:
            found = get(store, range(100))
            wrong = any(value != content([i])[key(i)] for i, value in enumerate(found.values()))
            # A put is there as a whole or not at all.
            if wrong or any((key(i) in found) != (key(i + 4) in found) for i in range(0, 100, 5)):
                os._exit(1)
    os._exit(0 if found and not store.problem else 2)


@needs_fork
def test_several_writers_and_readers(path):
    """They start at once, so that they also make the file at once."""
    processes = [fork.Process(target=_write_slowly, args=(path, i * 10_000, 0.4)) for i in range(4)]
    processes += [fork.Process(target=_read, args=(path, 0.6)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    with closing(FeatureStore(path)) as store:
        assert store.verify()[0] >= 20
        assert all(get(store, [i * 10_000]) for i in range(4))
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    assert is_intact(path)


def test_a_locked_file_costs_one_wait_and_one_warning(filled, said, monkeypatch):
    monkeypatch.setattr(store_module, "_TIMEOUT", 0.05)
    blocker = sqlite3.connect(filled, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    store = FeatureStore(filled)
    for i in range(100, 103):
        store.put(content([i]), "vectors")
    assert len(said) == 1
    assert "locked" in said[0]
    assert get(store, [1, 100]) == content([1])
    blocker.execute("ROLLBACK")
    store.put(content([103]), "vectors")
    assert get(store, [100, 103]) == content([103])
    blocker.close()
    store.close()


N_KILLED, CHUNK = 600, 10


def _build(path, max_gb):
    """What a resumable computation does: chunk after chunk, passing over what is there."""
    with closing(FeatureStore(path, max_gb=max_gb)) as store:
        for i in range(0, N_KILLED, CHUNK):
            there = get(store, range(i, i + CHUNK))
            missing = [j for j in range(i, i + CHUNK) if key(j) not in there]
            store.put(content(missing, 12_000), "vectors")
    os._exit(0)


@needs_fork
@pytest.mark.parametrize("max_gb", [20.0, 0.003])
def test_killed_at_any_moment(path, max_gb):
    """Also while it evicts. Then going on leads to what there would be without."""
    rng = random.Random(0)
    done = []
    for i in range(16):
        before = file_sizes(path)
        process = fork.Process(target=_build, args=(path, max_gb))
        process.start()
        while i >= 8 and process.is_alive() and file_sizes(path) == before:  # until it is at work
            time.sleep(0.001)
        process.join(rng.uniform(0.002, 0.03))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if path.exists():
            with closing(FeatureStore(path)) as store:
                sound, damaged, problem = store.verify()
            assert (damaged, problem) == (0, None)
            done.append(sound)
    assert any(0 < n < N_KILLED for n in done)
    if max_gb == 20:
        assert done == sorted(done)  # what was there stays
        process = fork.Process(target=_build, args=(path, max_gb))
        process.start()
        process.join()
        with closing(FeatureStore(path)) as store:
            assert store.verify() == (N_KILLED, 0, None)
            assert get(store, range(N_KILLED)) == content(range(N_KILLED), 12_000)


@needs_fork
def test_a_forked_process_opens_the_file_itself(filled):
    store = FeatureStore(filled)
    get(store, [0])
    inherited = store._handle

    def child(results):
        results.put(get(store, [1]) == content([1]))
        results.put(store._handle is not inherited and inherited.connection is not None)
        store.put(content([200]), "vectors")
        store.close()

    results = fork.Queue()
    # As if another thread were in the middle of something.
    with store._handle.lock:
        process = fork.Process(target=child, args=(results,))
        process.start()
    assert [results.get(timeout=30) for _ in range(2)] == [True, True]
    process.join()
    store.put(content([201]), "vectors")
    assert get(store, [200, 201]) == content([200, 201])
    assert store._handle is inherited
    store.close()
    assert is_intact(filled)


def test_threads_share_a_store(path):
    store = FeatureStore(path)
    errors = []

    def work(n):
        try:
            for i in range(n, 200, 4):
                store.put(content([i], 200), "vectors")
                assert get(store, [i, i - 4])[key(i)] == value(i, 200)
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert get(store, range(200)) == content(range(200), 200)
    store.close()
    assert is_intact(path)


def test_a_store_that_is_no_longer_used_is_closed(path):
    store = FeatureStore(path)
    store.put(content([1]), "vectors")
    assert path.with_name(path.name + "-wal").exists()
    del store
    gc.collect()
    assert os.listdir(path.parent) == [path.name]
