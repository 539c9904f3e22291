"""Objects in the pictures of a post: boxes in their pixels, or ready crops."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..util import show
from .user_data import is_whole, pack_path, pack_text, unpack_path, unpack_text

Region: TypeAlias = str | dict[str, Any]
"""The path of a ready crop, or `{"box": [x0, y0, x1, y1], "label": str | None, "score": float | None}`
with the box in pixels of the upright picture. `"image": int` is there if it isn't in the first picture of the
post: its index in `doc._.images`. Crops belong to the first.
"""


class FoundRegions(NamedTuple):
    """What a region getter found in a picture, normalized.

    source (Optional[str]): What determines them, beside the picture, so that they aren't searched for again.
    note (Optional[str]): What has to be known about where they come from.
    """

    regions: list[Region]
    source: str | None
    note: str | None


def normalize_regions(values: Any, *, name: str = "doc._.regions") -> list[Region]:
    """Bring regions into one form, also those that `pack_region` has packed.

    values (Iterable): Each a path of a crop (`str` or `Path`), four numbers `(x0, y0, x1, y1)` in pixels of
        the upright picture, or a dict with `"box"` and optionally `"label"`, `"score"` and `"image"`.
    name (str): What they are, for messages.
    RETURNS (List[Region]): Paths as `str`, boxes as dicts; made of plain types.
    RAISES (TypeError): Something that is none of these.
    """
    if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} takes a list of boxes or of paths of crops; got {type(values).__name__}.")
    regions: list[Region] = []
    for i, value in enumerate(values):
        region = value if isinstance(value, dict) else unpack_path(value)
        if isinstance(region, (str, os.PathLike)):
            regions.append(os.fsdecode(region))
            continue
        region = region if isinstance(region, dict) else {"box": region}
        label, score, numbers = region.get("label"), region.get("score"), []
        image = region.get("image")
        try:
            if not isinstance(region.get("box"), (str, bytes, dict)):
                numbers = [float(x) for x in region["box"]]
            score = None if score is None else float(score)
            if label is not None:
                label = unpack_text(label) if isinstance(label, bytes) else str(label)
        except Exception:  # whatever numbers of strangers raise, such as one of too many digits
            numbers = []
        if not (image is None or is_whole(image)):
            raise TypeError(
                f'{name}[{i}]: "image" is the index of its picture in doc._.images, a whole number of '
                f"at least 0, not {show(image)}."
            )
        if len(numbers) != 4:
            raise TypeError(
                f"{name}[{i}] is neither the path of a crop nor a box: {show(value, str)}. A box is "
                "four numbers (x0, y0, x1, y1) in pixels, or a dict "
                '{"box": four numbers, "label": ..., "score": a number, "image": a whole number}.'
            )
        regions.append({"box": numbers, "label": label, "score": score})
        if image:
            regions[-1] = to_picture(regions[-1], int(image))
    return regions


def find_in_picture(regions: Sequence[Region], number: int) -> list[int]:
    """RETURNS (List[int]): Which of a post's regions are in this one of its pictures."""
    if number == 0:
        return [i for i, x in enumerate(regions) if isinstance(x, str) or not x.get("image", 0)]
    return [i for i, x in enumerate(regions) if isinstance(x, dict) and x.get("image", 0) == number]


def to_picture(region: Region, number: int) -> Region:
    """RETURNS (Region): The same box, in another picture of the post. A crop stays the first one's."""
    if isinstance(region, str):
        return region
    own = {key: value for key, value in region.items() if key != "image"}
    return {**own, "image": number} if number else own


def pack_region(region: Region) -> Any:
    """RETURNS (Any): A normalized region as it is kept in `Doc.user_data`."""
    if isinstance(region, str):
        return pack_path(region)
    return {**region, "label": None if region["label"] is None else pack_text(region["label"])}


def clip_box(box: Iterable[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Turn a box (x0, y0, x1, y1 in pixels) into whole pixels that lie inside the picture.

    RETURNS (Tuple[int, int, int, int]): left, upper, right, lower, at least one pixel wide and high.
    RAISES (ValueError): The box is not finite, inverted, or has no pixel inside the picture.
    """
    x0, y0, x1, y1 = box
    if not all(math.isfinite(x) for x in (x0, y0, x1, y1)):
        raise ValueError(f"the box is not finite: {[x0, y0, x1, y1]}")
    left, upper = max(0, math.floor(x0)), max(0, math.floor(y0))
    right, lower = min(width, math.ceil(x1)), min(height, math.ceil(y1))
    if x1 <= x0 or y1 <= y0 or right <= left or lower <= upper:
        raise ValueError(f"the box {[x0, y0, x1, y1]} has no pixel inside the picture of {width} x {height}")
    return left, upper, right, lower
