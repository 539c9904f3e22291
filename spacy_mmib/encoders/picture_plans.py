"""What is to be done about the pictures of a batch: which vectors are in the cache, which pictures are to be
read, and reading them ahead.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy
import PIL.Image
from spacy.tokens import Doc

from ..images.files import URL, bind
from ..images.pool import Postponed
from ..images.reading import ImageError
from ..post.extensions import (
    describe_regions,
    get_regions,
    get_regions_source,
    get_stored_image,
    set_found_regions,
)
from ..post.regions import Region, normalize_regions
from ..post.values import PathInRoot, StoredImage, image_key
from ..regions.loading import Problem
from .encoder_settings import EncoderSettings
from .picture_transform import PictureTransform
from .prepared import Prepared, prepare_crops, prepare_rois, prepare_whole

PREPARE = {"crop": prepare_crops, "roi": prepare_rois, "patches": prepare_whole}

REMEMBERED = 2**16
"""Pictures whose objects are remembered in memory: each epoch of a training asks for them again."""

SEARCHED_AT_ONCE = 16
"""At most so many posts' decoded pictures are in memory while objects are searched in them."""


@dataclass
class Plan:
    """What is to be done about the picture of a post.

    image (StoredImage): The picture.
    image_key (str): Equal for equal pictures.
    digest (Optional[bytes]): Of the picture's content, if there is a cache.
    regions (Optional[List[Region]]): The objects; `None` if they are to be searched for.
    key (Hashable): Equal for equal pictures with equal objects.
    cache_key (Optional[bytes]): Of the vectors in the cache.
    vectors (Optional[numpy.ndarray]): What was in the cache.
    job (Optional[Job]): Prepares the picture, or only reads it while `regions` is `None`.
    problems (List[str]): What couldn't be used.
    same_as (Optional[Plan]): Another post's plan, whose vectors are the same.
    """

    image: StoredImage
    image_key: str
    digest: bytes | None = None
    regions: list[Region] | None = None
    key: Hashable = None
    cache_key: bytes | None = None
    vectors: "numpy.ndarray[Any, Any] | None" = None
    job: Any = None
    problems: list[str] = field(default_factory=list)
    same_as: "Plan | None" = None


class Planner:
    """Makes plans for one encoder. From any thread: a plan is one caller's only, and what was begun ahead is
    the first's that asks for it.

    settings (EncoderSettings): The encoder's.
    preset (Dict[str, Any]): How pictures are prepared for its network.
    identity (Callable[[], str]): Tells its network from others; asked for if there is a cache.
    """

    def __init__(self, settings: EncoderSettings, preset: dict[str, Any], identity: Any) -> None:
        self.settings = settings
        self.transform = PictureTransform(preset)
        self._get_identity = identity
        self._identity: str | None = None
        self._lock = threading.Lock()  # of the next two
        # What was begun by `prefetch` and not asked for yet.
        self._pending: OrderedDict[Hashable, Plan] = OrderedDict()
        self._found: OrderedDict[Hashable, list[Region]] = OrderedDict()

    def plan(self, docs: Sequence[Doc]) -> dict[int, Plan]:
        """Plan a batch, going on from what was begun by `prefetch`.

        docs (Sequence[Doc]): The posts.
        RETURNS (Dict[int, Plan]): For each post with a picture. Those that aren't in the cache, or whose
            objects are to be searched for, have no vectors yet.
        """
        plans: dict[int, Plan] = {}
        fresh: list[Plan] = []
        for i, doc in enumerate(docs):
            image = get_stored_image(doc)
            if image is None:
                continue
            plan = None
            if self._pending:
                key = self._pending_key(doc, image)
                with self._lock:
                    plan = self._pending.pop(key, None)
            if plan is None:
                plan = self._begin(doc, image)
                fresh.append(plan)
            plans[i] = plan
            if plan.regions is not None:
                self._write_regions(doc, plan.regions)
        self._look_up(fresh)
        return plans

    def prefetch(self, docs: Iterable[Doc]) -> None:
        """Begin to read pictures, as many as the reader may read ahead. Those that are never asked for are
        forgotten when others are begun.

        docs (Iterable[Doc]): Posts that will be planned soon.
        """
        most = self.settings.reader.prefetch
        begun: dict[Hashable, Plan] = {}
        for doc in docs:
            if len(begun) >= most:
                break
            image = get_stored_image(doc)
            if image is None:
                continue
            key = self._pending_key(doc, image)
            if key not in self._pending and key not in begun:
                begun[key] = self._begin(doc, image)
        self._look_up(list(begun.values()))
        for plan in begun.values():
            self.submit(plan, ahead=True)
        with self._lock:
            self._pending.update(begun)
            while len(self._pending) > most:
                self._pending.popitem(last=False)

    def _pending_key(self, doc: Doc, image: StoredImage) -> Hashable:
        getter = self.settings.get_regions
        regions = "" if getter.writes else describe_regions(doc)
        return self._get_key(image), regions, getter.get_query(doc)

    def _begin(self, doc: Doc, image: StoredImage) -> Plan:
        plan = Plan(image, self._get_key(image), self._digest(image))
        try:
            self._set_regions(plan, self._get_regions(doc, plan))
        except TypeError as err:  # regions that never went through the setter
            plan.problems.append(Problem(str(err), "box"))
            self._set_regions(plan, [])
        return plan

    def _get_key(self, value: StoredImage) -> str:
        if isinstance(value, PathInRoot):
            return f"in {value.root}: {value}"  # and not what it leads to now
        if isinstance(value, str) and self.settings.reader.image_root is not None:
            return f"in the root: {value}"  # and not in the current folder
        return image_key(value) or ""

    def _digest(self, value: StoredImage) -> bytes | None:
        """RETURNS (Optional[bytes]): Of the content of the file that the reader would read; `None` without a
        cache, and for what it wouldn't read.
        """
        cache, reader = self.settings.cache, self.settings.reader
        if cache is None:
            return None
        if isinstance(value, str):
            if URL.match(value):
                return None
            if reader.image_root is not None:
                try:
                    value = bind(value, reader.image_root)
                except ImageError:
                    return None
        digest: bytes | None = cache.digest(value, max_bytes=reader.limits.max_bytes)
        return digest

    def is_unchanged(self, plan: Plan) -> bool:
        """RETURNS (bool): Whether the files of a picture are those that were there when it was planned, so
        that what was read may be kept under their content.
        """
        used = self.get_used(plan.regions or [])
        described = [self._describe(region) for region in used]
        return plan.key == (self._digest(plan.image), *described)

    def _get_regions(self, doc: Doc, plan: Plan) -> list[Region] | None:
        """RETURNS (Optional[List[Region]]): The objects, as far as they are known without the pixels."""
        getter = self.settings.get_regions
        if not getter.needs_pictures:
            return normalize_regions(getter([doc], [None])[0])
        source = self._get_source(doc)
        if source is not None and get_regions_source(doc) == source:
            return get_regions(doc)
        stamp = _get_stamp(plan)
        with self._lock:
            remembered = self._found.get((stamp, source))
        if remembered is not None:
            return remembered
        key = self._get_regions_key(plan, source)
        return None if key is None else self.settings.cache.get_regions([key])[0]

    def _get_source(self, doc: Doc) -> str | None:
        identity = self.settings.get_regions.get_identity()
        query = self.settings.get_regions.get_query(doc)
        return None if identity is None else f"{identity} {query}".strip()

    def _get_regions_key(self, plan: Plan, source: str | None) -> bytes | None:
        cache = self.settings.cache
        if cache is None or plan.digest is None or source is None:
            return None
        key: bytes = cache.make_key("regions", source, plan.digest)
        return key

    def _write_regions(self, doc: Doc, regions: list[Region]) -> None:
        getter = self.settings.get_regions
        if getter.writes:
            set_found_regions(doc, regions, self._get_source(doc), getter.note)

    def _set_regions(self, plan: Plan, regions: list[Region] | None) -> None:
        plan.regions = regions
        if regions is None:
            return
        described = [self._describe(region) for region in self.get_used(regions)]
        plan.key = (plan.digest or plan.image_key, *described)
        cache = self.settings.cache
        if cache is not None and plan.digest is not None and None not in described:
            if self._identity is None:
                self._identity = self._get_identity()
            plan.cache_key = cache.make_key("vectors", self._identity, plan.digest, *described)

    def get_used(self, regions: list[Region]) -> list[Region]:
        """RETURNS (List[Region]): The objects that the encoder looks at."""
        return [] if self.settings.mode == "patches" else regions[: self.settings.max_regions]

    def _describe(self, region: Region) -> Any:
        """RETURNS (Union[str, bytes, None]): What of an object determines its vector; `None` for a crop
        that can't be read.
        """
        if not isinstance(region, str):
            return repr([float(x) for x in region["box"]])
        if self.settings.cache is None:
            return f"crop {self._get_key(region)}"
        return self._digest(region)

    def _look_up(self, plans: Sequence[Plan]) -> None:
        wanted = [plan for plan in plans if plan.cache_key is not None]
        if self.settings.cache is not None and wanted:
            found = self.settings.cache.get_vectors([plan.cache_key for plan in wanted])
            for plan, vectors in zip(wanted, found):
                plan.vectors = vectors

    def submit(self, plan: Plan, *, ahead: bool) -> None:
        """Begin to prepare a picture, or if its objects aren't known to read it, unless that has begun.

        plan (Plan): Its plan.
        ahead (bool): Nobody waits for it yet: it is done if there is room for its pixels.
        """
        if plan.job is not None or plan.vectors is not None:
            return
        reader = self.settings.reader
        if plan.regions is None:
            plan.job = reader.submit(reader.read, plan.image, ahead=ahead)
        else:
            prepare = partial(self._prepare, plan.image, plan.regions)
            plan.job = reader.submit(prepare, ahead=ahead)

    def _take(self, plan: Plan, *, can_do_without: bool = False) -> Any:
        """Wait for what `submit` began.

        can_do_without (bool): Whether it may be left for later.
        RETURNS (Union[Prepared, PIL.Image.Image]): The picture.
        RAISES (ImageError): It can't be read.
        RAISES (Postponed): There is no room for it until something else is done with. Only if it can be left.
        """
        job, plan.job = plan.job, None
        if not can_do_without:
            job.ahead = False
        try:
            return job.result()
        except Postponed:
            if can_do_without:
                raise
        finally:
            del job  # it has what is raised, which has this frame
        self.submit(plan, ahead=False)
        return self._take(plan)

    def _prepare(self, image: Any, regions: list[Region]) -> Prepared:
        prepare = PREPARE[self.settings.mode]
        return prepare(image, self.get_used(regions), self.transform, self.settings.reader.read)

    def read(self, docs: Sequence[Doc], plans: dict[int, Plan]) -> Iterator[tuple[Plan, Prepared]]:
        """Read the pictures whose vectors aren't known, each once, some of them ahead.

        docs (Sequence[Doc]): The batch.
        plans (Dict[int, Plan]): What `plan` made of it. With a frozen network only the first of plans with
            the same `key` is read, and the others get it as `same_as`. A network that learns has to see
            each, since its gradient and BatchNorm's statistics are of all.
        YIELDS (Tuple[Plan, Prepared]): In the order in which they get ready for the network.
        """
        ahead: deque[Plan] = deque()
        wanted = self._search(docs, plans)
        for plan in wanted if self.settings.trainable else self._without_copies(wanted):
            self.submit(plan, ahead=True)
            ahead.append(plan)
            if len(ahead) > self.settings.reader.prefetch:
                yield self._finish(ahead.popleft())
        while ahead:
            yield self._finish(ahead.popleft())

    @staticmethod
    def _without_copies(plans: Iterable[Plan]) -> Iterator[Plan]:
        first: dict[Hashable, Plan] = {}
        for plan in plans:
            if plan.vectors is None:
                same = first.setdefault(plan.key, plan)
                if same is plan:
                    yield plan
                else:
                    plan.same_as, plan.job = same, None

    def _finish(self, plan: Plan) -> tuple[Plan, Prepared]:
        try:
            prepared: Prepared = self._take(plan)
        except ImageError as err:
            prepared = Prepared([], None, [Problem(str(err), err.kind)])
        return plan, prepared

    def _search(self, docs: Sequence[Doc], plans: dict[int, Plan]) -> Iterator[Plan]:
        """YIELDS (Plan): All plans, their objects known."""
        unknown: deque[int] = deque()
        for i, plan in plans.items():
            if plan.regions is None:
                unknown.append(i)
            else:
                yield plan
        while unknown:
            group, pictures, is_full = self._read_group(unknown, plans)
            self._find(docs, plans, pictures)
            self._look_up([plans[i] for i in pictures])
            for i in group:
                plan = plans[i]
                if i not in pictures:
                    plan.job = _Done(Prepared([], None, []))
                elif plan.vectors is None:
                    prepare = partial(self._prepare, pictures[i], plan.regions or [])
                    plan.job = self.settings.reader.submit(prepare)
                    del prepare
            # From here on the jobs have the pictures, and let go of them when they are done.
            pictures.clear()
            for i in group if is_full else ():
                if plans[i].job is not None:
                    plans[i].job.wait()
            for i in group:
                yield plans[i]

    def _read_group(
        self, unknown: deque[int], plans: dict[int, Plan]
    ) -> tuple[list[int], dict[int, PIL.Image.Image], bool]:
        """Read pictures in which objects are to be searched: as many as may be in memory, but one.

        unknown (Deque[int]): Whose; those that are read are taken off.
        plans (Dict[int, Plan]): All plans.
        RETURNS (Tuple[List[int], Dict[int, PIL.Image.Image], bool]): Those taken off, the pictures of those
            of them that can be read, and whether there is no room for another.
        """
        for i in islice(unknown, SEARCHED_AT_ONCE):
            self.submit(plans[i], ahead=True)
        group: list[int] = []
        pictures: dict[int, PIL.Image.Image] = {}
        while unknown and len(group) < SEARCHED_AT_ONCE:
            i = unknown[0]
            try:
                pictures[i] = self._take(plans[i], can_do_without=bool(pictures))
            except Postponed:
                return group, pictures, True
            except ImageError as err:
                plans[i].problems.append(Problem(str(err), err.kind))
                self._set_regions(plans[i], [])
            group.append(unknown.popleft())
        return group, pictures, False

    def _find(
        self, docs: Sequence[Doc], plans: dict[int, Plan], pictures: dict[int, PIL.Image.Image]
    ) -> None:
        getter = self.settings.get_regions
        # Once a picture: the first post stands for all with the same picture and query.
        asked: dict[Hashable, int] = {}
        for i in pictures:
            asked.setdefault((plans[i].image_key, getter.get_query(docs[i])), i)
        rows = list(asked.values())
        found: dict[int, list[Region] | Problem] = {}
        try:
            answers = getter([docs[i] for i in rows], [pictures[i] for i in rows])
            found.update((i, normalize_regions(regions)) for i, regions in zip(rows, answers))
        except (ValueError, OSError, ImportError, TypeError):
            raise  # settings, weights, packages: not about one picture
        except Exception:
            for i in rows:
                try:
                    found[i] = normalize_regions(getter([docs[i]], [pictures[i]])[0])
                except Exception as err:
                    reason = " ".join(f"{type(err).__name__}: {err}".split())[:200]
                    found[i] = Problem(f"no objects could be searched for ({reason})", "regions")
        to_cache: dict[bytes, list[Region]] = {}
        to_remember: dict[Hashable, list[Region]] = {}
        for i in pictures:
            regions = found[asked[plans[i].image_key, getter.get_query(docs[i])]]
            if isinstance(regions, Problem):
                plans[i].problems.append(regions)
                self._set_regions(plans[i], [])
                continue
            self._set_regions(plans[i], regions)
            self._write_regions(docs[i], regions)
            source = self._get_source(docs[i])
            if source is not None:
                to_remember[_get_stamp(plans[i]), source] = regions
            key = self._get_regions_key(plans[i], source)
            if key is not None:
                to_cache[key] = regions
        with self._lock:
            self._found.update(to_remember)
            while len(self._found) > REMEMBERED:
                self._found.popitem(last=False)
        if to_cache:
            self.settings.cache.put_regions(to_cache)


def _get_stamp(plan: Plan) -> Hashable:
    """RETURNS (Hashable): Equal for the same picture as long as its file isn't written to."""
    if plan.digest is not None:
        return plan.digest
    if not isinstance(plan.image, str):
        return plan.image_key
    try:
        info = os.stat(plan.image)
    except (OSError, ValueError):
        return plan.image_key
    return plan.image_key, info.st_size, info.st_mtime_ns, info.st_ino


class _Done:
    """A job whose result is known."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value

    def wait(self) -> None:
        pass
