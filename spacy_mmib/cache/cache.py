"""The setting `cache` of picture encoders: features of frozen networks, kept from one run to the next."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from spacy.util import registry

from ..images.values import StoredImage
from ..post.regions import Region
from ..util import warn
from .codec import decode_array, decode_regions, encode_array, encode_regions, round_array
from .digests import digest_picture, make_key

if TYPE_CHECKING:
    import numpy


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

    def round(self, array: "numpy.ndarray[Any, Any]") -> "numpy.ndarray[Any, Any]":
        """RETURNS (numpy.ndarray): The vectors as `get_vectors` will give them once they are kept."""
        return round_array(array, self.dtype)

    def get_vectors(self, keys: Sequence[bytes | None]) -> "list[numpy.ndarray[Any, Any] | None]":
        """RETURNS (List[Optional[numpy.ndarray]]): The vectors under each of the keys, float32, a row a
        region; `None` where there are none, as under a key that is `None`.
        """
        found = self.store.get([key for key in keys if key is not None], "vectors")
        return [decode_array(found[key], self.dtype) if key in found else None for key in keys]

    def put_vectors(self, items: "Mapping[bytes, numpy.ndarray[Any, Any]]") -> None:
        """Keep vectors: rows x width by key."""
        self.store.put({key: encode_array(rows, self.dtype) for key, rows in items.items()}, "vectors")

    def get_regions(self, keys: Sequence[bytes | None]) -> list[list[Region] | None]:
        """RETURNS (List[Optional[List[Region]]]): As `get_vectors`; no regions are a result too."""
        found = self.store.get([key for key in keys if key is not None], "regions")
        return [decode_regions(found[key]) if key in found else None for key in keys]

    def put_regions(self, items: Mapping[bytes, list[Region]]) -> None:
        """Keep regions by key."""
        self.store.put({key: encode_regions(regions) for key, regions in items.items()}, "regions")
