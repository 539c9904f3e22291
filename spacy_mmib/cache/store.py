"""The embedded database of the feature cache: bytes under keys, checked, bounded, shared by processes."""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from weakref import finalize

from ..util import logger, warn

Result = TypeVar("Result")

APPLICATION_ID = int.from_bytes(b"MMIB", "big")  # at bytes 68 to 71 of the file
VERSION = 2  # of the tables

SCHEMA = (
    "CREATE TABLE entries (key BLOB PRIMARY KEY, kind TEXT NOT NULL, used INTEGER NOT NULL, "
    "checksum BLOB NOT NULL, value BLOB NOT NULL)",
    "CREATE INDEX entries_used ON entries (used)",
    "CREATE TABLE settings (max_bytes INTEGER)",
)

# The file may come from a stranger: see "Defense Against The Dark Arts" in SQLite's manual.
PRAGMAS = ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "synchronous = NORMAL")

_FILES = ("-wal", "-journal", "-shm", "")  # ends of the names of the files SQLite keeps
_TIMEOUT = 10.0  # seconds to wait for other processes that write
_AT_ONCE = 256  # keys in one query: SQLite allows 999 parameters
_USE_STEP = 600  # seconds: a use is noted if the last one noted is older
_EVICTED_AT_ONCE = 16e6  # bytes, or a tenth of the limit if that is less
_ROW = 128  # bytes of an entry beside its value, about


class _Handle:
    """The connection of one process. A forked process makes its own, and leaves its parent's as it is."""

    def __init__(self, owner: object) -> None:
        finalize(owner, self.close)
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.file: object = "not opened yet"

    def close(self) -> None:
        if self.connection is not None and self.process == os.getpid():
            self.connection.close()
            self.connection = None


class FeatureStore:
    """Bytes under keys, in one SQLite file that is opened at the first use. It is a cache: whatever is wrong
    with the file costs one warning and time, never a result or an exception.

    Several threads may use an object, and several processes a file: readers never wait, a second writer waits
    for the first. A process may be killed at any moment; what a `put` had finished is there.

    path, max_gb, read_only: See `make_feature_cache_v1`.
    warns (bool): Whether to warn of `problem`.
    RAISES (ValueError): A limit that isn't above 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_gb: float = 20.0,
        read_only: bool = False,
        warns: bool = True,
    ) -> None:
        if not 0 < max_gb < float("inf"):
            raise ValueError(f"max_gb is the size of the cache in gigabytes, above 0, not {max_gb}.")
        self.path = Path(os.path.realpath(path))  # SQLite keeps its files beside what a link leads to
        self.is_relative = not os.path.isabs(path)
        self.max_gb = max_gb
        self.read_only = read_only
        self.warns = warns
        self.problem: str | None = None
        """Why something couldn't be read or written, the last time."""
        self._handle = _Handle(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handle = _Handle(self)

    def close(self) -> None:
        """Close the file, as happens by itself at the end. Using the store again opens it again."""
        with self._handle.lock:
            self._handle.close()
            self._handle = _Handle(self)

    # Opening

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """RETURNS (Optional[Any]): What the function returns; `None` if it fails, or there is no database."""
        if self._handle.process != os.getpid():
            self._handle = _Handle(self)
        handle = self._handle
        with handle.lock:
            file: object = None
            with suppress(OSError):
                info = os.stat(self.path)
                file = info.st_dev, info.st_ino
            try:
                if file != handle.file:  # the first use, or somebody removed or replaced the file
                    handle.close()
                    handle.file = file  # what can't be opened isn't tried again
                    handle.connection = self._open()
                    handle.file = "not there yet"
                    if handle.connection is not None:
                        info = os.stat(self.path)
                        handle.file = info.st_dev, info.st_ino
                return None if handle.connection is None else work(handle.connection)
            except (sqlite3.Error, OSError, ValueError) as err:
                self._note(err, handle)
                return None

    def _note(self, err: Exception, handle: _Handle) -> None:
        reason, before = " ".join(str(err).split()), self.problem
        if isinstance(err, sqlite3.OperationalError):  # locked, a full disk: it may work the next time
            self.problem = f"The feature cache {self.path} can't be read or written: {reason}."
            if handle.connection is None:
                handle.file = "to be tried again"
            else:  # waiting once is enough: every other time would cost as much again
                handle.connection.execute("PRAGMA busy_timeout = 0")
        elif isinstance(err, sqlite3.Error):
            handle.close()  # until there is another file
            self.problem = (
                f"The feature cache {self.path} is damaged ({reason}) and not used. Remove it: "
                f"spacy mmib cache clear {self.path}"
            )
        else:
            self.problem = f"The feature cache can't be used: {reason}."
        if self.is_relative and isinstance(err, FileNotFoundError):
            # A pipeline remembers where its cache was, and is used in another folder.
            logger.info("There is no feature cache at %s: it is not used.", self.path)
        elif self.problem != before and self.warns:
            warn(self.problem)

    def _open(self) -> sqlite3.Connection | None:
        path = self.path
        if self.read_only and not _size(path):
            return None
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} for it: make it")
        is_short = 0 < _size(path) < 512  # SQLite takes it for empty
        if path.exists() and (not path.is_file() or (is_short and not is_feature_cache(path))):
            raise _other_file(path)
        try:
            return self._connect("rw" if self.read_only else "rwc")
        except sqlite3.OperationalError as err:
            if "locked" in str(err):
                raise
            # In a folder that can't be written SQLite can't make the files it coordinates processes by, and
            # as nobody else can write there either it needs none.
            if self.read_only and not _size(path, "-wal"):
                return self._connect("ro&immutable=1")
            raise PermissionError(f"can't write {path} ({err}): take another, or read_only = true") from err
        except sqlite3.DatabaseError:
            if is_feature_cache(path):
                raise
            raise _other_file(path) from None

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, timeout=_TIMEOUT, uri=True, check_same_thread=False)
        try:
            connection.isolation_level = None  # transactions are begun by hand
            connection.text_factory = bytes  # damaged text is for the checksums to find
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            # SQLite itself reads whose file it is: closing another handle of a file would drop the locks that
            # SQLite's own handles in this process hold on it.
            if not self.read_only and _describe(connection) == (0, 0, set()):
                _make_tables(connection)
            application, version, tables = _describe(connection)
            if application != APPLICATION_ID:
                raise _other_file(self.path)
            if version != VERSION or tables != set(SCHEMA):
                hint = f"remove it (spacy mmib cache clear {self.path}) or choose another path"
                raise ValueError(f"{self.path} was made by another version of spacy-mmib: {hint}")
            if not self.read_only:
                # Readers and a writer don't wait for each other, and a killed one leaves nothing half done.
                # If several processes are just making the file, the last of them does this.
                with suppress(sqlite3.OperationalError):
                    connection.execute("PRAGMA journal_mode = WAL").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    # Entries

    @property
    def is_open(self) -> bool:
        """RETURNS (bool): Whether the last use found a file to look into."""
        return self._handle.connection is not None

    def check_writable(self) -> None:
        """RAISES (OSError): The file can't be opened or written to; the message says why."""
        if self.read_only:
            raise PermissionError(f"The feature cache {self.path} is only to be read (read_only = true).")
        self._run(self._write_limit)
        if self.problem:
            raise OSError(self.problem)

    def _write_limit(self, connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE settings SET max_bytes = ?", (int(self.max_gb * 1e9),))

    def get(self, keys: Sequence[bytes], kind: str) -> dict[bytes, bytes]:
        """RETURNS (Dict[bytes, bytes]): The entries of a kind that there are, but for damaged ones."""
        found: dict[bytes, bytes] = {}

        def read(connection: sqlite3.Connection) -> None:
            now = int(time.time())
            uses: list[tuple[int, bytes]] = []
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                for checksum, *entry, used in connection.execute(
                    f"SELECT checksum, key, kind, value, used FROM entries WHERE key IN ({marks})", some
                ).fetchall():
                    key, found_kind, data = entry
                    is_sound = isinstance(checksum, bytes) and checksum == _checksum(*entry)
                    if is_sound and found_kind == kind.encode():
                        found[key] = data
                        if not isinstance(used, int) or abs(now - used) > _USE_STEP:
                            uses.append((now, key))
            if uses and not self.read_only:
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany("UPDATE entries SET used = ? WHERE key = ?", uses)

        if keys:
            self._run(read)
        return {key: found[key] for key in keys if key in found}  # a damaged index leads to others, too

    def put(self, entries: Mapping[bytes, bytes], kind: str) -> None:
        """Keep entries of a kind in place of what was under their keys: all, or (a warning says why) none."""
        now = int(time.time())
        rows = [(key, kind, now, _checksum(key, kind.encode(), data), data) for key, data in entries.items()]

        def write(connection: sqlite3.Connection) -> None:
            with connection:  # commits, or rolls back
                connection.execute("BEGIN IMMEDIATE")
                self._write_limit(connection)
                connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", rows)
                self._evict(connection)

        if rows and not self.read_only:
            self._run(write)

    def _evict(self, connection: sqlite3.Connection) -> None:
        limit = self.max_gb * 1e9
        pages = _get(connection, "page_count") - _get(connection, "freelist_count")
        excess = pages * _get(connection, "page_size") - limit
        if excess <= 0:
            return
        excess += min(limit / 10, _EVICTED_AT_ONCE)  # so that not every put has to
        rows: list[tuple[int]] = []
        for row, size in connection.execute("SELECT rowid, length(value) FROM entries ORDER BY used, rowid"):
            rows.append((row,))
            excess -= size + _ROW
            if excess <= 0:
                break
        connection.executemany("DELETE FROM entries WHERE rowid = ?", rows)

    # What is in it

    def stats(self) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): `path`; `entries` and `bytes` by kind; `files` whose content is known;
        `size_on_disk` and `max_bytes` (the limit of whoever wrote last, or `None`) in bytes; `oldest_use`
        and `newest_use` in seconds since 1970, or `None`; `content_digest`, equal for caches with equal
        entries, whenever and in whatever order they were put (`verify` says whether they are sound).
        """
        counts: dict[str, list[int]] = {}
        limits: list[tuple[int]] = []
        digest = hashlib.blake2b(digest_size=16)

        def read(connection: sqlite3.Connection) -> None:
            integer = "SELECT max_bytes FROM settings WHERE typeof(max_bytes) = 'integer'"
            limits.extend(connection.execute(integer))
            for kind, *numbers in connection.execute(
                "SELECT kind, count(*), sum(length(value)), min(used), max(used) FROM entries WHERE "
                "(typeof(kind), typeof(value), typeof(used)) = ('text', 'blob', 'integer') GROUP BY kind"
            ):
                counts[kind.decode("utf8", "replace")] = numbers
            for row in connection.execute(
                "SELECT kind, key, checksum FROM entries WHERE kind != 'files' ORDER BY kind, key"
            ):
                digest.update(repr(row).encode())

        self._run(read)
        files = counts.pop("files", [0])[0]
        return {
            "path": str(self.path),
            "entries": {kind: numbers[0] for kind, numbers in counts.items()},
            "bytes": {kind: numbers[1] for kind, numbers in counts.items()},
            "files": files,
            "size_on_disk": sum(_size(self.path, end) for end in _FILES),
            "max_bytes": limits[0][0] if limits else None,
            "oldest_use": min((numbers[2] for numbers in counts.values()), default=None),
            "newest_use": max((numbers[3] for numbers in counts.values()), default=None),
            "content_digest": digest.hexdigest(),
        }

    def verify(self, *, remove: bool = False) -> tuple[int, int, str | None]:
        """Read everything, and take out what is damaged if `remove` is set.

        RETURNS (Tuple[int, int, Optional[str]]): Sound entries, damaged ones, what is wrong with the file.
        """
        sound = 0
        damaged: list[tuple[int]] = []
        problems: list[str] = []

        def read(connection: sqlite3.Connection) -> None:
            nonlocal sound
            for (line,) in connection.execute("PRAGMA integrity_check(3)"):
                problems.extend([] if line == b"ok" else [line.decode("utf8", "replace")])
            for row, checksum, *entry in connection.execute(
                "SELECT rowid, checksum, key, kind, value FROM entries"
            ):
                if isinstance(checksum, bytes) and checksum == _checksum(*entry):
                    sound += 1
                else:
                    damaged.append((row,))
            if remove and damaged:
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany("DELETE FROM entries WHERE rowid = ?", damaged)

        self._run(read)
        problems += [self.problem] if self.problem else []
        return sound, len(damaged), "; ".join(problems) or None


def is_feature_cache(path: Path) -> bool:
    """RETURNS (bool): Whether a file is a feature cache, of any version, sound or damaged.
    RAISES (OSError): It isn't there, or can't be read.
    """
    if path.exists() and not path.is_file():
        return False
    with open(path, "rb") as file:
        header = file.read(72)
    return header.startswith(b"SQLite format 3\0") and header[68:] == APPLICATION_ID.to_bytes(4, "big")


def remove_files(path: Path) -> None:
    """Remove a feature cache with the files SQLite keeps beside it.

    RAISES (OSError, ValueError): It can't be removed, or is something else, which is left as it is.
    """
    path = Path(os.path.realpath(path))  # SQLite keeps its files beside what a link leads to
    if not is_feature_cache(path):
        raise _other_file(path)
    # The log first: left behind, it would be taken for that of the next file at this path.
    for end in _FILES:
        path.with_name(path.name + end).unlink(missing_ok=True)


def _other_file(path: Path) -> ValueError:
    return ValueError(f"{path} is not a feature cache, and is left as it is: choose another path")


def _make_tables(connection: sqlite3.Connection) -> None:
    # In one transaction, so that at no moment there is a file that isn't known to be ours. The first
    # statement writes already, and has to come before anything else that does.
    with connection:
        connection.execute("BEGIN")
        connection.execute("PRAGMA auto_vacuum = FULL")
        if _describe(connection) == (0, 0, set()):  # another process can be faster
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            for statement in (*SCHEMA, "INSERT INTO settings VALUES (NULL)"):
                connection.execute(statement)


def _describe(connection: sqlite3.Connection) -> tuple[int, int, set[str]]:
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    tables = {sql.decode("utf8", "replace") for (sql,) in rows}
    return _get(connection, "application_id"), _get(connection, "user_version"), tables


def _get(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _size(path: Path, end: str = "") -> int:
    return os.path.getsize(f"{path}{end}") if os.path.exists(f"{path}{end}") else 0


def _checksum(*parts: Any) -> bytes | None:
    """Of the parts of an entry; `None` if one of them is damaged such that it isn't bytes any more."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if not isinstance(part, bytes):
            return None
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
