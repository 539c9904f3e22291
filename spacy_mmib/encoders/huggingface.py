"""Vision models of transformers as picture encoders. None of their own code is run, or unpickled."""

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import torch
from spacy.util import registry
from torch import nn

from ..images.errors import explain
from ..regions.grounding import find_model_folder
from ..util import warn
from .base import VisionBackbone
from .img2vec import ImageEncoder, build_encoder

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # transformers 5 keeps the former in here

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bilinear"}
IMAGENET_CROP = 0.875  # 224 of 256

CONVNEXT_CROPPED_BELOW = 384
"""ConvNeXt's preprocessing crops pictures below this size, and only rescales those above."""


FIXED_SIZE = {"beit", "clip_vision_model", "deit", "siglip_vision_model", "vit"}
ANY_SIZE = {"convnext", "convnextv2", "dinov2", "dinov2_with_registers", "resnet"}
KNOWN = FIXED_SIZE | ANY_SIZE
"""By transformers' `model_type`; those of any size adapt to the picture by themselves."""

WITHOUT_POOLER = {"deit", "vit"}
"""Most checkpoints of these hold no pooler, so it would be random: their vector is the first row."""

DERIVED = ("out_features", "out_indices", "stage_names", "fusion_config")
LOADING = ("attn_implementation", "auto_map", "experts_implementation", "quantization_config")


class HFVision(VisionBackbone):
    """A vision model of transformers, built from its `config`, see `clean_config`.

    The vector of a picture is for CLIP, DINOv2 and ViT the CLS row after the last normalization, for SigLIP
    the output of its attention head, for convolutional models the pooled feature map. Patches are the last
    rows of the last hidden state, row by row of the picture, or the positions of the last feature map.
    """

    def __init__(self, *, config: dict[str, Any], **settings: Any) -> None:
        super().__init__(config=clean_config(config), **{"memory_format": "contiguous", **settings})

    def _build(self) -> nn.Module:
        from transformers import AutoModel

        network: nn.Module = AutoModel.from_config(**_get_arguments(self.settings["config"]))
        return network

    def _encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        config, size = self.settings["config"], pictures.shape[-1]
        model_type = config["model_type"]
        patch, own = _as_pair(config.get("patch_size", 1)), _as_pair(config.get("image_size", size))
        if size < max(patch):
            raise ValueError(
                f"Pictures of {size} x {size} are smaller than a patch of this {model_type!r} ({patch[0]} x "
                f"{patch[1]}). Set a larger image_size."
            )
        arguments = {}
        if model_type not in ANY_SIZE and own != (size, size):
            if "interpolate_pos_encoding" not in inspect.signature(self.network.forward).parameters:
                raise ValueError(
                    f"This {model_type!r} was made for pictures of {own[0]} x {own[1]} and the installed "
                    f"transformers can't use it with {size} x {size}. Set image_size to {own[0]}, or upgrade "
                    "transformers."
                )
            arguments["interpolate_pos_encoding"] = True
        output = self.network(pictures, **arguments)
        hidden = output.last_hidden_state
        pooled = hidden[:, 0] if model_type in WITHOUT_POOLER else output.pooler_output
        if pooled is None:
            raise ValueError(
                f"This {model_type!r} was made without the layer that gives the vector of a whole picture "
                "(its config switches it off). Take a checkpoint that has it."
            )
        if hidden.dim() == 3:  # the patches come after CLS and the like
            grid = (size // patch[0], size // patch[1])
            hidden = hidden[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(-1, grid)
        return pooled.flatten(1), [hidden]


def clean_config(config: dict[str, Any]) -> dict[str, Any]:
    """Keep of a model's configuration what its numbers depend on. Left out are what all configurations of
    transformers share (labels, settings of text generation), and what could make transformers run other code:
    an attention implementation may name a repository that is downloaded and executed.
    """
    from transformers import PretrainedConfig

    if config.get("model_type") not in KNOWN:
        raise ValueError(
            f"it is of type {config.get('model_type')!r}, which is no vision model that pictures can be "
            f"encoded with here. Known types: {', '.join(sorted(KNOWN))}, and whole CLIP and SigLIP models."
        )
    shared = set(PretrainedConfig().to_dict()) - {"model_type"}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key not in (*shared, *DERIVED, *LOADING) and not key.startswith("_")
    }


def _get_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers builds the model from."""
    from transformers import AutoConfig

    pooler = {"add_pooling_layer": False} if config["model_type"] in WITHOUT_POOLER else {}
    return {"config": AutoConfig.for_model(**config), **pooler}


def load(name: str, *, image_size: int | None, **settings: Any) -> HFVision:
    """Build a model and read its weights, see `build_hf_vision_encoder_v1`; torch's random state stays."""
    from transformers import AutoConfig, AutoModel, PreTrainedModel
    from transformers.utils import logging

    folder = find_model_folder(name)
    with ExitStack() as stack:
        # Modules start from random numbers even if they are replaced at once.
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        # It reports in many lines that the text part of CLIP is left out; what matters is checked here.
        stack.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        with _reading(CONFIG, name):
            whole = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            config = clean_config(getattr(whole, "vision_config", whole).to_dict())
        with _reading("weights", name):
            # Built from the cleaned configuration, as it will be when a saved pipeline is loaded.
            arguments = {**_get_arguments(config), "output_loading_info": True}
            if "weights_only" in inspect.signature(PreTrainedModel.from_pretrained).parameters:
                arguments["weights_only"] = True  # before there was this choice, it was always so
            network, info = AutoModel.from_pretrained(folder, **arguments)
            # Masks are for pretraining only.
            missing = sorted(key for key in info["missing_keys"] if not key.endswith("mask_token"))
            if missing:
                raise ValueError(
                    f"they lack {len(missing)} tensors of its {config['model_type']!r} "
                    f"({', '.join(missing[:3])}{', ...' if missing[3:] else ''}), which would stay random. "
                    f"Take the weights that belong to its {CONFIG}."
                )
        with _reading(PREPROCESSOR, name):
            preset = _read_preset(folder, name, config)
        if image_size is not None:
            preset["crop_size"] = preset["resize_size"] = image_size
        with _reading("configuration", name):
            return HFVision(config=config, preset=preset, network=network, **settings)


@contextmanager
def _reading(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as err:
        reason = " ".join(str(err).split())[:500] if isinstance(err, ValueError) else explain(err)
        if "trust_remote_code" in reason:
            reason = "it needs Python code that comes with the model, which is never run here"
        raise ValueError(f"The {what} of the model {name!r} can't be used: {reason}") from None


def _read_preset(folder: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoImageProcessor

    if (folder / PREPROCESSOR).is_file():
        return to_preset(AutoImageProcessor.from_pretrained(folder, trust_remote_code=False).to_dict())
    if (folder / PROCESSOR).is_file():
        return to_preset(json.loads((folder / PROCESSOR).read_text("utf8"))["image_processor"])
    size = max(_as_pair(config.get("image_size", 224)))
    preset = {**IMAGENET, "crop_size": size, "resize_size": int(size / IMAGENET_CROP)}
    warn(
        f"The model {name!r} has no {PREPROCESSOR}, so pictures are prepared as for ImageNet ({preset}). If "
        f"it was trained otherwise, put that file beside its {CONFIG}."
    )
    return preset


def to_preset(settings: dict[str, Any]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What an image processor's settings ask for, for `base.PictureTransform`."""
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


@registry.architectures("spacy-mmib.HFVisionEncoder.v1")
def build_hf_vision_encoder_v1(
    *,
    name: str | Path = "openai/clip-vit-base-patch32",
    rows: Literal["auto", "regions", "patches"] = "auto",
    grid_size: int = 2,
    trainable: bool = False,
    image_size: int | None = None,
    get_regions: Callable[..., Any] | None = None,
    max_pictures: int | None = 4,
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
        "auto": that for a picture with objects that can be used; for one without, the pooled vector and those
        of grid_size x grid_size parts of the picture, averages of its patches. "patches": the pooled vector
        of the whole picture and that of each of its patches, row by row; objects aren't searched for.
    image_size (Optional[int]): In pixels, instead of the model's own.
    """
    settings = dict(locals())
    own = {"name": settings.pop("name")}
    return build_encoder(HFVision, load, own, memory_format="contiguous", **settings)
