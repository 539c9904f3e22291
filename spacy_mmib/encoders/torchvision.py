"""`spacy-mmib.TorchvisionEncoder.v1`."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..regions.base import as_getter, get_region_getters
from ..regions.simple import GivenRegions
from .encoder_settings import EncoderSettings, Mode, OnImageError

get_region_getters()  # configs with @region_getters are resolved from here


@registry.architectures("spacy-mmib.TorchvisionEncoder.v1")
def build_torchvision_encoder_v1(
    *,
    arch: str = "resnet50",
    weights: str | Path | None = None,
    trainable: bool = False,
    image_size: int | None = None,
    get_regions: Callable[..., Any] | None = None,
    max_regions: int | None = 16,
    region_features: Literal["crop", "roi"] = "crop",
    batch_size: int = 64,
    on_image_error: Literal["warn", "raise"] = "warn",
    read_picture: Any = None,
    cache: Any = None,
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto",
    autocast: Literal["bfloat16", "float16"] | None = None,
    mixed_precision: bool = False,
) -> Model[list[Doc], list[Floats2d]]:
    """Build a picture encoder from a torchvision classification network: pooled features of the whole
    picture and of the objects in it.

    arch (str): torchvision's name of the network, e.g. "resnet50" (the paper's), "vit_b_16".
    weights (Optional[Union[str, Path]]): torchvision's name of its weights ("IMAGENET1K_V1" are the paper's;
        downloaded on initialization unless in torch's cache), the path of a state dict (.pth read
        without unpickling anything else, or .safetensors), or `None` for random weights. Read on
        initialization only: a saved pipeline holds its weights.
    trainable (bool): Train the network with the component. If `False` (the paper's) it is truly frozen,
        BatchNorm statistics included.
    image_size (Optional[int]): In pixels: scale the shorter side to this and take the central square.
        `None`: the preset of the named weights, or ImageNet's (256, then the central 224).
    get_regions (Optional[Callable]): Finds the objects, see `regions.base.RegionGetter`; a function that
        `@region_getters` names. `None`: those in `doc._.regions`.
    max_regions (Optional[int]): m, at most so many objects a post, from the first; `None` for all.
    region_features (str): "crop": every object goes through the network as a picture of its own, as in the
        paper. "roi": the network runs once over the whole picture, rescaled to a square as the paper says,
        and objects are cut out of its last feature map by RoIAlign (He et al., Mask R-CNN): as many passes
        as pictures. For convolutional networks that average their last feature map.
    batch_size (int): Pictures and objects in one forward: the bound on memory. A network that is trained
        keeps what its backward pass needs for the whole batch of posts all the same.
    on_image_error (str): "warn": a post whose picture can't be read is processed from its text, the reason
        is at `doc._.image_error`. "raise": it raises.
    read_picture (Optional[PictureReader]): Limits, threads and where pictures may come from, see
        `spacy-mmib.picture_reader.v1`. `None`: its defaults.
    cache (Optional[FeatureCache]): Keeps vectors of a frozen network and objects that were found, see
        `spacy-mmib.feature_cache.v1`. `None`: nothing is kept.
    memory_format (str): "channels_last" or "contiguous" in the network; "auto": channels last if it is
        frozen: convolutions are faster so, on CPU and GPU.
    autocast (Optional[str]): "bfloat16" or "float16": run a frozen network in this precision. Its vectors
        differ in the third digit.
    mixed_precision (bool): Train the network in half precision where that is safe. GPU only.
    RETURNS (Model[List[Doc], List[Floats2d]]): A row a region, row 0 the whole picture, no rows without a
        picture.
    RAISES (ValueError): Settings that don't fit together.
    """
    weights = None if weights is None else os.fspath(weights)
    if memory_format not in ("auto", "contiguous", "channels_last"):
        raise ValueError(f"memory_format is 'auto', 'contiguous' or 'channels_last', not {memory_format!r}.")
    if region_features not in ("crop", "roi"):
        raise ValueError(f"region_features is 'crop' or 'roi', not {region_features!r}.")
    settings = make_settings(
        name=arch,
        mode=region_features,
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
        random=weights is None,
    )
    runtime_settings = {
        "trainable": trainable,
        "memory_format": memory_format,
        "autocast": autocast,
        "rois": region_features == "roi",
    }

    build = partial(_build, arch=arch, weights=weights, image_size=image_size, **runtime_settings)
    from .backbone import Backbone
    from .img2vec import PictureEncoderLayer

    return PictureEncoderLayer(settings, Backbone, build, runtime_settings)


def _build(**settings: Any) -> Any:
    from .torchvision_weights import load_backbone

    return load_backbone(**settings)


def make_settings(
    *,
    name: str,
    mode: Mode,
    trainable: bool,
    image_size: int | None,
    get_regions: Callable[..., Any] | None,
    max_regions: int | None,
    batch_size: int,
    on_image_error: OnImageError,
    read_picture: Any,
    cache: Any,
    autocast: str | None,
    mixed_precision: bool,
    random: bool,
) -> EncoderSettings:
    """Check what all picture encoders have in common, and fill in defaults.

    RETURNS (EncoderSettings): See there and `build_torchvision_encoder_v1`.
    RAISES (ValueError): Settings that don't fit together.
    """
    from ..images.reader import PictureReader

    for setting, value, least in (
        ("batch_size", batch_size, 1),
        ("image_size", image_size, 1),
        ("max_regions", max_regions, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{setting} has to be at least {least}, not {value}.")
    if on_image_error not in ("warn", "raise"):
        raise ValueError(f"on_image_error is 'warn' or 'raise', not {on_image_error!r}.")
    if autocast not in (None, "bfloat16", "float16"):
        raise ValueError(f"autocast is null, 'bfloat16' or 'float16', not {autocast!r}.")
    if trainable and autocast is not None:
        raise ValueError("autocast is for a frozen network; to train one, set mixed_precision.")
    if trainable and cache is not None:
        raise ValueError(
            "A cache holds vectors of a frozen network: set trainable = false, or cache = null (or its path)."
        )
    return EncoderSettings(
        name=name,
        mode=mode,
        trainable=trainable,
        max_regions=max_regions,
        batch_size=batch_size,
        on_image_error=on_image_error,
        mixed_precision=mixed_precision,
        get_regions=GivenRegions() if get_regions is None else as_getter(get_regions),
        reader=PictureReader() if read_picture is None else read_picture,
        cache=cache,
        random=random,
    )
