"""What getters with a detection network have in common. Free of Pillow and torch until a network is used."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from spacy.tokens import Doc
from spacy.util import minibatch

from ..images.errors import check_number, explain
from ..post.regions import Region
from .base import Pictures, RegionGetter

if TYPE_CHECKING:
    import PIL.Image
    import torch

Answer: TypeAlias = "tuple[torch.Tensor, torch.Tensor, list[str]]"
"""Boxes in a picture: x0, y0, x1, y1 in its pixels, (k, 4), scores, (k), and labels."""

LARGEST_SIDE = 2048
LEAST_SIDE = 16
MAX_ASPECT = 10
GREY = (124, 116, 104)
"""About the mean of photos, which networks see as zero."""


class Prompt(NamedTuple):
    """What a network is asked in one pass; empty if it looks for what it was trained for.

    rows (List[List[int]]): Token ids: one row with all phrases, or a row a phrase, of one length.
    spans (List[Tuple[int, int]]): The columns of the network's answer that each phrase has.
    """

    phrases: list[str]
    rows: list[list[int]]
    spans: list[tuple[int, int]]


class DetectingGetter(RegionGetter):
    """Finds objects with a network that is loaded for the first picture. Pickles and copies hold only the
    settings. If loading fails, later calls raise the same error at once.

    max_regions (int): At most so many objects a picture, the best by score.
    threshold (Optional[float]): The least score; `None`: the network's own.
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
        check_number("max_regions", max_regions, at_least=1)
        check_number("batch_size", batch_size, at_least=1)
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
        there = [picture is not None for picture in pictures]
        prompts = [self._ask(doc) if is_there else [] for doc, is_there in zip(docs, there, strict=True)]
        return self.detect(pictures, prompts)

    def detect(self, pictures: Sequence[Any], prompts: Sequence[Sequence[Prompt]]) -> list[list[Region]]:
        """Look for objects by what there is to ask of each picture. Networks see the margin that fills up the
        smaller pictures of a batch, so only those (and prompts) of one size share one: results don't depend
        on neighbours.
        """
        jobs = [(i, prompt) for i, asked in enumerate(prompts) for prompt in asked]
        if not jobs:
            return [[] for _ in pictures]
        import torch

        def get_shape(job: tuple[int, Prompt]) -> Any:
            return pictures[job[0]].size, [len(row) for row in job[1].rows]

        answers: list[list[Answer]] = [[] for _ in pictures]
        with torch.inference_mode():
            for _, same in groupby(sorted(jobs, key=get_shape), get_shape):
                for batch in minibatch(same, self.batch_size):
                    tamed = [tame(pictures[i]) for i, _ in batch]
                    outputs = self._run([picture for picture, _ in tamed], [prompt for _, prompt in batch])
                    for (i, _), (_, scale), (boxes, scores, labels) in zip(batch, tamed, outputs):
                        boxes = boxes.cpu() * torch.tensor([*scale, *scale])
                        answers[i].append((boxes, scores.cpu(), labels))
        return [
            self.choose(parts, picture.size) if parts else [] for parts, picture in zip(answers, pictures)
        ]

    def choose(self, answers: list[Answer], size: tuple[int, int]) -> list[Region]:
        """Choose the best of the answers for one picture of this width and height. Boxes are clipped, and
        left out if less than a pixel is left.
        """
        import torch

        from .vision import ops

        boxes = torch.cat([boxes for boxes, _, _ in answers]).float()
        scores = torch.cat([scores for _, scores, _ in answers]).float()
        labels = [label for _, _, some in answers for label in some]
        threshold = self.loaded.threshold if self.threshold is None else self.threshold
        finite = boxes.isfinite().all(1) & scores.isfinite()
        boxes = boxes.nan_to_num().clamp(min=0).minimum(torch.tensor([*size, *size]))
        real = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        kept = (finite & real & (scores >= threshold)).nonzero()[:, 0]
        kept = kept[scores[kept].argsort(descending=True, stable=True)]
        if self.nms is not None:
            kept = kept[ops.nms(boxes[kept], scores[kept], self.nms)]
        kept = kept[: self.max_regions]
        found = zip(boxes[kept].tolist(), kept.tolist(), scores[kept].tolist())
        return [{"box": box, "label": labels[i], "score": score} for box, i, score in found]

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
            self._loaded = self._try(lambda: self._load(self._find_device()))
        return self._loaded

    def _try(self, load: Callable[[], Any]) -> Any:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        try:
            return load()
        except (OSError, ValueError, ImportError) as err:
            self._failure = err
            raise

    def _find_device(self) -> "torch.device":
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

    def _load(self, device: "torch.device") -> Any:
        raise NotImplementedError

    def _identify(self) -> str:
        """RETURNS (str): What determines the result beside the settings that all detectors have."""
        raise NotImplementedError

    def _ask(self, doc: Doc) -> list[Prompt]:
        return [Prompt([], [], [])]

    def _run(self, pictures: "list[PIL.Image.Image]", prompts: list[Prompt]) -> Iterable[Answer]:
        """RETURNS (Iterable[Answer]): For each picture what the network finds in it."""
        raise NotImplementedError


def tame(picture: "PIL.Image.Image") -> tuple["PIL.Image.Image", tuple[float, float]]:
    """Bring a picture into bounds: 16 to 2048 pixels a side, and a side at most 10 times the other.

    Networks look at 800 to 1400 pixels a side, but some image processors blur every pixel of a huge picture
    for that, in float64 (scipy, for OWLv2), or fill a panorama up to a square first. Of tiny and thin
    pictures they take a side of 1 or 3 pixels for colour channels, or rescale them to a height of nothing:
    those get a margin on the right and below.

    RETURNS (Tuple[PIL.Image.Image, Tuple[float, float]]): The picture, and by what x and y have to be
        multiplied for pixels of the one that was given.
    """
    small = picture.copy()
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE), reducing_gap=3.0)
    least = max(LEAST_SIDE, math.ceil(max(small.size) / MAX_ASPECT))
    scale = picture.width / small.width, picture.height / small.height
    return fill_up(small, least, least, GREY), scale


def fill_up(
    picture: "PIL.Image.Image", width: int, height: int, colour: tuple[int, int, int]
) -> "PIL.Image.Image":
    """RETURNS (PIL.Image.Image): The picture, with a margin on the right and below up to this size."""
    from PIL.ImageOps import expand

    right, bottom = max(0, width - picture.width), max(0, height - picture.height)
    return expand(picture, (0, 0, right, bottom), colour)
