"""What the getters with a detector have in common. This module imports neither Pillow nor torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from spacy.tokens import Doc

from ..post.regions import Region
from .getter import RegionGetter

if TYPE_CHECKING:
    import PIL.Image


class DetectingGetter(RegionGetter):
    """Finds objects with a network, which is loaded for the first picture.

    Only the settings are pickled or copied with it. If loading fails, each further call raises the same
    error without trying again: a stream of posts shouldn't wait for the network a thousand times.

    max_regions (int): At most so many objects a picture, the best by score.
    threshold (Optional[float]): The least score.
    nms (Optional[float]): Intersection over union above which only the better of two boxes stays, whatever
        they are labelled. All stay if `None`.
    device (str): Where the network runs; "auto" is where Thinc's arrays are (the GPU after
        `spacy.require_gpu`).
    batch_size (int): Pictures in one forward.
    """

    def __init__(
        self,
        *,
        max_regions: int,
        threshold: float | None,
        nms: float | None,
        device: str,
        batch_size: int,
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
        self._detector: Any = None
        self._identity: str | None = None
        self._failure: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_detector": None, "_identity": None, "_failure": None}

    def __call__(
        self, docs: Sequence[Doc], pictures: Sequence["PIL.Image.Image | None"]
    ) -> list[list[Region]]:
        """Find the objects of a batch; see `RegionGetter`.

        RETURNS (List[List[Region]]): For each picture its boxes, best first.
        RAISES (OSError): The weights of the detector are missing.
        RAISES (ValueError): Settings or weights are wrong.
        """
        rows = [i for i, picture in enumerate(pictures) if picture is not None]
        found = self._find([docs[i] for i in rows], [pictures[i] for i in rows]) if rows else []
        regions: list[list[Region]] = [[] for _ in docs]
        for i, detections in zip(rows, found, strict=True):
            regions[i] = [
                {"box": list(one.box), "label": one.label, "score": one.score} for one in detections
            ]
        return regions

    def get_identity(self) -> str:
        """RETURNS (str): Settings, and what tells the weights from others; found out once. Neither the
            device nor the batch size is in it, as they change results by no more than rounding.
        RAISES (OSError): The weights are missing. (They are downloaded here if they have to be, as what they
            are can't be told before.)
        """
        if self._identity is None:
            settings = f"max_regions={self.max_regions} threshold={self.threshold} nms={self.nms}"
            self._identity = f"{self._try(self._identify)} {settings}"
        return self._identity

    def _get_detector(self) -> Any:
        if self._detector is None:
            self._detector = self._try(self._load, _resolve_device(self.device))
        return self._detector

    def _try(self, load: Any, *args: Any) -> Any:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        try:
            return load(*args)
        except (OSError, ValueError, ImportError) as err:
            self._failure = err
            raise

    def _load(self, device: str) -> Any:
        """RETURNS (Any): The detector."""
        raise NotImplementedError

    def _identify(self) -> str:
        """RETURNS (str): What beside the settings that all detectors have determines the result."""
        raise NotImplementedError

    def _find(self, docs: list[Doc], pictures: list[Any]) -> Sequence[Sequence[Any]]:
        """RETURNS (Sequence[Sequence[Detection]]): For each picture its objects."""
        raise NotImplementedError


def _resolve_device(name: str | Literal["auto"]) -> str:
    if name != "auto":
        return name
    from thinc.util import get_torch_default_device

    return str(get_torch_default_device())
