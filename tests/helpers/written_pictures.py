"""Picture files written number by number, so that what they hold is known without a decoder."""

import io
import struct
import zlib

import numpy
import tifffile

REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def pack_rows(values, bits: int, order: str = ">", padding: int = 1) -> list[bytes]:
    """RETURNS (List[bytes]): The rows of an array, so many bits a value, each up to a whole byte."""
    if bits == 16:
        return [row.astype(order + "u2").tobytes() for row in values]
    rows = []
    for row in values.reshape(len(values), -1):
        text = "".join(f"{x:0{bits}b}" for x in row)
        text += "0" * (-len(text) % (8 * padding))
        rows.append(bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    return rows


def make_tiff(planes: list[bytes], size: tuple[int, int], tags=None, order: str = "<") -> bytes:
    """Write a TIFF.

    planes (List[bytes]): The strips, as they are in the file: one a plane.
    size (Tuple[int, int]): Width and height.
    tags (Dict[int, Tuple[str, List[float]]]): Further tags, by number: type as `struct` has it, and values.
        `None` takes one of the usual away.
    order (str): Of bytes.
    """
    width, height = size
    entries = {
        **{256: ("I", [width]), 257: ("I", [height]), 258: ("H", [8]), 259: ("H", [1])},
        **{262: ("H", [1]), 277: ("H", [1]), 278: ("I", [height])},
        **(tags or {}),
    }
    entries = {tag: entry for tag, entry in entries.items() if entry is not None}
    types = {"B": 1, "H": 3, "I": 4, "f": 11}
    behind = 8 + 2 + 12 * (len(entries) + 2) + 4
    start = behind + 400  # leaves room for values that don't fit their entry
    starts = [start + sum(map(len, planes[:i])) for i in range(len(planes))]
    entries[273], entries[279] = ("I", starts), ("I", [len(plane) for plane in planes])
    head, long = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(value) > 4:
            long, value = long + value, struct.pack(order + "I", behind + len(long))
        head += struct.pack(order + "HHI", tag, types[kind], len(values)) + value.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HIH", 42, 8, len(entries)) + head + bytes(4) + long
    return head.ljust(start, b"\0") + b"".join(planes)


def write_tiff(array, **options) -> bytes:
    """RETURNS (bytes): The array as `tifffile` writes it."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def make_png(values, bits: int, kind: int, transparency: bytes = b"", palette: bytes = b"") -> bytes:
    """RETURNS (bytes): A PNG of so many bits a value and of this colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row for row in pack_rows(values, bits))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)),
            chunk(b"PLTE", palette) if palette else b"",
            chunk(b"tRNS", transparency) if transparency else b"",
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def make_bmp(values, bits: int, palette=(), masks: tuple[int, ...] = ()) -> bytes:
    """RETURNS (bytes): A BMP of so many bits a pixel, with a palette (R, G, B) or masks for the colours."""
    height, width = values.shape
    if bits > 8:
        rows = [row.astype(f"<u{bits // 8}").tobytes() for row in values[::-1]]
    else:
        rows = pack_rows(values[::-1], bits, padding=4)
    data = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
    table = b"".join(bytes([int(b), int(g), int(r), 0]) for r, g, b in palette)
    table += struct.pack(f"<{len(masks)}I", *masks)
    size = 40 if len(masks) < 4 else 108  # masks belong to the larger header
    header = struct.pack(
        "<IiiHHIIiiII", *(size, width, height, 1, bits, 3 if masks else 0, len(data), 0, 0, len(palette), 0)
    )
    start = 14 + size + (len(table) if size == 40 else 0)
    header = (header + table).ljust(start - 14, b"\0")
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + data


def on_white(colours, alpha):
    """RETURNS (numpy.ndarray): Colours (0-255, not multiplied) over a white page, opaque where alpha is 1."""
    alpha = numpy.asarray(alpha, dtype=float)[..., None]
    return as_rgb(colours) * alpha + 255 * (1 - alpha)


def as_rgb(values):
    """RETURNS (numpy.ndarray): Grey or colour values as height x width x 3 floats."""
    values = numpy.asarray(values, dtype=float)
    return values if values.ndim == 3 else numpy.repeat(values[..., None], 3, axis=2)
