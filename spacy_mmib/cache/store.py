"""The embedded database of the feature cache: bytes under keys, checked, bounded, shared by processes."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from ..util import warn
from . import database
from .locks import ForkLock

Result = TypeVar("Result")

_AT_ONCE = 256  # rows in one query: SQLite allows 999 parameters
_NOTED_USES = 4096  # uses that are kept in memory before they are written
_KEPT = 0.9  # share of the limit that eviction goes down to
_ROW = 128  # bytes of an entry beside its data, about
_PAGES_AT_ONCE = 4096  # given back to the file system in one transaction, 16 MB

_STORES: "WeakSet[FeatureStore]" = WeakSet()
_PARENTS: list[sqlite3.Connection] = []
"""Connections of the process this one was forked from. They are its: never used, and never closed."""


def _after_fork() -> None:
    for store in list(_STORES):
        store._forget_connection()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class Verification:
    """What reading everything found.

    sound (int): Entries and remembered files that are as they were put.
    damaged (int): Those that aren't.
    removed (int): How many of the damaged ones were removed.
    file_error (Optional[str]): What SQLite finds wrong with the file itself.
    """

    sound: int
    damaged: int
    removed: int
    file_error: str | None


class FeatureStore:
    """Bytes under keys, in one SQLite file. It is a cache: nothing in it is needed, so whatever is wrong with
    it costs a warning and time, never a result.

    Several threads may use an object, and several processes a file: readers never wait, a second writer waits
    for the first. A process may be killed at any moment; what a `put` had finished is there.

    path (Union[str, Path]): The file, made if need be. Relative to the current folder.
    max_gb (float): Size the file is kept below, in units of 10^9 bytes: what was used least recently goes.
    read_only (bool): Never write; without a file there is nothing in it.
    timeout (float): Seconds to wait for other processes that write.
    RAISES (ValueError): A limit that isn't one; or there is another file at the path. It is never touched.
    RAISES (OSError): The folder doesn't exist or can't be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_gb: float = 20.0,
        read_only: bool = False,
        timeout: float = 10.0,
    ) -> None:
        if not 0 < max_gb < float("inf"):
            raise ValueError(f"max_gb is the size of the cache in gigabytes, above 0, not {max_gb}")
        self.path = Path(os.path.realpath(path))
        self.max_gb = max_gb
        self.read_only = read_only
        self.timeout = timeout
        self._start()
        with self._lock:
            try:
                self._get_connection()
            except sqlite3.Error as err:
                self._note_error(err)

    def _start(self) -> None:
        self.damaged = 0
        """Entries that were found damaged and taken out."""
        self.lost = 0
        """Entries that couldn't be kept."""
        self.problem: str | None = None
        """Why something couldn't be read or written, the last time."""
        self.broken: str | None = None
        """What SQLite said when it couldn't make sense of the file. Nothing is read or written from then
        on."""
        self._lock = ForkLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._uses: dict[bytes, int] = {}
        self._file_uses: dict[bytes, int] = {}
        self._warned: set[str] = set()
        self._limit_written = False
        self._waits = True
        _STORES.add(self)

    # Life

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("path", "max_gb", "read_only", "timeout")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written, and close the file. Using the store again opens it again."""
        with self._lock:
            if self._connection is None:
                return
            connection, self._connection = self._connection, None
            try:
                if not self.broken:
                    self._write_uses(connection)
                connection.close()
            except sqlite3.Error as err:
                self._note_error(err)

    def _forget_connection(self) -> None:
        """In a forked child: the connection is the parent's."""
        if self._connection is not None:
            _PARENTS.append(self._connection)
        self._connection = None
        self._uses = {}
        self._file_uses = {}

    def _get_connection(self) -> sqlite3.Connection | None:
        """RETURNS (Optional[sqlite3.Connection]): To the file that is at the path now; `None` if nothing can
        be read or written.
        """
        if self._connection is not None:
            if database.file_identity(self.path) == self._identity:
                return None if self.broken else self._connection
            # Somebody removed or replaced it. SQLite notices too, and leaves the new file alone.
            connection, self._connection, self.broken = self._connection, None, None
            self._limit_written = False
            connection.close()
        if self.broken:
            return None
        self._connection = database.connect(self.path, read_only=self.read_only, timeout=self.timeout)
        self._identity = database.file_identity(self.path)
        return self._connection

    def _attempt(self, function: Callable[[sqlite3.Connection], Result]) -> Result | None:
        """RETURNS (Optional[Any]): What the function returns; `None` if there is nothing to call it on, or
        the database doesn't let it.
        """
        with self._lock:
            try:
                connection = self._get_connection()
            except (sqlite3.Error, OSError, ValueError) as err:
                self._note_error(err)
                return None
            try:
                return None if connection is None else function(connection)
            except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
                raise  # keys that aren't bytes: a mistake of the caller
            except sqlite3.Error as err:
                self._note_error(err)
                return None

    def _note_error(self, err: Exception) -> None:
        message = " ".join(str(err).split())
        if isinstance(err, (OSError, ValueError)):  # another file, or none, is there now
            self.broken = message
            self._warn_once("open", f"The feature cache is not used: {message}.")
        elif not isinstance(err, sqlite3.OperationalError):
            self.broken = message
            self._warn_once(
                "damaged",
                f"The feature cache {self.path} is damaged ({message}) and not used. Remove it: "
                f"spacy mmib cache clear {self.path}",
            )
        elif "locked" in message:
            # Once is enough: until the lock is gone every other try would cost as much again.
            self._waits = False
            self._set_timeout(0)
            self._warn_once(
                "locked",
                f"The feature cache {self.path} is locked by another process for more than "
                f"{self.timeout:g} seconds: what would be written now is dropped, and computed again "
                "next time.",
            )
        else:
            self._warn_once(
                "failed",
                f"The feature cache {self.path} can't be read or written ({message}): goes on without.",
            )

    def _set_timeout(self, seconds: float) -> None:
        if self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    @contextmanager
    def _not_waiting(self) -> Iterator[None]:
        """For what isn't worth waiting for."""
        self._set_timeout(0)
        try:
            yield
        finally:
            self._set_timeout(self.timeout if self._waits else 0)

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if not self._waits:
            self._waits = True
            self._set_timeout(self.timeout)

    def _warn_once(self, kind: str, message: str) -> None:
        self.problem = message
        if kind not in self._warned:
            self._warned.add(kind)
            warn(message)

    # Entries

    def get(self, keys: Sequence[bytes], kind: str | None = None) -> dict[bytes, bytes]:
        """Look entries up.

        keys (Sequence[bytes]): Their keys, in any order.
        kind (Optional[str]): Only entries of this kind.
        RETURNS (Dict[bytes, bytes]): Those there are. What was damaged, cut short, or put under another key,
            is not among them; it is taken out and counted in `damaged`.
        """
        found: dict[bytes, bytes] = {}
        if keys:
            self._attempt(lambda connection: self._get(connection, keys, kind, found))
        return found

    def _get(
        self,
        connection: sqlite3.Connection,
        keys: Sequence[bytes],
        kind: str | None,
        found: dict[bytes, bytes],
    ) -> None:
        damaged = []
        for some in _chunks(dict.fromkeys(keys)):
            rows = connection.execute(
                "SELECT id, key, kind, checksum, data FROM entries LEFT JOIN payloads USING (id) "
                f"WHERE key IN ({_marks(some)})",
                some,
            ).fetchall()
            for row in rows:
                if not _is_sound(row):
                    damaged.append(row[0])
                elif kind is None or row[2] == kind:
                    found[row[1]] = row[4]
        if not self.read_only:
            now = time.time_ns()
            self._uses.update((key, now) for key in found)
            if len(self._uses) >= _NOTED_USES:
                self._write_uses(connection)
        self._drop(connection, "entries", damaged)

    def put(self, entries: Mapping[bytes, bytes], kind: str) -> None:
        """Keep entries: all of them or, if that is impossible (a warning says why), none.

        entries (Mapping[bytes, bytes]): Data by key. What there was under a key is replaced.
        kind (str): What sort of entries they are.
        """
        if self.read_only or not entries:
            return

        def write(connection: sqlite3.Connection) -> bool:
            now = time.time_ns()
            with self._transaction(connection):
                self._write_limit(connection)
                connection.executemany(
                    "INSERT INTO entries (key, kind, size, used, checksum) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, size = excluded.size, "
                    "used = excluded.used, checksum = excluded.checksum",
                    [
                        (key, kind, len(data), now, _checksum("entry", key, _bytes(kind), data))
                        for key, data in entries.items()
                    ],
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO payloads (id, data) SELECT id, ? FROM entries WHERE key = ?",
                    [(data, key) for key, data in entries.items()],
                )
                self._set_uses(connection)
                evicted = self._evict(connection)
            if evicted:
                self._shrink(connection)
            return True

        if not self._attempt(write):
            self.lost += len(entries)

    def check_writable(self) -> None:
        """Write something.

        RAISES (OSError): That is impossible; the message says why.
        """

        def write(connection: sqlite3.Connection) -> bool:
            self._limit_written = False
            with self._transaction(connection):
                self._write_limit(connection)
            return True

        if not self._attempt(write):
            raise OSError(self.problem or f"The feature cache {self.path} can't be written.")

    def _drop(self, connection: sqlite3.Connection, table: str, ids: Sequence[Any]) -> None:
        """Take out what is damaged, if that can be done at once: whoever finds it missing puts it anew."""
        self.damaged += len(ids)
        if self.read_only or not ids:
            return
        try:
            with self._not_waiting(), self._transaction(connection):
                _delete(connection, table, ids)
        except sqlite3.OperationalError:
            pass

    # How long things are kept

    def _write_uses(self, connection: sqlite3.Connection) -> None:
        if self._uses or self._file_uses:
            try:
                with self._not_waiting(), self._transaction(connection):
                    self._set_uses(connection)
            except sqlite3.OperationalError:  # somebody else is writing, and this doesn't matter enough
                self._uses.clear()
                self._file_uses.clear()

    def _set_uses(self, connection: sqlite3.Connection) -> None:
        for table, column, uses in (
            ("entries", "key", self._uses),
            ("files", "path", self._file_uses),
        ):
            connection.executemany(
                f"UPDATE {table} SET used = ? WHERE {column} = ? AND used < ?",
                [(used, name, used) for name, used in uses.items()],
            )
        self._uses.clear()
        self._file_uses.clear()

    def _write_limit(self, connection: sqlite3.Connection) -> None:
        if not self._limit_written:
            values = ("max_bytes", int(self.max_gb * 1e9))
            connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", values)
            self._limit_written = True

    def _evict(self, connection: sqlite3.Connection) -> bool:
        limit = self.max_gb * 1e9
        if _live_bytes(connection) <= limit:
            return False
        while (excess := _live_bytes(connection) - _KEPT * limit) > 0:
            oldest: list[tuple[int, int]] = []
            for row_id, size, used in connection.execute(
                "SELECT id, size, used FROM entries ORDER BY used, id"
            ):
                oldest.append((row_id, used))
                excess -= size + _ROW
                if excess <= 0:
                    break
            if oldest:
                _delete(connection, "entries", [row_id for row_id, _ in oldest])
                connection.execute("DELETE FROM files WHERE used < ?", oldest[-1][1:])
            elif not connection.execute(
                "DELETE FROM files WHERE path IN (SELECT path FROM files ORDER BY used LIMIT 1024)"
            ).rowcount:
                break  # the empty tables are larger than the limit
        return True

    def _shrink(self, connection: sqlite3.Connection) -> None:
        """Give what is free back to the file system, a bit at a time so that nobody waits for long."""
        try:
            with self._not_waiting():
                free = _get(connection, "freelist_count")
                while free:
                    connection.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
                    before, free = free, _get(connection, "freelist_count")
                    if free >= before:
                        break
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError:
            pass  # somebody else is at it; what is free is used again

    def clear(self) -> bool:
        """Remove everything. A damaged file is removed itself.

        RETURNS (bool): Whether that was possible; if not a warning says why.
        RAISES (OSError): A damaged file can't be removed.
        RAISES (ValueError): It is read-only.
        """
        if self.read_only:
            raise ValueError(f"{self.path} was opened to be read only")

        def delete(connection: sqlite3.Connection) -> bool:
            with self._transaction(connection):
                for table in ("entries", "payloads", "files"):
                    connection.execute(f"DELETE FROM {table}")
            self._shrink(connection)
            return True

        with self._lock:
            self._uses.clear()
            self._file_uses.clear()
            if self._attempt(delete):
                return True
            if self.broken:
                self.close()
                database.remove_files(self.path)
                self.broken = None
                return True
            return False

    # Files

    def get_digests(self, stats: Mapping[str, str]) -> dict[str, bytes]:
        """Look up the content of files that haven't changed.

        stats (Mapping[str, str]): What the file system says of them now, by path.
        RETURNS (Dict[str, bytes]): The digests of those of which it said the same before.
        """
        found: dict[bytes, bytes] = {}
        wanted = {os.fsencode(path): said for path, said in stats.items()}

        def read(connection: sqlite3.Connection) -> None:
            damaged = []
            for some in _chunks(wanted):
                rows = connection.execute(
                    f"SELECT path, stat, digest, checksum FROM files WHERE path IN ({_marks(some)})",
                    some,
                ).fetchall()
                for row in rows:
                    if not _is_sound_file(row):
                        damaged.append(row[0])
                    elif row[1] == wanted[row[0]]:
                        found[row[0]] = row[2]
            if not self.read_only:
                now = time.time_ns()
                self._file_uses.update((path, now) for path in found)
                if len(self._file_uses) >= _NOTED_USES:
                    self._write_uses(connection)
            self._drop(connection, "files", damaged)

        if stats:
            self._attempt(read)
        return {os.fsdecode(path): digest for path, digest in found.items()}

    def put_digests(self, digests: Mapping[str, tuple[str, bytes]]) -> None:
        """Remember the content of files.

        digests (Mapping[str, Tuple[str, bytes]]): What the file system said of each, and its digest, by path.
        """
        if self.read_only or not digests:
            return

        rows = [(os.fsencode(path), *entry) for path, entry in digests.items()]

        def write(connection: sqlite3.Connection) -> None:
            now = time.time_ns()
            with self._transaction(connection):
                self._write_limit(connection)
                connection.executemany(
                    "INSERT OR REPLACE INTO files (path, stat, digest, used, checksum) "
                    "VALUES (?, ?, ?, ?, ?)",
                    [(*row, now, _file_checksum(*row)) for row in rows],
                )
                evicted = self._evict(connection)
            if evicted:
                self._shrink(connection)

        self._attempt(write)

    # What is in it

    def stats(self) -> dict[str, Any]:
        """Count what is there.

        RETURNS (Dict[str, Any]): `path`; `entries` and `bytes` by kind; `files` whose content is remembered;
            `size_on_disk` and `max_bytes` (the limit of whoever wrote last, or `None`) in bytes;
            `oldest_use` and `newest_use` in seconds since 1970, or `None`; `content_digest`.
        """
        sizes = [_size(self.path, end) for end in ("", "-wal", "-shm")]
        result: dict[str, Any] = {
            "path": str(self.path),
            "entries": {},
            "bytes": {},
            "files": 0,
            "size_on_disk": sum(sizes),
            "max_bytes": None,
            "oldest_use": None,
            "newest_use": None,
        }

        def count(connection: sqlite3.Connection) -> None:
            self._write_uses(connection)
            for kind, n, size in connection.execute(
                "SELECT kind, count(*), sum(size) FROM entries GROUP BY kind ORDER BY kind"
            ):
                result["entries"][kind], result["bytes"][kind] = n, size
            (result["files"],) = connection.execute("SELECT count(*) FROM files").fetchone()
            query = "SELECT value FROM settings WHERE name = 'max_bytes'"
            for (result["max_bytes"],) in connection.execute(query):
                pass
            oldest, newest = connection.execute("SELECT min(used), max(used) FROM entries").fetchone()
            if oldest is not None:
                result["oldest_use"], result["newest_use"] = oldest / 1e9, newest / 1e9

        self._attempt(count)
        result["content_digest"] = self.get_content_digest()
        return result

    def get_content_digest(self) -> str:
        """RETURNS (str): Equal for stores with equal entries, whenever and in whatever order they were put.
        Entries are taken at their checksums: `verify` says whether those hold.
        """
        digest = hashlib.blake2b(digest_size=16)

        def read(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT kind, key, checksum FROM entries ORDER BY kind, key")
            for kind, key, checksum in rows:
                digest.update(_checksum("content", _bytes(kind), _bytes(key), _bytes(checksum)))

        self._attempt(read)
        return digest.hexdigest()

    def verify(self, *, remove: bool = False) -> Verification:
        """Read everything.

        remove (bool): Take out what is damaged.
        RETURNS (Verification): What was found.
        """
        counts = {"sound": 0, "damaged": 0, "removed": 0}
        problems: list[str] = []

        def read(connection: sqlite3.Connection) -> None:
            for (line,) in connection.execute("PRAGMA integrity_check(3)"):
                problems.extend([] if line == "ok" else [" ".join(str(line).split())])
            rows = connection.execute(
                "SELECT id, key, kind, checksum, data FROM entries LEFT JOIN payloads USING (id)"
            )
            damaged = [row[0] for row in _count(rows, _is_sound, counts)]
            rows = connection.execute("SELECT path, stat, digest, checksum FROM files")
            damaged_files = [row[0] for row in _count(rows, _is_sound_file, counts)]
            rows = connection.execute("SELECT id FROM payloads WHERE id NOT IN (SELECT id FROM entries)")
            orphans = [row[0] for row in _count(rows, lambda row: False, counts)]
            if remove and not self.read_only:
                with self._transaction(connection):
                    _delete(connection, "entries", damaged + orphans)
                    _delete(connection, "files", damaged_files)
                counts["removed"] = len(damaged) + len(orphans) + len(damaged_files)

        self._attempt(read)
        problems += [self.broken] if self.broken else []
        return Verification(**counts, file_error="; ".join(dict.fromkeys(problems)) or None)


def _checksum(purpose: str, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16, person=purpose.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _file_checksum(path: bytes, said: str, digest: bytes) -> bytes:
    return _checksum("file", path, _bytes(said), digest)


def _is_sound(row: tuple[Any, ...]) -> bool:
    _, key, kind, checksum, data = row
    if not (isinstance(kind, str) and all(isinstance(x, bytes) for x in (key, checksum, data))):
        return False
    return bool(checksum == _checksum("entry", key, _bytes(kind), data))


def _is_sound_file(row: tuple[Any, ...]) -> bool:
    path, said, digest, checksum = row
    if not (isinstance(said, str) and all(isinstance(x, bytes) for x in (path, digest, checksum))):
        return False
    return bool(checksum == _file_checksum(path, said, digest))


def _count(rows: Iterable[Any], is_sound: Callable[[Any], bool], counts: dict[str, int]) -> Iterator[Any]:
    for row in rows:
        if is_sound(row):
            counts["sound"] += 1
        else:
            counts["damaged"] += 1
            yield row


def _delete(connection: sqlite3.Connection, table: str, ids: Sequence[Any]) -> None:
    for some in _chunks(ids):
        if table == "files":
            connection.execute(f"DELETE FROM files WHERE path IN ({_marks(some)})", some)
        else:
            connection.execute(f"DELETE FROM payloads WHERE id IN ({_marks(some)})", some)
            connection.execute(f"DELETE FROM entries WHERE id IN ({_marks(some)})", some)


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    values = iter(values)
    while some := list(islice(values, _AT_ONCE)):
        yield some


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf8", "surrogatepass")


def _get(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _live_bytes(connection: sqlite3.Connection) -> int:
    pages = _get(connection, "page_count") - _get(connection, "freelist_count")
    return pages * _get(connection, "page_size")


def _size(path: Path, end: str) -> int:
    try:
        return os.stat(f"{path}{end}").st_size
    except OSError:
        return 0
