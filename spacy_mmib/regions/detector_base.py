"""What all object detectors have in common: odd pictures, groups of pictures of a size, the choice of the
best boxes.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import PIL.Image
import torch

from . import vision  # noqa: F401  (says what is wrong if torchvision doesn't fit torch)

T = TypeVar("T")

LARGEST_SIDE = 2048
LEAST_SIDE = 16
MAX_ASPECT = 10
GREY = (124, 116, 104)
"""About the mean of photos, which networks see as zero."""

GROUPS_HELD = 4
"""Pictures that wait for others of their size, in batches."""


class Detection(NamedTuple):
    """An object in a picture.

    box (Tuple[float, float, float, float]): x0, y0, x1, y1 in pixels of the picture, inside of it.
    which (int): Index of the query, or of the class.
    label (str): The query's text, or the name of the class.
    score (float): Between 0 and 1.
    """

    box: tuple[float, float, float, float]
    which: int
    label: str
    score: float


def check_device(name: str) -> torch.device:
    """RETURNS (torch.device): The device.
    RAISES (ValueError): It can't be used here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as err:
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        raise ValueError(
            f'device = {name!r} can\'t be used here ({reason}). Set it to "auto" or "cpu".'
        ) from None
    return device


def tame(picture: PIL.Image.Image) -> tuple[PIL.Image.Image, tuple[float, float]]:
    """Bring pictures into bounds.

    Huge ones are made smaller: the networks look at 800 to 1400 pixels a side, but some image processors blur
    every pixel for that, in float64 (scipy, for OWLv2), or fill a panorama up to a square first.

    Tiny and thin ones get a margin on the right and below: image processors take a side of 1 or 3 pixels for
    colour channels, and rescale thin pictures to a height of nothing.

    picture (PIL.Image.Image): RGB.
    RETURNS (Tuple[PIL.Image.Image, Tuple[float, float]]): 16 to 2048 pixels a side, and a side at most 10
        times the other; the picture itself, if it is so. And by what x and y have to be multiplied for
        pixels of the picture.
    """
    width, height = picture.size
    if max(picture.size) > LARGEST_SIDE:
        ratio = LARGEST_SIDE / max(picture.size)
        smaller = max(1, round(width * ratio)), max(1, round(height * ratio))
        picture = picture.resize(smaller, PIL.Image.Resampling.BICUBIC, reducing_gap=3.0)
    scale = width / picture.width, height / picture.height
    least = max(LEAST_SIDE, math.ceil(max(picture.size) / MAX_ASPECT))
    if min(picture.size) < least:
        size = max(picture.width, least), max(picture.height, least)
        padded = PIL.Image.new("RGB", size, GREY)
        padded.paste(picture)
        picture = padded
    return picture, scale


def group(items: Iterable[T], key: Callable[[T], Hashable], at_once: int) -> Iterator[list[T]]:
    """Put items with the same key together, while a limited number of them waits.

    Networks see the margin that fills smaller pictures of a batch up, so the result for a picture would
    depend on its neighbours: only pictures of one size go together.

    items (Iterable): Prepared pictures.
    key (Callable): Their size.
    at_once (int): At most so many in a group.
    YIELDS (List): Groups.
    """
    waiting: dict[Hashable, list[T]] = {}
    for item in items:
        size = key(item)
        waiting.setdefault(size, []).append(item)
        if len(waiting[size]) < at_once:
            if sum(map(len, waiting.values())) < at_once * GROUPS_HELD:
                continue
            size = max(waiting, key=lambda size: len(waiting[size]))
        yield waiting.pop(size)
    yield from waiting.values()


def select_boxes(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    *,
    size: tuple[int, int],
    threshold: float,
    nms: float | None,
    most: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the best boxes.

    boxes (torch.Tensor): x0, y0, x1, y1 in pixels, (k, 4).
    scores (torch.Tensor): (k).
    size (Tuple[int, int]): Width and height of the picture; boxes are clipped to it, and left out if less
        than a pixel is left.
    threshold (float): Boxes with a lower score are left out.
    nms (Optional[float]): Of two boxes with a larger intersection over union than this, whatever they are
        labelled, the one with the lower score is left out.
    most (Optional[int]): So many, the best.
    RETURNS (Tuple[torch.Tensor, torch.Tensor]): Clipped boxes, (j, 4), and which they are, (j); on the CPU,
        best first.
    """
    from torchvision.ops import nms as suppress

    boxes, scores = boxes.detach().float().cpu(), scores.detach().float().cpu()
    finite = boxes.isfinite().all(1) & scores.isfinite()
    limit = torch.tensor([*size, *size], dtype=torch.float32)
    boxes = boxes.nan_to_num().clamp(min=0).minimum(limit)
    real = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    kept = (finite & real & (scores >= threshold)).nonzero()[:, 0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    if nms is not None:
        kept = kept[suppress(boxes[kept], scores[kept], nms)]
    kept = kept[:most]
    return boxes[kept], kept


def make_detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    indices: torch.Tensor,
    labels: Callable[[int], str],
    *,
    size: tuple[int, int],
    threshold: float,
    nms: float | None,
    most: int | None,
) -> list[Detection]:
    """RETURNS (List[Detection]): The best boxes; see `select_boxes`. `indices`, (k), says which query or
    class each is of, and `labels` what that is called.
    """
    clipped, kept = select_boxes(boxes, scores, size=size, threshold=threshold, nms=nms, most=most)
    found = zip(clipped.tolist(), indices.cpu()[kept].tolist(), scores.cpu()[kept].tolist())
    return [
        Detection((box[0], box[1], box[2], box[3]), index, labels(index), float(score))
        for box, index, score in found
    ]
