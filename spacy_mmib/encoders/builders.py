"""The registered picture encoders. Free of torch, so that spaCy can look them up quickly: the networks are in
the module of their family.
"""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..regions.base import as_getter, get_region_getters
from ..regions.simple import GivenRegions
from ..util import warn
from .encoder_settings import EncoderSettings

get_region_getters()  # configs with @region_getters are resolved from here

ImageEncoder: TypeAlias = Model[list[Doc], list[Floats2d]]


@registry.architectures("spacy-mmib.TorchvisionEncoder.v1")
def build_torchvision_encoder_v1(
    *,
    arch: str = "resnet50",
    weights: str | Path | None = None,
    rows: Literal["regions", "grid", "pyramid"] = "regions",
    grid_size: int = 7,
    pyramid_size: int = 2,
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
) -> ImageEncoder:
    """Build a picture encoder from a classification network of torchvision.

    arch (str): torchvision's name of the network, e.g. "resnet50" (the paper's), "vit_b_16".
    weights (Optional[Union[str, Path]]): torchvision's name of its weights ("IMAGENET1K_V1" are the paper's;
        downloaded unless in torch's cache), the path of a state dict (.safetensors, or .pth, of which only
        tensors are unpickled), or `None` for random weights. Read on initialization: a saved pipeline holds
        its weights.
    rows (str): "regions": a row for the whole picture and one for each object. "grid": a row for the whole
        picture and one for each of grid_size x grid_size parts of it, averages of the last feature map, row
        by row; objects aren't searched for. "pyramid": for the whole picture and for each object pyramid_size
        x pyramid_size rows, in each the averages of the maps of a ResNet's four stages over that part.
    grid_size (int): Parts a side.
    pyramid_size (int): Parts a side.
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
        as pictures. For networks that average their last feature map.
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
    RETURNS (Model[List[Doc], List[Floats2d]]): The rows of each post, none without a picture.
    RAISES (ValueError): Settings that don't fit together.
    """
    settings = dict(locals())  # the signature is spelled out, since configs are filled and checked by it
    own = {key: settings.pop(key) for key in ("arch", "weights")}
    return _build_encoder("torchvision", own, **settings)


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
) -> ImageEncoder:
    """Build a picture encoder from a vision model of transformers: CLIP, SigLIP, DINOv2, ViT. What isn't said
    here is as in `build_torchvision_encoder_v1`.

    name (Union[str, Path]): Name of the model on the hub, or a folder with config.json,
        preprocessor_config.json and model.safetensors. Of models of text and pictures the vision part is
        taken.
    rows (str): "regions": the pooled vector of the whole picture, and of each object as a picture of its own.
        "patches": the pooled vector of the whole picture and that of each of its patches, row by row; objects
        aren't searched for.
    image_size (Optional[int]): In pixels, instead of the model's own.
    """
    settings = dict(locals())
    own = {"name": settings.pop("name")}
    return _build_encoder("huggingface", own, memory_format="contiguous", **settings)


@registry.architectures("spacy-mmib.TimmEncoder.v1")
def build_timm_encoder_v1(
    *,
    name: str = "resnet50",
    weights: str | Path | None = None,
    rows: Literal["regions", "grid"] = "regions",
    grid_size: int = 7,
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
) -> ImageEncoder:
    """Build a picture encoder from a model of timm, which the extra "timm" installs. What isn't said here is
    as in `build_torchvision_encoder_v1`.

    name (str): timm's name of the model, e.g. "resnet50", or with the tag of its weights "resnet50.a1_in1k".
    weights (Optional[Union[str, Path]]): "pretrained" for those of that name, or the tag of others:
        downloaded on initialization unless in timm's cache; the path of a file; or `None` for random weights.
    image_size (Optional[int]): In pixels, instead of the size that belongs to the weights.
    """
    settings = dict(locals())
    own = {key: settings.pop(key) for key in ("name", "weights")}
    return _build_encoder("timm", own, **settings)


def _build_encoder(
    family: str,
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
    """Build an encoder from a network of the module `family`. Its `load` takes the settings of its `own`, the
    first of which names the network.
    """
    from ..images.reader import PictureReader
    from .img2vec import PictureEncoderLayer

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
    load = partial(_load, family, settings, **own, image_size=image_size, **runtime_settings)
    network = {"torchvision": "Backbone", "huggingface": "HFVision", "timm": "TimmVision"}[family]
    network_class = getattr(import_module(f".{family}", __package__), network)
    return PictureEncoderLayer(settings, network_class, load, runtime_settings)


def _load(family: str, encoder: EncoderSettings, **settings: Any) -> Any:
    network = import_module(f".{family}", __package__).load(**settings)
    if encoder.random and not encoder.trainable:
        warn(
            f"img2vec ({encoder.name}) has random weights and is frozen, so it can tell little about a "
            "picture. Set 'weights' to the name of published ones or to a local file, or 'trainable' to true."
        )
    return network
