"""What getters with a detection network have in common. Free of Pillow and torch until a network is used."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from spacy.tokens import Doc
from spacy.util import minibatch

from ..images.errors import explain
from ..post.regions import Region
from .base import Pictures, RegionGetter

if TYPE_CHECKING:
    import PIL.Image
    import torch

T = TypeVar("T")

LARGEST_SIDE = 2048
LEAST_SIDE = 16
MAX_ASPECT = 10
GREY = (124, 116, 104)
"""About the mean of photos, which networks see as zero."""


class DetectingGetter(RegionGetter):
    """Finds objects with a network that is loaded for the first picture. Pickles and copies hold only the
    settings. If loading fails, later calls raise the same error at once.

    max_regions (int): At most so many objects a picture, the best by score.
    threshold (Optional[float]): The least score.
    nms (Optional[float]): Intersection over union above which only the better of two boxes stays, whatever
        their labels. `None`: all stay.
    device (str): Where the network runs; "auto": where Thinc's arrays are (the GPU after
        `spacy.require_gpu`).
    batch_size (int): Pictures in one forward.
    RAISES (ValueError): A setting is out of range.
    """

    def __init__(
        self, *, max_regions: int, threshold: float | None, nms: float | None, device: str, batch_size: int
    ) -> None:
        if max_regions < 1:
            raise ValueError(
                f"max_regions is {max_regions}, but a detector is asked for at least 1 object. For none take "
                "spacy-mmib.none.v1."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, and has to be at least 1.")
        for name, value in (("threshold", threshold), ("nms", nms)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, and has to be between 0 and 1.")
        self.max_regions = max_regions
        self.threshold = threshold
        self.nms = nms
        self.device = device
        self.batch_size = batch_size
        self._loaded: Any = None
        self._identity: str | None = None
        self._failure: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_identity": None, "_failure": None}

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): Boxes, best first."""
        there = [(doc, picture) for doc, picture in zip(docs, pictures, strict=True) if picture is not None]
        found = iter(
            self._find([doc for doc, _ in there], [picture for _, picture in there]) if there else []
        )
        return [[] if picture is None else next(found) for picture in pictures]

    def get_identity(self) -> str:
        """RETURNS (str): Settings and weights, but for those that change results by no more than rounding."""
        if self._identity is None:
            settings = f"max_regions={self.max_regions} threshold={self.threshold} nms={self.nms}"
            self._identity = f"{self._try(self._identify)} {settings}"
        return self._identity

    @property
    def loaded(self) -> Any:
        """RETURNS (Any): The network and what belongs to it, loaded at the first use.
        RAISES (OSError, ValueError, ImportError): It can't be loaded; the message says why.
        """
        if self._loaded is None:
            self._loaded = self._try(self._load)
        return self._loaded

    def _try(self, load: Callable[[], Any]) -> Any:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        try:
            return load()
        except (OSError, ValueError, ImportError) as err:
            self._failure = err
            raise

    def _load(self) -> Any:
        raise NotImplementedError

    def _identify(self) -> str:
        """RETURNS (str): What determines the result beside the settings that all detectors have."""
        raise NotImplementedError

    def _find(self, docs: list[Doc], pictures: "list[PIL.Image.Image]") -> list[list[Region]]:
        raise NotImplementedError

    def _check_device(self) -> "torch.device":
        """RETURNS (torch.device): The device.
        RAISES (ValueError): It can't be used here.
        """
        import torch
        from thinc.util import get_torch_default_device

        try:
            device = get_torch_default_device() if self.device == "auto" else torch.device(self.device)
            torch.empty(1, device=device)
        except Exception as err:
            raise ValueError(
                f'device = {self.device!r} can\'t be used here ({explain(err)}). Set it to "auto" or "cpu".'
            ) from None
        return device


def choose_regions(
    boxes: "torch.Tensor",
    scores: "torch.Tensor",
    labels: Sequence[str],
    *,
    size: tuple[int, int],
    threshold: float,
    nms: float | None,
    most: int | None,
) -> list[Region]:
    """Choose the best boxes.

    boxes (torch.Tensor): x0, y0, x1, y1 in pixels, (k, 4).
    scores (torch.Tensor): (k).
    labels (Sequence[str]): (k).
    size (Tuple[int, int]): Width and height of the picture. Boxes are clipped to it, and left out if less
        than a pixel is left.
    threshold, nms, most: The settings `threshold`, `nms` and `max_regions` of `DetectingGetter`.
    RETURNS (List[Region]): Best first.
    """
    import torch

    from .vision import ops

    boxes, scores = boxes.float().cpu(), scores.float().cpu()
    finite = boxes.isfinite().all(1) & scores.isfinite()
    boxes = boxes.nan_to_num().clamp(min=0).minimum(torch.tensor([*size, *size]))
    real = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    kept = (finite & real & (scores >= threshold)).nonzero()[:, 0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    if nms is not None:
        kept = kept[ops.nms(boxes[kept], scores[kept], nms)]
    kept = kept[:most]
    found = zip(boxes[kept].tolist(), kept.tolist(), scores[kept].tolist())
    return [{"box": box, "label": labels[i], "score": score} for box, i, score in found]


def tame(picture: "PIL.Image.Image") -> tuple["PIL.Image.Image", tuple[float, float]]:
    """Bring a picture into bounds: 16 to 2048 pixels a side, and a side at most 10 times the other.

    Networks look at 800 to 1400 pixels a side, but some image processors blur every pixel of a huge picture
    for that, in float64 (scipy, for OWLv2), or fill a panorama up to a square first. Of tiny and thin
    pictures they take a side of 1 or 3 pixels for colour channels, or rescale them to a height of nothing:
    those get a margin on the right and below.

    picture (PIL.Image.Image): RGB.
    RETURNS (Tuple[PIL.Image.Image, Tuple[float, float]]): The picture, and by what x and y have to be
        multiplied for pixels of the one that was given.
    """
    import PIL.Image

    width, height = picture.size
    if max(picture.size) > LARGEST_SIDE:
        ratio = LARGEST_SIDE / max(picture.size)
        smaller = max(1, round(width * ratio)), max(1, round(height * ratio))
        picture = picture.resize(smaller, PIL.Image.Resampling.BICUBIC, reducing_gap=3.0)
    scale = width / picture.width, height / picture.height
    least = max(LEAST_SIDE, math.ceil(max(picture.size) / MAX_ASPECT))
    if min(picture.size) < least:
        padded = PIL.Image.new("RGB", (max(picture.width, least), max(picture.height, least)), GREY)
        padded.paste(picture)
        picture = padded
    return picture, scale


def group(items: Iterable[T], key: Callable[[T], Any], at_once: int) -> Iterator[list[T]]:
    """YIELDS (List): Items with the same key, at most so many. A network sees the margin that fills up the
    smaller pictures of a batch, so only pictures of one size go together: results don't depend on
    neighbours.
    """
    for _, same in groupby(sorted(items, key=key), key):
        yield from minibatch(same, at_once)
