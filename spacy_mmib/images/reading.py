"""Open a picture with Pillow, from a file a stranger made, as 8-bit RGB.

Every reason why a picture can't be used is one `ImageError` with one line of text.

Pillow decodes all formats, in full. For JPEG it is as fast as torchvision's decoder (measured on one core:
2.0 and 1.9 ms for 1024 x 768 pixels, 44 and 49 ms for 4000 x 3000), with the same pixels, and it tells the
size before it decodes, which is where limits are checked. Its `draft`, decoding at a fraction of the size,
takes two thirds and half of that time, but gives other pixels, and too few to cut objects out of.
"""

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

import PIL.Image
import PIL.ImageFile

# Pillow only tries formats whose plugins are imported, and importing all takes a while.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ..post.kinds import Kind
from ..post.values import ACCEPTED, Pixels, to_stored
from ..util import warn
from .colours import check_colours, open_again, to_8_bits
from .errors import ImageError, explain, shorten
from .files import URL, check_size, open_file, read_bytes
from .header import check_header, get_orientation, get_upright_size
from .limits import BYTES_A_PIXEL, FORMATS, MAX_PIXELS, ReadingLimits

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "URL",
    "ImageError",
    "ReadingLimits",
    "decode_image",
    "probe_image",
    "read_file",
    "read_image",
    "to_rgb",
]

LIMITS = ReadingLimits()
BYTES = "the bytes of the picture"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def read_image(value: Any, limits: ReadingLimits = LIMITS) -> PIL.Image.Image:
    """Read a picture, whatever it was attached as.

    value (Any): What `doc._.image` takes: a path, the bytes of an image file, an array, a PIL image.
    limits (ReadingLimits): What an image file may be at most; checked before it is decoded.
    RETURNS (PIL.Image.Image): Mode RGB, upright (EXIF rotation applied), the first frame of an
        animation, transparency composited on white.
    RAISES (ImageError): It can't be read; the message says why.
    """
    stored = _to_stored(value)
    if isinstance(stored, str):
        return read_file(stored, limits)
    if isinstance(stored, bytes):
        return decode_image(stored, BYTES, limits)
    return stored.to_pil()


def probe_image(value: Any, limits: ReadingLimits = LIMITS) -> tuple[int, int]:
    """Check that a picture can be opened, by its header only: fast, and enough to find missing, empty
    and foreign files, and those beyond the limits. A file that was cut short is only noticed by
    `read_image`.

    value (Any): What `doc._.image` takes.
    limits (ReadingLimits): What an image file may be at most.
    RETURNS (Tuple[int, int]): Width and height that `read_image` would give it, in pixels.
    RAISES (ImageError): It can't be opened; the message says why.
    """
    stored = _to_stored(value)
    if isinstance(stored, str):
        with open_file(stored, limits) as file:
            return _probe(file, shorten(stored), limits)
    if isinstance(stored, bytes):
        check_bytes(stored, BYTES, limits)
        return _probe(io.BytesIO(stored), BYTES, limits)
    return stored.width, stored.height


def read_file(
    path: str, limits: ReadingLimits = LIMITS, root: str | os.PathLike[str] | None = None
) -> PIL.Image.Image:
    """Read a picture file.

    path (str): Its path.
    limits (ReadingLimits): What it may be at most.
    root (Optional[Union[str, Path]]): See `files.open_file`.
    RETURNS (PIL.Image.Image): See `read_image`.
    RAISES (ImageError): It can't be read.
    """
    with open_file(path, limits, root) as file:
        data = read_bytes(file, shorten(path), limits)
    return decode_image(data, shorten(path), limits)


def decode_image(
    data: bytes,
    name: str,
    limits: ReadingLimits = LIMITS,
    *,
    claim: Callable[[int], None] | None = None,
) -> PIL.Image.Image:
    """Decode the content of a picture file.

    data (bytes): The content.
    name (str): What messages call it.
    limits (ReadingLimits): What it may be at most.
    claim (Optional[Callable[[int], None]]): Is told before how many bytes its pixels will take. Whatever it
        raises is raised.
    RETURNS (PIL.Image.Image): See `read_image`.
    RAISES (ImageError): It can't be decoded.
    """
    check_bytes(data, name, limits)
    with _open(io.BytesIO(data), name, limits) as image:
        if claim is not None:
            claim(BYTES_A_PIXEL * image.width * image.height)
        try:
            return to_rgb(image, share=True)
        except ImageError:
            raise
        except Exception as err:  # Pillow's plugins raise nearly anything on malformed files
            raise _as_image_error(err, "can't be decoded", name, limits) from err


def check_bytes(data: bytes, name: str, limits: ReadingLimits) -> None:
    """Check the size of a picture file in memory; see `files.check_size`."""
    if not data and name == BYTES:
        raise ImageError(f"{name} are empty", kind="empty")
    check_size(len(data), name, limits)


def _to_stored(value: Any) -> str | bytes | Pixels:
    try:
        stored = to_stored(value)
    except (TypeError, ValueError) as err:
        kind: Kind = "damaged" if isinstance(value, PIL.Image.Image) else "not_a_picture"
        raise ImageError(str(err), kind=kind) from err
    if stored is None:
        raise ImageError(f"no picture: expected {ACCEPTED}", kind="not_a_picture")
    return stored


def _probe(stream: BinaryIO, name: str, limits: ReadingLimits) -> tuple[int, int]:
    with _open(stream, name, limits) as image:
        try:
            return get_upright_size(image, stream)
        except Exception as err:
            raise _as_image_error(err, "can't be opened", name, limits) from err


def _open(stream: BinaryIO, name: str, limits: ReadingLimits) -> PIL.Image.Image:
    try:
        image: PIL.Image.Image = PIL.Image.open(stream, formats=tuple(limits.formats))
    except PIL.UnidentifiedImageError:
        stream.seek(0)
        if "TIFF" in limits.formats and stream.read(4) in TIFF_MAGIC:
            raise ImageError(
                "a TIFF damaged or of a kind that isn't read (say, colours as floats or 32 bits); save it "
                f"with 8 or 16 unsigned bits: {name}",
                kind="format",
            ) from None
        raise ImageError(
            f"not a picture in a known format ({', '.join(limits.formats)}): {name}", kind="format"
        ) from None
    except Exception as err:
        raise _as_image_error(err, "can't be opened", name, limits) from err
    try:
        check_header(image, name, limits)
        try:
            check_colours(image)
        except ImageError as err:
            raise ImageError(f"{err}: {name}", kind=err.kind) from None
    except Exception as err:
        image.close()
        if isinstance(err, ImageError):
            raise
        raise _as_image_error(err, "can't be opened", name, limits) from err
    return image


def _as_image_error(err: Exception, what: str, name: str, limits: ReadingLimits) -> ImageError:
    if isinstance(err, PIL.Image.DecompressionBombError):
        most = min(limits.max_pixels, 2 * (PIL.Image.MAX_IMAGE_PIXELS or limits.max_pixels))
        return ImageError(f"too large (at most {most} pixels): {name}", kind="too_many_pixels")
    kind: Kind = "memory" if isinstance(err, MemoryError) else "damaged"
    return ImageError(f"{what} ({explain(err)}): {name}", kind=kind)


def to_rgb(image: PIL.Image.Image, *, share: bool = False) -> PIL.Image.Image:
    """Convert to upright 8-bit RGB, whatever the mode.

    image (PIL.Image.Image): Any mode; decoded here if it was opened lazily. For an animation the frame
        it stands at. One opened from a file is read as the file says. One made by a program (also from an
        opened one, by resizing it, say) is read by its mode: I;16 is 0 to 65,535; I is 0 to 255, if it goes
        no further, else 0 to 65,535; F is 0 to 1, else 0 to 255; I and F beyond that are stretched from the
        lowest to the highest value.
    share (bool): Whether the picture is ours alone, so that the result may have its pixels: copying those
        of a photo takes half as long as decoding it.
    RETURNS (PIL.Image.Image): Mode RGB. Transparency is composited on white (the colours behind
        transparent pixels are arbitrary); more than 8 bits are scaled rather than clipped, what isn't
        finite becomes black. A picture whose EXIF data says how it is turned is turned upright, also
        if it is one that a program made, which warns: see `warn_of_turn`.
    RAISES (ImageError): The file doesn't say what its values mean, or says it of values that can't be
        decoded (see `colours.check_colours`); or there are no pixels.
    """
    if 0 in image.size:
        raise ImageError(f"has no pixels ({image.width} x {image.height})")
    source = image if share else open_again(image)
    rgb = to_8_bits(source, share=share or source is not image)
    # After decoding: a PNG picture can say it behind its pixels. PIL.ImageOps.exif_transpose also
    # writes the EXIF data anew, and fails if any of it is malformed.
    turn = TURNS.get(get_orientation(source) or 1)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if turn is not None and not isinstance(image, PIL.ImageFile.ImageFile):
        warn_of_turn()
    return rgb


def warn_of_turn() -> None:
    """Say that a PIL image that a program made was turned: Pillow keeps EXIF data when it rotates a picture,
    so one that was set upright by hand still says that it isn't.
    """
    warn(
        "a PIL image that isn't as it was opened has EXIF data that turns it, and was turned. If you have "
        "set it upright yourself, it is now turned twice: use PIL.ImageOps.exif_transpose(image) for that, "
        "which also changes the EXIF data, or attach the path of the file."
    )
