"""`spacy-mmib.HFVisionEncoder.v1`."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..regions.base import get_region_getters
from .torchvision import make_settings

get_region_getters()  # configs with @region_getters are resolved from here


@registry.architectures("spacy-mmib.HFVisionEncoder.v1")
def build_hf_vision_encoder_v1(
    *,
    name: str | Path = "openai/clip-vit-base-patch32",
    rows: Literal["regions", "patches"] = "regions",
    trainable: bool = False,
    image_size: int | None = None,
    get_regions: Callable[..., Any] | None = None,
    max_regions: int | None = 16,
    batch_size: int = 64,
    on_image_error: Literal["warn", "raise"] = "warn",
    read_picture: Any = None,
    cache: Any = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    mixed_precision: bool = False,
) -> Model[list[Doc], list[Floats2d]]:
    """Build a picture encoder from a vision model of transformers: CLIP, SigLIP, DINOv2, ViT.

    name (Union[str, Path]): Name of the model on the hub, or a folder with config.json,
        preprocessor_config.json and model.safetensors. Read on initialization only: a saved pipeline holds
        its weights. Of models of text and pictures the vision part is taken.
    rows (str): "regions": the pooled vector of the whole picture, and of each object as a picture of its own.
        "patches": the pooled vector of the whole picture and that of each of its patches, row by row; objects
        aren't searched for.
    trainable (bool): Train the network with the component.
    image_size (Optional[int]): In pixels, instead of the model's own.
    autocast (Optional[str]): See `spacy-mmib.TorchvisionEncoder.v1`, as the remaining settings.
    RETURNS (Model[List[Doc], List[Floats2d]]): A row a region or patch, row 0 the whole picture, no rows
        without a picture.
    RAISES (ValueError): Settings that don't fit together.
    """
    if rows not in ("regions", "patches"):
        raise ValueError(f"rows is 'regions' or 'patches', not {rows!r}.")
    if rows == "patches" and get_regions is not None:
        raise ValueError('With rows = "patches" no objects are encoded: set get_regions = null.')
    name = os.fspath(name)
    settings = make_settings(
        name=name,
        mode="crop" if rows == "regions" else "patches",
        trainable=trainable,
        image_size=image_size,
        get_regions=get_regions,
        max_regions=max_regions,
        batch_size=batch_size,
        on_image_error=on_image_error,
        read_picture=read_picture,
        cache=cache,
        autocast=autocast,
        mixed_precision=mixed_precision,
        random=False,
    )
    runtime_settings = {"trainable": trainable, "autocast": autocast}

    build = partial(_build, name=name, image_size=image_size, **runtime_settings)
    from .hf_vision import HFVision
    from .img2vec import PictureEncoderLayer

    return PictureEncoderLayer(settings, HFVision, build, runtime_settings)


def _build(**settings: Any) -> Any:
    from .hf_vision_weights import load_hf_vision

    return load_hf_vision(**settings)
