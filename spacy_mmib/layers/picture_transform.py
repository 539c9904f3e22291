"""Preparing RGB pictures for a torchvision network, as its weights expect it."""

from typing import Any

import PIL.Image
import torch

from ..torch_modules.vision import ImageClassification, InterpolationMode, models

# Beyond this ratio of sides, what the central crop would discard anyway is cut off before resizing: a
# picture of 1 x 20,000 pixels would first become one of 256 x 5,120,000.
LARGEST_RATIO = 8


def make_preset(arch: str, weights: str | None, image_size: int | None) -> dict[str, Any]:
    """Find out how pictures are prepared, as plain numbers that can be stored.

    arch (str): torchvision's name of the network.
    weights (Optional[str]): Name of its weights whose own preset is taken; otherwise ImageNet's: shorter
        side to 256, central crop of 224, ImageNet mean and deviation.
    image_size (Optional[int]): Overrides both sizes, in pixels: the shorter side is scaled to it and the
        central square taken.
    RETURNS (Dict[str, Any]): crop_size, resize_size (pixels), mean, std (of 0-1), interpolation.
    """
    transform = ImageClassification(crop_size=224)
    extra = {}
    if weights is not None:
        transform = models.get_model_weights(arch)[weights].transforms()
        extra = {"transform_input": True}
    return {
        "crop_size": image_size or int(transform.crop_size[0]),
        "resize_size": image_size or int(transform.resize_size[0]),
        "mean": [float(x) for x in transform.mean],
        "std": [float(x) for x in transform.std],
        "interpolation": transform.interpolation.value,
        **extra,
    }


class PictureTransform:
    """torchvision's classification preset, made from stored numbers and safe for any shape.

    preset (Dict[str, Any]): See `make_preset`.
    """

    def __init__(self, preset: dict[str, Any]) -> None:
        self._transform = ImageClassification(
            crop_size=preset["crop_size"],
            resize_size=preset["resize_size"],
            mean=tuple(preset["mean"]),
            std=tuple(preset["std"]),
            interpolation=InterpolationMode(preset["interpolation"]),
        )

    def __call__(self, picture: PIL.Image.Image) -> torch.Tensor:
        """RETURNS (torch.Tensor): float32, (3, crop_size, crop_size)."""
        short, long = sorted(picture.size)
        if long > LARGEST_RATIO * short:
            keep = LARGEST_RATIO * short
            left = max(0, (picture.width - keep) // 2)
            upper = max(0, (picture.height - keep) // 2)
            picture = picture.crop((left, upper, picture.width - left, picture.height - upper))
        tensor: torch.Tensor = self._transform(picture)
        return tensor
