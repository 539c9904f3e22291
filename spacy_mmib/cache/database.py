"""The SQLite file of a feature store: whether a file is one of ours, how it is opened, made and removed."""

import os
import sqlite3
import stat
import time
from functools import partial
from pathlib import Path

from .locks import ForkLock

APPLICATION_ID = int.from_bytes(b"MMIB", "big")
"""At bytes 68 to 71 of the file, where SQLite has a place for it."""

VERSION = 1
"""Of the tables, at bytes 60 to 63."""

# What is long stands in a table of its own: noting a use rewrites a row, and counting reads all of them.
SCHEMA = (
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, "
    "size INTEGER NOT NULL, used INTEGER NOT NULL, checksum BLOB NOT NULL)",
    "CREATE INDEX entries_used ON entries (used)",
    "CREATE TABLE payloads (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE files (path BLOB PRIMARY KEY, stat TEXT NOT NULL, digest BLOB NOT NULL, "
    "used INTEGER NOT NULL, checksum BLOB NOT NULL)",
    "CREATE INDEX files_used ON files (used)",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
)

_MAGIC = b"SQLite format 3\0"
_WAL_LIMIT = 64 * 2**20  # of what stays of the -wal file after a large transaction

_OPENING = ForkLock()
_KNOWN: set[tuple[int, int]] = set()
"""Files of ours that this process has had open, by device and inode. Their header is not read again:
closing any handle of a file drops the locks that SQLite's own handles in this process hold on it."""


def file_identity(path: Path) -> tuple[int, int] | None:
    """RETURNS (Optional[Tuple[int, int]]): Device and inode, `None` if there is no such file."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def is_ours(path: Path) -> bool:
    """Whether a file is a feature cache, of any version, sound or damaged behind its first bytes.

    path (Path): The file. It is only read.
    RETURNS (bool): No for everything else, and for an empty file.
    RAISES (OSError): It can't be read.
    """
    with _OPENING:
        return _read_version(path) is not None


def _read_version(path: Path) -> int | None:
    if file_identity(path) in _KNOWN:
        return VERSION
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    with open(path, "rb") as file:
        header = file.read(100)
    if not header.startswith(_MAGIC) or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        return None
    return int.from_bytes(header[60:64], "big")


def connect(path: Path, *, read_only: bool, timeout: float) -> sqlite3.Connection | None:
    """Open the file, and make it if there is none.

    path (Path): Absolute.
    read_only (bool): Change nothing.
    timeout (float): Seconds to wait for other processes that write.
    RETURNS (Optional[sqlite3.Connection]): In autocommit mode; `None` if there is no file and it may only
        be read.
    RAISES (ValueError): There is a file that is none of ours, or of another version. It is left as it is.
    RAISES (OSError): The folder doesn't exist, or the file can't be opened.
    RAISES (sqlite3.Error): It is one of ours, and damaged.
    """
    with _OPENING:
        exists = path.exists() and (not path.is_file() or path.stat().st_size > 0)
        if exists:
            _check_file(path)
        elif read_only:
            return None
        _check_access(path, read_only=read_only)
        connection = _connect(path, read_only=read_only, timeout=timeout)
        try:
            _check_tables(connection, path, read_only=read_only)
            if not read_only:
                _use_wal(connection, timeout)
        except BaseException:
            connection.close()
            raise
        identity = file_identity(path)
        if identity is not None:
            _KNOWN.add(identity)
        return connection


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file for the feature cache, in it say")
    version = _read_version(path)
    if version is None:
        raise ValueError(
            f"{path} is not a feature cache but some other file, and is left as it is: choose another path"
        )
    if version != VERSION:
        raise _other_version(path)


def _other_version(path: Path) -> ValueError:
    return ValueError(
        f"{path} was made by another version of spacy-mmib: remove it (spacy mmib cache clear {path}) or "
        "choose another path"
    )


def _check_access(path: Path, *, read_only: bool) -> None:
    if read_only:
        return
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} for the feature cache: make it")
    for needed in (folder, path):  # SQLite keeps files of its own beside the file
        if needed.exists() and not os.access(needed, os.W_OK):
            raise PermissionError(
                f"can't write to {needed}, where the feature cache is to be: choose another path, or set "
                "read_only = true"
            )


def _connect(path: Path, *, read_only: bool, timeout: float) -> sqlite3.Connection:
    def attempt(mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}",
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        # Text that is no UTF-8 is damage for the checksums to find, not an error of the whole query.
        connection.text_factory = partial(str, encoding="utf8", errors="surrogateescape")
        try:
            # The file may come from a stranger: see "Defense Against The Dark Arts" in SQLite's manual.
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA mmap_size = 0")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    try:
        return attempt("ro" if read_only else "rwc")
    except sqlite3.OperationalError as err:
        if "locked" in str(err):
            raise
        wal = path.with_name(path.name + "-wal")
        # Where nothing can be written SQLite can't make the files it coordinates processes by, and as
        # nobody else can write there either it needs none.
        if read_only and not (wal.exists() and wal.stat().st_size):
            return attempt("ro&immutable=1")
        raise OSError(f"can't open the feature cache {path}: {err}") from err


def _check_tables(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    if not read_only and _get(connection, "application_id") == 0:
        # In one transaction, so that at no moment there is a file that isn't known to be ours. Another
        # process may get ahead of us here, with the same.
        connection.execute("BEGIN")
        try:
            # Writes already, and has to come before anything else that writes.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if _get(connection, "application_id") == 0 and not _get_tables(connection):
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                for statement in SCHEMA:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    if _get(connection, "application_id") != APPLICATION_ID:
        raise ValueError(f"{path} is not a feature cache: choose another path")
    if _get(connection, "user_version") != VERSION or _get_tables(connection) != set(SCHEMA):
        raise _other_version(path)


def _get(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _get_tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {sql for (sql,) in rows}


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Write-ahead log: readers and a writer don't wait for each other, and a killed writer leaves nothing
    half done.
    """
    deadline = time.monotonic() + timeout
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:  # a process that has just made the file is still in it
            if time.monotonic() > deadline:
                return  # it works without as well, and the next one to open it tries again
            time.sleep(0.01)


def remove_files(path: Path) -> None:
    """Remove a feature cache with the files SQLite keeps beside it.

    path (Path): The file.
    RAISES (ValueError): It is none of ours; it is left as it is.
    RAISES (OSError): A file can't be removed.
    """
    path = Path(os.path.realpath(path))  # SQLite keeps its files beside what a link leads to
    if not is_ours(path):
        raise ValueError(f"{path} is not a feature cache, and is left as it is")
    with _OPENING:
        _KNOWN.discard(file_identity(path) or (-1, -1))
        # The log first: left behind, it would be taken for that of the next file at this path.
        for end in ("-wal", "-journal", "-shm", ""):
            path.with_name(path.name + end).unlink(missing_ok=True)
