"""Pictures of posts to vectors: the Thinc layer that all families of networks for pictures are in."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d
from torch import nn

from ..bridge.data import PictureVectors
from ..bridge.shim import get_module, set_module, wrap_module
from ..images.errors import ImageError
from ..images.reader import PictureReader
from ..post.extensions import ENCODER_ERROR_KEY, get_regions, set_encoder_error, set_found_regions
from ..post.regions import FoundRegions
from ..regions.base import RegionGetter, as_getter, get_region_getters
from ..regions.simple import GivenRegions
from ..util import warn
from .picture_queue import (
    FOLLOWING,
    LAYER,
    QUEUE,
    At,
    EncoderSettings,
    PictureQueue,
    Problem,
    Request,
    Unit,
    read_ahead,
)

get_region_getters()  # configs with @region_getters are resolved from here

ImageEncoder: TypeAlias = Model[list[Doc], list[Floats2d]]


def build_encoder(
    network_class: type[nn.Module],
    load: Callable[..., nn.Module],
    own: dict[str, Any],
    *,
    trainable: bool,
    rows: str,
    grid_size: int,
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
    """Build an encoder from a family of networks (`network_class`), with the settings that
    `build_torchvision_encoder_v1` explains.

    load (Callable[..., VisionBackbone]): Makes one from `own`, `image_size` and the settings of
        `VisionBackbone`.
    own (Dict[str, Any]): The family's own settings, the first of which names the network.
    """
    numbers = {"image_size": image_size, "grid_size": grid_size, "pyramid_size": pyramid_size, **others}
    for setting in ("batch_size", "image_size", "grid_size", "pyramid_size", "max_pictures", "max_regions"):
        least = 0 if setting == "max_regions" else 1
        if numbers[setting] is not None and numbers[setting] < least:
            raise ValueError(f"{setting} has to be at least {least}, not {numbers[setting]}.")
    is_whole = rows in ("patches", "grid")
    if is_whole and get_regions is not None:
        raise ValueError(f'With rows = "{rows}" no objects are encoded: set get_regions = null.')
    if rows not in ("auto", "regions") and region_features == "roi":
        raise ValueError(f'region_features = "roi" is for rows = "auto" or "regions", not "{rows}".')
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
    load = partial(load, **own, image_size=image_size, **runtime_settings)
    if rows == "auto":  # also what is filled in for pipelines of version 0.1: what they were saved with holds
        del runtime_settings["rows"]
    network = wrap_module(network_class, _convert_inputs, _convert_outputs, runtime_settings=runtime_settings)
    network.shims[0].use_autocast(autocast if trainable else None, settings.mixed_precision)
    network.name = settings.name
    return Model(
        LAYER,
        forward,
        init=partial(_init, load=load),
        layers=[network],
        dims={"nO": None},
        attrs={QUEUE: PictureQueue(settings)},
    )


def _init(model: ImageEncoder, X: Any = None, Y: Any = None, *, load: Callable[[], Any]) -> None:
    """Build the network and read its weights: only here, since a saved pipeline brings its own."""
    settings, network = model.attrs[QUEUE].settings, load()
    if settings.random and not settings.trainable:
        warn(
            f"img2vec ({settings.name}) has random weights and is frozen, so it can tell little about a "
            "picture. Set 'weights' to the name of published ones or to a local file, or 'trainable' to true."
        )
    set_module(model.layers[0], network)
    model.set_dim("nO", network.width, force=True)


def forward(
    model: ImageEncoder, docs: Sequence[Doc], is_train: bool
) -> tuple[PictureVectors, Callable[[list[Floats2d]], list[Doc]]]:
    """Encode the pictures of a batch of posts: of each the rows that the setting `rows` asks for, row 0 the
    whole picture, then those of further pictures; none for a post without a (readable) picture. With a frozen
    network, which no gradient reaches, equal pictures with equal objects are encoded once, and not at all if
    the cache has their vectors. In training the objects that a region getter finds are attached to the docs,
    in prediction `set_annotations` does that.
    """
    queue: PictureQueue = model.attrs[QUEUE]
    settings, network, xp = queue.settings, model.layers[0], model.ops.xp
    module = get_module(network)
    learns = is_train and settings.trainable
    own = queue.ask(docs, module)
    requests = dict(own)  # of which equal ones become one
    for following in [doc.user_hooks[FOLLOWING] for doc in docs if FOLLOWING in doc.user_hooks]:
        read_ahead([model], following())
    statistics = {name: x.clone() for name, x in module.named_buffers()} if learns else {}

    # Frozen: pictures are prepared only as the network gets to them, batch_size at a time. Training needs
    # all of them until its one backward pass.
    units = queue.read(docs, requests)
    asked: Counter[At] = Counter()  # rows of the network, by picture
    none = model.ops.alloc2f(0, model.get_dim("nO"))
    features: list[torch.Tensor] = []
    backprop_network: Callable[[Floats2d], Any] | None = None
    while batch := list(islice(units, None if learns else settings.batch_size)):
        for at, unit in batch:
            asked[at] += unit.n_rows + len(unit.boxes)
        rows, backprop_network = network(([unit for _, unit in batch], settings), learns)
        features.append(xp2torch(rows))  # CuPy would compile kernels for what follows
    places: list[int] = []  # of the rows of the first picture among all, then those of the next
    for at, n in asked.items():
        of_parts = numpy.arange(len(places), len(places) + n).reshape(len(requests[at].order), -1)
        places += of_parts[requests[at].order].ravel().tolist()
    encoded = [requests[at] for at in asked]
    all_rows = torch.cat(features)[places] if encoded else torch.zeros(0)
    of_pictures = all_rows.split([*asked.values()]) if encoded else ()
    for request, rows in zip(encoded, of_pictures):
        request.vectors = torch2xp(rows)
    if not learns and not bool(all_rows.isfinite().all()):
        for request, rows in zip(encoded, of_pictures):
            if not bool(rows.isfinite().all()):
                request.vectors = none
                request.problems.append(Problem("the network gives no finite numbers for it", "not_finite"))
    if encoded and settings.cache is not None:
        queue.put_in_cache(encoded, model.ops.to_numpy)

    result = PictureVectors([none] * len(docs), [None] * len(docs))
    posts: dict[int, list[tuple[Request, Request]]] = {}  # what was asked for, and the same or an equal one
    for at, request in requests.items():
        posts.setdefault(at[0], []).append((own[at], request))
    for i, pictures in posts.items():
        start = 0
        for mine, _ in pictures:  # what is found is numbered on from picture to picture
            mine.numbers = mine.numbers or range(start, start + len(mine.regions or ()))
            start += len(mine.numbers)
        found = pictures[0][0].found if len(pictures) == 1 else _join_found([mine for mine, _ in pictures])
        if is_train:
            set_found_regions(docs[i], found)
        else:
            result.found[i] = found
        vectors = [model.ops.asarray2f(x.vectors) for _, x in pictures if x.vectors is not None]
        if vectors:
            result[i] = vectors[0] if len(vectors) == 1 else xp.concatenate(vectors)
        result.rows[i] = _get_rows(docs[i], settings.get_regions, pictures)
        if ENCODER_ERROR_KEY in docs[i].user_data or any(x.misplaced or y.problems for x, y in pictures):
            _report(settings.on_image_error, docs[i], pictures, used=len(result[i]) > 0)

    def backprop(d_vectors: list[Floats2d]) -> list[Doc]:
        if learns and backprop_network is not None:
            ordered = sorted(asked)
            d_posts = torch.cat([xp2torch(d_vectors[i]) for i in dict(ordered)]).to(all_rows.dtype)
            if bool(d_posts.any()):
                d_pictures = dict(zip(ordered, d_posts.split([asked[at] for at in ordered])))
                d_rows = torch.zeros_like(all_rows)
                d_rows[places] = torch.cat([d_pictures[at] for at in asked])
                backprop_network(torch2xp(d_rows))
            else:  # a batch that teaches nothing teaches BatchNorm nothing either
                with torch.no_grad():
                    for name, buffer in module.named_buffers():
                        buffer.copy_(statistics[name])
        return []

    return result, backprop


def _join_found(pictures: list[Request]) -> FoundRegions | None:
    """What was found in all pictures of a post. It is searched for again if one of them couldn't be read."""
    some = [picture.found for picture in pictures if picture.found is not None]
    if not some:
        return None
    source = some[0].source if len(some) == len(pictures) else None
    return FoundRegions([region for found in some for region in found.regions], source, some[0].note)


def _get_rows(doc: Doc, getter: RegionGetter, pictures: list[tuple[Request, Request]]) -> list[int] | None:
    """What a post's rows stand for, see `PictureVectors`; `None` if the objects aren't those of the doc."""
    rows: list[int] = []
    for asked, request in pictures:
        used, n_rows = request.used, 0 if request.vectors is None else len(request.vectors)
        known = getter.of_doc or getter.writes or not used
        if not known and (asked.n_pictures > 1 or used != get_regions(doc)[: len(used)]):
            return None
        failed = {problem.region for problem in request.problems}
        numbers = [0, *(asked.numbers[i] + 1 for i in range(len(used)) if i not in failed)]
        if n_rows % len(numbers):
            return None
        rows += [number for number in numbers for _ in range(n_rows // len(numbers))]
    return rows


def _report(policy: str, doc: Doc, pictures: list[tuple[Request, Request]], *, used: bool) -> None:
    said: list[str] = []
    kinds: list[str] = []
    for asked, request in pictures:
        many = f"picture {asked.number + 1} of {asked.n_pictures}: " if asked.n_pictures > 1 else ""
        said += [problem.text for problem in asked.misplaced]
        for text, _, region in request.problems:
            said.append(many + (text if region is None else f"region {asked.numbers[region]}: {text}"))
        kinds += [problem.kind for problem in (*asked.misplaced, *request.problems)]
    texts = "; ".join(said)
    set_encoder_error(doc, texts or None, kinds)
    if said:
        text = doc.text if len(doc.text) <= 60 else doc.text[:57] + "..."
        message = f"picture of post {text!r}: {texts}"
        if policy == "raise":
            raise ImageError(message)
        what = "some of its objects are left out" if used else "the post is processed from its text"
        if used and len(pictures) > 1:
            what = "what is left of its pictures and objects is used"
        warn(f"{message} ({what}; the reason is at doc._.image_error)")


def _convert_inputs(
    model: Model[Any, Any], X: tuple[list[Unit], EncoderSettings], is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], None]]:
    units, settings = X
    pictures = torch.stack([unit.picture for unit in units])
    boxes = [unit.boxes for unit in units] if settings.mode == "roi" else None
    n_rows = [unit.n_rows for unit in units]
    return ArgsKwargs((pictures, settings.batch_size, boxes, n_rows), {}), lambda d_inputs: None


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[Any, torch.Tensor], is_train: bool
) -> tuple[Floats2d, Callable[[Floats2d], ArgsKwargs]]:
    _, features = inputs_outputs

    def backprop(d_features: Floats2d) -> ArgsKwargs:
        d_tensor = xp2torch(d_features).contiguous()
        return ArgsKwargs(args=([features],), kwargs={"grad_tensors": [d_tensor]})

    return torch2xp(features.detach()), backprop
