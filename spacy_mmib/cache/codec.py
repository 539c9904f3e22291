"""Vectors and regions as bytes."""

import json
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy

from ..post.regions import Region, normalize_regions

Array: TypeAlias = numpy.ndarray[Any, Any]

_HEADER = struct.Struct("<2sII")  # "f2" or "f4", rows, width
_TYPES = {b"f2": "<f2", b"f4": "<f4"}
_FLOAT16_MAX = 65504.0


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
