"""Pictures for pages: read as the components read them, made small, written into the page."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...images.errors import ImageError

if TYPE_CHECKING:
    import PIL.Image

QUALITY = 82
SMALLEST = 160
"""Pixels. Pictures whose longer side is less are shown enlarged, or their objects could not be told apart."""
CROP_SIZE = 96
"""Pixels, of the longer side of crops that are shown."""


@dataclass(frozen=True)
class SmallPicture:
    """A picture as it is shown.

    uri (str): A data URI of a JPEG.
    width (int): Width of the upright original in pixels, which the boxes of objects are in.
    height (int): Its height.
    shown_width (int): Width at which it is shown, in pixels of the page.
    """

    uri: str
    width: int
    height: int
    shown_width: int


def make_small(value: Any, max_size: int) -> SmallPicture:
    """Read a picture, within the limits and the time that pipelines give it, and make it small.

    value (Any): What `doc._.image` takes. URLs are refused.
    max_size (int): Longer side, in pixels. Smaller pictures stay as they are.
    RETURNS (SmallPicture): The picture.
    RAISES (ImageError): It can't be read; the message says why.
    """
    from ...images.reader import PictureReader

    reader = PictureReader()
    # In a thread of the pool, which gives up pictures that hang the decoder.
    job = reader.submit(_read_and_shrink, reader, value, max_size)
    small: SmallPicture = job.result()
    return small


def try_small(value: Any, max_size: int) -> tuple[SmallPicture | None, str | None]:
    """RETURNS (Tuple[Optional[SmallPicture], Optional[str]]): The picture, or why it can't be shown."""
    if value is None:
        return None, None
    try:
        return make_small(value, max_size), None
    except ImageError as err:
        return None, str(err)


def _read_and_shrink(reader: Any, value: Any, max_size: int) -> SmallPicture:
    image: PIL.Image.Image = reader.read(value)
    width, height = image.size
    scale = min(1.0, max_size / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size != image.size:
        image = image.resize(size, reducing_gap=2.0)
    file = io.BytesIO()
    # Nothing of the file goes along: neither EXIF data, which can tell a place, nor a colour profile.
    image.save(file, "JPEG", quality=QUALITY, exif=b"", icc_profile=None)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    enlarged = max(1.0, min(SMALLEST, max_size) / max(size))
    return SmallPicture(f"data:image/jpeg;base64,{data}", width, height, max(1, round(size[0] * enlarged)))
