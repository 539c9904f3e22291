"""Vision models of transformers (CLIP, SigLIP, DINOv2, ViT) as picture encoders. No code that comes with a
model is ever run, and nothing but tensors is unpickled.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import nn

from ..regions.hub import find_model_folder
from ..util import warn
from .base import VisionBackbone, describe

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # transformers 5 keeps the former in here

IMAGENET_CROP = 0.875  # 224 of 256

CONVNEXT_CROPPED_BELOW = 384
"""ConvNeXt's preprocessing crops pictures below this size, and only rescales those above."""


KNOWN = {
    "beit",
    "clip_vision_model",
    "convnext",
    "convnextv2",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "resnet",
    "siglip_vision_model",
    "vit",
}
"""By transformers' `model_type`."""

WITHOUT_POOLER = {"deit", "vit"}
"""Most checkpoints of these hold no pooler, so it would be random: their vector is the first row."""

ANY_SIZE = {"convnext", "convnextv2", "dinov2", "dinov2_with_registers", "resnet"}
"""These adapt to the size of the picture by themselves."""

NOT_KEPT = (
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "fusion_config",
    "out_features",
    "out_indices",
    "quantization_config",
    "stage_names",
)


class HFVision(VisionBackbone):
    """A vision model of transformers, built from its `config`, see `clean_config`.

    The vector of a picture is for CLIP, DINOv2 and ViT the CLS row after the last normalization, for SigLIP
    the output of its attention head, for convolutional models the pooled feature map. Patches are the last
    rows of the last hidden state, row by row of the picture, or the positions of the last feature map.
    """

    def __init__(self, *, config: dict[str, Any], **settings: Any) -> None:
        super().__init__(config=clean_config(config), **{"memory_format": "contiguous", **settings})

    def _build(self) -> nn.Module:
        from transformers import AutoConfig, AutoModel

        config = self.settings["config"]
        check_type(config)
        network: nn.Module = AutoModel.from_config(AutoConfig.for_model(**config), **_get_arguments(config))
        return network

    def _set_up(self) -> None:
        config, size = self.settings["config"], int(self.settings["preset"]["crop_size"])
        self.arguments: dict[str, Any] = {}
        patch, own = _as_pair(config.get("patch_size", 1)), _as_pair(config.get("image_size", size))
        self.n_patches = (size // patch[0]) * (size // patch[1])
        if not self.n_patches:
            raise ValueError(
                f"Pictures of {size} x {size} are smaller than a patch of this {config['model_type']!r} "
                f"({patch[0]} x {patch[1]}). Set a larger image_size."
            )
        if config["model_type"] not in ANY_SIZE and own != (size, size):
            if "interpolate_pos_encoding" not in inspect.signature(self.network.forward).parameters:
                raise ValueError(
                    f"This {config['model_type']!r} was made for pictures of {own[0]} x {own[1]} and the "
                    f"installed version of transformers can't use it with {size} x {size}. Set image_size to "
                    f"{own[0]}, or upgrade transformers."
                )
            self.arguments["interpolate_pos_encoding"] = True

    def _encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        output = self.network(pictures, **self.arguments)
        hidden, model_type = output.last_hidden_state, self.settings["config"]["model_type"]
        pooled = hidden[:, 0] if model_type in WITHOUT_POOLER else output.pooler_output
        if pooled is None:
            raise ValueError(
                f"This {model_type!r} was made without the layer that gives the vector of a whole picture ("
                "its config switches it off). Take a checkpoint that has it."
            )
        is_map = hidden.dim() == 4
        patches = hidden if is_map else hidden[:, -self.n_patches :].transpose(1, 2)  # after CLS and the like
        return pooled.flatten(1), [patches]


def clean_config(config: dict[str, Any]) -> dict[str, Any]:
    """Keep of a model's configuration what its numbers depend on.

    Left out are what all configurations of transformers share (labels, settings of text generation), and
    what could make transformers run other code: an attention implementation may name a repository that is
    downloaded and executed.

    config (Dict[str, Any]): As `PretrainedConfig.to_dict()` gives it.
    RETURNS (Dict[str, Any]): "model_type" and what is this model's own.
    """
    from transformers import PretrainedConfig

    shared = set(PretrainedConfig().to_dict()) - {"model_type"}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key not in shared and key not in NOT_KEPT and not key.startswith("_")
    }


def check_type(config: dict[str, Any]) -> None:
    """RAISES (ValueError): The configuration is of no known vision model."""
    if config.get("model_type") not in KNOWN:
        raise ValueError(
            f"it is of type {config.get('model_type')!r}, which is no vision model that pictures can be "
            f"encoded with here. Known types: {', '.join(sorted(KNOWN))}, and whole CLIP and SigLIP models."
        )


def _get_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What the model's class takes beside its configuration."""
    return {"add_pooling_layer": False} if config["model_type"] in WITHOUT_POOLER else {}


def load(name: str, *, image_size: int | None, **settings: Any) -> HFVision:
    """Build an encoder and read its weights.

    name (str): A folder in which transformers saved a model, or a model's name on the hub. Of models with
        text and pictures (CLIP, SigLIP) the part for pictures is taken.
    image_size (Optional[int]): In pixels, instead of the size in the model's preprocessing.
    settings (Any): See `VisionBackbone`.
    RETURNS (HFVision): The encoder. torch's random state is as before.
    RAISES (OSError): The model is neither here nor can it be downloaded.
    RAISES (ValueError): It is no vision model, or what is in its files can't be used.
    """
    from transformers.utils import logging

    folder = find_model_folder(name)
    # It reports in many lines that the text part of CLIP is left out; what matters is checked here.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        # Modules start from random numbers even if they are replaced at once.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            with _reading(CONFIG, name):
                config = _read_config(folder)
            with _reading("weights", name):
                network = _read_weights(folder, config)
            with _reading(PREPROCESSOR, name):
                preset = _read_preset(folder, config, name)
            if image_size is not None:
                preset["crop_size"] = preset["resize_size"] = image_size
            with _reading("configuration", name):
                return HFVision(config=config, preset=preset, network=network, **settings)
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _reading(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as err:
        reason = " ".join(str(err).split())[:500] if isinstance(err, ValueError) else describe(err)
        if "trust_remote_code" in reason:
            reason = "it needs Python code that comes with the model, which is never run here"
        raise ValueError(f"The {what} of the model {name!r} can't be used: {reason}") from None


def _read_config(folder: Path) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The vision model's, see `clean_config`."""
    from transformers import AutoConfig

    whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config = clean_config(getattr(whole, "vision_config", whole).to_dict())
    check_type(config)
    return config


def _read_weights(folder: Path, config: dict[str, Any]) -> nn.Module:
    """RETURNS (nn.Module): The model with all its weights."""
    from transformers import AutoConfig, AutoModel

    # Built from the cleaned configuration, as it will be when a saved pipeline is loaded.
    own: Any = {"config": AutoConfig.for_model(**config), **_get_arguments(config)}
    network, info = AutoModel.from_pretrained(folder, output_loading_info=True, weights_only=True, **own)
    # Masks are for pretraining only.
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("mask_token"))
    if missing:
        raise ValueError(
            f"they lack {len(missing)} tensors of its {config['model_type']!r} "
            f"({', '.join(missing[:3])}{', ...' if missing[3:] else ''}), which would stay random. Take the "
            f"weights that belong to its {CONFIG}."
        )
    loaded: nn.Module = network
    return loaded


def _read_preset(folder: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): See `picture_transform.PictureTransform`."""
    from transformers import AutoImageProcessor

    settings: Any = None
    if (folder / PREPROCESSOR).is_file():
        settings = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False).to_dict()
    elif (folder / PROCESSOR).is_file():
        settings = json.loads((folder / PROCESSOR).read_text("utf8")).get("image_processor")
    if settings is not None:
        return to_preset(settings)
    size = max(_as_pair(config.get("image_size", 224)))
    preset = {
        "crop_size": size,
        "resize_size": int(size / IMAGENET_CROP),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bilinear",
    }
    warn(
        f"The model {name!r} has no {PREPROCESSOR}, so pictures are prepared as for ImageNet ({preset}). If "
        f"it was trained otherwise, put that file beside its {CONFIG}."
    )
    return preset


def to_preset(settings: dict[str, Any]) -> dict[str, Any]:
    """Translate transformers' preprocessing into plain numbers.

    settings (Dict[str, Any]): Of the image processor.
    RETURNS (Dict[str, Any]): See `picture_transform.PictureTransform`.
    RAISES (ValueError): It can't be expressed.
    """
    size = _as_dict(settings["size"])
    if "shortest_edge" in size and "longest_edge" not in size:
        resize_size, exact = int(size["shortest_edge"]), False
    else:
        resize_size, exact = _get_side("size", size), True
    crop_size = resize_size
    if settings.get("do_center_crop"):
        crop_size = _get_side("crop_size", _as_dict(settings["crop_size"]))
    elif settings.get("crop_pct") and not exact:
        if resize_size < CONVNEXT_CROPPED_BELOW:
            resize_size = int(resize_size / settings["crop_pct"])
        else:
            exact = True
    mean, std = [0.0] * 3, [1.0] * 3
    if settings.get("do_normalize", True):
        mean, std = settings["image_mean"], settings["image_std"]
    # Ours are scaled to 0 to 1 before they are normalized.
    scale = 255 * (settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0)
    mean, std = ([x / scale for x in (v if isinstance(v, (list, tuple)) else [v] * 3)] for v in (mean, std))
    resample = getattr(settings["resample"], "value", settings["resample"])
    if not isinstance(resample, str):  # as torchvision names it; Pillow numbers it
        resample = PIL.Image.Resampling(int(resample)).name.lower()
    preset = {"crop_size": crop_size, "resize_size": resize_size, "mean": mean, "std": std}
    return {**preset, "interpolation": resample, **({"resize": "exact"} if exact else {})}


def _as_pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _as_dict(size: Any) -> dict[str, int]:
    size = {"height": size, "width": size} if isinstance(size, int) else getattr(size, "__dict__", size)
    return {key: value for key, value in size.items() if value is not None}


def _get_side(what: str, size: dict[str, int]) -> int:
    if "height" not in size or size["height"] != size.get("width"):
        raise ValueError(f"{what} is {size}, which is not supported: no square")
    return size["height"]
