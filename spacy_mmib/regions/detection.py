"""Object detection with torchvision: boxes in pictures for the classes a network knows."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy
import PIL.Image
import torch

from .detection_weights import load_network
from .detector_base import Detection, check_device, group, make_detections, tame


class TorchvisionDetector:
    """A detection network of torchvision.

    arch (str): Its name there.
    weights (Optional[str]): One of torchvision's names for its weights, or the path of a state dict; random
        weights, always the same ones, if `None`.
    num_classes (Optional[int]): Classes of the network, the background (0) included. Found out if `None`.
    labels (Optional[Collection[str]]): Look for these classes only.
    device (str): Where it runs.
    batch_size (int): Pictures in one forward.
    RAISES (OSError): The weights are not on this machine and can't be downloaded.
    RAISES (ValueError): They are of another network; the network or a class isn't known.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = "DEFAULT",
        *,
        num_classes: int | None = None,
        labels: Collection[str] | None = None,
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        self.device = check_device(device)
        self.batch_size = batch_size
        network, self.classes = load_network(arch, weights, num_classes)
        self.network: Any = network.eval().requires_grad_(False).to(self.device)
        self.wanted = self._choose(arch, labels)
        self._padded_size = lru_cache(4096)(self._find_padded_size)

    def _choose(self, arch: str, labels: Collection[str] | None) -> torch.Tensor:
        """RETURNS (torch.Tensor): The indices of the classes to look for."""
        named = {i: name for i, name in enumerate(self.classes) if name not in ("__background__", "N/A")}
        unknown = [label for label in labels or () if label not in named.values()]
        if unknown:
            known = ", ".join(named.values())
            raise ValueError(
                f"{arch} with these weights knows no class {unknown[0]!r} ('labels'). It knows: {known}."
            )
        return torch.tensor([i for i, name in named.items() if labels is None or name in labels])

    @torch.inference_mode()
    def detect(
        self,
        pictures: Sequence[PIL.Image.Image],
        *,
        threshold: float = 0.5,
        nms: float | None = 0.5,
        most: int | None = None,
    ) -> list[list[Detection]]:
        """Look for objects in pictures. What is found in one doesn't depend on the others.

        pictures (Sequence[PIL.Image.Image]): RGB.
        threshold (float): The least score.
        nms (Optional[float]): See `detector_base.select_boxes`. The network has its own for each class.
        most (Optional[int]): At most so many boxes a picture.
        RETURNS (List[List[Detection]]): For each picture its objects, best first.
        """
        self._lower_threshold(threshold)
        found: list[list[Detection]] = [[] for _ in pictures]
        prepared = ((i, *tame(picture)) for i, picture in enumerate(pictures))
        for batch in group(prepared, lambda one: self._padded_size(*one[1].size), self.batch_size):
            outputs = self.network([_to_tensor(one[1]).to(self.device) for one in batch])
            for (i, _, scale), output in zip(batch, outputs):
                wanted = torch.isin(output["labels"].cpu(), self.wanted)
                found[i] = make_detections(
                    output["boxes"].cpu()[wanted] * torch.tensor([*scale] * 2),
                    output["scores"].cpu()[wanted],
                    output["labels"].cpu()[wanted],
                    self.classes.__getitem__,
                    size=pictures[i].size,
                    threshold=threshold,
                    nms=nms,
                    most=most,
                )
        return found

    def _lower_threshold(self, threshold: float) -> None:
        # Networks leave low scores out by themselves, before anything is seen here.
        for module in (self.network, getattr(self.network, "roi_heads", self.network)):
            if hasattr(module, "score_thresh"):
                module.score_thresh = min(module.score_thresh, threshold)

    def _find_padded_size(self, width: int, height: int) -> tuple[int, ...]:
        """RETURNS (Tuple[int, ...]): The size at which a picture gets to the network's layers, with what
        fills it up. Found by sending an empty tensor without storage through its transform.
        """
        images, _ = self.network.transform([torch.empty(3, height, width, device="meta")])
        return tuple(images.tensors.shape)


def _to_tensor(picture: PIL.Image.Image) -> torch.Tensor:
    """RETURNS (torch.Tensor): (3, height, width), from 0 to 1."""
    pixels = torch.from_numpy(numpy.array(picture))  # a copy, since Pillow's own is read-only
    return pixels.permute(2, 0, 1).float() / 255
