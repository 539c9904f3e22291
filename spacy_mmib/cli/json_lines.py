"""Is a file one of JSON lines? What is given instead is told from its beginning, in one sentence."""

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO

BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"\x1f\x8b", "compressed with gzip (gunzip -c FILE | spacy mmib predict MODEL -)"),
    (b"BZh", "compressed with bzip2 (bunzip2 -c FILE | spacy mmib predict MODEL -)"),
    (b"\xfd7zXZ\x00", "compressed with xz (xz -dc FILE | spacy mmib predict MODEL -)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd (zstd -dc FILE | spacy mmib predict MODEL -)"),
    (b"PK\x03\x04", "a ZIP archive, as Excel's .xlsx files are"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (
        b"\x78\x9c",
        "a .spacy file (for spacy mmib evaluate, say) or something else compressed with zlib",
    ),
    (
        b"\x78\xda",
        "a .spacy file (for spacy mmib evaluate, say) or something else compressed with zlib",
    ),
    (b"%PDF", "a PDF file"),
    (b"\xff\xfe", "text in UTF-16, not UTF-8"),
    (b"\xfe\xff", "text in UTF-16, not UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32, not UTF-8"),
    (b"{\x00", "text in UTF-16, not UTF-8"),
    (b"\x00{", "text in UTF-16, not UTF-8"),
)
BOM = b"\xef\xbb\xbf"
DELIMITERS = b",;\t|"
LOOKED_AT = 10
"""Lines, if none of those before is an object."""
AT_ONCE = 4096  # bytes of the first line: a file without lines can be large


class NotJsonLines(ValueError):
    """The input is something else; the message says what."""


def read_json_lines(source: BinaryIO) -> Iterator[bytes]:
    """Read lines, unless the beginning shows that they are no JSON objects. No more is read ahead than the
    first line, if that is one.

    source (BinaryIO): The input.
    YIELDS (bytes): Its lines.
    RAISES (NotJsonLines): It is of another kind.
    RAISES (OSError): It can't be read.
    """
    start = source.readline(AT_ONCE)
    for magic, kind in BEGINNINGS:
        if start.startswith(magic):
            raise NotJsonLines(f"it is {kind}")
    first = start if len(start) < AT_ONCE else start + source.readline()
    lines = [first]
    if not _begins_with(first, b"{"):
        for line in islice(source, LOOKED_AT - 1):
            lines.append(line)
            if _begins_with(line, b"{"):
                break
    what = _recognize([line for line in lines if line.removeprefix(BOM).strip()])
    if what is not None:
        raise NotJsonLines(f"it is {what}")
    yield from chain(lines, source)


def _recognize(lines: list[bytes]) -> str | None:
    """RETURNS (Optional[str]): What the first lines that are not blank are of, if not of JSON lines."""
    if not lines:
        return None
    first = lines[0].removeprefix(BOM).strip()
    if first == b"{":
        return "one JSON object over several lines (jq -c . FILE makes a line of it)"
    if first.startswith(b"["):
        try:
            value = json.loads(first)
        except (ValueError, RecursionError):
            value = None
        # A list that is whole, and not of objects, is a bad line among others.
        if (value is None and len(lines) > 1) or (isinstance(value, list) and _has_objects(value)):
            return "a JSON array, not an object a line (jq -c '.[]' FILE makes lines of it)"
    if any(_begins_with(line, b"{") for line in lines) or first.startswith((b"[", b'{"')):
        return None
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        delimiter = next((chr(c) for c in first if c in DELIMITERS), None)
        if delimiter is not None:
            return (
                f"CSV, with {delimiter!r} between its columns, or the like (in pandas, "
                'read_csv(FILE).to_json("posts.jsonl", orient="records", lines=True) makes lines of it)'
            )
    if len(lines) >= LOOKED_AT:
        return f"something else: none of its first {LOOKED_AT} lines begins with {{"
    return None


def _begins_with(line: bytes, what: bytes) -> bool:
    return line.removeprefix(BOM).lstrip().startswith(what)


def _has_objects(values: list[object]) -> bool:
    return any(isinstance(value, dict) for value in values)
