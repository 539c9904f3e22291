"""Objects of fixed classes, found by a detection network of torchvision."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..util import warn
from .base import region_getters
from .detecting import Answer, DetectingGetter, Prompt

if TYPE_CHECKING:
    import PIL.Image
    import torch


class Detector(NamedTuple):
    """A network, the names of its classes, and the numbers of those that are looked for."""

    network: Any
    classes: list[str]
    wanted: "torch.Tensor"


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

    def _load(self, device: "torch.device") -> Detector:
        import torch

        from .vision import load_network

        if self.weights is None:
            warn(
                f"the object detector ({self.arch}) has random weights, so its boxes mean nothing. Set "
                "'weights' to \"DEFAULT\" or to a local state dict."
            )
        network, classes = load_network(self.arch, self.weights, self.num_classes)
        named = {i: name for i, name in enumerate(classes) if name not in ("__background__", "N/A")}
        unknown = [label for label in self.labels or () if label not in named.values()]
        if unknown:
            raise ValueError(
                f"{self.arch} with these weights knows no class {unknown[0]!r} ('labels'). It knows: "
                f"{', '.join(named.values())}."
            )
        wanted = [i for i, name in named.items() if self.labels is None or name in self.labels]
        network.eval().requires_grad_(False).to(device)
        modules: list[Any] = [network, getattr(network, "roi_heads", None)]
        for module in modules:
            if hasattr(module, "score_thresh"):  # below it the network drops boxes by itself
                module.score_thresh = min(module.score_thresh, self.threshold)
        return Detector(network, classes, torch.tensor(wanted))

    def _identify(self) -> str:
        from .vision import identify_weights

        weights = identify_weights(self.arch, self.weights)
        return f"detector {self.arch} {weights} num_classes={self.num_classes} labels={self.labels}"

    def _run(self, pictures: "list[PIL.Image.Image]", prompts: list[Prompt]) -> Iterator[Answer]:
        import torch

        from .vision import functional

        network, classes, all_wanted = self.loaded
        device = next(network.parameters()).device
        for output in network([functional.to_tensor(picture).to(device) for picture in pictures]):
            boxes, scores, numbers = (output[key].cpu() for key in ("boxes", "scores", "labels"))
            wanted = torch.isin(numbers, all_wanted)
            yield boxes[wanted], scores[wanted], [classes[i] for i in numbers[wanted].tolist()]
