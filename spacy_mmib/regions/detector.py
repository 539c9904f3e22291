"""Objects of fixed classes, found by a detection network of torchvision."""

from collections.abc import Sequence
from typing import Any

from spacy.tokens import Doc

from ..util import warn
from .detecting import DetectingGetter
from .getter import RegionGetter
from .registry import region_getters


class DetectorRegions(DetectingGetter):
    """Boxes of the classes a network was trained for. The text isn't looked at.

    arch (str): The network; see `make_detector_v1`.
    weights (Optional[str]): Its weights.
    num_classes (Optional[int]): How many classes they are for.
    labels (Optional[List[str]]): Only these classes.
    **settings: Those of `DetectingGetter`.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None,
        num_classes: int | None,
        labels: Sequence[str] | None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if labels is not None and not labels:
            raise ValueError("labels is empty: name at least one class, or set it to null for all.")
        self.arch = arch
        self.weights = weights
        self.num_classes = num_classes
        self.labels = None if labels is None else sorted(set(labels))

    def _find(self, docs: list[Doc], pictures: list[Any]) -> Sequence[Sequence[Any]]:
        found: Sequence[Sequence[Any]] = self._get_detector().detect(
            pictures, threshold=self.threshold, nms=self.nms, most=self.max_regions
        )
        return found

    def _load(self, device: str) -> Any:
        from .detection import TorchvisionDetector

        if self.weights is None:
            warn(
                f"the object detector ({self.arch}) has random weights, so its boxes mean nothing. Set "
                "'weights' to \"DEFAULT\" or to a local state dict."
            )
        return TorchvisionDetector(
            self.arch,
            self.weights,
            num_classes=self.num_classes,
            labels=self.labels,
            device=device,
            batch_size=self.batch_size,
        )

    def _identify(self) -> str:
        from .detection_weights import identify_weights

        weights = identify_weights(self.arch, self.weights)
        classes = f"num_classes={self.num_classes} labels={self.labels}"
        return f"detector {self.arch} {weights} {classes}"


@region_getters("spacy-mmib.detector.v1")
def make_detector_v1(
    arch: str = "fasterrcnn_resnet50_fpn_v2",
    weights: str | None = "DEFAULT",
    num_classes: int | None = None,
    labels: list[str] | None = None,
    max_regions: int = 4,
    threshold: float = 0.5,
    nms: float | None = 0.5,
    device: str = "auto",
    batch_size: int = 8,
) -> RegionGetter:
    """Make a getter that looks for objects with a detection network of torchvision.

    arch (str): The network, as torchvision calls it.
    weights (Optional[str]): One of torchvision's names for its weights (downloaded if they aren't there),
        the path of a state dict (.pth or .safetensors), or `None` for random weights.
    num_classes (Optional[int]): How many classes the weights are for, the background included; found out
        from them if `None`.
    labels (Optional[List[str]]): Look for these classes only. Classes have names if the weights are
        torchvision's ("person", "dog", ...), and are called "1", "2", ... otherwise.
    max_regions (int): At most so many objects a picture.
    threshold (float): The least score.
    nms (Optional[float]): Of two boxes with a larger intersection over union than this, only the better
        stays, whatever their classes. `None`: only the network's own suppression within a class.
    device (str): "auto" (the GPU after `spacy.require_gpu`, else the CPU), "cpu", "cuda", "cuda:1", ...
    batch_size (int): Pictures in one forward.
    RETURNS (RegionGetter): See `DetectorRegions`.
    """
    return DetectorRegions(
        arch,
        weights,
        num_classes,
        labels,
        max_regions=max_regions,
        threshold=threshold,
        nms=nms,
        device=device,
        batch_size=batch_size,
    )
