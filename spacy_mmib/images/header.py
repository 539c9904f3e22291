"""What the header of a picture says before it is decoded: is it within limits, and how large is it."""

from typing import Any, BinaryIO

import PIL.Image

from .errors import ImageError
from .limits import ReadingLimits

WIDTH, HEIGHT, ORIENTATION = 0x0100, 0x0101, 0x0112
"""EXIF and TIFF tags."""

TILE_WIDTH, TILE_LENGTH = 0x0142, 0x0143

PNG_CHUNKS = 100_000
"""Chunks of a PNG file that are looked at."""

SAY_ORIENTATION = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""Names of PNG text that can say how a picture is turned."""


def check_header(image: PIL.Image.Image, name: str, limits: ReadingLimits) -> None:
    """Check that a picture can be decoded within limits.

    image (PIL.Image.Image): The picture, opened but not decoded.
    name (str): What messages call it.
    limits (ReadingLimits): The limits.
    RAISES (ImageError): It can't.
    """
    check_pixels(image.width, image.height, name, limits)
    if image.format == "TIFF":
        # A tile is decompressed as a whole, however little of it is in the picture.
        tags: Any = image
        width, height = (_largest(tags.tag_v2.get(tag)) for tag in (TILE_WIDTH, TILE_LENGTH))
        check_pixels(width, height, f"a tile of {name}", limits)
    if has_more_frames(image, limits.max_frames):
        raise ImageError(f"has more than {limits.max_frames} frames: {name}", kind="too_many_frames")


def has_more_frames(image: PIL.Image.Image, most: int) -> bool:
    """Count the frames of a picture.

    image (PIL.Image.Image): The picture, at its first frame, where it is again afterwards.
    most (int): How many it may have.
    RETURNS (bool): Whether there are more. What is damaged behind the first frame is the end.
    """
    try:
        if image.format != "TIFF":  # in the header, and of a GIF in time linear in the size of its file
            return int(getattr(image, "n_frames", 1)) > most
        # Counting all pages of a TIFF takes the square of their number.
        image.seek(most)
        return True
    except Exception:
        return False
    finally:
        image.seek(0)


def check_pixels(width: int, height: int, name: str, limits: ReadingLimits) -> None:
    """Check a size.

    width (int): In pixels.
    height (int): In pixels.
    name (str): What messages call the picture.
    limits (ReadingLimits): The limits.
    RAISES (ImageError): These are too many pixels.
    """
    if width * height > limits.max_pixels:
        raise ImageError(
            f"too large ({width} x {height}, at most {limits.max_pixels} pixels): {name}",
            kind="too_many_pixels",
        )


def _largest(value: Any) -> int:
    """A tag should have one number, but can have several, or something else."""
    values = value if isinstance(value, tuple) else (value,)
    return max((int(x) for x in values if isinstance(x, int)), default=0)


def get_orientation(image: PIL.Image.Image, *, decode: bool = True) -> int | None:
    """Ask how a picture is turned.

    image (PIL.Image.Image): The picture.
    decode (bool): A PNG picture that doesn't say so before its pixels may say so behind them. Whether it
        is decoded to find out.
    RETURNS (Optional[int]): By the numbers of EXIF, if it says so.
    """
    try:
        exif = image.getexif() if decode else PIL.Image.Image.getexif(image)
        orientation = exif.get(ORIENTATION)
    except Exception:  # EXIF data that can't be parsed turns nothing
        return None
    return orientation if isinstance(orientation, int) else None


def get_upright_size(image: PIL.Image.Image, stream: BinaryIO) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): Width and height once turned upright, of a picture that wasn't decoded."""
    width, height = image.size
    if image.format == "TIFF":
        # Versions of Pillow differ in whether the size they say is that of the turned picture.
        tags: Any = image
        width, height = (_largest(tags.tag_v2.get(tag)) for tag in (WIDTH, HEIGHT))
    decode = image.format == "PNG" and "exif" not in image.info and _says_more(stream)
    turned = get_orientation(image, decode=decode) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _says_more(stream: BinaryIO) -> bool:
    """Whether something behind the pixels of a PNG file can say how it is turned."""
    at, behind = 8, False
    for _ in range(PNG_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        kind = head[4:]
        if len(head) < 8 or kind == b"IEND":
            break
        behind = behind or kind == b"IDAT"
        says = kind == b"eXIf"
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            says = stream.read(32).startswith(SAY_ORIENTATION)
        if behind and says:
            return True
        at += 12 + int.from_bytes(head[:4], "big")
    return False
