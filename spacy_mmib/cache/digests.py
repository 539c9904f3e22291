"""Names pictures by their content, reading a file only if it may have changed since it was last read."""

import hashlib
import os
import stat
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ..images.files import open_file
from ..images.limits import ReadingLimits
from ..post.values import PathInRoot, Pixels, StoredImage
from .locks import ForkLock

if TYPE_CHECKING:
    from .store import FeatureStore

_BLOCK = 2**20
_MOST_BYTES = 2**30  # of a file, without another limit
_REMEMBERED = 16_384  # files in memory
_WRITTEN_AT_ONCE = 256
_RACY_NS = 2 * 10**9
"""A file that changed so recently could change again without its times telling: file systems count in steps,
of up to two seconds. Git calls such entries of its index racily clean."""

_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


class ContentDigests:
    """Content digests of pictures. A file has the same digest under every path, and as bytes.

    store (Optional[FeatureStore]): Remembers those of files from one run to the next.
    """

    def __init__(self, store: "FeatureStore | None") -> None:
        self.store = store
        self._lock = ForkLock()
        self._memory: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._unwritten: dict[str, tuple[str, bytes]] = {}

    def digest(self, stored: StoredImage, *, max_bytes: int | None = None) -> bytes | None:
        """RETURNS (Optional[bytes]): The digest of a picture, 32 bytes. `None` if there is none, it can't be
        read, or is larger than `max_bytes`: whoever reads it will say why.

        stored (StoredImage): What `doc._.image` keeps, or the path of a crop.
        max_bytes (Optional[int]): The largest file that is read.
        """
        if isinstance(stored, Pixels):
            return _start("pixels", stored.height.to_bytes(8, "little") + stored.data).digest()
        most = _MOST_BYTES if max_bytes is None else max_bytes
        if isinstance(stored, bytes):
            return _start("file", stored).digest() if 0 < len(stored) <= most else None
        if not isinstance(stored, str) or not stored:
            return None
        try:
            return self._digest_file(stored, most)
        except (OSError, ValueError):  # a NUL in the path is a ValueError, and so is an ImageError
            return None

    def _digest_file(self, path: str, most: int) -> bytes | None:
        if isinstance(path, PathInRoot):
            # Opened even if its digest is known: that has to be the digest of a file inside.
            with open_file(path, ReadingLimits(max_bytes=most)) as file:
                known = self._recall(path, _describe(os.fstat(file.fileno())))
                return self._digest_open_file(path, file, most) if known is None else known
        info = os.stat(path)
        if not _is_readable(info, most):
            return None
        path = os.path.realpath(path)
        known = self._recall(path, _describe(info))
        if known is not None:
            return known
        with open(os.open(path, _OPEN), "rb", buffering=0) as file:
            return self._digest_open_file(path, file, most)

    def _digest_open_file(self, path: str, file: Any, most: int) -> bytes | None:
        now = time.time_ns()
        info = os.fstat(file.fileno())
        if not _is_readable(info, most):
            return None
        hashed, size = _start("file"), 0
        while block := file.read(_BLOCK):
            size += len(block)
            if size > most:
                return None
            hashed.update(block)
        after = os.fstat(file.fileno())
        digest = hashed.digest()
        if _describe(info) != _describe(after) or size != info.st_size:
            return None  # it is being written just now
        if not _is_racy(info, now):
            self._remember(path, _describe(info), digest)
        return digest

    def _recall(self, path: str, said: str) -> bytes | None:
        with self._lock:
            known = self._memory.get(path)
            if known is not None and known[0] == said:
                self._memory.move_to_end(path)
                return known[1]
        digest = None if self.store is None else self.store.get_digests({path: said}).get(path)
        if digest is not None:
            self._memorize(path, said, digest)
        return digest

    def _memorize(self, path: str, said: str, digest: bytes) -> None:
        with self._lock:
            self._memory[path] = said, digest
            self._memory.move_to_end(path)
            if len(self._memory) > _REMEMBERED:
                self._memory.popitem(last=False)

    def _remember(self, path: str, said: str, digest: bytes) -> None:
        self._memorize(path, said, digest)
        if self.store is None or self.store.read_only:
            return
        with self._lock:
            self._unwritten[path] = said, digest
            full = len(self._unwritten) >= _WRITTEN_AT_ONCE
        if full:
            self.write()

    def write(self) -> None:
        """Write to the store what hasn't been written yet."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        if self.store is not None and unwritten:
            self.store.put_digests(unwritten)


def _start(purpose: str, data: bytes = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(data, digest_size=32, person=purpose.encode())


def _is_readable(info: os.stat_result, most: int) -> bool:
    # A pipe or a device would block or never end.
    return stat.S_ISREG(info.st_mode) and 0 < info.st_size <= most


def _describe(info: os.stat_result) -> str:
    return " ".join(
        str(x) for x in (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    )


def _is_racy(info: os.stat_result, now: int) -> bool:
    # A time in the future means that two clocks differ, or that somebody set it: then the other one tells.
    return info.st_ctime_ns > now - _RACY_NS or abs(info.st_mtime_ns - now) < _RACY_NS
