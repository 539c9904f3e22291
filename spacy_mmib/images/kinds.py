"""The kinds of reasons why a picture, or an object of it, is not used: for counting."""

from collections.abc import Mapping
from typing import TypeAlias

Kind: TypeAlias = str
"""One of `KINDS`."""

KINDS: dict[Kind, str] = {
    "missing": "missing",
    "empty": "empty",
    "not_a_file": "not a file",
    "path": "not a possible path",
    "permission": "without permission",
    "io": "failing to be read",
    "outside": "outside the image root",
    "url": "not fetched",
    "too_many_bytes": "with too large a file",
    "too_many_pixels": "with too many pixels",
    "too_many_frames": "with too many frames",
    "memory": "too large for the memory",
    "format": "of an unknown format",
    "damaged": "damaged",
    "not_a_picture": "no picture at all",
    "timeout": "taking too long",
    "crashed": "crashing",
    "box": "with a box outside the picture",
    "regions": "in which no objects could be searched for",
    "not_finite": "without finite vectors",
}
"""Words for each that fit behind a number: "3 missing"."""


def describe_kinds(counts: Mapping[Kind, int]) -> str:
    """RETURNS (str): "3 missing, 1 damaged", the most frequent first. A kind that isn't known, say of a
    pipeline saved by a later version, is shown as it is.
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {KINDS.get(kind, kind)}" for kind, n in ordered if n)
