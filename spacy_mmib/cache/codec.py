"""Vectors and regions as bytes. What isn't well-formed raises `ValueError`: it comes from a file."""

import json
import struct
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy

from ..post.regions import Region, normalize_regions

StoredType: TypeAlias = Literal["float16", "float32"]

_HEADER = struct.Struct("<4sBBHII")  # magic, version, type, nothing, rows, width: 16 bytes
_MAGIC = b"MMVE"
_VERSION = 1
_TYPES: dict[int, Any] = {1: numpy.dtype("<f2"), 2: numpy.dtype("<f4")}
_FLOAT16_MAX = 65504.0

Array: TypeAlias = "numpy.ndarray[Any, Any]"


def encode_array(array: Array, dtype: StoredType) -> bytes:
    """Turn vectors into bytes.

    array (numpy.ndarray): Two dimensions, rows x width.
    dtype (str): "float16" or "float32". Vectors that float16 can't hold (beyond 65504, or not finite) are
        kept as float32 all the same, rather than as infinity.
    RETURNS (bytes): A header of 16 bytes, and the numbers row by row, little endian.
    RAISES (ValueError): Not two dimensions, or another type.
    """
    values, code = _convert(array, dtype)
    rows, width = values.shape
    return _HEADER.pack(_MAGIC, _VERSION, code, 0, rows, width) + values.tobytes()


def decode_array(data: bytes) -> Array:
    """The inverse of `encode_array`.

    data (bytes): What `encode_array` returned.
    RETURNS (numpy.ndarray): float32, rows x width.
    RAISES (ValueError): It is something else, or damaged.
    """
    return _split(data).astype(numpy.float32)


def round_array(array: Array, dtype: StoredType) -> Array:
    """What `decode_array` will make of it.

    array (numpy.ndarray): Two dimensions, rows x width.
    dtype (str): "float16" or "float32".
    RETURNS (numpy.ndarray): float32, a new array.
    RAISES (ValueError): As `encode_array`.
    """
    return _convert(array, dtype)[0].astype(numpy.float32)


def get_stored_type(data: bytes) -> StoredType:
    """Tell how precisely vectors were kept.

    data (bytes): What `encode_array` returned.
    RETURNS (str): "float16" or "float32".
    RAISES (ValueError): As `decode_array`.
    """
    return "float16" if _split(data).dtype == _TYPES[1] else "float32"


def _convert(array: Array, dtype: StoredType) -> tuple[Array, int]:
    if dtype not in get_args(StoredType):
        raise ValueError(f"vectors are kept as 'float16' or 'float32', not as {dtype!r}")
    values = numpy.asarray(array, dtype=_TYPES[2])
    if values.ndim != 2:
        raise ValueError(f"expected rows x width, not an array of shape {values.shape}")
    # NaN isn't smaller than anything, so it doesn't fit either.
    if dtype == "float16" and bool((numpy.abs(values) <= _FLOAT16_MAX).all()):
        return values.astype(_TYPES[1]), 1
    return values, 2


def _split(data: bytes) -> Array:
    if not isinstance(data, bytes) or len(data) < _HEADER.size:
        raise ValueError("not an array: too short for its header")
    magic, version, code, nothing, rows, width = _HEADER.unpack_from(data)
    if (magic, version, nothing) != (_MAGIC, _VERSION, 0) or code not in _TYPES:
        raise ValueError("not an array: its header is something else")
    dtype = _TYPES[code]
    if len(data) - _HEADER.size != rows * width * dtype.itemsize:
        raise ValueError(
            f"not an array: {rows} x {width} numbers don't take {len(data) - _HEADER.size} bytes"
        )
    return numpy.frombuffer(data, dtype=dtype, offset=_HEADER.size).reshape(rows, width)


def encode_regions(regions: Sequence[Region]) -> bytes:
    """Turn regions into bytes. JSON: it holds paths that are no Unicode, and nothing can hook into
    reading it.

    regions (List[Region]): See `post.regions`.
    RETURNS (bytes): ASCII.
    RAISES (TypeError): They are no regions.
    """
    normalized = normalize_regions(regions)
    return json.dumps(normalized, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def decode_regions(data: bytes) -> list[Region]:
    """The inverse of `encode_regions`.

    data (bytes): What `encode_regions` returned.
    RETURNS (List[Region]): In their one stored form.
    RAISES (ValueError): It is something else, or damaged.
    """
    try:
        values = json.loads(data.decode("ascii"))
        if not isinstance(values, list):
            raise TypeError(f"a list was expected, not {type(values).__name__}")
        return normalize_regions(values)
    except (ValueError, TypeError, AttributeError, RecursionError) as err:
        raise ValueError(f"not a list of regions: {err}") from err
