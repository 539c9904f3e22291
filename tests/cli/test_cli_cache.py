"""`spacy mmib cache stats|verify|clear`."""

import json
import os
import sqlite3
from contextlib import closing

import commands
import pytest

from spacy_mmib.cache.store import FeatureStore

KEYS = [bytes([i]) * 32 for i in range(10)]


def run(*args, **kwargs):
    return commands.run("cache", *args, **kwargs)


@pytest.fixture
def path(tmp_path):
    with closing(FeatureStore(tmp_path / "f.sqlite", max_gb=2.5)) as store:
        store.put({key: key * 100 for key in KEYS}, "vectors")
        store.put({b"r" * 32: b"[]"}, "regions")
        store.put({b"f" * 32: b"d" * 32}, "files")
    return tmp_path / "f.sqlite"


def damage(path, n=1):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE entries SET value = X'00' WHERE rowid <= ?", (n,))
    connection.close()


def break_file(path):
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xff" * (len(data) // 2 - 100))


@pytest.fixture(params=["text", "sqlite"])
def other(request, tmp_path):
    """A file that is no feature cache."""
    file = tmp_path / "other"
    if request.param == "text":
        file.write_text("my notes")
    else:
        connection = sqlite3.connect(file)
        with connection:
            connection.execute("CREATE TABLE mine (a)")
        connection.close()
    return file


def test_stats(path):
    result = run("stats", path)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["vectors", "10", "32.0", "kB"] in lines
    assert ["regions", "1", "2", "bytes"] in lines
    assert ["Limit", "2.50", "GB"] in lines
    assert ["Files", "known", "1"] in lines
    as_json = json.loads(run("stats", path, "--json").stdout)
    assert ["Content", "digest", as_json["content_digest"]] in lines
    assert as_json == FeatureStore(path, read_only=True).stats()
    assert as_json["size_on_disk"] >= path.stat().st_size
    assert as_json["entries"] == {"regions": 1, "vectors": 10}


def test_looking_at_a_cache_changes_nothing(path):
    before = path.read_bytes()
    assert run("stats", path).exit_code == 0
    assert run("verify", path).exit_code == 0
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_empty_cache_has_stats(tmp_path):
    FeatureStore(tmp_path / "f.sqlite").get([b"key"], "vectors")
    result = run("stats", tmp_path / "f.sqlite")
    assert result.exit_code == 0, result.output
    assert "never" in result.stdout
    assert "not set yet" in result.stdout
    assert run("verify", tmp_path / "f.sqlite").exit_code == 0


def test_verify(path):
    result = run("verify", path)
    assert result.exit_code == 0
    assert "12 sound, 0 damaged" in result.stdout
    damage(path, 2)
    result = run("verify", path)
    assert result.exit_code == 1
    assert "10 sound, 2 damaged" in result.stdout
    assert "--remove" in result.stderr
    result = run("verify", path, "--remove")
    assert result.exit_code == 1
    assert "Removed 2 damaged" in result.stderr
    result = run("verify", path)
    assert result.exit_code == 0
    assert "10 sound, 0 damaged" in result.stdout
    assert FeatureStore(path).get(KEYS, "vectors").keys() == set(KEYS[2:])


@pytest.mark.parametrize("command", [["stats"], ["stats", "--json"], ["verify"], ["verify", "--remove"]])
def test_a_broken_file_is_explained(path, command):
    break_file(path)
    result = run(*command, path)
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
    assert f"spacy mmib cache clear {path}" in result.stderr
    assert "Traceback" not in result.output


def test_clear_asks(path):
    assert run("clear", path, input="n\n").exit_code == 1
    assert run("verify", path).exit_code == 0
    result = run("clear", path, input="y\n")
    assert result.exit_code == 0, result.output
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("state", ["sound", "damaged", "broken", "other version", "in use"])
def test_clear(path, state):
    store = None
    if state == "damaged":
        damage(path)
    elif state == "broken":
        break_file(path)
    elif state == "other version":
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 7")
        connection.close()
    elif state == "in use":
        store = FeatureStore(path)
        store.put({KEYS[0]: b"new"}, "vectors")
    result = run("clear", path, "--yes")
    assert result.exit_code == 0, result.output
    assert os.listdir(path.parent) == []
    if store is not None:
        assert store.get(KEYS, "vectors") == {}
        store.put({KEYS[1]: b"newer"}, "vectors")
        assert run("verify", path).exit_code == 0
        store.close()


@pytest.mark.parametrize("command", [["stats"], ["verify", "--remove"], ["clear", "--yes"]])
def test_other_files_are_left_alone(other, command):
    before = other.read_bytes()
    result = run(*command, other)
    assert result.exit_code == 1
    assert "is not a feature cache, and is left as it is" in result.stderr
    assert other.read_bytes() == before
    assert os.listdir(other.parent) == [other.name]


@pytest.mark.parametrize("command", [["stats"], ["verify"], ["clear", "--yes"]])
@pytest.mark.parametrize("name", ["missing", "", "missing/f.sqlite"])
def test_files_that_are_not_there(tmp_path, command, name):
    result = run(*command, tmp_path / name)
    assert result.exit_code == 1
    assert "no such file" in result.stderr if name else "not a feature cache" in result.stderr
    assert os.listdir(tmp_path) == []


def test_in_spacys_own_command_line(path):
    result = commands.run_alone("cache", "stats", path, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["entries"] == {"regions": 1, "vectors": 10}
