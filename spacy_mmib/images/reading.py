"""Read a picture with Pillow, from a file a stranger made, as 8-bit RGB. Every reason why one can't be used
is one `ImageError` with one line of text.

For JPEG, Pillow is as fast as torchvision's decoder. Its `draft`, decoding at a fraction of the size, gives
other pixels, and too few to cut objects out of.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import PIL.Image
import PIL.ImageFile

# Pillow tries the commonest formats and those whose plugins are imported; importing all takes a while.
from PIL import MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from ..util import warn
from .colours import check_colours, open_again, to_8_bits
from .errors import BYTES_A_PIXEL, ImageError, ReadingLimits, explain, explain_os, shorten
from .files import URL, open_file
from .values import ACCEPTED, Pixels, to_stored

__all__ = ["ImageError", "ReadingLimits", "decode", "probe_image", "read_image", "to_rgb"]

LIMITS = ReadingLimits()
BYTES = "the bytes of the picture"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

WIDTH, HEIGHT, ORIENTATION, TILE_WIDTH, TILE_LENGTH = 0x0100, 0x0101, 0x0112, 0x0142, 0x0143
"""EXIF and TIFF tags."""

SAY_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What stands in a PNG file that says how it is turned, be it behind its pixels."""

TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def read_image(
    value: Any,
    limits: ReadingLimits = LIMITS,
    *,
    root: Path | None = None,
    resolver: Callable[[str], bytes] | None = None,
    claim: Callable[[int], None] | None = None,
    decoder: Callable[..., Any] | None = None,
) -> PIL.Image.Image:
    """Read a picture, whatever it was attached as.

    value (Any): What `doc._.image` takes: a path, the bytes of an image file, an array, a PIL image.
    limits (ReadingLimits): What an image file may be at most; checked before it is decoded.
    root (Optional[Path]): See `files.open_file`.
    resolver (Optional[Callable[[str], bytes]]): See `PictureReader`.
    claim (Optional[Callable[[int], None]]): Is told before how many bytes the pixels will take; it may raise.
    decoder (Optional[Callable]): Decodes files instead of `decode`.
    RETURNS (PIL.Image.Image): See `to_rgb`; of an animation the first frame.
    RAISES (ImageError): It can't be read; the message says why.
    """
    stored = value if isinstance(value, (str, bytes)) else _as_stored(value)
    if isinstance(stored, Pixels):
        if claim is not None:
            claim(BYTES_A_PIXEL * stored.width * stored.height)
        return stored.to_pil()
    if isinstance(stored, bytes):
        name, data = BYTES, stored
    else:
        name = shorten(stored)
        if resolver is not None and URL.match(stored):
            data = _resolve(resolver, stored, name)
        else:
            with open_file(stored, limits, root) as file:
                try:
                    # From memory, Pillow doesn't map it: a process that reads a mapped file which another one
                    # cuts short is killed.
                    data = file.read(limits.max_bytes + 1)
                except OSError as err:
                    raise ImageError(f"can't be read ({explain_os(err)}): {name}", kind="io") from None
    if not 0 < len(data) <= limits.max_bytes:
        limits.refuse_size(len(data), name)
    picture: PIL.Image.Image = (decoder or decode)(data, name, limits, claim)
    return picture


def _resolve(resolver: Callable[[str], bytes], url: str, name: str) -> bytes:
    try:
        data = resolver(url)
    except ImageError:
        raise
    except Exception as err:
        raise ImageError(f"not resolved ({explain(err)}): {name}", kind="url") from err
    if not isinstance(data, bytes):
        kind = type(data).__name__
        raise ImageError(f"the resolver gave {kind}, not bytes, for {name}", kind="url")
    return data


def probe_image(value: Any, limits: ReadingLimits = LIMITS) -> tuple[int, int]:
    """Check that a picture can be opened, by its header only: fast, and enough to find missing, empty and
    foreign files, and those beyond the limits, but none that was cut short.

    RETURNS (Tuple[int, int]): Width and height that `read_image` would give it.
    """
    stored = _as_stored(value)
    if isinstance(stored, Pixels):
        return stored.width, stored.height
    if isinstance(stored, str):
        with open_file(stored, limits) as file:
            return _probe(file, shorten(stored), limits)
    if not 0 < len(stored) <= limits.max_bytes:
        limits.refuse_size(len(stored), BYTES)
    return _probe(io.BytesIO(stored), BYTES, limits)


def decode(
    data: bytes, name: str, limits: ReadingLimits = LIMITS, claim: Callable[[int], None] | None = None
) -> PIL.Image.Image:
    """Decode the content of a picture file of a size that was checked; see `read_image`."""
    with _open(io.BytesIO(data), name, limits) as image:
        if claim is not None:
            claim(BYTES_A_PIXEL * image.width * image.height)
        try:
            return to_rgb(image, share=True)
        except ImageError as err:
            raise ImageError(f"{err}: {name}", kind=err.kind) from None
        except Exception as err:  # Pillow's plugins raise nearly anything on malformed files
            raise _as_image_error(err, "can't be decoded", name, limits) from err


def _as_stored(value: Any) -> str | bytes | Pixels:
    try:
        stored = to_stored(value)
    except (TypeError, ValueError) as err:
        kind = "damaged" if isinstance(value, PIL.Image.Image) else "not_a_picture"
        raise ImageError(str(err), kind=kind) from err
    if stored is None:
        raise ImageError(f"no picture: expected {ACCEPTED}", kind="not_a_picture")
    return stored


def _probe(stream: BinaryIO, name: str, limits: ReadingLimits) -> tuple[int, int]:
    with _open(stream, name, limits) as image:
        try:
            check_colours(image)
            width, height = image.size
            if image.format == "TIFF":
                # Versions of Pillow differ in whether the size they say is that of the turned picture.
                width, height = (_largest(image, tag) for tag in (WIDTH, HEIGHT))
            whole = True
            if image.format == "PNG" and "exif" not in image.info:  # Pillow decodes it to find out
                stream.seek(0)
                data = stream.read(limits.max_bytes)
                whole = any(name in data for name in SAY_ORIENTATION)
            is_turned = _get_orientation(image, whole=whole) in (5, 6, 7, 8)
            return (height, width) if is_turned else (width, height)
        except ImageError as err:
            raise ImageError(f"{err}: {name}", kind=err.kind) from None
        except Exception as err:
            raise _as_image_error(err, "can't be opened", name, limits) from err


def _open(stream: BinaryIO, name: str, limits: ReadingLimits) -> PIL.Image.Image:
    """Open a picture, and check what can be checked before it is decoded."""
    try:
        image: PIL.Image.Image = PIL.Image.open(stream, formats=tuple(limits.formats))
    except PIL.UnidentifiedImageError:
        stream.seek(0)
        reason = f"not a picture in a known format ({', '.join(limits.formats)}): {name}"
        if "TIFF" in limits.formats and stream.read(4) in TIFF_MAGIC:
            reason = (
                "a TIFF damaged or of a kind that isn't read (say, colours as floats or 32 bits); save it "
                f"with 8 or 16 unsigned bits: {name}"
            )
        raise ImageError(reason, kind="format") from None
    except Exception as err:
        raise _as_image_error(err, "can't be opened", name, limits) from err
    try:
        sizes = {name: image.size}
        if image.format == "TIFF":
            # A tile is decompressed as a whole, however little of it is in the picture.
            sizes[f"a tile of {name}"] = _largest(image, TILE_WIDTH), _largest(image, TILE_LENGTH)
        for what, (width, height) in sizes.items():
            if width * height > limits.max_pixels:
                raise ImageError(
                    f"too large ({width} x {height}, at most {limits.max_pixels} pixels): {what}",
                    kind="too_many_pixels",
                )
        if _has_more_frames(image, limits.max_frames):
            raise ImageError(f"has more than {limits.max_frames} frames: {name}", kind="too_many_frames")
    except ImageError:
        image.close()
        raise
    except Exception as err:
        image.close()
        raise _as_image_error(err, "can't be opened", name, limits) from err
    return image


def _has_more_frames(image: PIL.Image.Image, most: int) -> bool:
    """Whether there are more frames. What is damaged behind the first one is the end."""
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


def _largest(image: Any, tag: int) -> int:
    """A TIFF tag should have one number, but can have several, or something else."""
    value = image.tag_v2.get(tag)
    values = value if isinstance(value, tuple) else (value,)
    return max((int(x) for x in values if isinstance(x, int)), default=0)


def _get_orientation(image: PIL.Image.Image, *, whole: bool = True) -> int | None:
    """By the numbers of EXIF, if the picture says it before its pixels, or anywhere (`whole`)."""
    try:
        exif = image.getexif() if whole else PIL.Image.Image.getexif(image)
        orientation = exif.get(ORIENTATION)
    except Exception:  # EXIF data that can't be parsed turns nothing
        return None
    return orientation if isinstance(orientation, int) else None


def _as_image_error(err: Exception, what: str, name: str, limits: ReadingLimits) -> ImageError:
    if isinstance(err, PIL.Image.DecompressionBombError):
        most = min(limits.max_pixels, 2 * (PIL.Image.MAX_IMAGE_PIXELS or limits.max_pixels))
        return ImageError(f"too large (at most {most} pixels): {name}", kind="too_many_pixels")
    kind = "memory" if isinstance(err, MemoryError) else "damaged"
    return ImageError(f"{what} ({explain(err)}): {name}", kind=kind)


def to_rgb(image: PIL.Image.Image, *, share: bool = False) -> PIL.Image.Image:
    """Convert to upright 8-bit RGB, whatever the mode.

    image (PIL.Image.Image): One opened from a file is read as the file says, of an animation the frame it
        stands at. One made by a program (also from an opened one, by resizing it, say) is read by its mode:
        I;16 is 0 to 65,535; I is 0 to 255, if it goes no further, else 0 to 65,535; F is 0 to 1, else 0 to
        255; I and F beyond that are stretched from the lowest to the highest value.
    share (bool): Whether the picture is ours alone, so that the result may have its pixels: copying those
        of a photo takes half as long as decoding it.
    RETURNS (PIL.Image.Image): Mode RGB, upright as its EXIF data says, on white where it is transparent. More
        than 8 bits are scaled rather than clipped, what isn't finite becomes black.
    RAISES (ImageError): See `colours.check_colours`; or there are no pixels.
    """
    if 0 in image.size:
        raise ImageError(f"has no pixels ({image.width} x {image.height})")
    source = image
    if image.mode == "RGB" and image.format != "TIFF" and not image.has_transparency_data:
        image.load()
        # Without the file, and the decoder with its buffers, that the picture keeps.
        rgb = image._new(image.im) if share else image.convert("RGB")
    else:
        source = image if share else open_again(image)
        check_colours(source)
        rgb = to_8_bits(source)
    # After decoding: a PNG picture can say it behind its pixels. PIL.ImageOps.exif_transpose also
    # writes the EXIF data anew, and fails if any of it is malformed.
    turn = TURNS.get(_get_orientation(source) or 1)
    if turn is None:
        return rgb
    if not isinstance(image, PIL.ImageFile.ImageFile):
        # Pillow keeps EXIF data when it rotates a picture: one set upright by hand still says that it isn't.
        warn(
            "a PIL image that isn't as it was opened has EXIF data that turns it, and was turned. If you "
            "have set it upright yourself, it is now turned twice: use PIL.ImageOps.exif_transpose(image) "
            "for that, which also changes the EXIF data, or attach the path of the file."
        )
    return rgb.transpose(turn)
