"""The setting `cache` of picture encoders: features of frozen networks, kept from one run to the next."""

import json
import struct
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal, TypeAlias

import numpy
from spacy.util import registry

from ..images.values import StoredImage
from ..post.regions import Region, normalize_regions
from ..util import warn
from .digests import digest_picture, make_key

Array: TypeAlias = numpy.ndarray[Any, Any]

_HEADER = struct.Struct("<2sII")  # "f2" or "f4", rows, width
_TYPES = {b"f2": "<f2", b"f4": "<f4"}
_FLOAT16_MAX = 65504.0


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
    RETURNS (Optional[FeatureCache]): The cache.
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
    file is opened at the first use; where that is impossible there is one warning, and nothing is kept.

    path (Union[str, Path]): The file; for all settings see `make_feature_cache_v1`.
    """

    make_key = staticmethod(make_key)

    def __init__(
        self, path: str | PathLike[str], *, dtype: Literal["float16", "float32"] = "float16", **settings: Any
    ) -> None:
        from .store import FeatureStore

        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype is 'float16' or 'float32', not {dtype!r}.")
        self.dtype = dtype
        self.store = FeatureStore(path, **settings)

    def digest(self, stored: StoredImage, *, max_bytes: int | None = None) -> bytes | None:
        """RETURNS (Optional[bytes]): See `digest_picture`; `None` too if there is no cache to look into."""
        return digest_picture(stored, self.store, max_bytes) if self.store.is_usable else None

    def round(self, array: Array) -> Array:
        """RETURNS (numpy.ndarray): The vectors as `get_vectors` will give them once they are kept."""
        return round_array(array, self.dtype)

    def get_vectors(self, keys: Sequence[bytes | None]) -> list[Array | None]:
        """RETURNS (List[Optional[numpy.ndarray]]): The vectors under each of the keys, float32, a row a
        region; `None` where there are none, as under a key that is `None`.
        """
        found = self.store.get([key for key in keys if key is not None], "vectors")
        return [decode_array(found[key], self.dtype) if key in found else None for key in keys]

    def put_vectors(self, items: Mapping[bytes, Array]) -> None:
        """Keep vectors: rows x width by key."""
        self.store.put({key: encode_array(rows, self.dtype) for key, rows in items.items()}, "vectors")

    def get_regions(self, keys: Sequence[bytes | None]) -> list[list[Region] | None]:
        """RETURNS (List[Optional[List[Region]]]): As `get_vectors`; no regions are a result too."""
        found = self.store.get([key for key in keys if key is not None], "regions")
        return [decode_regions(found[key]) if key in found else None for key in keys]

    def put_regions(self, items: Mapping[bytes, list[Region]]) -> None:
        """Keep regions by key."""
        self.store.put({key: encode_regions(regions) for key, regions in items.items()}, "regions")


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
