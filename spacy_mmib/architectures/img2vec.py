"""`spacy-mmib.TorchvisionEncoder.v1`."""

import os
from pathlib import Path
from typing import Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..layers.img2vec import EncoderSettings, TorchvisionLayer


@registry.architectures("spacy-mmib.TorchvisionEncoder.v1")
def build_torchvision_encoder_v1(
    *,
    arch: str = "resnet50",
    weights: str | Path | None = None,
    trainable: bool = False,
    image_size: int | None = None,
    max_regions: int | None = 16,
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
    batch_size (int): Pictures and objects in one forward: the bound on memory. A network that is trained
        keeps what its backward pass needs for the whole batch of posts all the same.
    on_image_error (str): "warn": a post whose picture can't be read is processed from its text, the reason
        is at `doc._.image_error`. "raise": it raises.
    mixed_precision (bool): Run the network in half precision where that is safe. GPU only.
    RETURNS (Model[List[Doc], List[Floats2d]]): A row a region, row 0 the whole picture, no rows without a
        picture.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("image_size", image_size, 1),
        ("max_regions", max_regions, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} has to be at least {least}, not {value}.")
    if on_image_error not in ("warn", "raise"):
        raise ValueError(f"on_image_error is 'warn' or 'raise', not {on_image_error!r}.")
    return TorchvisionLayer(
        EncoderSettings(
            arch=arch,
            weights=None if weights is None else os.fspath(weights),
            trainable=trainable,
            image_size=image_size,
            max_regions=max_regions,
            batch_size=batch_size,
            on_image_error=on_image_error,
            mixed_precision=mixed_precision,
        )
    )
