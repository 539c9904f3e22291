"""The setting `cache` of picture encoders: what a frozen network said, kept from one run to the next."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import finalize

from spacy.util import registry

from ..post.regions import Region
from ..post.values import StoredImage
from ..util import logger, warn
from .locks import ForkLock

if TYPE_CHECKING:
    import numpy

    from .digests import ContentDigests
    from .store import FeatureStore

Value = TypeVar("Value")

_STATE = ("path", "is_relative", "max_gb", "dtype", "read_only")


@registry.misc("spacy-mmib.feature_cache.v1")
def make_feature_cache_v1(
    path: str | Path | None = None,
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
    if path is None or not os.fspath(path):
        return None
    return FeatureCache(path, max_gb=max_gb, dtype=dtype, read_only=read_only)


class FeatureCache:
    """Vectors and regions by key. The file is opened at the first use; where that is impossible there is one
    warning, and nothing is found or kept.

    path (Union[str, Path]): See `make_feature_cache_v1`, as all others.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_gb: float = 20.0,
        dtype: Literal["float16", "float32"] = "float16",
        read_only: bool = False,
    ) -> None:
        if not 0 < max_gb < float("inf"):
            raise ValueError(f"max_gb is the size of the cache in gigabytes, above 0, not {max_gb}.")
        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype is 'float16' or 'float32', not {dtype!r}.")
        self.path = os.path.abspath(path)
        self.is_relative = not os.path.isabs(path)
        self.max_gb = max_gb
        self.dtype = dtype
        self.read_only = read_only
        self._start()

    def _start(self) -> None:
        self._opening = ForkLock()
        self._digests: ContentDigests | None = None
        self._fails = False
        self._counts = {"hits": 0, "misses": 0, "damaged": 0}

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _STATE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _open(self) -> "ContentDigests | None":
        if self._digests is None and not self._fails:
            with self._opening:
                if self._digests is None and not self._fails:
                    self._digests = self._make()
                    self._fails = self._digests is None
        return self._digests

    def _make(self) -> "ContentDigests | None":
        try:
            return self._connect()
        except (OSError, ValueError, ImportError) as err:  # Python can be built without sqlite3
            if self.is_relative and not os.path.isdir(os.path.dirname(self.path)):
                # A pipeline remembers where its cache was, and is used in another folder.
                logger.info("There is no feature cache at %s: it is not used.", self.path)
            else:
                warn(f"The feature cache is not used: {err}.")
            return None

    def _connect(self) -> "ContentDigests":
        from .digests import ContentDigests
        from .store import FeatureStore

        store = FeatureStore(self.path, max_gb=self.max_gb, read_only=self.read_only)
        digests = ContentDigests(store)
        finalize(self, _close, digests, os.getpid())
        return digests

    def check_writable(self) -> None:
        """Open the file, and write to it.

        RAISES (ValueError): It is none of ours, or set to be only read.
        RAISES (OSError, ImportError): It can't be written; the message says why.
        """
        if self.read_only:
            raise ValueError(f"{self.path} is only to be read (read_only = true)")
        with self._opening:
            if self._digests is None:
                self._digests = self._connect()
        assert self._digests.store is not None
        self._digests.store.check_writable()

    @property
    def problem(self) -> str | None:
        """RETURNS (Optional[str]): Why something that was put isn't kept; `None` if everything is."""
        store = self._store
        if store is None:
            return "The feature cache is not used."
        return store.problem if store.lost else None

    @property
    def _store(self) -> "FeatureStore | None":
        digests = self._open()
        return None if digests is None else digests.store

    def digest(self, stored: StoredImage, *, max_bytes: int | None = None) -> bytes | None:
        """Name a picture by its content.

        stored (StoredImage): What `doc._.image` keeps, or the path of a crop.
        max_bytes (Optional[int]): The largest file that is read.
        RETURNS (Optional[bytes]): 32 bytes, equal for equal files wherever they lie. `None`: can't be read,
            or there is no cache, so nothing should be looked up or kept.
        """
        digests = self._open()
        return None if digests is None else digests.digest(stored, max_bytes=max_bytes)

    @staticmethod
    def make_key(*parts: str | bytes) -> bytes:
        """RETURNS (bytes): The key of an entry that depends on all of these, and on their order."""
        digest = hashlib.blake2b(digest_size=32)
        for part in parts:
            is_text = isinstance(part, str)
            data = part.encode("utf8", "surrogatepass") if isinstance(part, str) else part
            digest.update((b"s" if is_text else b"b") + len(data).to_bytes(8, "little") + data)
        return digest.digest()

    def round(self, array: "numpy.ndarray[Any, Any]") -> "numpy.ndarray[Any, Any]":
        """RETURNS (numpy.ndarray): The vectors as `get_vectors` will give them once they are kept."""
        from .codec import round_array

        return round_array(array, self.dtype)

    def get_vectors(self, keys: Sequence[bytes | None]) -> "list[numpy.ndarray[Any, Any] | None]":
        """Look vectors up.

        keys (Sequence[Optional[bytes]]): Keys made by `make_key`; `None` is never found.
        RETURNS (List[Optional[numpy.ndarray]]): float32, a row a region; `None` where there are none.
        """
        return self._get(keys, "vectors", self._decode_array)

    def _decode_array(self, data: bytes) -> "numpy.ndarray[Any, Any] | None":
        from .codec import decode_array, get_stored_type

        # Somebody with another dtype may use the same file. Their float16 isn't enough for float32; the
        # other way round it is rounded here, so that nothing depends on who was first.
        if get_stored_type(data) == "float16":
            return decode_array(data) if self.dtype == "float16" else None
        return self.round(decode_array(data))

    def put_vectors(self, items: "Mapping[bytes, numpy.ndarray[Any, Any]]") -> None:
        """Keep vectors.

        items (Mapping[bytes, numpy.ndarray]): Rows x width by key.
        """
        from .codec import encode_array

        self._put({key: encode_array(rows, self.dtype) for key, rows in items.items()}, "vectors")

    def get_regions(self, keys: Sequence[bytes | None]) -> list[list[Region] | None]:
        """Look regions up.

        keys (Sequence[Optional[bytes]]): Keys made by `make_key`; `None` is never found.
        RETURNS (List[Optional[List[Region]]]): `None` where nothing is known; no regions are a result too.
        """
        from .codec import decode_regions

        return self._get(keys, "regions", decode_regions)

    def put_regions(self, items: Mapping[bytes, list[Region]]) -> None:
        """Keep regions.

        items (Mapping[bytes, List[Region]]): Regions by key.
        """
        from .codec import encode_regions

        self._put({key: encode_regions(regions) for key, regions in items.items()}, "regions")

    def _get(
        self, keys: Sequence[bytes | None], kind: str, decode: Callable[[bytes], Value | None]
    ) -> list[Value | None]:
        wanted = [key for key in keys if key is not None]
        store = self._store if wanted else None
        entries = {} if store is None else store.get(wanted, kind)
        values: list[Value | None] = []
        for key in keys:
            value = None
            if key in entries:
                try:
                    value = decode(entries[key])
                except ValueError:  # the store finds it sound: made by somebody else
                    self._counts["damaged"] += 1
            if key is not None:
                self._counts["misses" if value is None else "hits"] += 1
            values.append(value)
        return values

    def _put(self, entries: dict[bytes, bytes], kind: str) -> None:
        digests = self._open()
        if digests is None or digests.store is None:
            return
        # In this order: a picture whose vectors are there needn't be read again.
        digests.store.put(entries, kind)
        digests.write()

    def count_entries(self) -> int:
        """RETURNS (int): How many entries the file has."""
        store = self._store
        return 0 if store is None else sum(store.stats()["entries"].values())

    def get_statistics(self) -> dict[str, int]:
        """RETURNS (Dict[str, int]): `hits`, `misses` and `damaged` entries, in this process."""
        store = None if self._digests is None else self._digests.store
        damaged = self._counts["damaged"] + (0 if store is None else store.damaged)
        return {**self._counts, "damaged": damaged}

    def close(self) -> None:
        """Write what is still to be written, and close the file. Happens by itself at the end."""
        if self._digests is not None:
            _close(self._digests, os.getpid())


def _close(digests: "ContentDigests", process: int) -> None:
    # A forked process must not write what its parent will.
    if digests.store is not None and os.getpid() == process:
        digests.write()
        digests.store.close()
