"""A post's picture and its objects as RGB pictures, one after the other."""

from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image

from ..images.reading import ImageError, read_image
from .values import Region, clip_box


def load_pictures(
    value: Any,
    regions: Sequence[Region],
    max_regions: int | None = None,
    *,
    problems: list[str],
) -> Iterator[PIL.Image.Image]:
    """Read the whole picture and its objects.

    value (ImageValue): The picture.
    regions (Sequence[Region]): Its objects, normalized.
    max_regions (Optional[int]): Only so many of them, from the first; all if `None`.
    problems (List[str]): Gets a line for each thing that can't be used.
    YIELDS (PIL.Image.Image): The whole picture first, then the objects in order, each cut out or read
        only when it is asked for; nothing at all if the whole picture can't be read.
    """
    try:
        whole = read_image(value)
    except ImageError as err:
        problems.append(str(err))
        return
    yield whole
    for i, region in enumerate(regions[:max_regions]):
        try:
            picture = _crop(whole, region)
        except ValueError as err:
            problems.append(f"region {i}: {err}")
        else:
            yield picture


def _crop(whole: PIL.Image.Image, region: Region) -> PIL.Image.Image:
    if isinstance(region, str):
        return read_image(region)
    return whole.crop(clip_box(region["box"], whole.width, whole.height))
