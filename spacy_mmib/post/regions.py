"""Objects in a picture: boxes in its pixels, or ready crops."""

import math
import os
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from ..util import show
from .user_data import pack_path, pack_text, unpack_path, unpack_text

Region: TypeAlias = str | dict[str, Any]
"""The path of a ready crop, or `{"box": [x0, y0, x1, y1], "label": str | None, "score": float | None}`
with the box in pixels of the upright picture.
"""


class FoundRegions(NamedTuple):
    """What a region getter found in a picture.

    regions (List[Region]): Normalized.
    source (Optional[str]): What determines them, beside the picture, so that they aren't searched for again.
    note (Optional[str]): What has to be known about where they come from.
    """

    regions: list[Region]
    source: str | None
    note: str | None


def normalize_regions(values: Any, *, name: str = "doc._.regions") -> list[Region]:
    """Bring regions into one form, also those that `pack_region` has packed.

    values (Iterable): Each a path of a crop (`str` or `Path`), four numbers `(x0, y0, x1, y1)` in pixels of
        the upright picture, or a dict with `"box"` and optionally `"label"` and `"score"`.
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
        try:
            if not isinstance(region.get("box"), (str, bytes, dict)):
                numbers = [float(x) for x in region["box"]]
            score = None if score is None else float(score)
            if label is not None:
                label = unpack_text(label) if isinstance(label, bytes) else str(label)
        except Exception:  # whatever numbers of strangers raise, such as one of too many digits
            numbers = []
        if len(numbers) != 4:
            raise TypeError(
                f"{name}[{i}] is neither the path of a crop nor a box: {show(value, str)}. A box is "
                "four numbers (x0, y0, x1, y1) in pixels, or a dict "
                '{"box": four numbers, "label": ..., "score": a number}.'
            )
        regions.append({"box": numbers, "label": label, "score": score})
    return regions


def pack_region(region: Region) -> Any:
    """RETURNS (Any): A normalized region as it is kept in `Doc.user_data`."""
    if isinstance(region, str):
        return pack_path(region)
    return {**region, "label": None if region["label"] is None else pack_text(region["label"])}


def clip_box(box: Iterable[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Turn a box into whole pixels that lie inside the picture.

    box (Iterable[float]): x0, y0, x1, y1 in pixels.
    width, height (int): Of the picture in pixels.
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
