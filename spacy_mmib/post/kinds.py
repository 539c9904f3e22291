"""The kinds of reasons why a picture, or an object of it, is not used: for counting."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "missing",
    "empty",
    "not_a_file",
    "path",
    "permission",
    "io",
    "outside",
    "url",
    "too_many_bytes",
    "too_many_pixels",
    "too_many_frames",
    "memory",
    "format",
    "damaged",
    "not_a_picture",
    "timeout",
    "crashed",
    "box",
    "regions",
    "not_finite",
]
"""See `KINDS`."""

KINDS: dict[str, str] = {
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
"""All kinds, each with words that fit behind a number: "3 missing"."""

assert set(KINDS) == set(get_args(Kind))


def describe_kinds(counts: Mapping[str, int]) -> str:
    """Say how many things are of which kind.

    counts (Mapping[str, int]): Number by kind. One that isn't known, say of a pipeline saved by a later
        version, is shown as it is.
    RETURNS (str): "3 missing, 1 damaged", the most frequent first; empty if there are none.
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {KINDS.get(kind, kind)}" for kind, n in ordered if n)
