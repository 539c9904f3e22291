"""How many frames a picture file has, counted no further than to a limit.

Pillow counts by walking through the whole file, for TIFF with reading all tags of each page: a file of
millions of empty pages would keep it busy for minutes.
"""

import struct

import PIL.Image


def has_more_frames(image: PIL.Image.Image, data: bytes, most: int) -> bool:
    """Count the frames.

    image (PIL.Image.Image): The picture, opened.
    data (bytes): Its file.
    most (int): Where to stop.
    RETURNS (bool): Whether there are more than that.
    """
    if image.format == "GIF":
        return _count_gif(data, most) > most
    if image.format == "TIFF":
        return _count_tiff(data, most) > most
    frames = getattr(image, "n_frames", 1)  # in the headers of all other formats
    return isinstance(frames, int) and frames > most


def _count_gif(data: bytes, most: int) -> int:
    """The same blocks that Pillow sees; bytes that begin none are skipped."""
    frames = 0
    try:
        at = 13 + _palette_size(data[10])
        while frames <= most:
            block = data[at]
            if block == 0x3B:  # the end
                break
            if block == 0x21:  # an extension and its kind
                at = _skip_blocks(data, at + 2)
            elif block == 0x2C:  # a frame: place and size, palette, width of codes
                frames += 1
                at = _skip_blocks(data, at + 11 + _palette_size(data[at + 9]))
            else:
                at += 1
    except IndexError:
        pass  # ends in the middle
    return frames


def _palette_size(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 128 else 0


def _skip_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1


def _count_tiff(data: bytes, most: int) -> int:
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    number, entry, offset = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
        while at and at not in seen and len(seen) <= most:
            (entries,) = struct.unpack_from(order + number, data, at)
            seen.add(at)
            at += struct.calcsize(order + number) + entries * entry
            (at,) = struct.unpack_from(order + offset, data, at)
    except (struct.error, OverflowError):
        pass  # leads behind the end
    return len(seen)
