"""What all networks for pictures share: preparing pictures, freezing, training, running, making rows."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import PIL.Image
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from ..images.errors import explain
from ..regions.vision import InterpolationMode, functional, roi_align

# Beyond this ratio of sides, what the central crop would discard anyway is cut off before resizing: a
# picture of 1 x 20,000 pixels would first become one of 256 x 5,120,000.
LARGEST_RATIO = 8


class PictureTransform:
    """torchvision's classification preset, made from stored numbers and safe for any shape. It keeps no
    state between calls, so several threads may share one.

    preset (Dict[str, Any]): crop_size and resize_size (pixels), interpolation, and for `VisionBackbone` mean
        and std (of 0-1). If "resize" is "exact", pictures are first rescaled to a square of resize_size (as
        for ViT and SigLIP), otherwise ("shortest", or no such key) their shorter side is. The central crop
        follows either way.
    """

    def __init__(self, preset: dict[str, Any]) -> None:
        resize = preset.get("resize", "shortest")
        if resize not in ("shortest", "exact"):
            raise ValueError(f"A preset's 'resize' is 'shortest' or 'exact', not {resize!r}.")
        self._crop_size = int(preset["crop_size"])
        self._size = [int(preset["resize_size"])] * (2 if resize == "exact" else 1)
        self._interpolation = InterpolationMode(preset["interpolation"])

    def __call__(self, picture: PIL.Image.Image) -> torch.Tensor:
        """RETURNS (torch.Tensor): uint8, (3, crop_size, crop_size); `VisionBackbone` normalizes it."""
        keep = LARGEST_RATIO * min(picture.size)
        if len(self._size) == 1 and max(picture.size) > keep:
            left, upper = max(0, (picture.width - keep) // 2), max(0, (picture.height - keep) // 2)
            picture = picture.crop((left, upper, picture.width - left, picture.height - upper))
        picture = functional.resize(picture, self._size, self._interpolation)
        tensor: torch.Tensor = functional.pil_to_tensor(functional.center_crop(picture, [self._crop_size]))
        return tensor

    def stretch(self, picture: PIL.Image.Image) -> torch.Tensor:
        """RETURNS (torch.Tensor): The same, rescaled to that square without cutting anything off."""
        square = functional.resize(picture, [self._crop_size] * 2, self._interpolation)
        tensor: torch.Tensor = functional.pil_to_tensor(square)
        return tensor


class VisionBackbone(nn.Module):
    """A network for pictures. A subclass, one a family, builds the network (`_build`) and reads vectors and
    feature maps out of it (`_encode`).

    The network is in evaluation mode except in passes that it learns from, so any number of threads can
    predict with it. A frozen one has no such passes: BatchNorm's statistics stay as they are.

    preset (Dict[str, Any]): See `PictureTransform`. It belongs to the weights and is stored with them, as all
        settings are.
    memory_format (str): "auto" is channels last if frozen: optimizers give weights back in the other format.
    rows (str): As in `encoders.torchvision`. "auto" is "regions" for a network without a feature map that is
        as wide as its vectors and has at least rows_size places a side.
    rows_size (int): Parts a side of a grid or pyramid. What isn't said here is as in `encoders.torchvision`.
    rois (bool): Whether objects will be cut out of the last feature map.
    network (Optional[nn.Module]): If it has been built already.
    own (Any): What the family builds the network from.
    RAISES (ValueError): The network can't give these rows.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        *,
        preset: dict[str, Any],
        trainable: bool = False,
        memory_format: str = "auto",
        autocast: str | None = None,
        rows: str = "regions",
        rows_size: int = 7,
        rois: bool = False,
        network: nn.Module | None = None,
        **own: Any,
    ) -> None:
        super().__init__()
        shared = {"preset": preset, "trainable": trainable, "memory_format": memory_format}
        made = {"autocast": autocast, "rows": rows, "rows_size": rows_size, "rois": rois}
        self.settings: dict[str, Any] = {**own, **shared, **made}
        self.transform = PictureTransform(preset)
        self.trainable, self.rows, self.rows_size = trainable, rows, rows_size
        self.needs_map = rois or rows in ("patches", "grid", "auto")
        self.autocast = None if autocast is None or trainable else getattr(torch, autocast)
        self.memory_format = torch.contiguous_format
        if memory_format == "channels_last" or (memory_format == "auto" and not trainable):
            self.memory_format = torch.channels_last
        self.network: Any = (self._build() if network is None else network).float()
        self.network.to(memory_format=self.memory_format)
        self.has_statistics = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.modules())
        for name in ("mean", "std"):
            values = torch.tensor([float(x) for x in preset[name]]).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)  # in the settings, too
        self.requires_grad_(trainable).eval()
        # Sizes are asked of the network itself, in evaluation mode: one picture has no batch statistics.
        size = int(preset["crop_size"])
        with torch.no_grad():
            pooled, maps = self._encode(torch.zeros(1, 3, size, size))
            has_map = bool(maps) and maps[-1].shape[1] == pooled.shape[1]
            if rows == "auto" and not (has_map and min(maps[-1].shape[2:]) >= rows_size):
                self.rows, self.needs_map = "regions", rois
            if self.needs_map and not has_map:
                setting = 'region_features = "roi"' if rois else f'rows = "{rows}"'
                raise ValueError(
                    f"{setting} needs a network whose last feature map is as wide as its vectors, such as a "
                    f"ResNet; {own.get('arch', own.get('name'))!r} has none. Take another network or setting."
                )
            _, self.rows_per_picture, self.width = self._make_rows(pooled, maps).shape
        # Of a picture that has objects, and of each object that is a picture of its own.
        self.rows_with_objects = 1 if self.rows == "auto" else self.rows_per_picture

    def _build(self) -> nn.Module:
        """The network with random weights, as `settings` describe it."""
        raise NotImplementedError

    def _encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """RETURNS (Tuple): Vectors, (r, width), and maps that are needed, (r, channels, height, width)."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "VisionBackbone":
        """Stay in evaluation mode, whatever `mode` says."""
        super().train(False)
        return self

    def forward(
        self,
        pictures: torch.Tensor,
        at_once: int,
        boxes: Sequence[torch.Tensor] | None = None,
        n_rows: Sequence[int] | None = None,
        *,
        training: bool = False,
    ) -> torch.Tensor:
        """Encode pictures, and objects in them: an object is the average of what RoIAlign cuts out of the
        last feature map.

        pictures (torch.Tensor): As `PictureTransform` gives them, uint8 (r, 3, height, width), at least one:
            the copy to the device is a quarter of that of floats, which are taken as normalized already.
        at_once (int): Pictures in one pass through the network.
        boxes (Optional[Sequence[torch.Tensor]]): Objects of each, (k, 4), in pixels of the prepared picture.
        n_rows (Optional[Sequence[int]]): How many of its own rows each picture gets; `None` for all.
        training (bool): Whether the network learns from this pass, if it is trainable.
        RETURNS (torch.Tensor): (rows, width), float32: for each picture its own rows, then its objects'.
        """
        rows: list[torch.Tensor] = []
        grad = torch.is_grad_enabled() and self.trainable
        device = next(self.parameters(), pictures).device
        precision = torch.autocast(device.type, self.autocast) if self.autocast else nullcontext()
        with torch.set_grad_enabled(grad), precision:
            for start in range(0, len(pictures), at_once):
                part = pictures[start : start + at_once].to(device)
                if part.dtype == torch.uint8:
                    part = (part.float() / 255 - self.mean) / self.std
                part = part.contiguous(memory_format=self.memory_format)
                # A single picture has no batch statistics (BatchNorm raises): use the running ones.
                alone = self.has_statistics and len(part) == 1
                learns = training and self.trainable and not alone
                if learns:  # networks that others wrote read their mode in the middle of a pass
                    self.network.train()
                try:
                    pooled, maps = self._encode(part)
                finally:
                    if learns:
                        self.network.eval()
                own = list(self._make_rows(pooled, maps))
                if n_rows is not None:
                    own = [one[:n] for one, n in zip(own, n_rows[start : start + at_once])]
                if boxes is None:
                    rows += own
                    continue
                of_each = [one.to(device) for one in boxes[start : start + at_once]]
                objects = roi_align(
                    maps[-1].float().contiguous(),
                    of_each,
                    output_size=7,  # places a side of each object, looked at twice
                    spatial_scale=maps[-1].shape[-1] / part.shape[-1],
                    sampling_ratio=2,
                    aligned=True,
                ).mean((2, 3))
                for pair in zip(own, objects.split([len(one) for one in of_each])):
                    rows += pair
        return torch.cat(rows)

    def _make_rows(self, pooled: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
        """RETURNS (torch.Tensor): (r, rows, width), float32."""
        if self.rows == "pyramid":
            stages = [adaptive_avg_pool2d(stage.float(), self.rows_size) for stage in maps]
            return torch.cat(stages, dim=1).flatten(2).transpose(1, 2)
        whole = pooled.float().unsqueeze(1)
        if self.rows == "regions":
            return whole
        parts = maps[-1].float()
        if self.rows in ("grid", "auto"):
            parts = adaptive_avg_pool2d(parts, self.rows_size)
        return torch.cat((whole, parts.flatten(2).transpose(1, 2)), dim=1)


def explain_download(what: str, err: Exception, file: str) -> str:
    """RETURNS (str): Why there are no weights, and which file to put where."""
    return (
        f"The weights {what} are neither on this machine nor could they be downloaded ({explain(err)}). Put "
        f"the file {file} anywhere and set 'weights' to its path, or to null to start from random weights."
    )
