"""The setting `cache` of picture encoders: features of frozen networks, kept from one run to the next under
the content of pictures. A file is read to name its content only if it may have changed since the last time.
"""

import hashlib
import json
import os
import struct
import time
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal, TypeAlias

import numpy
from spacy.util import registry

from ..images.errors import ReadingLimits
from ..images.files import open_file
from ..images.values import Pixels, StoredImage
from ..post.regions import Region, normalize_regions
from ..util import warn

Array: TypeAlias = numpy.ndarray[Any, Any]

_HEADER = struct.Struct("<2sII")  # "f2" or "f4", rows, width
_TYPES = {b"f2": "<f2", b"f4": "<f4"}
_FLOAT16_MAX = 65504.0
_LIMITS = ReadingLimits()
_RACY_NS = 2 * 10**9
"""A file that changed so recently could change again without its times telling: file systems count in steps,
of up to two seconds. Git calls such entries of its index racily clean."""


@registry.misc("spacy-mmib.feature_cache.v1")
def make_feature_cache_v1(
    path: str | PathLike[str] | None = None,
    max_gb: float = 20.0,
    dtype: Literal["float16", "float32"] = "float16",
    read_only: bool = False,
) -> "FeatureCache | None":
    """Build the cache of a picture encoder: its vectors, and the objects that were searched for, go into one
    file under the content of the picture and all settings and weights they depend on. Several encoders,
    trainings and processes can share a file.

    path (Optional[Union[str, Path]]): The file, made if need be; relative to the current folder. `None` or
        "": no cache.
    max_gb (float): Size the file is kept below, in gigabytes: what was used least recently goes.
    dtype (str): "float16" halves the file, and rounds vectors to three digits (on the first run as well as
        later, so that both are equal); "float32" keeps them as they are.
    read_only (bool): Take what is there, add nothing.
    RAISES (ValueError): Another dtype, or a size that isn't above 0.
    """
    if path is None or not fspath(path):
        return None
    try:
        return FeatureCache(path, max_gb=max_gb, dtype=dtype, read_only=read_only)
    except ImportError as err:  # Python can be built without SQLite
        warn(f"The feature cache is not used: {err}.")
        return None


class FeatureCache:
    """Vectors and regions by key, and digests of pictures to make keys of, from any thread or process. The
    file is opened at the first use; where that is impossible there is one warning, and nothing is kept. For
    the settings see `make_feature_cache_v1`.
    """

    def __init__(
        self, path: str | PathLike[str], *, dtype: Literal["float16", "float32"] = "float16", **settings: Any
    ) -> None:
        from .store import FeatureStore

        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype is 'float16' or 'float32', not {dtype!r}.")
        self.dtype = dtype
        self.store = FeatureStore(path, **settings)

    def digest(
        self, image: StoredImage, limits: ReadingLimits = _LIMITS, root: str | PathLike[str] | None = None
    ) -> bytes | None:
        """Name a picture by its content. A file has the same name under every path, and as bytes.

        image (StoredImage): What `doc._.image` keeps, or the path of a crop.
        root (Optional[Union[str, Path]]): See `images.files.open_file`.
        RETURNS (Optional[bytes]): 32 bytes. `None` if there is none, it can't be read (whoever reads it will
            say why), or it is a file and there is no cache to look into.
        """
        if isinstance(image, Pixels):
            return make_key("pixels", image.height.to_bytes(8, "little"), image.data)
        if isinstance(image, bytes):
            return make_key("picture", image) if 0 < len(image) <= limits.max_bytes else None
        if not isinstance(image, str) or not image:
            return None
        try:
            # Opened even if its digest is known: that has to be the digest of a file inside its root.
            with open_file(image, limits, root) as file:
                now, info = time.time_ns(), os.fstat(file.fileno())
                key = make_key(image, _describe(info))
                known = self.store.get([key], "files").get(key)
                if known is not None or not self.store.is_open:
                    return known
                data = file.read(info.st_size + 1)
                if len(data) != info.st_size or _describe(info) != _describe(os.fstat(file.fileno())):
                    return None  # it is being written just now
        except (OSError, ValueError):  # an ImageError is one
            return None
        digest = make_key("picture", data)
        # A time in the future means that two clocks differ, or that somebody set it: then the other tells.
        if info.st_ctime_ns <= now - _RACY_NS and abs(info.st_mtime_ns - now) >= _RACY_NS:
            self.store.put({key: digest}, "files")
        return digest

    def get_vectors(self, keys: Sequence[bytes]) -> list[Array | None]:
        """RETURNS (List[Optional[numpy.ndarray]]): By key, float32, a row a region; `None` if unknown."""
        found = self.store.get(keys, "vectors")
        return [decode_array(found[key], self.dtype) if key in found else None for key in keys]

    def put_vectors(self, items: Mapping[bytes, Array]) -> None:
        """Keep vectors: rows x width by key."""
        self.store.put({key: encode_array(rows, self.dtype) for key, rows in items.items()}, "vectors")

    def get_regions(self, key: bytes) -> list[Region] | None:
        """RETURNS (Optional[List[Region]]): The regions under a key; an empty list is a result too."""
        found = self.store.get([key], "regions")
        return decode_regions(found[key]) if found else None

    def put_regions(self, items: Mapping[bytes, list[Region]]) -> None:
        """Keep regions by key."""
        self.store.put({key: encode_regions(regions) for key, regions in items.items()}, "regions")


def make_key(*parts: str | bytes) -> bytes:
    """RETURNS (bytes): 32 bytes that depend on all of these, and on their order."""
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part.encode("utf8", "surrogatepass") if isinstance(part, str) else part
        digest.update((b"s" if isinstance(part, str) else b"b") + len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _describe(info: os.stat_result) -> str:
    return str((info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))


def _convert(array: Array, dtype: str) -> Array:
    values = numpy.asarray(array, dtype="<f4")
    # What float16 can't hold is kept as float32, rather than as infinity. NaN isn't smaller than anything.
    fits = dtype == "float16" and bool((numpy.abs(values) <= _FLOAT16_MAX).all())
    return values.astype("<f2") if fits else values


def round_array(array: Array, dtype: str) -> Array:
    """RETURNS (numpy.ndarray): What `decode_array` will make of an array: float32, new."""
    return _convert(array, dtype).astype(numpy.float32)


def encode_array(array: Array, dtype: str) -> bytes:
    """RETURNS (bytes): An array of rows x width, as "float16" or "float32", little endian."""
    values = _convert(array, dtype)
    rows, width = values.shape
    return _HEADER.pack(values.dtype.str[1:].encode(), rows, width) + values.tobytes()


def decode_array(data: bytes, dtype: str) -> Array | None:
    """The inverse of `encode_array`. Somebody with another dtype may use the same file: their float16 isn't
    enough for float32; the other way round it is rounded here, so that nothing depends on who was first.

    RETURNS (Optional[numpy.ndarray]): float32; `None` if it isn't precise enough, or something else.
    """
    try:
        stored, rows, width = _HEADER.unpack_from(data)
        values = numpy.frombuffer(data, _TYPES[stored], offset=_HEADER.size).reshape(rows, width)
    except (struct.error, KeyError, ValueError):
        return None
    if stored == b"f2":
        return values.astype(numpy.float32) if dtype == "float16" else None
    return round_array(values, dtype)


def encode_regions(regions: Sequence[Region]) -> bytes:
    """RETURNS (bytes): JSON: it holds paths that are no Unicode, and nothing can hook into reading it."""
    return json.dumps(normalize_regions(regions), separators=(",", ":")).encode("ascii")


def decode_regions(data: bytes) -> list[Region] | None:
    """RETURNS (Optional[List[Region]]): What was encoded; `None` if it is something else."""
    try:
        values = json.loads(data)
        return normalize_regions(values) if isinstance(values, list) else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
