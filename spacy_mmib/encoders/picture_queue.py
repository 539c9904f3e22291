"""The queue in front of a picture encoder: which vectors are in the cache, which pictures are to be read, and
reading them, some of them ahead of the network. Free of torch and Pillow: components and batchers import it.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import srsly
from spacy.tokens import Doc
from thinc.api import Model

from ..cache.cache import make_key, round_array
from ..images.errors import ImageError, explain
from ..images.reader import Job, PictureReader, Postponed
from ..images.values import Pixels, StoredImage, image_key
from ..post.extensions import describe_regions, get_regions, get_regions_source, get_stored_images
from ..post.regions import FoundRegions, Region, clip_box, find_in_picture, normalize_regions, to_picture
from ..regions.base import RegionGetter

if TYPE_CHECKING:
    import torch

LAYER = "picture_encoder"
"""Name of the layers that are picture encoders."""

QUEUE = "queue"
"""Their attribute with the `PictureQueue`."""

FOLLOWING = "spacy_mmib_following"
"""Among the hooks of a doc in training (`Doc.user_hooks`): gives the docs of the batch after its own."""

READING = 2
"""Raised when the same file is read as other pixels than before: no cache has vectors of those then."""

REMEMBERED = 2**16  # pictures whose objects are known: each epoch of a training asks for them again
SEARCHED_AT_ONCE = 16  # pictures, which are in memory meanwhile


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of a picture encoder's layer; see `encoders.torchvision.build_torchvision_encoder_v1`. Not
    attributes of the Thinc model: those are restored from a saved model, over what the config says.
    """

    name: str  # in messages
    # The network runs on every object as a picture of its own; once a picture, and objects are cut out of its
    # feature map; once a picture, with a row a part of it.
    mode: Literal["crop", "roi", "patches"]
    trainable: bool
    max_pictures: int | None
    max_regions: int | None
    batch_size: int
    on_image_error: Literal["warn", "raise"]
    mixed_precision: bool
    get_regions: RegionGetter
    reader: PictureReader
    cache: Any  # a `FeatureCache`, or `None`
    random: bool  # whether the weights are, on initialization


At: TypeAlias = tuple[int, int]
"""A picture: which post of the batch, and which of the post's pictures."""


class Problem(NamedTuple):
    """Why a picture, or one of its objects (`region`, from 0), was not used; `kind` as of an `ImageError`."""

    text: str
    kind: str
    region: int | None = None


class Unit(NamedTuple):
    """What goes through the network once: a prepared picture, (3, height, width), objects in its pixels,
    (k, 4), to be cut out of its feature map, and how many rows it gets beside theirs.
    """

    picture: "torch.Tensor"
    boxes: "torch.Tensor"
    n_rows: int


@dataclass
class Request:
    """A picture of a post, as an encoder is asked for it. First its objects (`regions`) are found out, then
    its vectors are looked up, then it is read (`job`), and when the network has run it has `vectors`.
    """

    image: StoredImage
    number: int = 0  # among the post's pictures
    n_pictures: int = 1  # of the post
    name: Hashable = None  # equal for equal pictures; with a cache bytes, the digest of the content
    regions: list[Region] | None = None  # `None` if they are to be searched for
    numbers: Sequence[int] = ()  # of these among the doc's regions
    misplaced: list[Problem] = field(default_factory=list)  # what is wrong with regions whatever the picture
    found: FoundRegions | None = None  # `regions`, if the doc gets them
    used: list[Region] = field(default_factory=list)  # those of them that the encoder looks at
    key: Hashable = None  # equal for equal pictures with equal objects
    cache_key: bytes | None = None  # of the vectors
    vectors: Any = None
    job: Job | None = None  # prepares the picture, or only reads it while `regions` is `None`
    order: list[int] = field(default_factory=list)  # where its rows are among those of its units
    problems: list[Problem] = field(default_factory=list)


class PictureQueue:
    """Reads pictures for one encoder, from any thread: a request is one caller's only, and what was begun
    ahead is the first's that asks for it. Copies begin anew.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings
        self.network: Any = None
        self._identity: str | None = None
        self._pending: dict[Hashable, Request] = {}  # begun ahead and not asked for yet
        self._found: dict[Hashable, list[Region]] = {}

    def __reduce__(self) -> Any:
        return PictureQueue, (self.settings,)

    def __deepcopy__(self, memo: Any) -> "PictureQueue":
        return PictureQueue(self.settings)

    def begin(self, docs: Sequence[Doc]) -> None:
        """Begin to read the pictures of posts that will be asked for soon; forget some that never were."""
        most = self.settings.reader.prefetch
        begun: dict[Hashable, Request] = {}
        for doc in docs if self.network is not None else ():
            images = get_stored_images(doc)
            for i, image in enumerate(images[: self.settings.max_pictures]):
                if len(begun) < most:
                    key = self._get_pending_key(doc, image, i, len(images))
                    if key not in self._pending and key not in begun:
                        begun[key] = self._make_request(doc, image, i, len(images))
        self._look_up(list(begun.values()))
        for request in begun.values():
            self._submit(request)
        self._pending.update(begun)
        for key in list(self._pending)[: max(0, len(self._pending) - most)]:
            _cancel(self._pending.pop(key, None))

    def ask(self, docs: Sequence[Doc], network: Any) -> dict[At, Request]:
        """Ask for the pictures of a batch, going on from what was begun, if that was for the same network.

        RETURNS (Dict[At, Request]): In order, with vectors if they are in the cache.
        """
        if network is not self.network:
            self.network, self._identity, self._pending = network, None, {}
        requests: dict[At, Request] = {}
        fresh: list[Request] = []
        for i, doc in enumerate(docs):
            images = get_stored_images(doc)
            for j, image in enumerate(images[: self.settings.max_pictures]):
                request = None
                if self._pending:
                    request = self._pending.pop(self._get_pending_key(doc, image, j, len(images)), None)
                if request is None:
                    request = self._make_request(doc, image, j, len(images))
                    fresh.append(request)
                requests[i, j] = request
        if self.settings.cache is not None:
            self._look_up(fresh)
        return requests

    def read(self, docs: Sequence[Doc], requests: dict[At, Request]) -> Iterator[tuple[At, Unit]]:
        """Read the pictures whose vectors aren't known, some of them ahead.

        requests (Dict[At, Request]): From `ask`. With a frozen network only the first of those with the same
            `key` is read, in whose place the others get it. A network that learns has to see each, since its
            gradient and BatchNorm's statistics are of all.
        YIELDS (Tuple[At, Unit]): All that a picture's rows are made of, as the network gets to it.
        """
        reader = self.settings.reader
        known = [i for i, request in requests.items() if request.regions is not None]
        unknown = [i for i, request in requests.items() if request.regions is None]
        wanted: Iterable[At] = (i for i in known if requests[i].vectors is None)
        if unknown:
            wanted = chain(wanted, self._search(docs, requests, deque(unknown)))
        first: dict[Hashable, At] = {}  # by key
        ahead: deque[At] = deque()
        try:
            for i in chain(wanted, [None]):  # `None`: these were all
                if i is not None:
                    if not self.settings.trainable and first.setdefault(requests[i].key, i) != i:
                        _cancel(requests[i])
                        requests[i] = requests[first[requests[i].key]]
                        continue
                    self._submit(requests[i])
                    ahead.append(i)
                while len(ahead) > (0 if i is None else reader.prefetch):
                    at = ahead.popleft()
                    request = requests[at]
                    job, request.job = request.job, None
                    assert job is not None  # it was submitted above
                    try:
                        units, request.order, problems = job.result()
                    except ImageError as err:
                        units, problems = [], [Problem(str(err), err.kind)]
                    request.problems += problems
                    yield from ((at, unit) for unit in units)
        finally:
            for i in ahead:
                _cancel(requests[i])

    def put_in_cache(self, requests: Sequence[Request], to_numpy: Callable[[Any], Any]) -> None:
        """Keep the vectors that the network gave, and round them as they will be when they come out of there,
        so that this first pass has the same numbers as every later one.
        """
        cache, fresh = self.settings.cache, {}
        for request in requests:
            # What had a problem is looked at again next time: somebody may have repaired it.
            if request.cache_key is not None and not request.problems:
                rows = to_numpy(request.vectors)
                request.vectors = round_array(rows, cache.dtype)
                # Unless the files have changed since their content was named.
                if request.key == tuple(map(self._name, (request.image, *request.used))):
                    fresh[request.cache_key] = rows
        if fresh:
            cache.put_vectors(fresh)

    def _get_pending_key(self, doc: Doc, image: StoredImage, number: int, n_pictures: int) -> Hashable:
        getter = self.settings.get_regions
        regions = "" if getter.writes else describe_regions(doc)
        return _get_key(image), number, n_pictures, regions, getter.get_query(doc)

    def _make_request(self, doc: Doc, image: StoredImage, number: int, n_pictures: int) -> Request:
        getter, request = self.settings.get_regions, Request(image, number, n_pictures, self._name(image))
        regions: list[Region] | None = []
        try:
            if not getter.needs_pictures:
                every = get_regions(doc) if getter.of_doc else normalize_regions(getter([doc], [None])[0])
                own = find_in_picture(every, number)
                regions = [every[i] for i in own]
                if number == 0 and len(own) < len(every):
                    request.misplaced = _find_misplaced(every, n_pictures)
                if getter.of_doc:
                    request.numbers = own
            else:
                regions = self._recall_regions(doc, request)
        except TypeError as err:  # regions that never went through the setter
            request.misplaced = [] if number else [Problem(str(err), "box")]
        self._set_regions(request, regions, doc)
        return request

    def _set_regions(self, request: Request, regions: list[Region] | None, doc: Doc | None = None) -> None:
        """Take note of the objects of a picture, once they are known; of those of a doc for the doc, too."""
        request.regions = regions
        if regions is None:
            return
        if doc is not None and self.settings.get_regions.writes:
            found = [to_picture(region, request.number) for region in regions]
            source = self._get_source(doc, request.n_pictures)
            request.found = FoundRegions(found, source, self.settings.get_regions.note)
        if self.settings.mode != "patches":
            request.used = regions[: self.settings.max_regions]
        request.key = key = (request.name, *map(self._name, request.used))
        if not any(isinstance(name, tuple) for name in key):
            if self._identity is None:
                self._identity = get_identity(self.network, self.settings.mode)
            request.cache_key = make_key("vectors", self._identity, *key)

    def _name(self, part: StoredImage | Region) -> Any:
        """What determines the vectors of a picture or object: with a cache a file's content, else a tuple."""
        if isinstance(part, dict):
            return repr([float(x) for x in part["box"]])
        cache, reader = self.settings.cache, self.settings.reader
        digest = None if cache is None else cache.digest(part, reader.limits, reader.image_root)
        return digest or (_get_key(part),)

    def _look_up(self, requests: Sequence[Request]) -> None:
        wanted = [request for request in requests if request.cache_key is not None]
        if wanted:
            found = self.settings.cache.get_vectors([request.cache_key for request in wanted])
            for request, vectors in zip(wanted, found):
                request.vectors = vectors

    def _submit(self, request: Request) -> None:
        """Begin to prepare a picture, or if its objects aren't known to read it, unless that has begun."""
        if request.vectors is None and (request.job is None or request.job.was_postponed):
            reader = self.settings.reader
            if request.regions is None:
                request.job = reader.submit(reader.read, request.image)
            else:
                request.job = reader.submit(self._prepare, request.image, request.used)

    def _prepare(
        self, image: StoredImage, regions: list[Region], whole: Any = None
    ) -> tuple[list[Unit], list[int], list[Problem]]:
        """Make a picture, which may be read already (`whole`), and its objects tensors for the
        network. With "roi" there is a unit for the picture with its boxes, and one for each ready crop;
        otherwise one for the picture and one for each object. Runs in threads.

        RETURNS (Tuple): The units, where the rows of the picture and its objects are among theirs, and what
            is wrong with objects.
        """
        import torch

        read, rois = self.settings.reader.read, self.settings.mode == "roi"
        transform: Any = self.network.transform.stretch if rois else self.network.transform
        whole = read(image) if whole is None else whole
        picture, none = transform(whole), torch.zeros(0, 4)
        scale = 2 * [picture.shape[-1] / whole.width, picture.shape[-2] / whole.height]
        n_rows = self.network.rows_with_objects
        boxes: dict[int, list[float]] = {}  # to be cut out of the feature map
        crops: dict[int, Unit] = {}
        problems: list[Problem] = []
        for i, region in enumerate(regions):
            try:
                if isinstance(region, str):
                    crops[i] = Unit(transform(read(region)), none, n_rows)
                elif rois:
                    box = clip_box(region["box"], *whole.size)
                    boxes[i] = [x * factor for x, factor in zip(box, scale)]
                else:
                    crop = whole.crop(clip_box(region["box"], *whole.size))
                    crops[i] = Unit(transform(crop), none, n_rows)
            except ValueError as err:
                kind = err.kind if isinstance(err, ImageError) else "box"
                problems.append(Problem(str(err), kind, i))
        rows = [-1, *boxes, *crops]
        n_rows = n_rows if boxes or crops else self.network.rows_per_picture
        first = Unit(picture, torch.tensor([*boxes.values()], dtype=torch.float32) if boxes else none, n_rows)
        return [first, *crops.values()], sorted(range(len(rows)), key=rows.__getitem__), problems

    # Searching for objects

    def _recall_regions(self, doc: Doc, request: Request) -> list[Region] | None:
        """The objects, if they were searched for before."""
        source = self._get_source(doc)
        if source is None:
            return None
        if get_regions_source(doc) == self._get_source(doc, request.n_pictures):
            every = get_regions(doc)
            return [every[i] for i in find_in_picture(every, request.number)]
        known = self._found.get((_get_stamp(request), source))
        if known is None and isinstance(request.name, bytes):
            known = self.settings.cache.get_regions(make_key("regions", source, request.name))
        return known

    def _get_source(self, doc: Doc, n_pictures: int = 1) -> str | None:
        """What determines the objects beside the picture, or the first so many pictures of a post."""
        identity = self.settings.get_regions.get_identity()
        if identity is None:
            return None
        source = f"{identity} {self.settings.get_regions.get_query(doc)}".strip()
        return source if n_pictures == 1 else f"{source} {n_pictures}/{self.settings.max_pictures}"

    def _search(self, docs: Sequence[Doc], requests: dict[At, Request], unknown: deque[At]) -> Iterator[At]:
        """Search for objects where they aren't known, in as many pictures at a time as may be in memory."""
        reader = self.settings.reader
        while unknown:
            some = list(islice(unknown, SEARCHED_AT_ONCE))
            for i in some:
                self._submit(requests[i])
            pictures: dict[At, Any] = {}
            for i in some:
                request = requests[i]
                try:
                    pictures[i] = request.job.result(needed=not pictures)  # type: ignore[union-attr]
                except Postponed:
                    break
                except ImageError as err:
                    request.problems.append(Problem(str(err), err.kind))
                    request.regions = []
                request.job = None
                unknown.popleft()
            if pictures:
                self._find(docs, requests, pictures)
            self._look_up([requests[i] for i in pictures])
            found = [i for i in pictures if requests[i].vectors is None]
            jobs = [
                reader.submit(self._prepare, requests[i].image, requests[i].used, pictures[i]) for i in found
            ]
            pictures = {}  # the jobs have them, and let go of them when they are done
            for i, job in zip(found, jobs):
                requests[i].job = job
                with suppress(Exception):  # said when it is taken
                    job.result()
            yield from found

    def _find(self, docs: Sequence[Doc], requests: dict[At, Request], pictures: dict[At, Any]) -> None:
        getter, cache = self.settings.get_regions, self.settings.cache
        # Once a picture: the first post stands for all with the same picture and query.
        asked: dict[Hashable, At] = {}
        for i in pictures:
            asked.setdefault((_get_key(requests[i].image), getter.get_query(docs[i[0]])), i)
        rows = list(asked.values())
        found: dict[At, list[Region] | Problem] = {}
        try:
            answers = getter([docs[i] for i, _ in rows], [pictures[i] for i in rows])
            found.update((i, _normalize_found(regions)) for i, regions in zip(rows, answers))
        except (ValueError, OSError, ImportError, TypeError):
            raise  # settings, weights, packages: not about one picture
        except Exception:
            for i in rows:
                try:
                    found[i] = _normalize_found(getter([docs[i[0]]], [pictures[i]])[0])
                except Exception as err:
                    found[i] = Problem(f"no objects could be searched for ({explain(err)})", "regions")
        to_cache: dict[bytes, list[Region]] = {}
        for i in pictures:
            request, doc = requests[i], docs[i[0]]
            source, query = self._get_source(doc), getter.get_query(doc)
            regions = found[asked[_get_key(request.image), query]]
            if isinstance(regions, Problem):
                request.problems.append(regions)
                self._set_regions(request, [])
                continue
            self._set_regions(request, regions, doc)
            if source is not None:
                if len(self._found) >= REMEMBERED:
                    self._found.clear()
                self._found[_get_stamp(request), source] = regions
                if isinstance(request.name, bytes):
                    to_cache[make_key("regions", source, request.name)] = regions
        if to_cache:
            cache.put_regions(to_cache)


def _find_misplaced(regions: list[Region], n_pictures: int) -> list[Problem]:
    """RETURNS (List[Problem]): Of regions that are in a picture which the post doesn't have."""
    return [
        Problem(f"region {i}: is in picture {x['image'] + 1}, but the post has {n_pictures}", "box")
        for i, x in enumerate(regions)
        if isinstance(x, dict) and x.get("image", 0) >= n_pictures
    ]


def _normalize_found(values: Any) -> list[Region]:
    """RETURNS (List[Region]): What was found in one picture, in whichever of which post that is."""
    return [to_picture(region, 0) for region in normalize_regions(values)]


def _get_key(value: Any) -> Hashable:
    """The same for values of `doc._.image` from which the same pictures are read."""
    if isinstance(value, str):
        return getattr(value, "root", None), value
    return value if isinstance(value, (bytes, Pixels)) else id(value)  # a stranger may have stored anything


def _get_stamp(request: Request) -> Hashable:
    """Equal for the same picture as long as its file isn't written to. Has no pixels: it is remembered."""
    if isinstance(request.name, bytes):
        return request.name
    key, image = image_key(request.image), request.image
    with suppress(OSError, ValueError):
        if isinstance(image, str):
            info = os.stat(image)
            return key, info.st_size, info.st_mtime_ns, info.st_ino
    return key


def _cancel(request: Request | None) -> None:
    if request is not None and request.job is not None:
        request.job.cancel()
        request.job = None


def find_encoder_layers(model: Any) -> list[Any]:
    """RETURNS (List[Model]): The layers of picture encoders in a model."""
    return [node for node in model.walk() if node.name == LAYER] if isinstance(model, Model) else []


def get_settings(layer: Model[Any, Any]) -> EncoderSettings:
    """RETURNS (EncoderSettings): Of a picture encoder's layer."""
    settings: EncoderSettings = layer.attrs[QUEUE].settings
    return settings


def read_ahead(layers: Sequence[Any], docs: Sequence[Doc]) -> None:
    """Begin to read the pictures that picture encoders will get soon, if these have been used before."""
    for layer in layers:
        # What fails now fails again when it is asked for, where it belongs to a post.
        with suppress(Exception):
            layer.attrs[QUEUE].begin(docs)


def get_identity(network: Any, mode: str) -> str:
    """RETURNS (str): Equal for frozen networks that compute the same: made of the class, the settings (the
    preset of the pictures among them), the mode, and all weights.
    """
    same = ("trainable", "memory_format", "rois")  # settings that change nothing of what it computes
    kept = {key: value for key, value in network.settings.items() if key not in same}
    description = srsly.json_dumps([type(network).__name__, kept, mode, READING], sort_keys=True)
    digest = hashlib.blake2b(description.encode("utf8"), digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode("utf8"))
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
