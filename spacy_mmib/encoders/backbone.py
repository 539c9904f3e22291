"""A torchvision classification network without its classifier."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from ..regions.vision import models, roi_align
from .modes import training_mode

WITH_AUXILIARY = ("googlenet", "inception_v3")

MemoryFormat: TypeAlias = Literal["auto", "contiguous", "channels_last"]
Autocast: TypeAlias = Literal["bfloat16", "float16"]

BINS = 7
"""RoIAlign looks at so many places a side of each object, twice (`sampling_ratio`)."""


class Backbone(nn.Module):
    """Pooled features of pictures.

    The last linear layer is taken off, so the features are what it would classify (for ResNet-50 the
    2048 averages of the last feature map); networks that end in a convolution (SqueezeNet) are averaged.

    arch (str): A classification model by its torchvision name, e.g. "resnet50".
    preset (Dict[str, Any]): How pictures are prepared for it; kept here because it belongs to the weights
        and has to travel with them. See `encoders.picture_transform`.
    trainable (bool): If False, no parameter requires a gradient, and BatchNorm's statistics stay.
    memory_format (str): "channels_last", "contiguous", or "auto": channels last, which convolutions are
        faster in on CPUs and GPUs of today, if frozen (optimizers give weights back in the other format).
    autocast (Optional[str]): "bfloat16" or "float16": run a frozen network in that precision.
    rois (bool): Whether `forward_rois` will be asked for.
    """

    def __init__(
        self,
        *,
        arch: str,
        preset: dict[str, Any],
        trainable: bool = False,
        memory_format: MemoryFormat = "auto",
        autocast: Autocast | None = None,
        rois: bool = False,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "arch": arch,
            "preset": preset,
            "trainable": trainable,
            "memory_format": memory_format,
            "autocast": autocast,
            "rois": rois,
        }
        self.network, self.head_name = _without_head(_build(arch))
        if arch in WITH_AUXILIARY:  # their published weights expect another normalization
            transform_input = bool(preset.get("transform_input", False))
            setattr(self.network, "transform_input", transform_input)  # noqa: B010
        self.trainable = trainable
        self.memory_format = torch.contiguous_format
        if memory_format == "channels_last" or (memory_format == "auto" and not trainable):
            self.memory_format = torch.channels_last
        self.autocast = None if autocast is None else getattr(torch, autocast)
        self.requires_grad_(trainable)
        self.eval()
        size = int(preset["crop_size"])
        # The width of the features is asked of the network itself, in evaluation mode: one picture
        # has no batch statistics.
        with torch.no_grad():
            self.width = int(self.network(torch.zeros(1, 3, size, size)).shape[1])
        self.network.to(memory_format=self.memory_format)
        self._maps: dict[int, torch.Tensor | None] = {}  # by the thread that asked for one
        if rois:
            layer = self.network.get_submodule(_find_feature_map(self.network, arch, size))
            layer.register_forward_hook(self._keep_map)

    def _keep_map(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if get_ident() in self._maps:
            self._maps[get_ident()] = output

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode, whatever `mode` says: see `training_mode`."""
        super().train(False)
        return self

    def forward(
        self,
        pictures: torch.Tensor,
        at_once: int,
        boxes: Sequence[torch.Tensor] | None = None,
        *,
        training: bool = False,
    ) -> torch.Tensor:
        """Encode pictures.

        pictures (torch.Tensor): Prepared by the preset, (r, 3, height, width), at least one.
        at_once (int): Pictures in one pass through the network.
        boxes (Optional[Sequence[torch.Tensor]]): Objects in them: see `forward_rois`.
        training (bool): Whether the network learns from this pass, if it is trainable.
        RETURNS (torch.Tensor): (r, features), float32; with boxes as from `forward_rois`.
        """
        training = training and self.trainable
        if boxes is not None:
            return self.forward_rois(pictures, boxes, at_once, training=training)
        with self._precision(pictures.device):
            parts = pictures.split(at_once)
            return torch.cat([self._encode(part, training).float() for part in parts])

    def forward_rois(
        self,
        pictures: torch.Tensor,
        boxes: Sequence[torch.Tensor],
        at_once: int,
        *,
        training: bool = False,
    ) -> torch.Tensor:
        """Encode pictures and objects in them, with one pass through the network for a picture whatever the
        number of its objects: an object is the average of what RoIAlign cuts out of the last feature map.

        pictures (torch.Tensor): As in `forward`.
        boxes (Sequence[torch.Tensor]): Of each picture, (k, 4): x0, y0, x1, y1 in pixels of the prepared
            picture.
        at_once (int): Pictures in one pass through the network.
        training (bool): As in `forward`.
        RETURNS (torch.Tensor): (r + all k, features), float32: for each picture its own row, then its
            objects.
        """
        rows: list[torch.Tensor] = []
        self._maps[get_ident()] = None
        try:
            with self._precision(pictures.device):
                for start in range(0, len(pictures), at_once):
                    part = pictures[start : start + at_once]
                    part_boxes = [b.to(part.device) for b in boxes[start : start + at_once]]
                    whole = self._encode(part, training).float()
                    kept = self._maps[get_ident()]
                    assert kept is not None
                    feature_map = kept.float()
                    objects = roi_align(
                        feature_map.contiguous(),
                        part_boxes,
                        output_size=BINS,
                        spatial_scale=feature_map.shape[-1] / part.shape[-1],
                        sampling_ratio=2,
                        aligned=True,
                    ).mean((2, 3))
                    of_each = objects.split([len(b) for b in part_boxes])
                    for row, its_objects in zip(whole, of_each):
                        rows += [row.unsqueeze(0), its_objects]
        finally:
            del self._maps[get_ident()]
        return torch.cat(rows)

    @contextmanager
    def _precision(self, device: torch.device) -> Iterator[None]:
        with ExitStack() as contexts:
            grad = torch.is_grad_enabled() and self.trainable
            contexts.enter_context(torch.set_grad_enabled(grad))
            if self.autocast is not None and not self.trainable:
                contexts.enter_context(torch.autocast(device.type, self.autocast))
            yield

    def _encode(self, pictures: torch.Tensor, training: bool) -> torch.Tensor:
        pictures = pictures.contiguous(memory_format=self.memory_format)
        # A single picture has no batch statistics (BatchNorm raises): use the running ones.
        with training_mode(self.network, training and len(pictures) > 1):
            features: torch.Tensor = self.network(pictures)
        return features

    def load_classifier_state(self, state: dict[str, Any]) -> None:
        """Take the weights of a whole classification network; those of its head are left out.

        state (Dict[str, torch.Tensor]): A state dict as `torchvision` models save it.
        RAISES (ValueError): It belongs to another network.
        """
        problem = None
        try:
            missing, unexpected = self.network.load_state_dict(state, strict=False)
            left_out = (self.head_name + ".", "aux1.", "aux2.", "AuxLogits.")
            foreign = [key for key in unexpected if not key.startswith(left_out)]
            if missing or foreign:
                problem = f"missing: {missing[:3]}, unexpected: {foreign[:3]}"
        except (RuntimeError, TypeError, AttributeError) as err:
            problem = " ".join(str(err).split())[:300]
        if problem is not None:
            raise ValueError(f"The weights don't fit a torchvision {self.settings['arch']!r} ({problem}).")


def _build(arch: str) -> nn.Module:
    known = models.list_models(module=models)
    if arch not in known:
        raise ValueError(f"torchvision has no classification model {arch!r}. It has: {known}.")
    # These two initialize for minutes unless told not to, and return tuples while training as long as
    # their auxiliary classifiers are there.
    extra = {"init_weights": False, "aux_logits": False} if arch in WITH_AUXILIARY else {}
    network: nn.Module = models.get_model(arch, weights=None, **extra)
    return network


def _without_head(network: nn.Module) -> tuple[nn.Module, str]:
    """RETURNS (Tuple[nn.Module, str]): The network, changed in place, and the name of the layer that was
    replaced.
    """
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        network.set_submodule(linear[-1], nn.Identity())
        return network, linear[-1]
    network.classifier = nn.AdaptiveAvgPool2d(1)
    return network, "classifier"


@torch.no_grad()
def _find_feature_map(network: nn.Module, arch: str, size: int) -> str:
    """Find the layer whose output the network averages to its features, by trying.

    network (nn.Module): In evaluation mode.
    arch (str): Its name, for the message.
    size (int): Pixels a side of the pictures it gets.
    RETURNS (str): Name of the layer.
    RAISES (ValueError): There is none: the features are not the average of a feature map.
    """
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs.pop(name, None)  # the last call counts, in the order of last calls
            if isinstance(output, torch.Tensor) and output.dim() == 4:
                outputs[name] = output.clone()

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in network.named_modules() if name]
    picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    features = network(picture)
    for handle in handles:
        handle.remove()
    scale = float(features.abs().max()) or 1.0
    fitting = [
        name
        for name, output in outputs.items()
        if output.shape[1] == features.shape[1]
        and float((output.mean((2, 3)) - features).abs().max()) < 1e-4 * scale
    ]
    if not fitting or scale == 0.0:
        raise ValueError(
            f'region_features = "roi" needs a convolutional network whose features are the average of its '
            f"last feature map, such as a ResNet; those of {arch!r} are not. Take another 'arch', or "
            '"crop".'
        )
    # The largest of them, that is before the pooling; of equally large ones the last.
    return max(fitting, key=lambda name: (outputs[name].shape[-1], fitting.index(name)))
