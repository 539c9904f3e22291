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

import numpy
import PIL.Image

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

from .errors import ImageError, explain, shorten
from .files import URL, check_size, open_file, read_bytes
from .header import check_header, get_orientation, get_upright_size
from .kinds import Kind
from .limits import BYTES_A_PIXEL, FORMATS, MAX_PIXELS, ReadingLimits
from .values import ACCEPTED, Pixels, to_stored

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
        raise ImageError(
            f"not a picture in a known format ({', '.join(limits.formats)}): {name}", kind="format"
        ) from None
    except Exception as err:
        raise _as_image_error(err, "can't be opened", name, limits) from err
    try:
        check_header(image, name, limits)
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
        it stands at.
    share (bool): Whether the result may have its pixels in common with `image`: copying those of a photo
        takes half as long as decoding it.
    RETURNS (PIL.Image.Image): Mode RGB. Transparency is composited on white (the colours behind
        transparent pixels are arbitrary); 16-bit and float pictures are scaled to 8 bits rather than
        clipped, what isn't finite becomes black.
    """
    image.load()
    if 0 in image.size:
        raise ImageError(f"has no pixels ({image.width} x {image.height})")
    # PIL.ImageOps.exif_transpose also writes the EXIF data anew, and fails if any of it is malformed.
    turn = TURNS.get(get_orientation(image) or 1)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        return PIL.Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return PIL.Image.alpha_composite(white, rgba).convert("RGB")
    if share and image.mode == "RGB":
        # Not the picture itself: that of a file keeps the file, and some a decoder with its buffers.
        return image._new(image.im)
    return image.convert("RGB")


def _to_8_bits(image: PIL.Image.Image) -> "numpy.ndarray[Any, Any]":
    # Pillow's own conversion clips 16-bit values at 255 (white) and floats below 1 at 0 (black).
    values = numpy.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and _fits(values, 255, 65535)):
        return (values >> 8).astype("uint8")
    if image.mode == "I" and _fits(values, -1, 255):
        return values.astype("uint8")
    scaled = numpy.nan_to_num(values.astype("float32"), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(scaled.min()), float(scaled.max())
    if image.mode == "F" and low >= -1 and high <= 2:
        scaled *= 255.0  # 0 to 1, give or take what resampling overshoots
    elif low < 0 or high > 255:  # no scale is stated in the file: use the range that is there
        if high - low > 1e38:  # twice the largest number is none
            scaled, low, high = scaled * 0.25, low * 0.25, high * 0.25
        scaled -= low
        scaled *= 255.0 / max(high - low, 1e-12)
    numpy.clip(scaled, 0, 255, out=scaled)
    return numpy.rint(scaled, out=scaled).astype("uint8")


def _fits(values: "numpy.ndarray[Any, Any]", above: float, most: float) -> bool:
    return bool(values.min() >= 0 and above < values.max() <= most)
