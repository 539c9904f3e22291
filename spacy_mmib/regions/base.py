"""Region getters: what finds the objects in pictures, named in a config by `@region_getters`. Free of Pillow
and torch.

Other packages register theirs with the decorator below or through the entry point group
`spacy_region_getters`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import catalogue
from spacy.tokens import Doc
from spacy.util import registry

from ..post.regions import Region

if TYPE_CHECKING:
    import PIL.Image

Pictures: TypeAlias = Sequence["PIL.Image.Image | None"]


def get_region_getters() -> Any:
    """RETURNS (catalogue.Registry): The registry, made on the first call, as an attribute of spaCy's own,
    where configs look for it.
    """
    if not hasattr(registry, "region_getters"):
        registry.region_getters = catalogue.create("spacy", "region_getters", entry_points=True)
    return registry.region_getters


region_getters = get_region_getters()


class RegionGetter:
    """Finds the objects in the pictures of posts. Subclass it, or register a plain function from docs and
    pictures to lists of regions.

    A getter may look at the picture and the text, never at annotations.
    """

    needs_pictures: bool = True
    """Whether it looks at pixels. If not, no picture is decoded for it, and it gets `None` for each."""

    writes: bool = True
    """Whether what it finds is written to `doc._.regions`."""

    of_doc: bool = False
    """Whether the regions it returns are those in `doc._.regions`, as `get_regions` returns them."""

    note: str | None = None
    """What users of the regions have to know, e.g. that they leak a label. It becomes the note of the
    regions.
    """

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """Find the objects of a batch.

        docs (Sequence[Doc]): Posts with a picture.
        pictures (Sequence[Optional[PIL.Image.Image]]): Their pictures: RGB, upright.
        RETURNS (List[List[Region]]): The regions of each, best first, in a form that `normalize_regions`
            takes; boxes in pixels of the picture.
        """
        raise NotImplementedError

    def get_identity(self) -> str | None:
        """RETURNS (Optional[str]): What, beside the picture and `get_query`, determines the result: name,
        settings, weights. Regions are cached under it; `None` switches caching off.
        """
        return None

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): What of the text determines the result."""
        return ""


AnyRegionGetter: TypeAlias = RegionGetter | Callable[..., Any]


class FunctionGetter(RegionGetter):
    """A plain function from docs and pictures. What it depends on is unknown, so nothing is cached."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): What the function returns."""
        return [list(regions) for regions in self.function(docs, pictures)]


def as_getter(getter: AnyRegionGetter) -> RegionGetter:
    """RETURNS (RegionGetter): What a config gave, as a getter."""
    return getter if isinstance(getter, RegionGetter) else FunctionGetter(getter)


class DetectingGetter(RegionGetter):
    """Finds objects with a network that is loaded for the first picture. Pickles and copies hold only the
    settings. If loading fails, later calls raise the same error at once: a stream of posts doesn't wait for
    every attempt.

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
        self._detector: Any = None
        self._identity: str | None = None
        self._failure: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_detector": None, "_identity": None, "_failure": None}

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): Boxes, best first."""
        rows = [i for i, picture in enumerate(pictures) if picture is not None]
        found = self._find([docs[i] for i in rows], [pictures[i] for i in rows]) if rows else []
        regions: list[list[Region]] = [[] for _ in docs]
        for i, boxes in zip(rows, found, strict=True):
            regions[i] = boxes
        return regions

    def get_identity(self) -> str:
        """RETURNS (str): Settings and weights, but for those that change results by no more than rounding."""
        if self._identity is None:
            settings = f"max_regions={self.max_regions} threshold={self.threshold} nms={self.nms}"
            self._identity = f"{self._try(self._identify)} {settings}"
        return self._identity

    def _get_device(self) -> str:
        if self.device != "auto":
            return self.device
        from thinc.util import get_torch_default_device

        return str(get_torch_default_device())

    def _try(self, load: Callable[[], Any]) -> Any:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        try:
            return load()
        except (OSError, ValueError, ImportError) as err:
            self._failure = err
            raise

    def _load(self) -> Any:
        """RETURNS (Any): The detector.
        RAISES (OSError, ValueError, ImportError): Weights are missing or wrong, settings are, or a package is
            missing.
        """
        raise NotImplementedError

    def _identify(self) -> str:
        """RETURNS (str): What determines the result beside the settings that all detectors have."""
        raise NotImplementedError

    def _find(self, docs: list[Doc], pictures: list[Any]) -> list[list[Region]]:
        return self._detect(pictures)

    def _detect(self, *inputs: Any) -> list[list[Region]]:
        if self._detector is None:
            self._detector = self._try(self._load)
        found: list[list[Region]] = self._detector.detect(
            *inputs, threshold=self.threshold, nms=self.nms, most=self.max_regions
        )
        return found
