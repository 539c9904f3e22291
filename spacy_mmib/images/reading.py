"""Open a picture with Pillow, from a file a stranger made, as 8-bit RGB.

Every reason why a picture can't be used is one `ImageError` with one line of text.
"""

import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy
import PIL.Image

# Pillow only tries formats whose plugins are imported, and importing all takes a while.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from .values import ACCEPTED, Pixels, to_stored

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are tried (MPO files open as the JPEG they begin with). A list, because Pillow's own
starts other programs (EPS: Ghostscript)."""

MAX_PIXELS = 89_478_485
"""Pictures of more pixels are refused before they are decoded (Pillow's own limit only warns up to
twice this number)."""


URL = re.compile(r"^(https?|ftp|s3|gs|data):", flags=re.IGNORECASE)
EXIF_ORIENTATION = 0x0112
TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A picture that can't be used. The message is one line that says why."""


def read_image(value: Any) -> PIL.Image.Image:
    """Read a picture, whatever it was attached as.

    value (Any): What `doc._.image` takes: a path, the bytes of an image file, an array, a PIL image.
    RETURNS (PIL.Image.Image): Mode RGB, upright (EXIF rotation applied), the first frame of an
        animation, transparency composited on white.
    RAISES (ImageError): It can't be read; the message says why.
    """
    if isinstance(value, Pixels):
        return value.to_pil()
    if isinstance(value, (str, os.PathLike)):
        return _read_file(Path(os.fsdecode(value)))
    if isinstance(value, bytes):
        if not value:
            raise ImageError("the bytes of the picture are empty")
        return _decode(io.BytesIO(value), "the bytes of the picture")
    try:
        stored = to_stored(value)
    except (TypeError, ValueError) as err:
        raise ImageError(str(err)) from err
    if stored is None:
        raise ImageError(f"no picture: expected {ACCEPTED}")
    return read_image(stored)


def probe_image(value: Any) -> None:
    """Check that a picture can be opened, by its header only: fast, and enough to find missing, empty
    and foreign files. A file that was cut short is only noticed by `read_image`.

    value (Any): What `doc._.image` takes.
    RAISES (ImageError): It can't be opened; the message says why.
    """
    if isinstance(value, (str, os.PathLike)):
        path = Path(os.fsdecode(value))
        _check_file(path)
        with _open(path, str(path)):
            pass
    elif isinstance(value, bytes):
        with _open(io.BytesIO(value), "the bytes of the picture"):
            pass
    elif not isinstance(value, Pixels):
        read_image(value)


def _check_file(path: Path) -> None:
    if URL.match(str(path)):
        raise ImageError(f"is a URL, and nothing is fetched: {path}; attach the file or its bytes")
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"no such file: {path}") from None
    except (OSError, ValueError) as err:  # no permission, name too long, NUL in the name
        raise ImageError(f"can't open {str(path)[:200]!r}: {err}") from None
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(f"is a folder, not a picture: {path}")
    if not stat.S_ISREG(info.st_mode):  # a pipe or a device would block or never end
        raise ImageError(f"is not a regular file: {path}")
    if info.st_size == 0:
        raise ImageError(f"the file is empty: {path}")


def _read_file(path: Path) -> PIL.Image.Image:
    _check_file(path)
    return _decode(path, str(path))


def _open(source: Any, name: str) -> PIL.Image.Image:
    try:
        with warnings.catch_warnings():
            # The limit below is ours and it refuses; Pillow's warning would only repeat it.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(source, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        raise ImageError(
            f"not a picture in a known format ({', '.join(FORMATS)}): {name}"
        ) from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"too large (at most {MAX_PIXELS} pixels): {name}") from None
    except Exception as err:  # Pillow's plugins raise nearly anything on malformed files
        raise ImageError(f"can't be opened ({_reason(err)}): {name}") from err
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        image.close()
        raise ImageError(f"too large ({size}, at most {MAX_PIXELS} pixels): {name}")
    return image


def _decode(source: Any, name: str) -> PIL.Image.Image:
    with _open(source, name) as image:
        try:
            return to_rgb(image)
        except Exception as err:
            raise ImageError(f"can't be decoded ({_reason(err)}): {name}") from err


def _reason(err: Exception) -> str:
    return " ".join(f"{type(err).__name__}: {err}".split())[:200]


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert to upright 8-bit RGB, whatever the mode.

    image (PIL.Image.Image): Any mode; decoded here if it was opened lazily. For an animation the frame
        it stands at.
    RETURNS (PIL.Image.Image): Mode RGB. Transparency is composited on white (the colours behind
        transparent pixels are arbitrary); 16-bit and float pictures are scaled to 8 bits rather than
        clipped.
    """
    image.load()
    if 0 in image.size:
        raise ImageError(f"has no pixels ({image.width} x {image.height})")
    image = _turn_upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return PIL.Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return PIL.Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _turn_upright(image: PIL.Image.Image) -> PIL.Image.Image:
    # PIL.ImageOps.exif_transpose also writes the EXIF data anew, and fails if any of it is malformed.
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # EXIF data that can't be parsed turns nothing
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


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
        scaled -= low
        scaled *= 255.0 / max(high - low, 1e-12)
    numpy.clip(scaled, 0, 255, out=scaled)
    return numpy.rint(scaled, out=scaled).astype("uint8")


def _fits(values: "numpy.ndarray[Any, Any]", above: float, most: float) -> bool:
    return bool(values.min() >= 0 and above < values.max() <= most)
