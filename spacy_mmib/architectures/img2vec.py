"""`spacy-mmib.TorchvisionEncoder.v1`."""

from pathlib import Path
from typing import Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..layers.img2vec import TorchvisionLayer


@registry.architectures("spacy-mmib.TorchvisionEncoder.v1")
def build_torchvision_encoder_v1(
    *,
    arch: str = "resnet50",
    weights: str | Path | None = None,
    trainable: bool = False,
    image_size: int | None = None,
    max_regions: int | None = None,
    batch_size: int = 64,
    on_image_error: Literal["warn", "raise"] = "warn",
    mixed_precision: bool = False,
) -> Model[list[Doc], list[Floats2d]]:
    """Build a picture encoder from a torchvision classification network: pooled features of the whole
    picture and of the objects in `doc._.regions`.

    arch (str): torchvision's name of the network, e.g. "resnet50" (the paper's), "vit_b_16".
    weights (Optional[Union[str, Path]]): torchvision's name of its weights ("IMAGENET1K_V1" are the paper's;
        downloaded on initialization unless in torch's cache), the path of a state dict (.pth read
        without unpickling anything else, or .safetensors), or `None` for random weights. Read on
        initialization only: a saved pipeline holds its weights.
    trainable (bool): Train the network with the component. If `False` (the paper's) it is truly frozen,
        BatchNorm statistics included.
    image_size (Optional[int]): In pixels: scale the shorter side to this and take the central square.
        `None`: the preset of the named weights, or ImageNet's (256, then the central 224).
    max_regions (Optional[int]): m, at most so many objects a post, from the first; `None` for all.
    batch_size (int): Pictures and objects in one forward: the bound on memory (64 of 224 x 224 take about
        0.6 GB in ResNet-50).
    on_image_error (str): "warn": a post whose picture can't be read is processed from its text, the reason
        is at `doc._.image_error`. "raise": it raises.
    mixed_precision (bool): Run the network in half precision where that is safe. GPU only.
    RETURNS (Model[List[Doc], List[Floats2d]]): A row a region, row 0 the whole picture, no rows without a
        picture.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size has to be at least 1, not {batch_size}.")
    if on_image_error not in ("warn", "raise"):
        raise ValueError(f"on_image_error is 'warn' or 'raise', not {on_image_error!r}.")
    return TorchvisionLayer(
        arch=arch,
        weights=weights,
        trainable=trainable,
        image_size=image_size,
        max_regions=max_regions,
        batch_size=batch_size,
        on_image_error=on_image_error,
        mixed_precision=mixed_precision,
    )
