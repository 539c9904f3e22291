"""What a picture may be at most. Free of Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are tried (MPO files open as the JPEG they begin with). A list, because Pillow's own
starts other programs (EPS: Ghostscript)."""

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 89_478_485
"""Pillow's own limit only warns up to twice this number."""
MAX_FRAMES = 1000

BYTES_A_PIXEL = 4
"""In Pillow, with three channels, too."""


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

    def refuse_size(self, size: int, name: str) -> None:
        """RAISES (ImageError): A file of so many bytes, which messages call `name`, is empty or too large."""
        if size == 0:
            raise ImageError(f"the file is empty: {name}", kind="empty")
        if size > self.max_bytes:
            raise ImageError(
                f"the file is too large ({size} bytes, at most {self.max_bytes}): {name}",
                kind="too_many_bytes",
            )


def check_number(name: str, value: float, *, at_least: float, whole: bool = True) -> None:
    """Check a setting.

    name (str): What it is called.
    value (float): Its value.
    at_least (float): The smallest value it may have.
    whole (bool): Whether it has to be an integer.
    RAISES (ValueError): It is none of that, or not finite.
    """
    kind = "a whole number" if whole else "a number"
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or not at_least <= value < float("inf"):
        raise ValueError(f"{name} is {value!r}; it is {kind} of at least {at_least}.")
