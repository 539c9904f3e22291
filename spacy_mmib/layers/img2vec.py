"""Pictures of posts to vectors, with a torchvision network, as a Thinc layer."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy
import PIL.Image
import torch
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d

from ..extensions import get_regions, get_stored_image, set_image_error
from ..images.loading import load_pictures
from ..images.reading import ImageError
from ..images.values import StoredImage
from ..torch_modules.backbone import Backbone
from ..torch_modules.vision import models
from ..util import warn
from .picture_transform import PictureTransform, make_preset
from .torch_shim import get_module, set_module, wrap_module

OnImageError: TypeAlias = Literal["warn", "raise"]


def TorchvisionLayer(
    *,
    arch: str,
    weights: str | Path | None,
    trainable: bool,
    image_size: int | None,
    max_regions: int | None,
    batch_size: int,
    on_image_error: OnImageError,
    mixed_precision: bool,
) -> Model[list[Doc], list[Floats2d]]:
    """Make the layer; see `architectures.img2vec.build_torchvision_encoder_v1` for the arguments."""
    backbone = wrap_module(_convert_inputs, _convert_outputs, mixed_precision=mixed_precision)
    backbone.name = arch
    return Model(
        "torchvision_encoder",
        forward,
        init=init,
        layers=[backbone],
        dims={"nO": None},
        attrs={
            "arch": arch,
            "weights": None if weights is None else os.fspath(weights),
            "trainable": trainable,
            "image_size": image_size,
            "max_regions": max_regions,
            "batch_size": batch_size,
            "on_image_error": on_image_error,
        },
    )


def init(
    model: Model[list[Doc], list[Floats2d]], X: list[Doc] | None = None, Y: Any = None
) -> None:
    """Build the network and read its weights. This is the only place where weights are looked for: a
    saved pipeline brings its own.
    """
    arch, weights = model.attrs["arch"], model.attrs["weights"]
    by_name = weights is not None and _is_weights_name(arch, weights)
    preset = make_preset(arch, weights if by_name else None, model.attrs["image_size"])
    backbone = Backbone(arch=arch, preset=preset, trainable=model.attrs["trainable"])
    if by_name:
        backbone.load_classifier_state(_download_weights(arch, weights))
    elif weights is not None:
        backbone.load_classifier_state(_read_weights(arch, Path(weights)))
    elif not model.attrs["trainable"]:
        warn(
            f"img2vec ({arch}) has random weights and is frozen, so it can tell little about a picture. Set "
            "'weights' to one of torchvision's names (e.g. \"IMAGENET1K_V1\") or to a local state dict, or "
            "'trainable' to true."
        )
    set_module(model.layers[0], backbone)
    model.set_dim("nO", backbone.width, force=True)


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
        state: dict[str, Any] = entry.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
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


def forward(
    model: Model[list[Doc], list[Floats2d]], docs: Sequence[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    """Encode the pictures of a batch of posts.

    RETURNS (Tuple): A row a region, row 0 the whole picture; no rows for a post without a (readable)
        picture. And the callback for the gradient, which reaches the network only if it is trainable.
    """
    backbone = model.layers[0]
    width = model.get_dim("nO")
    counts = [0] * len(docs)
    rows: list[Floats2d] = []
    callbacks: list[tuple[int, Callable[[Floats2d], Any]]] = []
    train_network = is_train and model.attrs["trainable"]
    tensors = _prepare(model, docs, counts)
    # Pictures are prepared only as the network gets to them: at most batch_size are held at a time.
    while batch := list(islice(tensors, model.attrs["batch_size"])):
        features, backprop_network = backbone(torch.stack(batch), train_network)
        rows.append(features)
        callbacks.append((len(batch), backprop_network))
    all_rows = model.ops.xp.concatenate(rows) if rows else model.ops.alloc2f(0, width)
    ends = numpy.cumsum(counts)
    vectors = [all_rows[end - count : end] for end, count in zip(ends, counts)]

    def backprop(d_vectors: list[Floats2d]) -> list[Doc]:
        if train_network and rows:
            d_rows = model.ops.xp.concatenate([d for d in d_vectors if len(d)])
            start = 0
            for count, callback in callbacks:
                callback(d_rows[start : start + count])
                start += count
        return []

    return vectors, backprop


def _prepare(
    model: Model[list[Doc], list[Floats2d]], docs: Sequence[Doc], counts: list[int]
) -> Iterator[torch.Tensor]:
    """YIELDS (torch.Tensor): Prepared pictures, post by post; `counts` is filled on the way."""
    transform: PictureTransform | None = None
    for i, doc in enumerate(docs):
        image = get_stored_image(doc)
        if image is None:
            continue
        if transform is None:
            module = get_module(model.layers[0])
            transform = PictureTransform(module.settings["preset"])  # type: ignore[arg-type, index]
        pictures, problems = _load(doc, image, model.attrs["max_regions"])
        set_image_error(doc, "; ".join(problems) or None)
        if problems:
            _report(model.attrs["on_image_error"], doc, problems, used=bool(pictures))
        counts[i] = len(pictures)
        yield from map(transform, pictures)


def _load(
    doc: Doc, image: StoredImage, max_regions: int | None
) -> tuple[list[PIL.Image.Image], list[str]]:
    try:
        return load_pictures(image, get_regions(doc), max_regions)
    except TypeError as err:  # regions that never went through the setter
        pictures, problems = load_pictures(image, [])
        return pictures, [*problems, str(err)]


def _report(policy: OnImageError, doc: Doc, problems: list[str], *, used: bool) -> None:
    text = doc.text if len(doc.text) <= 60 else doc.text[:57] + "..."
    message = f"picture of post {text!r}: " + "; ".join(problems)
    if policy == "raise":
        raise ImageError(message)
    what = "some of its objects are left out" if used else "the post is processed from its text"
    warn(f"{message} ({what}; the reason is at doc._.image_error)")


def _convert_inputs(
    model: Model[Any, Any], X: torch.Tensor, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], None]]:
    parameter = next(get_module(model).parameters(), None)
    device = X.device if parameter is None else parameter.device
    return ArgsKwargs(args=(X.to(device),), kwargs={}), lambda d_inputs: None


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[torch.Tensor, torch.Tensor], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], ArgsKwargs]]:
    _, features = inputs_outputs

    def backprop(d_features: Floats2d) -> ArgsKwargs:
        return ArgsKwargs(
            args=([features],), kwargs={"grad_tensors": [xp2torch(d_features).contiguous()]}
        )

    return torch2xp(features.detach()), backprop
