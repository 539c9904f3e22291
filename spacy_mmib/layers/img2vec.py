"""Pictures of posts to vectors, with a torchvision network, as a Thinc layer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy
import torch
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d

from ..extensions import get_regions, get_stored_image, set_encoder_error
from ..images.reading import ImageError
from ..regions.loading import load_pictures
from ..torch_modules.backbone import Backbone
from ..torch_modules.vision import models
from ..util import warn
from .picture_transform import PictureTransform, make_preset
from .torch_shim import get_module, set_module, wrap_module

OnImageError: TypeAlias = Literal["warn", "raise"]


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of the layer; see `architectures.img2vec.build_torchvision_encoder_v1`. Not attributes of
    the Thinc model: those are restored from a saved model, over what the config says.
    """

    arch: str
    weights: str | None
    trainable: bool
    image_size: int | None
    max_regions: int | None
    batch_size: int
    on_image_error: OnImageError
    mixed_precision: bool


def TorchvisionLayer(settings: EncoderSettings) -> Model[list[Doc], list[Floats2d]]:
    """RETURNS (Model[List[Doc], List[Floats2d]]): A row a region, row 0 the whole picture, no rows for a post
    without one.
    """
    backbone = wrap_module(
        _convert_inputs,
        _convert_outputs,
        mixed_precision=settings.mixed_precision,
        runtime_settings={"trainable": settings.trainable},
    )
    backbone.name = settings.arch
    return Model(
        "torchvision_encoder",
        partial(forward, settings=settings),
        init=partial(init, settings=settings),
        layers=[backbone],
        dims={"nO": None},
    )


def init(
    model: Model[list[Doc], list[Floats2d]],
    X: list[Doc] | None = None,
    Y: Any = None,
    *,
    settings: EncoderSettings,
) -> None:
    """Build the network and read its weights. This is the only place where weights are looked for: a
    saved pipeline brings its own.
    """
    arch, weights = settings.arch, settings.weights
    by_name = weights is not None and _is_weights_name(arch, weights)
    preset = make_preset(arch, weights if by_name else None, settings.image_size)
    backbone = Backbone(arch=arch, preset=preset, trainable=settings.trainable)
    if weights is None:
        if not settings.trainable:
            warn(
                f"img2vec ({arch}) has random weights and is frozen, so it can tell little about a picture. "
                "Set 'weights' to one of torchvision's names (e.g. \"IMAGENET1K_V1\") or to a local state "
                "dict, or 'trainable' to true."
            )
    elif by_name:
        backbone.load_classifier_state(_download_weights(arch, weights))
    else:
        backbone.load_classifier_state(_read_weights(arch, Path(weights)))
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
    model: Model[list[Doc], list[Floats2d]],
    docs: Sequence[Doc],
    is_train: bool,
    *,
    settings: EncoderSettings,
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    """Encode the pictures of a batch of posts.

    RETURNS (Tuple): A row a region, row 0 the whole picture; no rows for a post without a (readable)
        picture. And the callback for the gradient, which reaches the network only if it is trainable.
    """
    backbone = model.layers[0]
    train_network = is_train and settings.trainable
    counts = [0] * len(docs)
    tensors = _prepare(get_module(backbone), docs, counts, settings)
    rows: list[Floats2d] = []
    backprop_network: Callable[[Floats2d], Any] | None = None
    # Frozen: pictures are prepared only as the network gets to them, batch_size at a time. Training needs
    # all of them until its one backward pass (each pass of the shim unscales all gradients, so that a
    # second one would spoil those of the first in mixed precision).
    at_once = None if train_network else settings.batch_size
    while batch := list(islice(tensors, at_once)):
        features, backprop_network = backbone(
            (torch.stack(batch), settings.batch_size), train_network
        )
        rows.append(features)
    width = model.get_dim("nO")
    all_rows = model.ops.xp.concatenate(rows) if rows else model.ops.alloc2f(0, width)
    ends = numpy.cumsum(counts)
    vectors = [all_rows[end - count : end] for end, count in zip(ends, counts)]

    def backprop(d_vectors: list[Floats2d]) -> list[Doc]:
        if train_network and backprop_network is not None:
            backprop_network(model.ops.xp.concatenate([d for d in d_vectors if len(d)]))
        return []

    return vectors, backprop


def _prepare(
    module: torch.nn.Module, docs: Sequence[Doc], counts: list[int], settings: EncoderSettings
) -> Iterator[torch.Tensor]:
    """YIELDS (torch.Tensor): Prepared pictures, post by post; `counts` is filled on the way."""
    transform: PictureTransform | None = None
    for i, doc in enumerate(docs):
        image = get_stored_image(doc)
        if image is None:
            continue
        if transform is None:
            assert isinstance(module, Backbone)
            transform = PictureTransform(module.settings["preset"])
        problems: list[str] = []
        try:
            regions = get_regions(doc)
        except TypeError as err:  # regions that never went through the setter
            regions, problems = [], [str(err)]
        for picture in load_pictures(image, regions, settings.max_regions, problems=problems):
            yield transform(picture)
            counts[i] += 1
        set_encoder_error(doc, "; ".join(problems) or None)
        if problems:
            _report(settings.on_image_error, doc, problems, used=counts[i] > 0)


def _report(policy: OnImageError, doc: Doc, problems: list[str], *, used: bool) -> None:
    text = doc.text if len(doc.text) <= 60 else doc.text[:57] + "..."
    message = f"picture of post {text!r}: " + "; ".join(problems)
    if policy == "raise":
        raise ImageError(message)
    what = "some of its objects are left out" if used else "the post is processed from its text"
    warn(f"{message} ({what}; the reason is at doc._.image_error)")


def _convert_inputs(
    model: Model[Any, Any], X: tuple[torch.Tensor, int], is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], None]]:
    pictures, at_once = X
    parameter = next(get_module(model).parameters(), None)
    device = pictures.device if parameter is None else parameter.device
    return ArgsKwargs(args=(pictures.to(device), at_once), kwargs={}), lambda d_inputs: None


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[Any, torch.Tensor], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], ArgsKwargs]]:
    _, features = inputs_outputs

    def backprop(d_features: Floats2d) -> ArgsKwargs:
        return ArgsKwargs(
            args=([features],), kwargs={"grad_tensors": [xp2torch(d_features).contiguous()]}
        )

    return torch2xp(features.detach()), backprop
