"""What the values of a picture mean, as its file says it, in 8 bits.

Pillow's modes keep neither the sign of values nor, above 8 bits, their scale and whether 0 is white, and some
files it decodes otherwise than their tags say. So the file's own header decides here: 0 is black and the
largest number of that many bits is white, or the other way round where the file says so. Signed values reach
from the smallest (black) to the largest (white) of their bits, which is the range that TIFF presumes. What a
file leaves open is refused, floats apart: see `_floats_to_8_bits`.
"""

from typing import Any, TypeAlias

import numpy
import PIL.Image
from PIL import ImageChops, ImagePalette

from .errors import ImageError

BITS, COMPRESSION, PHOTOMETRIC, PLANES = 258, 259, 262, 284
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, LOWEST, HIGHEST = 332, 338, 339, 340, 341
"""TIFF tags."""

WHITE_IS_0, PREMULTIPLIED = 0, 1
UNSIGNED, SIGNED = 1, 2
NOT_COMPRESSED, CCITT, OLD_JPEG, DEFLATE = 1, (2, 3, 4), 6, 8
"""Values of TIFF tags."""

GREY_STEP = {"L;2": 85, "L;4": 17}
"""Grey values of PNG with few bits are spread to 0-255, the transparent one among them isn't."""

Array: TypeAlias = "numpy.ndarray[Any, Any]"


def check_colours(image: PIL.Image.Image) -> None:
    """RAISES (ImageError): The file doesn't say what its values mean, or Pillow decodes them otherwise."""
    reason = None
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        reason = _refuse_tiff(image)
    elif image.format == "PPM" and image.mode == "F" and image.info.get("scale", 1.0) != 1.0:
        reason = (
            f"a float picture with a scale of {image.info['scale']:g}, which some programs multiply "
            "by and others divide by"
        )
    elif image.format == "PNG" and image.mode == "RGB" and not getattr(image, "tile", None):
        key = image.info.get("transparency")
        if isinstance(key, tuple) and max(key) > 255:
            reason = "16 bits with a transparent colour, of which Pillow has kept 8"
    if reason is not None:
        raise ImageError(f"colours can't be told: {reason}", kind="format")


def open_again(image: PIL.Image.Image) -> PIL.Image.Image:
    """Open a picture that somebody else has opened but not decoded, to decode it in our way: decoded in
    theirs, it no longer knows how many bits it had.

    RETURNS (PIL.Image.Image): The same frame of the same file, or the picture itself if nothing gets lost.
    """
    known: Any = image
    if image.format not in ("BMP", "PNG", "TIFF") or not getattr(image, "tile", None):
        return image
    at = known.fp.tell()
    again = PIL.Image.open(known.fp, formats=[image.format])
    if known.tell():
        again.seek(known.tell())
    known.fp.seek(at)
    return again


def to_8_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Decode a picture, and convert it as its file says.

    RETURNS (PIL.Image.Image): Mode RGB, on white where it is transparent; not turned.
    """
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        return _read_tiff(image)
    if image.format == "PNG":
        return _read_png(image)
    if image.format == "BMP":
        _mend_bmp(image)
    image.load()
    if image.format == "PPM" and image.mode == "I":
        return _grey(numpy.asarray(image) >> 8)  # Pillow spreads them to 16 bits
    return _flatten(image)


# Pictures of which nothing more is known than their mode


def _flatten(image: PIL.Image.Image) -> PIL.Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        values = numpy.asarray(image)
        if mode.startswith("I;16"):
            grey = _grey(values >> 8)
        else:
            grey = _grey(_ints_to_8_bits(values) if mode == "I" else _floats_to_8_bits(values))
        key = image.info.get("transparency")
        return _whiten(grey, values == key) if isinstance(key, int) and mode != "F" else grey
    if mode in ("La", "RGBa"):  # colours multiplied by their opacity are what a white page needs
        *colours, alpha = image.split()
        bands = [ImageChops.add(colour, ImageChops.invert(alpha)) for colour in colours]
        return PIL.Image.merge("RGB", bands if len(bands) == 3 else bands * 3)
    if mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return PIL.Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _lab_to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import ImageCms  # seldom needed

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    # Optimized, it looks colours up in a coarse table: it is off by up to 7.
    transform = ImageCms.buildTransform(lab, rgb, "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    result: PIL.Image.Image = transform.apply(image)
    return result


def _grey(values: Array) -> PIL.Image.Image:
    return PIL.Image.fromarray(numpy.asarray(values, dtype="uint8")).convert("RGB")


def _whiten(image: PIL.Image.Image, where: Array) -> PIL.Image.Image:
    image.paste((255, 255, 255), mask=PIL.Image.fromarray(where.astype("uint8") * 255))
    return image


def _ints_to_8_bits(values: Array) -> Array:
    """Mode I states no scale: 0 to 255, else 0 to 65,535, as Pillow saves it, else lowest to highest."""
    if values.min() >= 0 and values.max() <= 65535:
        return values if values.max() <= 255 else values >> 8
    return _floats_to_8_bits(values)


def _floats_to_8_bits(values: Array, lowest: Any = None, highest: Any = None) -> Array:
    """Floats say their scale by a range or not at all: 0 to 1, give or take what resampling overshoots,
    else 0 to 255, else from the lowest to the highest there is. What isn't finite is black.
    """
    is_whole = values.dtype.kind != "f"
    scaled = numpy.nan_to_num(values.astype("float32"), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(scaled.min()), float(scaled.max())
    if lowest is not None:
        low, high = lowest, highest
    elif not is_whole and low >= -1 and high <= 2:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    if high - low > 1e38:  # twice the largest number is none
        scaled, low, high = scaled * 0.25, low * 0.25, high * 0.25
    scaled -= low
    scaled *= 255.0 / max(high - low, 1e-12)
    numpy.clip(scaled, 0, 255, out=scaled)
    return numpy.rint(scaled, out=scaled).astype("uint8")


# TIFF


def _read_tiff(image: Any) -> PIL.Image.Image:
    tags = image.tag_v2
    if image.tile and _has_raw_planes(tags):
        _leave_to_libtiff(image)
    bits, signed = _first(tags, BITS, 1), _first(tags, SAMPLE_FORMAT, UNSIGNED) == SIGNED
    image.load()
    mode = image.mode
    if mode == "L" and signed:
        return _grey(numpy.asarray(image) ^ 128)
    if mode.startswith("I;16"):
        grey = numpy.asarray(image) >> (bits - 8)
    elif mode == "I" and not signed:
        grey = numpy.asarray(image).view("uint32") >> 24
    elif mode == "I" and bits == 16:
        grey = (numpy.asarray(image) + 32768) >> 8
    elif mode in ("I", "F"):
        grey = _floats_to_8_bits(numpy.asarray(image), *(_get_range(tags) or ()))
    else:
        return _flatten(image)
    # Pillow turns them round up to 8 bits only.
    return _grey(255 - grey if _first(tags, PHOTOMETRIC, None) == WHITE_IS_0 else grey)


def _refuse_tiff(image: Any) -> str | None:
    tags, mode = image.tag_v2, image.mode
    bits, compression = _first(tags, BITS, 1), _first(tags, COMPRESSION, NOT_COMPRESSED)
    if PHOTOMETRIC not in tags and compression not in (*CCITT, OLD_JPEG):
        return "the TIFF doesn't say what they are (tag 262, whether 0 is black or white)"
    is_signed = _first(tags, SAMPLE_FORMAT, UNSIGNED) == SIGNED
    is_compressed, apart = compression != NOT_COMPRESSED, _first(tags, PLANES, 1) == 2
    if mode == "I" and bits == 32 and is_signed and _get_range(tags) is None:
        # Programs write their full range there, and Pillow what a picture of 16 bits has.
        return "signed 32-bit values, and the TIFF doesn't say which one is white; save 16 bits"
    if apart and mode in ("LA", "La", "PA", "LAB"):
        return f"a TIFF of mode {mode} in planes apart, which Pillow doesn't decode; save it as PNG"
    if mode == "CMYK" and _first(tags, INK_SET, 1) != 1:
        return "a TIFF of other inks than CMYK"
    if mode == "YCbCr" and not is_compressed:
        return "a TIFF of YCbCr that isn't compressed, which Pillow decodes wrongly; save it as RGB"
    if mode == "RGBA" and (apart or bits != 8) and _first(tags, EXTRA_SAMPLES, 0) == PREMULTIPLIED:
        return "a TIFF of 16 bits or planes apart, multiplied by its opacity; save it as PNG"
    if is_compressed and tags.prefix == b"MM" and (mode == "F" or (mode == "I" and is_signed)):
        # What libtiff decodes is in the machine's order of bytes; Pillow heeds that for some modes only.
        return "a big-endian TIFF of compressed floats or signed numbers; save it uncompressed"
    white_is_0 = _first(tags, PHOTOMETRIC, 0) == WHITE_IS_0
    if not image.tile and _has_raw_planes(tags) and (bits != 8 or white_is_0):
        return "Pillow decoded this TIFF otherwise than its tags say"
    return None


def _has_raw_planes(tags: Any) -> bool:
    """Pillow decodes planes that aren't compressed as if they were of 8 bits and 0 were black."""
    return bool(_first(tags, COMPRESSION, NOT_COMPRESSED) == NOT_COMPRESSED and _first(tags, PLANES, 1) == 2)


def _leave_to_libtiff(image: Any) -> None:
    """Pillow leaves to libtiff what is compressed; libtiff looks into the file for how."""
    tags = image.tag_v2
    stated = tags.get(COMPRESSION)
    tags[COMPRESSION] = DEFLATE
    try:
        image._setup()
    finally:
        del tags[COMPRESSION]
        if stated is not None:
            tags[COMPRESSION] = stated
    image.info["compression"] = "raw"


def _get_range(tags: Any) -> tuple[float, float] | None:
    try:
        low, high = (float(_first(tags, tag, None)) for tag in (LOWEST, HIGHEST))
    except (TypeError, ValueError, OverflowError):
        return None
    return (low, high) if -3e38 < low < high < 3e38 else None


def _first(tags: Any, tag: int, default: Any) -> Any:
    """A tag has a number, or one for each channel; Pillow opens those only whose numbers are the same."""
    value = tags.get(tag, default)
    return (value[0] if value else default) if isinstance(value, tuple) else value


# PNG and BMP


def _read_png(image: Any) -> PIL.Image.Image:
    key = image.info.get("transparency")
    raw = image.tile[0].args if getattr(image, "tile", None) else ""
    low = None
    if image.mode == "RGB" and raw == "RGB;16B" and isinstance(key, tuple):
        low = _decode_low_bytes(image)
    image.load()
    if low is not None:
        high = numpy.asarray(image)
        is_key = (high == [x >> 8 for x in key]) & (low == [x & 255 for x in key])
        return _whiten(image.convert("RGB"), is_key.all(axis=2))
    if image.mode == "L" and isinstance(key, int):
        found: Array = numpy.equal(numpy.asarray(image), key * GREY_STEP.get(raw, 1))
        if not raw and 0 < key < 16 and not found.any():
            raise ImageError(
                "colours can't be told: grey of 2 or 4 bits, perhaps, with a transparent one", kind="format"
            )
        return _whiten(image.convert("RGB"), found)
    return _flatten(image)


def _decode_low_bytes(image: Any) -> Array:
    """Pillow keeps the upper 8 of 16 bits; which colour is transparent is said in all of them."""
    at = image.fp.tell()
    again: Any = open_again(image)
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
    values = numpy.asarray(again)
    image.fp.seek(at)
    return values


def _mend_bmp(image: Any) -> None:
    """Pillow takes values for bits, or for bytes, where a palette is grey but has fewer colours than fit."""
    tile = image.tile[0] if getattr(image, "tile", None) else None
    if tile is None or tile.codec_name != "raw" or image.mode not in ("1", "L"):
        return
    at = image.fp.tell()
    image.fp.seek(14)
    header = image.fp.read(16)
    image.fp.seek(at)
    bits = int.from_bytes(header[10:12] if header[0] == 12 else header[14:16], "little")
    if bits != (1 if image.mode == "1" else 8):
        ramp = (0, 255) if image.mode == "1" else range(256)
        image.palette = ImagePalette.raw("RGB", bytes(x for grey in ramp for x in [grey] * 3))
        image._mode = "P"
        image.tile = [tile._replace(args=({1: "P;1", 4: "P;4", 8: "P"}[bits], *tile.args[1:]))]
