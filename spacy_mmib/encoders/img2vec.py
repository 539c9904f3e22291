"""Pictures of posts to vectors, as a Thinc layer around a network for pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy
import torch
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d
from torch import nn

from ..bridge.picture_vectors import PictureVectors
from ..bridge.shim import get_module, set_module, wrap_module
from ..images.errors import ImageError
from ..post.extensions import ENCODER_ERROR_KEY, get_regions, set_encoder_error
from ..util import warn
from .encoder_settings import FOLLOWING, LAYER, QUEUE, EncoderSettings, OnImageError, read_ahead
from .picture_queue import PictureQueue, Problem, Request, Unit


def PictureEncoderLayer(
    settings: EncoderSettings,
    network_class: Callable[..., nn.Module],
    build: Callable[[], nn.Module],
    runtime_settings: dict[str, Any],
) -> Model[list[Doc], list[Floats2d]]:
    """Make the layer.

    settings (EncoderSettings): What all picture encoders share.
    network_class (Callable[..., nn.Module]): The class of the network.
    build (Callable[[], nn.Module]): Builds the network with its weights, on initialization: this is the only
        place where weights are looked for, a saved pipeline brings its own.
    runtime_settings (Dict[str, Any]): See `wrap_module`.
    RETURNS (Model[List[Doc], List[Floats2d]]): A row a region, row 0 the whole picture, no rows for a post
        without one; as `PictureVectors`.
    """
    network = wrap_module(network_class, _convert_inputs, _convert_outputs, runtime_settings=runtime_settings)
    if settings.mixed_precision:
        network.shims[0].use_mixed_precision()
    network.name = settings.name
    return Model(
        LAYER,
        forward,
        init=partial(init, build=build),
        layers=[network],
        dims={"nO": None},
        attrs={QUEUE: PictureQueue(settings)},
    )


def init(
    model: Model[list[Doc], list[Floats2d]],
    X: list[Doc] | None = None,
    Y: Any = None,
    *,
    build: Callable[[], nn.Module],
) -> None:
    """Build the network and read its weights."""
    network: Any = build()
    set_module(model.layers[0], network)
    model.set_dim("nO", network.width, force=True)


@dataclass
class NetworkInput:
    """What goes through the network.

    units (List[Unit]): At least one.
    mode (str): See `EncoderSettings`.
    at_once (int): Pictures in one forward.
    """

    units: list[Unit]
    mode: str
    at_once: int


def forward(
    model: Model[list[Doc], list[Floats2d]], docs: Sequence[Doc], is_train: bool
) -> tuple[PictureVectors, Callable[[list[Floats2d]], list[Doc]]]:
    """Encode the pictures of a batch of posts. With a frozen network equal pictures with equal objects are
    encoded once, and not at all if the cache has their vectors.

    RETURNS (Tuple): A row a region, row 0 the whole picture; no rows for a post without a (readable)
        picture. And the callback for the gradient, which reaches the network only if it is trainable.
    """
    queue: PictureQueue = model.attrs[QUEUE]
    settings, network = queue.settings, model.layers[0]
    train_network = is_train and settings.trainable
    module = get_module(network)
    if module is not queue.network:
        queue.set_network(module)
    requests = queue.ask(docs)
    for following in [doc.user_hooks[FOLLOWING] for doc in docs if FOLLOWING in doc.user_hooks]:
        read_ahead([model], following())
    statistics = {name: x.clone() for name, x in module.named_buffers()} if train_network else {}

    # Frozen: pictures are prepared only as the network gets to them, batch_size at a time. Training needs
    # all of them until its one backward pass (each pass of the shim unscales all gradients, so that a
    # second one would spoil those of the first in mixed precision).
    read: list[tuple[int, Request, int]] = []
    units = _get_units(queue.read(docs, requests), read)
    features: list[Floats2d] = []
    backprop_network: Callable[[Floats2d], Any] | None = None
    while batch := list(islice(units, None if train_network else settings.batch_size)):
        rows, backprop_network = network(
            NetworkInput(batch, settings.mode, settings.batch_size), train_network
        )
        features.append(rows)
    none = model.ops.alloc2f(0, model.get_dim("nO"))
    all_rows = model.ops.xp.concatenate(features) if features else none
    where = _find_rows(read, len(all_rows))
    for i, request, _ in read:
        request.vectors = all_rows[where[i]]
    if not train_network and not bool(model.ops.xp.isfinite(all_rows).all()):
        _drop_not_finite(model, [request for _, request, _ in read])
    if settings.cache is not None and not settings.trainable:
        _put_in_cache(model, queue, [request for _, request, _ in read])

    result = PictureVectors([none] * len(docs), [None] * len(docs))
    for i, request in requests.items():
        if request.vectors is not None:
            result[i] = model.ops.asarray2f(request.vectors)
        if not is_train:
            result.rows[i] = _get_rows(docs[i], queue, request, len(result[i]))
        if request.problems or ENCODER_ERROR_KEY in docs[i].user_data:
            texts = "; ".join(problem.text for problem in request.problems)
            set_encoder_error(docs[i], texts or None, [problem.kind for problem in request.problems])
        if request.problems:
            _report(settings.on_image_error, docs[i], texts, used=len(result[i]) > 0)

    def backprop(d_vectors: list[Floats2d]) -> list[Doc]:
        if backprop_network is not None and train_network:
            if any(d.any() for d in d_vectors):
                d_rows = model.ops.xp.zeros_like(all_rows)
                for i, place in where.items():
                    d_rows[place] = d_vectors[i]
                backprop_network(d_rows)
            else:  # a batch that teaches nothing teaches BatchNorm nothing either
                with torch.no_grad():
                    for name, buffer in module.named_buffers():
                        buffer.copy_(statistics[name])
        return []

    return result, backprop


def _get_units(
    requests: Iterator[tuple[int, Request]], read: list[tuple[int, Request, int]]
) -> Iterator[Unit]:
    """YIELDS (Unit): Those of all requests, which are noted with the number of their rows as the network
    gets to them. Units are handed on, not kept: their pixels are needed only once.
    """
    for i, request in requests:
        units, request.units = request.units, []
        read.append((i, request, sum(1 + len(unit.boxes) for unit in units)))
        yield from units


def _find_rows(read: list[tuple[int, Request, int]], n_rows: int) -> dict[int, Any]:
    """RETURNS (Dict[int, Union[slice, List[int]]]): Of each post that was read, where its rows are among all
    of them, of which the network may give several for each that was asked for.
    """
    asked = sum(n for _, _, n in read)
    each = n_rows // max(1, asked)
    result: dict[int, Any] = {}
    start = 0
    for i, request, n in read:
        result[i] = slice(start, start + n * each)
        if request.order is not None:
            own = numpy.arange(start, start + n * each).reshape(n, each)
            result[i] = own[request.order].ravel().tolist()
        start += n * each
    return result


def _get_rows(doc: Doc, queue: PictureQueue, request: Request, n_rows: int) -> list[int] | None:
    """RETURNS (Optional[List[int]]): See `PictureVectors`; `None` if the objects aren't those of the doc."""
    getter, used = queue.settings.get_regions, request.used
    if used and not (getter.of_doc or getter.writes) and used != get_regions(doc)[: len(used)]:
        return None
    failed = {problem.region for problem in request.problems}
    numbers = [0, *(i + 1 for i in range(len(used)) if i not in failed)]
    if n_rows % len(numbers):
        return None
    return [number for number in numbers for _ in range(n_rows // len(numbers))]


def _drop_not_finite(model: Model[Any, Any], requests: list[Request]) -> None:
    for request in requests:
        if not bool(model.ops.xp.isfinite(request.vectors).all()):
            request.vectors = request.vectors[:0]
            request.problems.append(Problem("the network gives no finite numbers for it", "not_finite"))


def _put_in_cache(model: Model[Any, Any], queue: PictureQueue, requests: list[Request]) -> None:
    cache, fresh = queue.settings.cache, {}
    for request in requests:
        # What had a problem is looked at again next time: somebody may have repaired it.
        if request.cache_key is not None and not request.problems:
            rows = model.ops.to_numpy(request.vectors)
            # The same numbers on this first pass as on every later one.
            request.vectors = cache.round(rows)
            if queue.is_unchanged(request):
                fresh[request.cache_key] = rows
    if fresh:
        cache.put_vectors(fresh)


def _report(policy: OnImageError, doc: Doc, problems: str, *, used: bool) -> None:
    text = doc.text if len(doc.text) <= 60 else doc.text[:57] + "..."
    message = f"picture of post {text!r}: {problems}"
    if policy == "raise":
        raise ImageError(message)
    what = "some of its objects are left out" if used else "the post is processed from its text"
    warn(f"{message} ({what}; the reason is at doc._.image_error)")


def _convert_inputs(
    model: Model[Any, Any], X: NetworkInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], None]]:
    module: Any = get_module(model)
    pictures = torch.stack([unit.picture for unit in X.units])
    parameter = next(module.parameters(), None)
    if parameter is not None:
        pictures = pictures.to(parameter.device)
    kwargs: dict[str, Any] = {"at_once": X.at_once}
    if X.mode == "roi":
        kwargs["boxes"] = [unit.boxes for unit in X.units]
    return ArgsKwargs(args=(pictures,), kwargs=kwargs), lambda d_inputs: None


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[Any, torch.Tensor], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], ArgsKwargs]]:
    _, features = inputs_outputs

    def backprop(d_features: Floats2d) -> ArgsKwargs:
        d_tensor = xp2torch(d_features).reshape(features.shape).contiguous()
        return ArgsKwargs(args=([features],), kwargs={"grad_tensors": [d_tensor]})

    rows = features.detach().reshape(-1, features.shape[-1])
    return torch2xp(rows), backprop
