"""Preparing RGB pictures for a network, as its weights expect it."""

from typing import Any

import PIL.Image
import torch

from ..regions.vision import ImageClassification, InterpolationMode

# Beyond this ratio of sides, what the central crop would discard anyway is cut off before resizing: a
# picture of 1 x 20,000 pixels would first become one of 256 x 5,120,000.
LARGEST_RATIO = 8


class PictureTransform:
    """torchvision's classification preset, made from stored numbers and safe for any shape. It keeps no
    state between calls, so several threads may share one.

    preset (Dict[str, Any]): crop_size and resize_size (pixels), mean and std (of 0-1), interpolation. If
        "resize" is "exact", pictures are first rescaled to a square of resize_size whatever their shape (as
        for ViT and SigLIP), otherwise ("shortest", or no such key) their shorter side is. The central crop
        follows either way.
    RAISES (ValueError): The preset asks for something else.
    """

    def __init__(self, preset: dict[str, Any]) -> None:
        resize = preset.get("resize", "shortest")
        if resize not in ("shortest", "exact"):
            raise ValueError(f"A preset's 'resize' is 'shortest' or 'exact', not {resize!r}.")
        self._exact_size = int(preset["resize_size"]) if resize == "exact" else None
        self._crop_size = int(preset["crop_size"])
        self._resampling = PIL.Image.Resampling[str(preset["interpolation"]).upper()]
        settings = {
            "crop_size": self._crop_size,
            "mean": tuple(preset["mean"]),
            "std": tuple(preset["std"]),
            "interpolation": InterpolationMode(preset["interpolation"]),
        }
        self._transform = ImageClassification(resize_size=preset["resize_size"], **settings)
        self._convert = ImageClassification(resize_size=self._crop_size, **settings)

    def __call__(self, picture: PIL.Image.Image) -> torch.Tensor:
        """RETURNS (torch.Tensor): float32, (3, crop_size, crop_size)."""
        if self._exact_size is not None:
            picture = picture.resize((self._exact_size,) * 2, self._resampling)
        else:
            picture = _cut_long(picture)
        tensor: torch.Tensor = self._transform(picture)
        return tensor

    def stretch(self, picture: PIL.Image.Image) -> torch.Tensor:
        """Rescale a picture to the square the network takes, without cutting anything off.

        RETURNS (torch.Tensor): float32, (3, crop_size, crop_size).
        """
        tensor: torch.Tensor = self._convert(picture.resize((self._crop_size,) * 2, self._resampling))
        return tensor


def _cut_long(picture: PIL.Image.Image) -> PIL.Image.Image:
    short, long = sorted(picture.size)
    if long <= LARGEST_RATIO * short:
        return picture
    keep = LARGEST_RATIO * short
    left = max(0, (picture.width - keep) // 2)
    upper = max(0, (picture.height - keep) // 2)
    return picture.crop((left, upper, picture.width - left, picture.height - upper))
