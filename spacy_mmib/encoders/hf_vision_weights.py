"""A vision model of transformers as picture encoder: its configuration, weights and preprocessing from a
folder or from the hub. No code that comes with a model is ever run, and nothing is unpickled.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import nn

from ..util import warn
from .backbone import Autocast
from .hf_vision import HFVision, clean_config, get_build_settings, get_kind

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # transformers 5 keeps the former in here
WEIGHTS = "model.safetensors"

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", flags=re.ASCII)

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
IMAGENET_CROP = 0.875  # 224 of 256

CONVNEXT_CROPPED_BELOW = 384
"""ConvNeXt's preprocessing crops pictures below this size, and only rescales those above."""


def load_hf_vision(
    name: str | os.PathLike[str],
    *,
    trainable: bool,
    image_size: int | None,
    autocast: Autocast | None = None,
) -> HFVision:
    """Build an encoder and read its weights. Called on initialization only: a saved pipeline brings its own.

    name (Union[str, PathLike]): A folder in which transformers saved a model, or a model's name on the hub.
        Of models with text and pictures (CLIP, SigLIP) the part for pictures is taken.
    trainable (bool): See `HFVision`.
    image_size (Optional[int]): In pixels, instead of the size in the model's preprocessing.
    autocast (Optional[str]): See `HFVision`.
    RETURNS (HFVision): The encoder. torch's random state is as before.
    RAISES (OSError): The model is neither here nor can it be downloaded; or the folder holds none.
    RAISES (ValueError): It is no vision model, or what is in its files can't be used.
    """
    name = os.fspath(name)
    _check_name(name)
    # Modules start from random numbers even if they are replaced at once.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), _quiet_transformers():
        config = _read_config(name)
        network = _read_weights(name, config)
        preset = _read_preset(name, config, image_size)
        try:
            return HFVision(
                config=config,
                preset=preset,
                trainable=trainable,
                autocast=autocast,
                network=network,
            )
        except ValueError as err:
            raise ValueError(f"The model {name!r} can't be used: {err}") from err


def _check_name(name: str) -> None:
    path = Path(name)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise FileNotFoundError(
                f"The folder {name!r} holds no model of transformers: it has no {CONFIG}. It needs {CONFIG}, "
                f"{PREPROCESSOR} and {WEIGHTS}, as save_pretrained() writes them."
            )
    elif path.exists():
        raise FileNotFoundError(
            f"{name!r} is a file. Name the folder that holds {CONFIG}, {PREPROCESSOR} and {WEIGHTS}."
        )
    elif not HUB_NAME.fullmatch(name) or name.strip("./") != name:
        raise FileNotFoundError(
            f"There is no folder {name!r} (a relative path is looked for in the folder the command runs in, "
            f"{Path.cwd()}), and it can't be the name of a model on the hub."
        )


def _read_config(name: str) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The vision model's, see `clean_config`."""
    from transformers import AutoConfig

    try:
        whole = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except ValueError as err:
        raise ValueError(f"The {CONFIG} of {name!r} can't be used ({_reason(err)}).") from None
    except Exception as err:
        if Path(name).is_dir():
            raise ValueError(f"The {CONFIG} of {name!r} can't be read ({_reason(err)}).") from None
        raise OSError(_unreachable(name, err)) from None
    config = clean_config(getattr(whole, "vision_config", whole).to_dict())
    try:
        get_kind(config)
    except ValueError as err:
        raise ValueError(f"The model {name!r} can't be used: {err}") from None
    return config


def _read_weights(name: str, config: dict[str, Any]) -> nn.Module:
    """RETURNS (nn.Module): The model with all its weights."""
    from transformers import MODEL_MAPPING, AutoConfig

    # Built from the cleaned configuration, as it will be when a saved pipeline is loaded.
    hf_config = AutoConfig.for_model(**config)
    model_class: Any = MODEL_MAPPING[type(hf_config)]
    try:
        network, info = model_class.from_pretrained(
            name,
            config=hf_config,
            output_loading_info=True,
            weights_only=True,
            **get_build_settings(config),
        )
    except Exception as err:
        folder = Path(name)
        if not folder.is_dir():
            if isinstance(err, OSError):
                raise OSError(_unreachable(name, err)) from None
        elif not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
            raise FileNotFoundError(
                f"The folder {name!r} has no weights: put the model's {WEIGHTS} (or its pytorch_model.bin) "
                "into it."
            ) from None
        raise ValueError(
            f"The weights of {name!r} can't be read, or don't fit its {CONFIG} ({_reason(err)}). Files with "
            "anything but tensors pickled in them are refused."
        ) from None
    # Masks are for pretraining only.
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("mask_token"))
    if missing:
        raise ValueError(
            f"The weights of {name!r} lack {len(missing)} tensors of its {config['model_type']!r} "
            f"({', '.join(missing[:3])}{', ...' if missing[3:] else ''}): they would stay random. Take the "
            "weights that belong to this configuration."
        )
    loaded: nn.Module = network
    return loaded


def _read_preset(name: str, config: dict[str, Any], image_size: int | None) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): See `picture_transform.PictureTransform`."""
    found = _read_preprocessing(name)
    if found is None:
        preset = _make_default(config)
        warn(
            f"The model {name!r} has no {PREPROCESSOR}, so pictures are prepared as for ImageNet (shorter "
            f"side to {preset['resize_size']}, central {preset['crop_size']}, mean {IMAGENET_MEAN}, "
            f"deviation {IMAGENET_STD}). If it was trained otherwise, put that file beside its {CONFIG}."
        )
    else:
        try:
            preset = _to_preset(found)
        except (KeyError, TypeError, ValueError) as err:
            raise ValueError(
                f"The {PREPROCESSOR} of {name!r} asks for what is not supported ({_reason(err)})."
            ) from err
    if image_size is not None:
        preset["crop_size"] = preset["resize_size"] = image_size
    return preset


def _read_preprocessing(name: str) -> dict[str, Any] | None:
    """RETURNS (Optional[Dict[str, Any]]): As the image processor's `to_dict()` gives it; `None` if the model
    has none.
    """
    from transformers import AutoImageProcessor

    folder = Path(name)
    is_local = folder.is_dir()
    if is_local and not (folder / PREPROCESSOR).is_file():
        return _read_processor(folder / PROCESSOR)
    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as err:
        if is_local:
            raise ValueError(f"The {PREPROCESSOR} of {name!r} can't be used ({_reason(err)}).") from None
        if "does not appear to have a file named" in str(err):
            return None
        raise OSError(_unreachable(name, err)) from None
    settings: dict[str, Any] = processor.to_dict()
    return settings


def _read_processor(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        settings: dict[str, Any] | None = json.loads(path.read_text("utf8")).get("image_processor")
    except (ValueError, AttributeError) as err:
        raise ValueError(f"{str(path)!r} can't be read ({_reason(err)}).") from None
    return settings


def _make_default(config: dict[str, Any]) -> dict[str, Any]:
    size = config.get("image_size", 224)
    if not isinstance(size, int):
        size = max(size)
    return {
        "crop_size": size,
        "resize_size": int(size / IMAGENET_CROP),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "interpolation": "bilinear",
    }


def _to_preset(settings: dict[str, Any]) -> dict[str, Any]:
    """Translate transformers' preprocessing into plain numbers.

    settings (Dict[str, Any]): Of the image processor.
    RETURNS (Dict[str, Any]): See `picture_transform.PictureTransform`.
    RAISES (ValueError): It can't be expressed.
    """
    size = _as_dict(settings["size"])
    if "shortest_edge" in size and "longest_edge" not in size:
        resize_size, exact = int(size["shortest_edge"]), False
    elif {"height", "width"} <= set(size):
        resize_size, exact = _square_side("size", size), True
    else:
        raise ValueError(f"size is {size}")
    crop_size = resize_size
    if settings.get("do_center_crop"):
        crop_size = _square_side("crop_size", _as_dict(settings["crop_size"]))
    elif settings.get("crop_pct") and not exact:
        if resize_size < CONVNEXT_CROPPED_BELOW:
            resize_size = int(resize_size / settings["crop_pct"])
        else:
            exact = True
    # Ours are scaled to 0 to 1 before they are normalized.
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if settings.get("do_normalize", True):
        mean, std = _three(settings["image_mean"]), _three(settings["image_std"])
    scale = float(factor) * 255
    preset: dict[str, Any] = {
        "crop_size": crop_size,
        "resize_size": resize_size,
        "mean": [value / scale for value in mean],
        "std": [value / scale for value in std],
        "interpolation": PIL.Image.Resampling(int(settings["resample"])).name.lower(),
    }
    if exact:
        preset["resize"] = "exact"
    return preset


def _as_dict(size: Any) -> dict[str, Any]:
    if is_dataclass(size) and not isinstance(size, type):
        size = asdict(size)
    if isinstance(size, int):
        size = {"height": size, "width": size}
    return {key: value for key, value in dict(size).items() if value is not None}


def _square_side(what: str, size: dict[str, Any]) -> int:
    if size["height"] != size["width"]:
        raise ValueError(f"{what} is {size['height']} x {size['width']}, not a square")
    return int(size["height"])


def _three(values: Any) -> list[float]:
    values = [values] * 3 if isinstance(values, (int, float)) else values
    return [float(value) for value in values]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    # It reports in many lines that the text part of CLIP is left out, and more that is meant so. What
    # matters is checked here.
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _reason(err: Exception) -> str:
    if "trust_remote_code" in str(err):
        return "it needs Python code that comes with the model, which is never run here"
    return " ".join(f"{type(err).__name__}: {err}".split())[:200]


def _unreachable(name: str, err: Exception) -> str:
    return (
        f"The model {name!r} is neither on this machine nor could it be downloaded ({_reason(err)}). Put its "
        f"files {CONFIG}, {PREPROCESSOR} and {WEIGHTS} from https://huggingface.co/{name} into a folder and "
        "set 'name' to the path of that folder."
    )
