"""Every mode, depth and format that Pillow and tifffile can write: read as it was written, or refused.

What is right comes from the numbers that were written, and from OpenCV where it decodes the same file; never
from Pillow. A refusal has to be in a list here: one that isn't is a hole.
"""

import io
import itertools
import struct
import warnings
import zlib

import cv2
import numpy
import PIL.Image
import pytest
import tifffile
from written_pictures import REVERSED, as_rgb, make_bmp, make_png, make_tiff, on_white, pack_rows, write_tiff

from spacy_mmib.images.errors import FORMATS
from spacy_mmib.images.reading import ImageError, probe_image, read_image, to_rgb
from spacy_mmib.util import MMIBWarning

HEIGHT, WIDTH = 24, 32
Y, X = numpy.mgrid[0:HEIGHT, 0:WIDTH]
COLOURS = numpy.stack([X / (WIDTH - 1), Y / (HEIGHT - 1), (X + Y) / (HEIGHT + WIDTH - 2)], -1)
GREY, ALPHA = COLOURS[..., 0], Y / (HEIGHT - 1)
"""What is written: 0 to 1."""


def difference(data: bytes, right, read=read_image) -> float | str:
    """How far off the worst value is, of 255, or why the picture is refused."""
    try:
        got = numpy.asarray(read(data)).astype(float)
    except ImageError as err:
        return str(err)
    right = as_rgb(right)
    assert got.shape == right.shape
    return float(abs(got - right).max())


def is_right(data: bytes, right, tolerance: float = 2.01) -> bool | str:
    found = difference(data, right)
    if isinstance(found, str):
        assert found.isprintable()
        assert len(found) < 300
        return found
    return found <= tolerance or f"off by {found:.1f}"


# TIFF, written by tifffile

DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f2", "f4", "f8")
KINDS = {
    "black is 0": {"photometric": "minisblack"},
    "white is 0": {"photometric": "miniswhite"},
    "rgb": {"photometric": "rgb"},
    "rgb and a number": {"photometric": "rgb", "extrasamples": ["unspecified"]},
    "rgb, alpha": {"photometric": "rgb", "extrasamples": ["unassalpha"]},
    "rgb multiplied, alpha": {"photometric": "rgb", "extrasamples": ["assocalpha"]},
    "grey, alpha": {"photometric": "minisblack", "extrasamples": ["unassalpha"]},
    "grey multiplied, alpha": {"photometric": "minisblack", "extrasamples": ["assocalpha"]},
    "cmyk": {"photometric": "separated"},
}

READ = {
    "i1": {"black is 0"},
    "u1": set(KINDS),
    "i2": {"black is 0"},
    "u2": set(KINDS) - {"grey, alpha", "grey multiplied, alpha"},
    "u4": {"black is 0"},
    "f4": {"black is 0", "white is 0"},
}
"""All others are refused."""


def is_read(dtype: str, kind: str, planar: str, order: str, compression: str | None) -> bool:
    if (dtype, kind) in {("u2", "white is 0"), ("u4", "black is 0")} and order == ">":
        return False
    if kind == "rgb multiplied, alpha" and (dtype == "u2" or planar == "separate"):
        return False
    if dtype in ("i2", "f4") and order == ">" and compression is not None:
        return False
    if dtype == "u1" and planar == "separate":
        # Pillow puts two planes where they don't belong, and opens no fourth one that means nothing.
        return not kind.startswith("grey") and (kind != "rgb and a number" or compression is not None)
    return kind in READ.get(dtype, ())


def quantize(values, dtype: str):
    if numpy.dtype(dtype).kind == "f":
        return values.astype(dtype)
    info = numpy.iinfo(dtype)
    return (numpy.rint(values * (info.max - info.min)) + info.min).astype(dtype)


def make_samples(kind: str):
    """What is written, and what it looks like."""
    alpha, cmy = ALPHA[..., None], (1 - COLOURS) * 0.9
    if kind in ("black is 0", "white is 0"):
        return GREY, (GREY if kind == "black is 0" else 1 - GREY) * 255
    if kind == "cmyk":
        return numpy.dstack([cmy, ALPHA / 2]), 255 * (1 - cmy) * (1 - alpha / 2)
    if kind == "rgb":
        return COLOURS, COLOURS * 255
    colours = COLOURS if kind.startswith("rgb") else GREY[..., None]
    samples = numpy.dstack([colours * alpha if "multiplied" in kind else colours, ALPHA])
    opaque = numpy.ones_like(ALPHA) if kind == "rgb and a number" else ALPHA
    return samples, on_white(colours[..., 0] * 255 if colours.shape[2] == 1 else colours * 255, opaque)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiff_of_every_type_of_number(dtype, kind):
    samples, right = make_samples(kind)
    array = quantize(samples, dtype)
    layouts = [
        {"compression": compression, **layout}
        for compression, layout in [
            *((None, {}), (None, {"tile": (16, 16)}), ("zlib", {"rowsperstrip": 5})),
            ("zlib", {"tile": (16, 16)}),
        ]
    ]
    planars = ("contig", "separate") if array.ndim == 3 else ("contig",)
    for planar, order, layout in itertools.product(planars, "<>", layouts):
        written = numpy.moveaxis(array, -1, 0) if planar == "separate" else array
        options = {**KINDS[kind], **layout, "byteorder": order}
        if array.ndim == 3:
            options["planarconfig"] = planar
        data = write_tiff(written, **options)
        assert (tifffile.imread(io.BytesIO(data)) == written).all()
        result = is_right(data, right)
        combination = (dtype, kind, planar, order, layout)
        if is_read(dtype, kind, planar, order, layout["compression"]):
            assert result is True, combination
        else:
            assert isinstance(result, str), combination
            assert "off by" not in result, combination


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "f4"])
def test_tiff_in_other_wrappings(dtype):
    array, black = quantize(GREY, dtype), {"photometric": "minisblack"}
    right = GREY * 255
    assert is_right(write_tiff(array, ome=True, **black), right) is True
    assert is_right(write_tiff(array, bigtiff=True, **black), right) is True
    assert "kind that isn't read" in is_right(write_tiff(array, bigtiff=True, byteorder=">"), right)
    assert is_right(write_tiff(numpy.stack([array, array[::-1]]), **black), right) is True  # pages
    if dtype in ("u1", "u2", "f4"):
        assert is_right(write_tiff(array, imagej=True), right) is True
    for order in "<>" if dtype != "f4" else "":
        data = write_tiff(array, compression="zlib", predictor=True, byteorder=order, **black)
        if order == "<" or dtype not in ("u4", "i2"):
            assert is_right(data, right) is True


def test_tiff_of_bits_and_of_numbers_too_large():
    bits = GREY > 0.5
    for compression in (None, "zlib"):
        options = {"compression": compression}
        assert is_right(write_tiff(bits, photometric="minisblack", **options), bits * 255) is True
        assert is_right(write_tiff(bits, photometric="miniswhite", **options), ~bits * 255.0) is True
    for dtype in ("i8", "u8", "c8", "c16"):
        assert "kind that isn't read" in is_right(write_tiff((GREY * 9).astype(dtype)), GREY)


# TIFF, written by hand


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_tiff_of_every_depth(bits):
    most = 2**bits - 1
    values = numpy.rint(GREY * most).astype(int)
    right = values * 255 / most
    for order, photometric, compressed, reverse, planar in itertools.product(
        "<>", (0, 1), (False, True), (False, True), (1, 2)
    ):
        data = b"".join(pack_rows(values, bits, order))
        data = zlib.compress(data) if compressed else data
        data = data.translate(REVERSED) if reverse else data
        tags = {258: [bits], 259: [8 if compressed else 1], 262: [photometric], 284: [planar]}
        if reverse:
            tags[266] = [2]
        file = make_tiff([data], (WIDTH, HEIGHT), {t: ("H", v) for t, v in tags.items()}, order)
        result = is_right(file, right if photometric else 255 - right)
        combination = (bits, order, photometric, compressed, reverse, planar)
        # What Pillow opens.
        if bits < 8:
            is_read = True
        elif bits == 8:
            is_read = photometric == 1 or not reverse or compressed or planar == 2
        elif bits == 12:
            is_read = order == "<" and photometric == 1 and not reverse
        else:
            is_read = (order, photometric) != (">", 0) and (not reverse or (order, photometric) == ("<", 1))
        if is_read:
            assert result is True, combination
        else:
            assert "off by" not in str(result), combination


def test_tiff_of_other_colours():
    size = (WIDTH, HEIGHT)
    three = {258: ("H", [8] * 3), 277: ("H", [3])}
    lab = numpy.dstack([GREY * 255, COLOURS[..., 1] * 60 - 30, COLOURS[..., 2] * 60 - 30])
    lab = numpy.rint(lab).astype(int)
    for compressed in (False, True):
        data = lab.astype("int16").astype("uint8").tobytes()
        tags = {**three, 262: ("H", [8]), 259: ("H", [8 if compressed else 1])}
        file = make_tiff([zlib.compress(data) if compressed else data], size, tags)
        assert is_right(file, lab_to_rgb(lab)) is True

    palette = numpy.stack([numpy.arange(256), 255 - numpy.arange(256), numpy.full(256, 9)], -1)
    indices = (Y * WIDTH + X).astype("uint8")
    for compression in (None, "zlib"):
        options = {"photometric": "palette", "colormap": (palette.T * 257).astype("u2")}
        file = write_tiff(indices, compression=compression, **options)
        assert is_right(file, palette[indices]) is True


def lab_to_rgb(lab):
    """CIE L*a*b* under D50, as TIFF has it, to sRGB, by the formulas."""
    y = (lab[..., 0] * 100 / 255 + 16) / 116
    xyz = numpy.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = numpy.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29))
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = numpy.clip(xyz * [0.9642, 1, 0.8249] @ numpy.transpose(matrix), 0, 1)
    low = linear <= 0.0031308
    return 255 * numpy.where(low, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_range_that_is_stated_is_the_scale():
    size = (WIDTH, HEIGHT)
    dark = GREY * 0.2
    for kind, array, low, high in [
        (3, dark * 7 - 3, -3, 4),
        (3, dark * 255, 0, 255),
        (3, dark, 0, 1),
        (3, dark * 65535, 0, 65535),
        (2, dark * 1e6, 0, 1e6),
    ]:
        data = array.astype("<f4" if kind == 3 else "<i4").tobytes()
        tags = {258: ("H", [32]), 339: ("H", [kind]), 340: ("f", [low]), 341: ("f", [high])}
        assert is_right(make_tiff([data], size, tags), dark * 255) is True
        tags[262] = ("H", [0])
        if kind == 3:
            assert is_right(make_tiff([data], size, tags), 255 - dark * 255) is True


@pytest.mark.parametrize(
    ("tags", "samples", "reason"),
    [
        ({262: None}, 1, "doesn't say what they are"),
        ({258: ("H", [32]), 339: ("H", [2])}, 4, "signed 32-bit"),
        ({258: ("H", [8] * 4), 277: ("H", [4]), 262: ("H", [5]), 332: ("H", [2])}, 4, "other inks"),
        ({258: ("H", [8] * 3), 277: ("H", [3]), 262: ("H", [8]), 284: ("H", [2])}, 3, "planes apart"),
        ({258: ("H", [8] * 3), 277: ("H", [3]), 262: ("H", [6])}, 3, "YCbCr that isn't compressed"),
        ({258: ("H", [64]), 339: ("H", [3])}, 8, "TIFF damaged or of a kind that isn't read"),
    ],
)
def test_what_a_tiff_leaves_open_is_refused_by_its_header(tags, samples, reason):
    data = make_tiff([bytes(samples * WIDTH * HEIGHT)], (WIDTH, HEIGHT), tags)
    for read in (read_image, probe_image):
        with pytest.raises(ImageError, match=reason) as info:
            read(data)
        assert info.value.kind == "format"
        assert str(info.value).endswith(": the bytes of the picture")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_tiffs_are_turned_too(planar, orientation):
    array = quantize(COLOURS, "u2")
    written = array if planar == "contig" else numpy.moveaxis(array, -1, 0)
    tag = (274, "H", 1, orientation, True)
    data = write_tiff(written, photometric="rgb", planarconfig=planar, extratags=[tag])
    turned = array >> 8
    turned = turned.transpose(1, 0, 2) if orientation in (5, 6, 7, 8) else turned
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    assert is_right(data, turned) is True
    assert probe_image(data) == turned.shape[1::-1]


# PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_of_every_depth(bits):
    most = 2**bits - 1
    values = numpy.rint(GREY * most).astype(int)
    for key in {None, 0, 1, most, int(values[3, 5])}:
        right = values * 255 / most
        if key is not None:
            right = numpy.where(values == key, 255, right)
        transparency = b"" if key is None else struct.pack(">H", key)
        assert is_right(make_png(values, bits, 0, transparency), right) is True, key
    if bits <= 8:
        palette = numpy.random.RandomState(0).randint(0, 256, (most + 1, 3)).astype("uint8")
        alpha = numpy.random.RandomState(1).randint(0, 256, most + 1).astype("uint8")
        for table in (b"", alpha.tobytes(), b"\xff\0", alpha.tobytes()[:2]):
            full = numpy.frombuffer(table.ljust(most + 1, b"\xff"), "uint8")
            right = on_white(palette[values], full[values] / 255)
            file = make_png(values, bits, 3, table, palette.tobytes())
            assert is_right(file, right) is True
    else:
        alpha = numpy.rint(ALPHA * 65535).astype(int)
        colours = numpy.rint(COLOURS * 65535).astype(int)
        for kind, samples in ((4, values), (6, colours)):
            file = make_png(numpy.dstack([samples, alpha]), 16, kind)
            assert is_right(file, on_white(samples / 257, ALPHA)) is True


@pytest.mark.parametrize("key", [(0x12, 0x34, 0x56), (0x1200, 0x3400, 0x5600), (0, 0, 0)])
def test_a_transparent_colour_of_16_bits_is_that_one_only(key):
    colours = numpy.random.RandomState(0).randint(0, 65536, (HEIGHT, WIDTH, 3))
    colours[0, :5] = [key, (0x1201, 0x3400, 0x5600), (0x12, 0x34, 0x57), (1, 0, 0), key]
    right = numpy.where((colours == key).all(axis=2)[..., None], 255, colours / 257)
    data = make_png(colours, 16, 2, struct.pack(">3H", *key))
    assert is_right(data, right) is True
    opened = PIL.Image.open(io.BytesIO(data))
    for _ in range(2):  # attaching it leaves it as it is
        assert abs(numpy.asarray(to_rgb(opened)) - right).max() <= 2


# PPM

MAXVALS = (1, 3, 100, 254, 255, 256, 1000, 4095, 65534, 65535)


@pytest.mark.parametrize("most", MAXVALS)
def test_ppm_of_every_maxval(most):
    for dark in (1, 0.003):
        for samples, plain, raw in ((GREY, "P2", "P5"), (COLOURS, "P3", "P6")):
            values = numpy.rint(samples * most * dark).astype(int)
            size = f"\n{WIDTH} {HEIGHT}\n{most}\n"
            text = (plain + size + " ".join(map(str, values.ravel()))).encode()
            data = (raw + size).encode() + values.astype(">u2" if most > 255 else "u1").tobytes()
            for file in (text, data):
                assert is_right(file, values * 255 / most) is True


def test_pfm():
    for order, sign in (("<", "-"), (">", "")):
        data = GREY[::-1].astype(order + "f4").tobytes()
        file = f"Pf\n{WIDTH} {HEIGHT}\n{sign}%s\n"
        assert is_right((file % "1.0").encode() + data, GREY * 255) is True
        assert "scale of 0.5" in difference((file % "0.5").encode() + data, GREY)
        colour = b"PF" + (file % "1.0").encode()[2:] + numpy.repeat(GREY, 3).astype("f4").tobytes()
        assert "not a picture in a known format" in difference(colour, GREY)


# BMP


@pytest.mark.parametrize(("bits", "n"), [(1, 2), (4, 2), (4, 4), (4, 16), (8, 2), (8, 4), (8, 16), (8, 256)])
def test_bmp_palettes(bits, n):
    values = (Y * WIDTH + X) % n
    spread = numpy.arange(n) * 255 // (n - 1)
    for grey in (numpy.arange(n), spread, spread[::-1]):
        palette = numpy.repeat(grey[:, None], 3, axis=1)
        assert is_right(make_bmp(values, bits, palette), palette[values]) is True
    palette = numpy.random.RandomState(n).randint(0, 256, (n, 3))
    assert is_right(make_bmp(values, bits, palette), palette[values]) is True


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, ()),
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (32, ()),
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    ],
)
def test_bmp_of_bit_fields(bits, masks):
    values = numpy.random.RandomState(0).randint(0, 2**bits, (HEIGHT, WIDTH), dtype="int64")
    usual = (0x7C00, 0x3E0, 0x1F) if bits == 16 else (0xFF0000, 0xFF00, 0xFF)
    bands = [(values & mask) / mask for mask in masks or usual]
    right = on_white(numpy.dstack(bands[:3]) * 255, bands[3] if len(bands) == 4 else values * 0 + 1)
    assert is_right(make_bmp(values, bits, masks=masks), right) is True


# What Pillow writes

LEVELS = numpy.rint(COLOURS * 255).astype("uint8")
OPAQUE = numpy.rint(ALPHA * 255).astype("uint8")
PALETTE = numpy.random.RandomState(3).randint(0, 256, (200, 3)).astype("uint8")
INDICES = ((Y * WIDTH + X) % 200).astype("uint8")


def in_mode(mode: str, array) -> PIL.Image.Image:
    array = numpy.ascontiguousarray(array)
    return PIL.Image.frombytes(mode, (WIDTH, HEIGHT), array.tobytes())


def make_images():
    """Images of all modes, and what they look like by their numbers."""
    grey, alpha = LEVELS[..., 0], OPAQUE / 255
    deep = grey.astype("u2") * 257
    multiplied = numpy.rint(LEVELS * alpha[..., None])
    palette = in_mode("P", INDICES)
    palette.putpalette(PALETTE.tobytes())
    shown = PALETTE[INDICES]
    cmyk = numpy.dstack([255 - LEVELS, OPAQUE // 3])
    return {
        "1": (in_mode("L", (grey > 127) * numpy.uint8(255)).convert("1"), (grey > 127) * 255),
        "L": (in_mode("L", grey), grey),
        "LA": (in_mode("LA", numpy.dstack([grey, OPAQUE])), on_white(grey, alpha)),
        "La": (
            in_mode("La", numpy.dstack([multiplied[..., 0], OPAQUE]).astype("uint8")),
            on_white(grey, alpha),
        ),
        "P": (palette, shown),
        "RGB": (in_mode("RGB", LEVELS), LEVELS),
        "RGBA": (in_mode("RGBA", numpy.dstack([LEVELS, OPAQUE])), on_white(LEVELS, alpha)),
        "RGBa": (
            in_mode("RGBa", numpy.dstack([multiplied, OPAQUE]).astype("uint8")),
            on_white(LEVELS, alpha),
        ),
        "RGBX": (in_mode("RGBX", numpy.dstack([LEVELS, OPAQUE])), LEVELS),
        "CMYK": (in_mode("CMYK", cmyk), (255.0 - cmyk[..., :3]) * (255.0 - cmyk[..., 3:]) / 255),
        "YCbCr": (in_mode("RGB", LEVELS).convert("YCbCr"), None),
        "LAB": (in_mode("RGB", LEVELS).convert("LAB"), None),
        "HSV": (in_mode("RGB", LEVELS).convert("HSV"), None),
        "I": (in_mode("I", deep.astype("i4")), grey),
        "I, dark": (in_mode("I", grey.astype("i4")), grey / 257),
        "I;16": (in_mode("I;16", deep), grey),
        "I;16, dark": (in_mode("I;16", grey.astype("u2")), grey / 257),
        "I;16B": (in_mode("I;16B", deep.astype(">u2")), grey),
        "F": (in_mode("F", (grey / 255).astype("f4")), grey),
        "F to 255": (in_mode("F", grey.astype("f4")), grey),
    }


IMAGES = make_images()

OPTIONS = {
    "JPEG": [{"quality": 100, "subsampling": 0}, {"quality": 60}, {"progressive": True}],
    "PNG": [{}, {"transparency": True}],
    "WEBP": [{"lossless": True}, {"lossless": True, "exact": True}, {"quality": 80}],
    "GIF": [{}, {"transparency": True}],
    "TIFF": [
        *({"compression": c} for c in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "lzma")),
        *({"compression": c} for c in ("zstd", "group3", "group4", "tiff_ccitt")),
        {"big_tiff": True},
    ],
}
FAITHFUL = {
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA", "I", "I, dark", "I;16", "I;16, dark", "I;16B"},
    "WEBP": {"RGB", "RGBA", "RGBX", "L", "P"},
    "GIF": {"1", "L", "P"},
    "BMP": {"1", "L", "P", "RGB"},
    "PPM": {"1", "L", "RGB", "I", "I, dark", "I;16", "I;16, dark", "F", "F to 255"},
    "TIFF": {
        *("1", "L", "LA", "La", "P", "RGB", "RGBA", "RGBa", "RGBX", "CMYK"),
        *("I;16", "I;16, dark", "I;16B", "F", "F to 255"),
    },
}
"""Modes that a format keeps, when it is written without loss: what comes out is what went in. Others are
converted by Pillow when it writes (a GIF of colours), some into other pictures (a WebP of floats is white).
OpenCV says what is in the file then."""

REFUSED = {("TIFF", "I"), ("TIFF", "I, dark"), ("TIFF", "I;16B", "big_tiff")}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", IMAGES)
def test_what_pillow_writes(format, mode):
    image, right = IMAGES[mode]
    for options in OPTIONS.get(format, [{}]):
        if options.get("transparency"):
            if mode not in ("1", "L", "P", "RGB", "I;16"):
                continue
            key = image.getpixel((7, 5))
            options = {"transparency": key}
            values = numpy.asarray(image.convert("L") if mode == "1" else image)
            is_key = (values == key).all(axis=2) if values.ndim == 3 else values == key
            expected = numpy.where(is_key[..., None], 255, as_rgb(right))
        else:
            expected = right
        stream = io.BytesIO()
        try:
            image.copy().save(stream, format, **options)
        except (OSError, SystemError, TypeError, ValueError, KeyError, RuntimeError):
            continue  # not to be written so
        data = stream.getvalue()
        lossy = options.get("compression") == "jpeg" or "quality" in options or "progressive" in options
        combination = (format, mode, options)
        if (format, mode) == ("TIFF", "YCbCr") and not options.get("compression"):
            assert "isn't compressed" in is_right(data, LEVELS)
            continue
        if {(format, mode), (format, mode, *options)} & REFUSED:
            assert "off by" not in is_right(data, LEVELS), combination
            continue
        references = []
        if not lossy and mode in FAITHFUL.get(format, ()):
            references.append(expected)
        by_opencv = decode_with_opencv(data) if format != "TIFF" else None
        if by_opencv is not None and "transparency" not in options:  # which it leaves out
            references.append(by_opencv)
        if not references and mode in FAITHFUL.get(format, ()):
            assert difference(data, expected) < 60, combination  # lossy
        for reference in references:
            assert is_right(data, reference) is True, combination
        if not references:
            assert isinstance(difference(data, LEVELS), float), combination


def decode_with_opencv(data: bytes):
    array = cv2.imdecode(numpy.frombuffer(data, "uint8"), cv2.IMREAD_UNCHANGED)
    if array is None:
        return None
    if array.dtype.kind == "f":
        array = array * (255.0 if array.max() <= 1 else 1.0)
    scale = 257 if array.dtype == numpy.uint16 else 1
    array = array.astype(float) / scale
    if array.ndim == 2:
        return as_rgb(array)
    colours = array[..., 2::-1] if array.shape[2] > 2 else array[..., 0]
    return on_white(colours, array[..., 3] / 255) if array.shape[2] == 4 else colours


# Damaged files

SOME = [
    write_tiff(numpy.moveaxis(quantize(COLOURS, "u2"), -1, 0), photometric="rgb", planarconfig="separate"),
    write_tiff(quantize(make_samples("rgb multiplied, alpha")[0], "u1"), **KINDS["rgb multiplied, alpha"]),
    write_tiff(quantize(GREY, "f4"), photometric="miniswhite", byteorder=">"),
    write_tiff(quantize(GREY, "u4")),
    make_png(quantize(COLOURS, "u2"), 16, 2, struct.pack(">3H", 11, 22, 33)),
    make_png(quantize(GREY, "u1") % 4, 2, 0, struct.pack(">H", 3)),
    make_bmp(quantize(GREY, "u1") % 16, 4, numpy.repeat(numpy.arange(16)[:, None], 3, axis=1)),
]


@pytest.mark.parametrize("data", SOME, ids=range(len(SOME)))
def test_damaged_headers_are_read_or_refused(data):
    random = numpy.random.RandomState(len(data))
    assert probe_image(data) == read_image(data).size == (WIDTH, HEIGHT)
    for _ in range(150):
        changed = bytearray(data)
        for at in random.randint(0, min(len(data), 420), random.randint(1, 4)):
            changed[at] = random.choice([0, 1, 2, 127, 255, changed[at] ^ 1 << random.randint(8)])
        try:
            image = read_image(bytes(changed))
        except ImageError:
            continue
        assert image.mode == "RGB"
        assert probe_image(bytes(changed)) == image.size


# PIL images


@pytest.mark.parametrize("mode", IMAGES)
def test_pil_images_without_a_file(mode):
    image, right = IMAGES[mode]
    if mode == "I, dark":  # no file says that these are of 65,535
        right = numpy.asarray(image)
    if right is not None:
        assert difference(image, right, to_rgb) <= 2


def test_a_file_that_pillow_has_decoded_wrongly_is_refused_as_an_object():
    planes = numpy.moveaxis(quantize(COLOURS, "u2"), -1, 0)
    files = [
        write_tiff(planes, photometric="rgb", planarconfig="separate"),
        make_png(numpy.rint(COLOURS * 65535).astype(int), 16, 2, struct.pack(">3H", 256, 1, 1)),
        make_png(numpy.rint(GREY * 3).astype(int), 2, 0, struct.pack(">H", 3)),
    ]
    for data in files:
        assert isinstance(difference(data, LEVELS), float)
        opened = PIL.Image.open(io.BytesIO(data))
        assert difference(opened, numpy.asarray(read_image(data)), to_rgb) == 0
        opened.load()
        with pytest.raises(ImageError, match="colours can't be told"):
            to_rgb(opened)


def test_an_object_decoded_before_is_read_by_its_tags():
    for dtype, photometric in (("u2", "miniswhite"), ("f4", "miniswhite"), ("u4", "minisblack")):
        opened = PIL.Image.open(io.BytesIO(write_tiff(quantize(GREY, dtype), photometric=photometric)))
        opened.load()
        right = 255 * (1 - GREY if photometric == "miniswhite" else GREY)
        assert difference(opened, right, to_rgb) <= 2


def test_an_image_that_may_be_turned_twice_warns_once():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    PIL.Image.new("RGB", (40, 60)).save(stream, "JPEG", exif=exif)
    opened = PIL.Image.open(io.BytesIO(stream.getvalue()))
    by_hand = opened.rotate(270, expand=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert to_rgb(opened).size == (60, 40)
        assert not caught
        assert [to_rgb(by_hand).size for _ in range(3)] == [(40, 60)] * 3
    assert [w.category for w in caught] == [MMIBWarning]
    assert "exif_transpose" in str(caught[0].message)
    upright = PIL.ImageOps.exif_transpose(opened)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_rgb(upright).size == (60, 40)
