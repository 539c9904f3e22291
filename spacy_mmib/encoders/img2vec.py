"""Pictures of posts to vectors, as a Thinc layer around a network for pictures."""

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import srsly
import torch
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d
from torch import nn

from ..bridge.picture_vectors import set_region_rows
from ..bridge.shim import get_module, set_module, wrap_module
from ..images.reading import ImageError
from ..post.extensions import get_regions, set_encoder_error
from ..post.regions import Region
from ..regions.loading import Problem
from ..util import warn
from .encoder_settings import EncoderSettings, OnImageError
from .picture_plans import Plan, Planner
from .prefetch import READS_AHEAD, get_planner, note_use, set_planner
from .prepared import Prepared, Unit

READING = 2
"""Raised when the same file is read as other pixels than before: no cache has vectors of those then."""

NOT_IDENTITY = ("trainable", "memory_format", "rois")
"""Settings of a network that don't change what a frozen one computes."""


def PictureEncoderLayer(
    settings: EncoderSettings,
    network_class: Callable[..., nn.Module],
    build: Callable[[], nn.Module],
    runtime_settings: dict[str, Any],
) -> Model[list[Doc], list[Floats2d]]:
    """Make the layer.

    settings (EncoderSettings): See there.
    network_class (Callable[..., nn.Module]): The class of the network.
    build (Callable[[], nn.Module]): Builds the network with its weights, on initialization: this is the only
        place where weights are looked for, a saved pipeline brings its own.
    runtime_settings (Dict[str, Any]): See `wrap_module`.
    RETURNS (Model[List[Doc], List[Floats2d]]): A row a region, row 0 the whole picture, no rows for a post
        without one.
    """
    network = wrap_module(network_class, _convert_inputs, _convert_outputs, runtime_settings=runtime_settings)
    if settings.mixed_precision:
        network.shims[0].use_mixed_precision()
    network.name = settings.name
    return Model(
        READS_AHEAD,
        partial(forward, settings=settings),
        init=partial(init, build=build),
        layers=[network],
        dims={"nO": None},
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
    model: Model[list[Doc], list[Floats2d]],
    docs: Sequence[Doc],
    is_train: bool,
    *,
    settings: EncoderSettings,
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], list[Doc]]]:
    """Encode the pictures of a batch of posts. With a frozen network equal pictures with equal objects are
    encoded once, and not at all if the cache has their vectors.

    RETURNS (Tuple): A row a region, row 0 the whole picture; no rows for a post without a (readable)
        picture. And the callback for the gradient, which reaches the network only if it is trainable.
    """
    network = model.layers[0]
    train_network = is_train and settings.trainable
    width = model.get_dim("nO")
    none = model.ops.alloc2f(0, width)
    module: Any = get_module(network)
    statistics = _copy_statistics(module) if train_network else {}
    planner = get_planner(module)
    if planner is None:
        # A proxy: the planner lives as long as the network does, not the other way round.
        identity = partial(get_identity, weakref.proxy(module), settings)
        planner = Planner(settings, module.settings["preset"], identity)
        planner = set_planner(module, planner)  # another thread may have been faster
    note_use(module, docs)
    plans = planner.plan(docs)
    read = _Reading(planner.read(docs, plans))
    rows: list[Floats2d] = []
    backprop_network: Callable[[Floats2d], Any] | None = None
    # Frozen: pictures are prepared only as the network gets to them, batch_size at a time. Training needs
    # all of them until its one backward pass (each pass of the shim unscales all gradients, so that a
    # second one would spoil those of the first in mixed precision).
    at_once = None if train_network else settings.batch_size
    units = iter(read)
    while batch := list(islice(units, at_once)):
        features, backprop_network = network(
            NetworkInput(batch, settings.mode, settings.batch_size), train_network
        )
        rows.append(features)
    all_rows = model.ops.xp.concatenate(rows) if rows else none
    found = read.distribute(all_rows, len(all_rows) // max(1, read.n_rows))
    if not train_network:
        _drop_not_finite(model, found)
    if settings.cache is not None and not settings.trainable:
        _put_in_cache(model, found, planner, settings.cache)
    vectors: list[Floats2d] = [none] * len(docs)
    for i, plan in plans.items():
        problems = list(plan.problems)
        if plan.vectors is not None:
            vectors[i] = model.ops.asarray2f(plan.vectors)
        else:
            encoded = found[id(plan.same_as or plan)]
            vectors[i] = encoded.rows
            problems += encoded.prepared.problems
        kinds = [problem.kind for problem in problems if isinstance(problem, Problem)]
        set_encoder_error(docs[i], "; ".join(problems) or None, kinds)
        if not is_train:
            used = planner.get_used(plan.regions or [])
            rows_of = _get_rows(docs[i], used, problems, len(vectors[i]), module.rows_per_picture)
            set_region_rows(docs[i], rows_of)
        if problems:
            _report(settings.on_image_error, docs[i], problems, used=len(vectors[i]) > 0)

    def backprop(d_vectors: list[Floats2d]) -> list[Doc]:
        if train_network and backprop_network is not None:
            if any(d.any() for d in d_vectors):
                backprop_network(read.collect(model, all_rows, plans, d_vectors))
            else:  # a batch that teaches nothing teaches BatchNorm nothing either
                _restore_statistics(module, statistics)
        return []

    return vectors, backprop


def _copy_statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    """RETURNS (Dict[str, torch.Tensor]): What a pass in training changes at once: BatchNorm's statistics."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@torch.no_grad()
def _restore_statistics(module: nn.Module, statistics: dict[str, torch.Tensor]) -> None:
    for name, buffer in module.named_buffers():
        buffer.copy_(statistics[name])


def _get_rows(
    doc: Doc, used: Sequence[Region], problems: Sequence[str], n_rows: int, rows_per_picture: int
) -> list[int] | None:
    """RETURNS (Optional[List[int]]): See `set_region_rows`; `None` if the objects aren't those of the doc."""
    if not n_rows or (used and list(used) != get_regions(doc)[: len(used)]):
        return None
    failed = {problem.region for problem in problems if isinstance(problem, Problem)}
    rows = [0, *(i + 1 for i in range(len(used)) if i not in failed)]
    rows = [row for row in rows for _ in range(rows_per_picture)]
    return rows if len(rows) == n_rows else None


@dataclass
class _Encoded:
    """A picture that went through the network.

    plan (Plan): Of the first post with it.
    prepared (Prepared): What was read.
    rows (Floats2d): Its vectors.
    """

    plan: Plan
    prepared: Prepared
    rows: Any


class _Reading:
    """The units of pictures one after the other, remembering whose they are."""

    def __init__(self, pictures: Iterator[tuple[Plan, Prepared]]) -> None:
        self._pictures = pictures
        self._read: list[tuple[Plan, Prepared]] = []
        self.n_rows = 0

    def __iter__(self) -> Iterator[Unit]:
        for plan, prepared in self._pictures:
            self._read.append((plan, prepared))
            self.n_rows += _count_rows(prepared)
            # The units are handed on, not kept: their pixels are needed only once.
            units, prepared.units = prepared.units, [_Counted(unit) for unit in prepared.units]
            yield from units

    def distribute(self, rows: Floats2d, per_row: int) -> dict[int, _Encoded]:
        """RETURNS (Dict[int, _Encoded]): By the id of the plan."""
        encoded = {}
        start = 0
        for plan, prepared in self._read:
            end = start + _count_rows(prepared) * per_row
            own = rows[start:end]
            encoded[id(plan)] = _Encoded(
                plan, prepared, own if prepared.order is None else own[prepared.order]
            )
            start = end
        return encoded

    def collect(
        self,
        model: Model[Any, Any],
        rows: Floats2d,
        plans: dict[int, Plan],
        d_vectors: list[Floats2d],
    ) -> Floats2d:
        """The inverse, for gradients.

        RETURNS (Floats2d): In the order of the rows.
        """
        d_rows: Floats2d = model.ops.xp.zeros_like(rows)
        of_plan = {id(plan): i for i, plan in plans.items()}
        start = 0
        for plan, prepared in self._read:
            d_own = d_vectors[of_plan[id(plan)]]
            where = slice(start, start + len(d_own))
            if prepared.order is None:
                d_rows[where] = d_own
            else:
                d_rows[where][prepared.order] = d_own
            start += len(d_own)
        return d_rows


class _Counted(Unit):
    """A unit without its pixels."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(torch.empty(0), unit.boxes)


def _count_rows(prepared: Prepared) -> int:
    return sum(1 + len(unit.boxes) for unit in prepared.units)


def _drop_not_finite(model: Model[Any, Any], found: dict[int, _Encoded]) -> None:
    xp = model.ops.xp
    if all(bool(xp.isfinite(encoded.rows).all()) for encoded in found.values()):
        return
    for encoded in found.values():
        if not bool(xp.isfinite(encoded.rows).all()):
            encoded.rows = encoded.rows[:0]
            reason = "the network gives no finite numbers for it"
            encoded.prepared.problems.append(Problem(reason, "not_finite"))


def _put_in_cache(model: Model[Any, Any], found: dict[int, _Encoded], planner: Planner, cache: Any) -> None:
    fresh: dict[bytes, Any] = {}
    for encoded in found.values():
        # What had a problem is looked at again next time: somebody may have repaired it.
        if encoded.plan.cache_key is not None and not encoded.prepared.problems:
            rows = model.ops.to_numpy(encoded.rows)
            # The same numbers on this first pass as on every later one.
            encoded.rows = model.ops.asarray2f(cache.round(rows))
            if planner.is_unchanged(encoded.plan):
                fresh[encoded.plan.cache_key] = rows
    if fresh:
        cache.put_vectors(fresh)


def _report(policy: OnImageError, doc: Doc, problems: list[str], *, used: bool) -> None:
    text = doc.text if len(doc.text) <= 60 else doc.text[:57] + "..."
    message = f"picture of post {text!r}: " + "; ".join(problems)
    if policy == "raise":
        raise ImageError(message)
    what = "some of its objects are left out" if used else "the post is processed from its text"
    warn(f"{message} ({what}; the reason is at doc._.image_error)")


def get_identity(module: Any, settings: EncoderSettings) -> str:
    """Tell a frozen network from all others.

    module (nn.Module): The network.
    settings (EncoderSettings): The layer's.
    RETURNS (str): Equal for networks that compute the same: made of the class, the settings (the preset of
        the pictures among them), the mode, and all weights.
    """
    kept = {key: value for key, value in module.settings.items() if key not in NOT_IDENTITY}
    parts = [module.__class__.__name__, kept, settings.mode, READING]
    description = srsly.json_dumps(parts, sort_keys=True)
    digest = hashlib.blake2b(description.encode("utf8"), digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode("utf8"))
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


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
