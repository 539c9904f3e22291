"""What a picture may be at most, and why one can't be used. Free of Pillow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

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
"""Why a picture, or an object of it, is not used, in words that fit behind a number: "3 missing"."""

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
"""What would break the line, a terminal, or (halves of surrogate pairs, from file names that are not
UTF-8) the serialization of a doc."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are tried (MPO files open as the JPEG they begin with). A list, because Pillow's own
starts other programs (EPS: Ghostscript)."""

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 89_478_485
"""Pillow's own limit only warns up to twice this number."""
MAX_FRAMES = 1000

BYTES_A_PIXEL = 4
"""In Pillow, with three channels, too."""


class ImageError(ValueError):
    """A picture that can't be used. The message is one line that says why, the kind is one of `KINDS`."""

    kind: str = "damaged"

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(CONTROL.sub(_show, message))
        self.kind = kind or type(self).kind


class OutsideRootError(ImageError):
    """A path that leads out of the folder pictures may come from."""

    kind: str = "outside"


class MissingFileError(ImageError):
    """A path with nothing there."""

    kind: str = "missing"


@dataclass(frozen=True)
class ReadingLimits:
    """What a picture file may be at most. The defaults are generous to photos.

    max_bytes (int): Size of the file. Larger ones are not read.
    max_pixels (int): Width times height, checked before a picture is decoded. Pillow refuses what is beyond
        twice its `PIL.Image.MAX_IMAGE_PIXELS` whatever this says.
    max_frames (int): Frames of an animation, or pages, although only the first is read.
    formats (Sequence[str]): Which of `FORMATS` are opened.
    RAISES (ValueError): A limit that isn't a number of at least 1, or a format that isn't known.
    """

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    max_frames: int = MAX_FRAMES
    formats: Sequence[str] = FORMATS

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_frames"):
            check_number(name, getattr(self, name), at_least=1)
        given = self.formats
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise ValueError(f"formats is a list of names, not {given!r}.")
        names = tuple(dict.fromkeys(name.upper() for name in given))
        if not names or not set(names) <= set(FORMATS):
            raise ValueError(f"formats is {list(given)!r}; choose at least one of {', '.join(FORMATS)}.")
        object.__setattr__(self, "formats", names)

    def refuse_size(self, size: int, name: str) -> NoReturn:
        """RAISES (ImageError): The file that messages call `name` is empty, or of so many bytes."""
        if size == 0:
            raise ImageError(f"the file is empty: {name}", kind="empty")
        reason = f"the file is too large ({size} bytes, at most {self.max_bytes}): {name}"
        raise ImageError(reason, kind="too_many_bytes")


def check_number(name: str, value: float, *, at_least: float, whole: bool = True) -> None:
    """RAISES (ValueError): The setting `name` isn't a finite number, whole or not, of at least so much."""
    kind = "a whole number" if whole else "a number"
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or not at_least <= value < float("inf"):
        raise ValueError(f"{name} is {value!r}; it is {kind} of at least {at_least}.")


def describe_kinds(counts: Mapping[str, int]) -> str:
    """RETURNS (str): "3 missing, 1 damaged", the most frequent first; unknown kinds stay as they are."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {KINDS.get(kind, kind)}" for kind, n in ordered if n)


def shorten(name: str) -> str:
    """RETURNS (str): The `repr` of a path or URL, of a long one both ends and the length."""
    if len(name) <= 500:
        return repr(str.__str__(name))
    return f"{name[:250] + '...' + name[-250:]!r} ({len(name)} characters)"


def quote(path: object) -> str:
    """RETURNS (str): A path as it is; its `repr` if something in it, or around it, would not be seen."""
    name = str(path)
    return name if name.isprintable() and name == name.strip() else repr(name)


def explain(err: BaseException) -> str:
    """RETURNS (str): What another library's error says, with its type, short and in one line."""
    return " ".join(f"{type(err).__name__}: {err}".split()).removesuffix(":")[:200]


def explain_os(err: BaseException) -> str:
    """RETURNS (str): The same for an error of the file system, without the path that is in it."""
    reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
    return " ".join(reason.split())[:200]


def _show(found: "re.Match[str]") -> str:
    text = found.group()
    return " " if text.isspace() else text.encode("unicode_escape").decode("ascii")
