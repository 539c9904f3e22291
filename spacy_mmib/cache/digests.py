"""Names pictures by their content, reading a file only if it may have changed since it was last read."""

import hashlib
import os
import time
from typing import TYPE_CHECKING, BinaryIO

from ..images.errors import MAX_BYTES, ReadingLimits
from ..images.files import open_file
from ..images.values import Pixels, StoredImage

if TYPE_CHECKING:
    from .store import FeatureStore

_RACY_NS = 2 * 10**9
"""A file that changed so recently could change again without its times telling: file systems count in steps,
of up to two seconds. Git calls such entries of its index racily clean."""


def make_key(*parts: str | bytes) -> bytes:
    """RETURNS (bytes): 32 bytes that depend on all of these, and on their order."""
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part.encode("utf8", "surrogatepass") if isinstance(part, str) else part
        digest.update((b"s" if isinstance(part, str) else b"b") + len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def digest_picture(stored: StoredImage, store: "FeatureStore", max_bytes: int | None = None) -> bytes | None:
    """Name a picture by its content. A file has the same name under every path, and as bytes.

    stored (StoredImage): What `doc._.image` keeps, or the path of a crop.
    store (FeatureStore): Remembers what files contain.
    max_bytes (Optional[int]): The largest file that is read.
    RETURNS (Optional[bytes]): 32 bytes. `None` if there is none, it can't be read, or is larger: whoever
        reads it will say why.
    """
    most = MAX_BYTES if max_bytes is None else max_bytes
    if isinstance(stored, Pixels):
        return make_key("pixels", stored.height.to_bytes(8, "little"), stored.data)
    if isinstance(stored, bytes):
        return make_key("picture", stored) if 0 < len(stored) <= most else None
    if not isinstance(stored, str) or not stored:
        return None
    try:
        # Opened even if its digest is known: that has to be the digest of a file inside its root.
        with open_file(stored, ReadingLimits(max_bytes=most)) as file:
            return _digest_file(stored, file, store)
    except (OSError, ValueError):  # an ImageError is one
        return None


def _digest_file(path: str, file: BinaryIO, store: "FeatureStore") -> bytes | None:
    now, info = time.time_ns(), os.fstat(file.fileno())
    key = make_key(path, _describe(info))
    known = store.get([key], "files").get(key)
    if known is not None:
        return known
    data = file.read(info.st_size + 1)
    if len(data) != info.st_size or _describe(info) != _describe(os.fstat(file.fileno())):
        return None  # it is being written just now
    digest = make_key("picture", data)
    # A time in the future means that two clocks differ, or that somebody set it: then the other one tells.
    if info.st_ctime_ns <= now - _RACY_NS and abs(info.st_mtime_ns - now) >= _RACY_NS:
        store.put({key: digest}, "files")
    return digest


def _describe(info: os.stat_result) -> str:
    return str((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
