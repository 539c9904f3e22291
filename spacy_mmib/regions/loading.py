"""A post's picture and its objects as RGB pictures, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import PIL.Image

from ..images.reading import ImageError, read_image
from ..post.regions import Region, clip_box


class Problem(str):
    """Why a picture or an object was not used, in one line.

    kind (str): See `ImageError`.
    region (Optional[int]): Which object it is about, from 0; `None` if it is the whole picture.
    """

    kind: str
    region: int | None

    def __new__(cls, text: str, kind: str, region: int | None = None) -> "Problem":
        """Make one."""
        problem = super().__new__(cls, text)
        problem.kind, problem.region = kind, region
        return problem


def load_pictures(
    value: Any,
    regions: Sequence[Region],
    max_regions: int | None = None,
    *,
    problems: list[str],
    read: Callable[[Any], PIL.Image.Image] = read_image,
) -> Iterator[PIL.Image.Image]:
    """Read the whole picture and its objects.

    value (ImageValue): The picture.
    regions (Sequence[Region]): Its objects, normalized.
    max_regions (Optional[int]): Only so many of them, from the first; all if `None`.
    problems (List[str]): Gets a `Problem` for each thing that can't be used.
    read (Callable): Reads a picture or raises `ImageError`.
    YIELDS (PIL.Image.Image): The whole picture first, then the objects in order, each cut out or read
        only when it is asked for; nothing at all if the whole picture can't be read.
    """
    try:
        whole = value if isinstance(value, PIL.Image.Image) else read(value)
    except ImageError as err:
        problems.append(Problem(str(err), err.kind))
        return
    yield whole
    for i, region in enumerate(regions[:max_regions]):
        try:
            if isinstance(region, str):
                picture = read(region)
            else:
                picture = whole.crop(clip_box(region["box"], whole.width, whole.height))
        except ImageError as err:
            problems.append(Problem(f"region {i}: {err}", err.kind, i))
        except ValueError as err:
            problems.append(Problem(f"region {i}: {err}", "box", i))
        else:
            yield picture
