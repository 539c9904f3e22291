"""A post's picture and its objects as RGB pictures, and what was wrong with them."""

from collections.abc import Sequence
from typing import Any

import PIL.Image

from ..regions import Region, clip_box
from .reading import ImageError, read_image


def load_pictures(
    value: Any, regions: Sequence[Region], max_regions: int | None = None
) -> tuple[list[PIL.Image.Image], list[str]]:
    """Read the whole picture and its objects.

    value (ImageValue): The picture.
    regions (Sequence[Region]): Its objects, normalized.
    max_regions (Optional[int]): Only so many of them, from the first; all if `None`.
    RETURNS (Tuple[List[PIL.Image.Image], List[str]]): The whole picture first, then the objects in
        order; none at all if the whole picture can't be read. Then one line for each thing that could
        not be used.
    """
    try:
        whole = read_image(value)
    except ImageError as err:
        return [], [str(err)]
    pictures, problems = [whole], []
    for i, region in enumerate(regions[:max_regions]):
        try:
            pictures.append(_crop(whole, region))
        except ValueError as err:
            problems.append(f"region {i}: {err}")
    return pictures, problems


def _crop(whole: PIL.Image.Image, region: Region) -> PIL.Image.Image:
    if isinstance(region, str):
        return read_image(region)
    return whole.crop(clip_box(region["box"], whole.width, whole.height))
