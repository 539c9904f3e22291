"""What the builders of all families of picture encoders share."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d
from torch import nn

from ..images.reader import PictureReader
from ..regions.base import as_getter, get_region_getters
from ..regions.simple import GivenRegions
from ..util import warn
from .encoder_settings import EncoderSettings
from .img2vec import PictureEncoderLayer

get_region_getters()  # configs with @region_getters are resolved from here

ImageEncoder: TypeAlias = Model[list[Doc], list[Floats2d]]


def build_encoder(
    network: type[nn.Module],
    load: Callable[..., nn.Module],
    own: dict[str, Any],
    *,
    trainable: bool,
    rows: str,
    grid_size: int = 7,
    pyramid_size: int = 2,
    region_features: str = "crop",
    image_size: int | None,
    get_regions: Any,
    read_picture: Any,
    cache: Any,
    memory_format: str,
    autocast: str | None,
    **others: Any,
) -> ImageEncoder:
    """Build an encoder from a family of networks, with the settings that `build_torchvision_encoder_v1`
    explains.

    network (Type[VisionBackbone]): The class of the family.
    load (Callable[..., VisionBackbone]): Makes one from `own`, `image_size` and the settings of
        `VisionBackbone`.
    own (Dict[str, Any]): The family's own settings, the first of which names the network.
    RETURNS (Model[List[Doc], List[Floats2d]]): The rows of each post, none without a picture.
    RAISES (ValueError): Settings that don't fit together.
    """
    numbers = {"image_size": image_size, "grid_size": grid_size, "pyramid_size": pyramid_size, **others}
    for setting in ("batch_size", "image_size", "grid_size", "pyramid_size", "max_regions"):
        least = 0 if setting == "max_regions" else 1
        if numbers[setting] is not None and numbers[setting] < least:
            raise ValueError(f"{setting} has to be at least {least}, not {numbers[setting]}.")
    is_whole = rows in ("patches", "grid")
    if is_whole and get_regions is not None:
        raise ValueError(f'With rows = "{rows}" no objects are encoded: set get_regions = null.')
    if rows != "regions" and region_features == "roi":
        raise ValueError(f'region_features = "roi" is for rows = "regions", not "{rows}".')
    if trainable and autocast is not None:
        raise ValueError("autocast is for a frozen network; to train one, set mixed_precision.")
    if trainable and cache is not None:
        raise ValueError(
            "A cache holds vectors of a frozen network: set trainable = false, or cache = null (or its path)."
        )
    own = {key: os.fspath(value) if isinstance(value, Path) else value for key, value in own.items()}
    settings = EncoderSettings(
        name=next(iter(own.values())),
        mode="patches" if is_whole else "roi" if region_features == "roi" else "crop",
        trainable=trainable,
        get_regions=GivenRegions() if get_regions is None else as_getter(get_regions),
        reader=PictureReader() if read_picture is None else read_picture,
        cache=cache,
        random="weights" in own and own["weights"] is None,
        **others,
    )
    runtime_settings = {
        "trainable": trainable,
        "memory_format": memory_format,
        "autocast": autocast,
        "rows": rows,
        "rows_size": pyramid_size if rows == "pyramid" else grid_size,
        "rois": region_features == "roi",
    }
    build = partial(_load, load, settings, **own, image_size=image_size, **runtime_settings)
    return PictureEncoderLayer(settings, network, build, runtime_settings)


def _load(load: Callable[..., nn.Module], encoder: EncoderSettings, **settings: Any) -> nn.Module:
    network = load(**settings)
    if encoder.random and not encoder.trainable:
        warn(
            f"img2vec ({encoder.name}) has random weights and is frozen, so it can tell little about a "
            "picture. Set 'weights' to the name of published ones or to a local file, or 'trainable' to true."
        )
    return network
