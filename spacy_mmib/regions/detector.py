"""Objects of fixed classes, found by a detection network of torchvision."""

from typing import Any

from ..util import warn
from .base import DetectingGetter, region_getters


@region_getters("spacy-mmib.detector.v1")
class DetectorRegions(DetectingGetter):
    """Boxes of the classes that a detection network of torchvision was trained for. The text isn't looked at.

    arch (str): The network, as torchvision calls it.
    weights (Optional[str]): One of torchvision's names for its weights (downloaded if they aren't there), the
        path of a state dict (.pth or .safetensors), or `None` for random weights.
    num_classes (Optional[int]): How many classes the weights are for, the background included; `None`: found
        out from them.
    labels (Optional[List[str]]): Look for these classes only. Classes have names if the weights are
        torchvision's ("person", "dog", ...), and are called "1", "2", ... otherwise.
    max_regions, threshold, nms, device, batch_size: See `DetectingGetter`. Without `nms` there is only the
        network's own suppression within a class.
    RAISES (ValueError): A setting is out of range.
    """

    def __init__(
        self,
        arch: str = "fasterrcnn_resnet50_fpn_v2",
        weights: str | None = "DEFAULT",
        num_classes: int | None = None,
        labels: list[str] | None = None,
        max_regions: int = 4,
        threshold: float = 0.5,
        nms: float | None = 0.5,
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        super().__init__(
            max_regions=max_regions, threshold=threshold, nms=nms, device=device, batch_size=batch_size
        )
        if labels is not None and not labels:
            raise ValueError("labels is empty: name at least one class, or set it to null for all.")
        self.arch = arch
        self.weights = weights
        self.num_classes = num_classes
        self.labels = None if labels is None else sorted(set(labels))

    def _load(self) -> Any:
        from .torchvision_detector import TorchvisionDetector

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
            device=self._get_device(),
            batch_size=self.batch_size,
        )

    def _identify(self) -> str:
        from .torchvision_detector import identify_weights

        weights = identify_weights(self.arch, self.weights)
        return f"detector {self.arch} {weights} num_classes={self.num_classes} labels={self.labels}"
