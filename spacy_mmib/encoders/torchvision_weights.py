"""A torchvision network as picture encoder: its weights by name or from a file."""

from pathlib import Path
from typing import Any

import torch

from ..regions.vision import models
from ..util import warn
from .backbone import Backbone
from .picture_transform import make_preset


def load_backbone(arch: str, weights: str | None, *, image_size: int | None, **settings: Any) -> Backbone:
    """Build a network and read its weights. Called on initialization only: a saved pipeline brings its own.

    arch (str): torchvision's name of the network.
    weights (Optional[str]): torchvision's name of its weights, the path of a state dict, or `None`.
    image_size (Optional[int]): In pixels, instead of the preset's.
    settings (Any): Of `Backbone`.
    RETURNS (Backbone): The network.
    RAISES (OSError): Named weights are neither here nor can they be downloaded.
    RAISES (ValueError): The weights are none, or belong to another network.
    """
    by_name = weights is not None and _is_weights_name(arch, weights)
    preset = make_preset(arch, weights if by_name else None, image_size)
    backbone = Backbone(arch=arch, preset=preset, **settings)
    if weights is None:
        if not backbone.trainable:
            warn(
                f"img2vec ({arch}) has random weights and is frozen, so it can tell little about a picture. "
                "Set 'weights' to one of torchvision's names (e.g. \"IMAGENET1K_V1\") or to a local state "
                "dict, or 'trainable' to true."
            )
    elif by_name:
        backbone.load_classifier_state(_download_weights(arch, weights))
    else:
        backbone.load_classifier_state(_read_weights(arch, Path(weights)))
    return backbone


def _weights_names(arch: str) -> list[str]:
    if arch not in models.list_models(module=models):
        return []  # Backbone says what is wrong with the name
    return [entry.name for entry in models.get_model_weights(arch)] + ["DEFAULT"]


def _is_weights_name(arch: str, weights: str) -> bool:
    return weights in _weights_names(arch)


def _download_weights(arch: str, name: str) -> dict[str, Any]:
    entry = models.get_model_weights(arch)[name]
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Any] = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return state
    except Exception as err:
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        raise OSError(
            f"The weights {name} of {arch} are neither on this machine nor could they be downloaded "
            f"({reason}). Put the file {entry.url} at {file}, or set 'weights' to the path of any local "
            "state dict of this network, or to null to start from random weights."
        ) from err


def _read_weights(arch: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"weights = {str(path)!r} is neither a file nor one of torchvision's names for the weights of "
            f"{arch} ({', '.join(_weights_names(arch))}). A relative path is looked for in the folder the "
            f"command runs in ({Path.cwd()})."
        )
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:
        reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        raise ValueError(
            f"{path} can't be read as a state dict ({reason}). Save one with "
            "torch.save(model.state_dict(), path); files with anything else pickled in them are refused."
        ) from err
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict.")
    return state
