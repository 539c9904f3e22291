"""A post's picture and objects as tensors for a network. Runs in threads, so it sees no Doc and no Thinc."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import PIL.Image
import torch

from ..images.reading import ImageError
from ..post.regions import Region, clip_box
from ..regions.loading import Problem, load_pictures
from .picture_transform import PictureTransform


@dataclass
class Unit:
    """What goes through the network once.

    picture (torch.Tensor): Prepared, (3, height, width).
    boxes (torch.Tensor): Objects to be cut out of its feature map, in its pixels, (k, 4).
    """

    picture: torch.Tensor
    boxes: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 4))


@dataclass
class Prepared:
    """A post's picture.

    units (List[Unit]): Together they give the post's rows; none if the picture can't be read.
    order (Optional[List[int]]): Where the rows are among those of the units, if not in order.
    problems (List[str]): What couldn't be used.
    """

    units: list[Unit]
    order: list[int] | None
    problems: list[str]


def prepare_crops(
    value: Any,
    regions: Sequence[Region],
    transform: PictureTransform,
    read: Callable[[Any], PIL.Image.Image],
) -> Prepared:
    """Prepare the whole picture and each object as a picture of its own.

    value (ImageValue): The picture, or what was read of it already.
    regions (Sequence[Region]): The objects.
    transform (PictureTransform): What the network's weights expect.
    read (Callable): Reads a picture or raises `ImageError`.
    RETURNS (Prepared): A unit a row.
    """
    problems: list[str] = []
    pictures = load_pictures(value, regions, problems=problems, read=read)
    units = [Unit(transform(picture)) for picture in pictures]
    return Prepared(units, None, problems)


def prepare_rois(
    value: Any,
    regions: Sequence[Region],
    transform: PictureTransform,
    read: Callable[[Any], PIL.Image.Image],
) -> Prepared:
    """Prepare the whole picture, rescaled to a square without cutting anything off, and its boxes in the
    pixels of that. Ready crops are pictures of their own. See `prepare_crops`.

    RETURNS (Prepared): A unit for the picture and its boxes, and one for each ready crop.
    """
    problems: list[str] = []
    try:
        whole = value if isinstance(value, PIL.Image.Image) else read(value)
    except ImageError as err:
        return Prepared([], None, [Problem(str(err), err.kind)])
    picture = transform.stretch(whole)
    x_scale, y_scale = picture.shape[-1] / whole.width, picture.shape[-2] / whole.height
    boxes: list[list[float]] = []
    crops: list[Unit] = []
    places: list[tuple[bool, int]] = []  # of each region that is used: is it a crop, and which
    for i, region in enumerate(regions):
        try:
            if isinstance(region, str):
                crop = Unit(transform.stretch(read(region)))
                places.append((True, len(crops)))
                crops.append(crop)
            else:
                x0, y0, x1, y1 = clip_box(region["box"], whole.width, whole.height)
                places.append((False, len(boxes)))
                boxes.append([x0 * x_scale, y0 * y_scale, x1 * x_scale, y1 * y_scale])
        except ImageError as err:
            problems.append(Problem(f"region {i}: {err}", err.kind, i))
        except ValueError as err:
            problems.append(Problem(f"region {i}: {err}", "box", i))
    order = [0, *(1 + k + (len(boxes) if is_crop else 0) for is_crop, k in places)]
    in_order = order == list(range(len(order)))
    unit = Unit(picture, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return Prepared([unit, *crops], None if in_order else order, problems)


def prepare_whole(
    value: Any,
    regions: Sequence[Region],
    transform: PictureTransform,
    read: Callable[[Any], PIL.Image.Image],
) -> Prepared:
    """Prepare the whole picture only. See `prepare_crops`."""
    return prepare_crops(value, (), transform, read)
