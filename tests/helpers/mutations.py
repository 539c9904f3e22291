"""Pictures as strangers send them: damaged, cut short, glued together of two formats, or no pictures at all."""

import io
import random
import struct

import numpy
import PIL.Image

MAGICS = {
    "AVIF": b"\0\0\0\x1cftypavif",
    "BLP": b"BLP2",
    "BMP": b"BM",
    "BUFR": b"BUFR",
    "CUR": b"\0\0\2\0",
    "DCX": struct.pack("<I", 0x3ADE68B1),
    "DDS": b"DDS ",
    "DIB": struct.pack("<I", 40),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "FITS": b"SIMPLE  =                    T",
    "FLI": b"\0\0\0\0\x11\xaf\1\0\x40\1\xc8\0\x08\0\3\0",
    "FPX": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "FTEX": b"FTEX",
    "GBR": struct.pack(">5I", 28, 2, 10, 10, 1),
    "GIF": b"GIF89a",
    "GRIB": b"GRIB\0\0\0\1",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "ICNS": b"icns",
    "ICO": b"\0\0\1\0\1\0",
    "IM": b"Image type: RGB image\r\n",
    "IMT": b"width 10\nheight 10\n",
    "IPTC": b"\x1c\3\x3c",
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "JPEG2000": b"\0\0\0\x0cjP  \x0d\x0a\x87\x0a",
    "MCIDAS": b"\0\0\0\0\0\0\0\4",
    "MIC": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0",
    "MPEG": b"\0\0\1\xb3",
    "MPO": b"\xff\xd8\xff\xe2\0\x10MPF\0MM\0*\0\0\0\x08",
    "MSP": b"DanM",
    "PCD": b"\0" * 2048 + b"PCD_",
    "PCX": b"\x0a\5\1\x08",
    "PIXAR": b"\x80\xe8\0\0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "PPM": b"P6 20 20 255 ",
    "PSD": b"8BPS\0\1",
    "QOI": b"qoif",
    "SGI": b"\x01\xda\1\1",
    "SPIDER": struct.pack(">27f", *[1.0] * 27),
    "SUN": b"\x59\xa6\x6a\x95",
    "TGA": b"\0\0\2\0\0\0\0\0\0\0\0\0\x0a\0\x0a\0\x18\0",
    "TIFF": b"II*\0\x08\0\0\0",
    "WEBP": b"RIFF\x40\0\0\0WEBPVP8 ",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0",
    "XBM": b"#define w_width 10\n#define w_height 10\n",
    "XPM": b"/* XPM */\n",
    "XVTHUMB": b"P7 332",
}
"""How a file of each format that Pillow knows begins."""

MORE_MAGICS = [
    *(b"P1 5 5 ", b"P2 5 5 255 ", b"P3 5 5 255 ", b"P4 5 5 ", b"P5 5 5 255 ", b"P5 5 5 65535 "),
    *(b"Pf 5 5 -1.0 ", b"PF 5 5 1.0 ", b"P0CMYK 5 5 255 ", b"PyRGBA 5 5 255 ", b"P7 "),
    *(b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0", b"GIF87a\x10\0\x10\0\x87\0\0"),
    *(b"RIFF\x40\0\0\0WEBPVP8L", b"RIFF\x40\0\0\0WEBPVP8X", b"\xff\x4f\xff\x51", b"LinS"),
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\2\0\0\0",
    b"\xff\xd8\xff\xc0\0\x11\x08\0\x10\0\x10\3\1\x22\0\2\x11\1\3\x11\1",
    b"BM\x36\3\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x10\0\0\0\x10\0\0\0\1\0\x18\0\0\0\0\0",
]


def mutated_pictures(n: int = 2000, seed: int = 0) -> list[bytes]:
    """Make the content of files that were meant to be pictures: some are whole, most are not.

    n (int): How many.
    seed (int): The same for the same.
    RETURNS (List[bytes]): The contents, never empty.
    """
    rng = random.Random(seed)
    whole = whole_pictures(seed)
    magics = [*MAGICS.values(), *MORE_MAGICS]
    result = []
    for i in range(n):
        picture = rng.choice(whole)
        kind = i % 8
        if kind < 2:
            result.append(_flip_bits(picture, rng, rng.randint(1, 6)))
        elif kind == 2:
            result.append(_flip_bits(picture, rng, rng.randint(1, 6), within=80))
        elif kind == 3:
            result.append(picture[: rng.randint(1, len(picture) - 1)])
        elif kind == 4:
            result.append(picture[: rng.randint(4, 100)] + rng.choice(whole)[rng.randint(0, 100) :])
        elif kind == 5:
            result.append(_move_bytes(picture, rng))
        elif kind == 6:  # in turn, so that each is there
            result.append(magics[i // 8 % len(magics)] + rng.randbytes(rng.randint(0, 400)))
        else:
            result.append(_set_numbers(picture, rng))
    return result


def whole_pictures(seed: int = 0) -> list[bytes]:
    """RETURNS (List[bytes]): Small pictures of all formats and modes that are read."""
    rng = random.Random(seed)
    base = PIL.Image.frombytes("RGB", (24, 18), rng.randbytes(24 * 18 * 3)).resize((48, 36))
    alpha = base.convert("L").point(lambda x: 255 if x > 100 else x)
    rgba = base.copy()
    rgba.putalpha(alpha)
    palette = base.convert("P")
    deep = PIL.Image.fromarray(numpy.asarray(base.convert("L")).astype("uint16") * 257)
    floats = base.convert("F").point(lambda x: x * 0.01 - 1)
    frames = {"save_all": True, "append_images": [base.rotate(90), base.rotate(180)]}
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    modes = {
        "JPEG": ["L", "RGB", "CMYK"],
        "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
        "WEBP": ["RGB"],
        "GIF": ["L", "P"],
        "BMP": ["1", "L", "P", "RGB"],
        "TIFF": ["1", "L", "P", "RGB", "RGBA", "CMYK", "LAB"],
        "PPM": ["1", "L", "RGB"],
    }
    images: list[tuple[PIL.Image.Image, str, dict]] = []
    for format, names in modes.items():
        for mode in names:
            image = rgba.convert("LA") if mode == "LA" else base
            if mode not in ("LA", "LAB"):
                image = (rgba if mode == "RGBA" else base).convert(mode)
            elif mode == "LAB":
                image = PIL.Image.merge("LAB", base.split())
            images.append((image, format, {}))
    images += [
        (base, "JPEG", {"progressive": True, "exif": exif}),
        (base, "JPEG", {"subsampling": 0, "comment": "hello", "dpi": (72, 72)}),
        (base, "JPEG", {"restart_marker_blocks": 1}),
        (palette, "PNG", {"transparency": 3}),
        (base, "PNG", {"transparency": (1, 2, 3), "exif": exif}),
        (base, "PNG", frames),
        (deep, "PNG", {}),
        (base, "WEBP", {"exif": exif}),
        (rgba, "WEBP", {}),
        (rgba, "WEBP", {"lossless": True}),
        (base, "WEBP", frames),
        (palette, "GIF", {"transparency": 1}),
        (base, "GIF", frames),
        (base, "MPO", frames),
        (deep, "TIFF", {}),
        (floats, "TIFF", {}),
        (base, "TIFF", {"exif": exif}),
        (base, "TIFF", frames),
        (base, "TIFF", {"big_tiff": True}),
        (deep, "PPM", {}),
        (floats, "PPM", {}),
    ]
    for compression in ("packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg"):
        images.append((base, "TIFF", {"compression": compression}))
    for compression in ("group3", "group4", "tiff_ccitt"):
        images.append((base.convert("1"), "TIFF", {"compression": compression}))
    result = []
    for image, format, options in images:
        stream = io.BytesIO()
        # Saving leaves settings on a picture: copies.
        if "append_images" in options:
            options = {**options, "append_images": [more.copy() for more in options["append_images"]]}
        image.copy().save(stream, format, **options)
        result.append(stream.getvalue())
    numbers = " ".join(str(x) for x in base.tobytes()[: 8 * 6 * 3])
    result.append(f"P3\n# plain\n8 6\n255\n{numbers}\n".encode())
    result.append(b"P1\n4 4\n" + b"0 1 1 0 " * 4)
    return result


def _flip_bits(data: bytes, rng: random.Random, n: int, within: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(n):
        changed[rng.randrange(min(len(data), within or len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _move_bytes(data: bytes, rng: random.Random) -> bytes:
    """Take a piece out, put it in twice, or turn it into zeros."""
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    piece = rng.choice([b"", data[start:end] * 2, b"\0" * (end - start), b"\xff" * (end - start)])
    return (data[:start] + piece + data[end:]) or b"\0"


def _set_numbers(data: bytes, rng: random.Random) -> bytes:
    """Write numbers such as programs trip over where sizes and offsets are."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        value = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
        form = rng.choice(["<H", ">H"] if value <= 0xFFFF else ["<I", ">I"])
        at = rng.randrange(min(len(data), 250))
        changed[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(changed)
