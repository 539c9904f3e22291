"""`Doc._` and `Span._` attributes: what a post has beside its text. They are listed in `ATTRIBUTES`.

Everything is kept in `Doc.user_data` in immutable or plain form, so that `Doc.to_bytes`,
`DocBin(store_user_data=True)`, pickle, `Doc.copy` and `nlp.pipe(n_process=...)` keep it. The attributes are
for users: this package uses the functions here, which work whoever has an attribute of the same name.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from spacy.tokens import Doc, Span

from ..images.values import ACCEPTED, StoredImage, from_stored, image_key, is_missing, to_stored
from ..util import warn
from .boxes import ENTITY_REGIONS_KEY, get_boxes, get_region, set_boxes
from .regions import FoundRegions, Region, normalize_regions, pack_region
from .relations import get_relations as get_relations
from .relations import read_relations, set_relations
from .user_data import (
    get_entry,
    get_line,
    get_rows,
    is_finite,
    is_ours,
    is_whole,
    make_key,
    pack_path,
    pack_text,
    set_entry,
    set_line,
    set_rows,
    unpack_path,
    unpack_text,
)

IMAGE_KEY = make_key("image")
# A list of what a post has beside its first picture.
IMAGES_KEY = make_key("images")
REGIONS_KEY = make_key("regions")
ERROR_KEY = make_key("image_error")
# What the picture shows, in words. Not ours: users may have such an attribute, and it goes with the picture.
CAPTION_KEY = ("._.", "caption", None, None)
# What users of the regions have to know about where they come from, e.g. that they leak a label.
REGIONS_NOTE_KEY = ("spacy_mmib", "regions_note", None, None)
# What the picture encoder found, which is found again each time it runs; and of what kinds that was.
ENCODER_ERROR_KEY = ("spacy_mmib", "encoder_error", None, None)
ERROR_KINDS_KEY = ("spacy_mmib", "error_kinds", None, None)
ERROR_KEYS = (ERROR_KEY, ENCODER_ERROR_KEY, ERROR_KINDS_KEY)
"""What was wrong with a picture."""
PICTURE_KEYS = (IMAGE_KEY, IMAGES_KEY, REGIONS_KEY, REGIONS_NOTE_KEY, ERROR_KEY, CAPTION_KEY)
"""What of a post's `Doc.user_data` is about its picture, and no gold annotation of anything else."""
# What found the regions, if it wasn't the user.
REGIONS_SOURCE_KEY = ("spacy_mmib", "regions_source", None, None)
# Predicted entities by component: {name: [[start_char, end_char, label, confidence], ...]}
PREDICTED_KEY = ("spacy_mmib", "predicted", None, None)
# What spans attended to in the picture, by component: {name: [[start_char, end_char, weights], ...]}
REGION_WEIGHTS_KEY = ("spacy_mmib", "region_weights", None, None)


def get_image(doc: Doc) -> Any:
    """RETURNS (ImageValue): The picture as it was attached; paths come back as `str`, PIL images as RGB."""
    return from_stored(get_stored_image(doc))


def set_image(doc: Doc, value: Any) -> None:
    """Attach a picture (or `None`), in place of all that were there; see `set_images`."""
    stored = to_stored(value)
    _attach(doc, [] if stored is None else [stored])


def get_images(doc: Doc) -> list[Any]:
    """RETURNS (List[ImageValue]): All pictures, each as by `get_image`. A new list: to change it, assign."""
    return [from_stored(stored) for stored in get_stored_images(doc)]


def set_images(doc: Doc, values: Any, *, keep_regions: bool = False) -> None:
    """Attach pictures, in place of all that were there. What was known about those is forgotten: why one
    could not be used, what entities attended to in them, and, unless the new ones begin with them, their
    regions.

    values (Optional[Iterable[ImageValue]]): The pictures, in order; `None` for none.
    keep_regions (bool): They are the same pictures, under other paths.
    RAISES (TypeError, ValueError): No list, or one of a value that can't be a picture.
    """
    values = [] if is_missing(values) else values
    single = isinstance(values, (str, bytes, bytearray, memoryview, dict))
    if single or hasattr(values, "__array_interface__") or not isinstance(values, Iterable):
        raise TypeError(
            f"doc._.images takes a list of pictures; got {type(values).__name__}. Assign [picture] if it is "
            "one, or assign it to doc._.image."
        )
    stored: list[StoredImage] = []
    for i, value in enumerate(values):
        try:
            stored.append(to_stored(value))
            if stored[-1] is None:
                raise TypeError(f"each is {ACCEPTED.removesuffix(', or None')}; got None. Leave it out.")
        except (TypeError, ValueError) as err:
            kind = TypeError if isinstance(err, TypeError) else ValueError
            raise kind(f"doc._.images[{i}]: {err}") from None
    _attach(doc, stored, keep_regions)


def _attach(doc: Doc, stored: Sequence[StoredImage], keep_regions: bool = False) -> None:
    before = get_stored_images(doc)
    if not (stored and before):
        _forget_looks(doc)
    elif not keep_regions:
        keys, known = ([image_key(x) for x in some] for some in (stored, before))
        if keys != known:
            _forget_looks(doc)
        if keys[: len(known)] != known:
            set_regions(doc, None)
    first, *more = [pack_path(x) if isinstance(x, str) else x for x in stored] or [None]
    set_entry(doc, IMAGE_KEY, first)
    set_entry(doc, IMAGES_KEY, more or None)
    set_image_error(doc, None)


def remove_image(doc: Doc) -> Doc:
    """RETURNS (Doc): The doc, without its caption, and without its pictures and objects if it had any, as
    `doc._.image_error` says.
    """
    set_entry(doc, CAPTION_KEY, None)
    if get_stored_image(doc) is not None:
        set_image(doc, None)
        set_regions(doc, None)
        set_image_error(doc, "taken away")
    return doc


def copy_images(source: Doc, doc: Doc) -> None:
    """Attach the pictures of one doc to another, as `set_images` does, whatever a foreign file has there."""
    set_image(doc, None)
    for key in (IMAGE_KEY, IMAGES_KEY):
        set_entry(doc, key, get_entry(source, key))


def _forget_looks(doc: Doc) -> None:
    """Forget what components saw in a picture, or with regions, that are there no longer."""
    for key in (REGION_WEIGHTS_KEY, ENTITY_REGIONS_KEY):
        set_entry(doc, key, None)


def get_stored_image(doc: Doc) -> StoredImage:
    """RETURNS (StoredImage): The picture as it is kept, or what a foreign file has there: readers say so."""
    stored = get_entry(doc, IMAGE_KEY)
    return unpack_path(stored) if isinstance(stored, (list, tuple)) else stored


def get_stored_images(doc: Doc) -> list[StoredImage]:
    """RETURNS (List[StoredImage]): The same of all pictures. Without a first one there are none."""
    first, more = get_entry(doc, IMAGE_KEY), doc.user_data.get(IMAGES_KEY, ())
    if first is None:
        return []
    some = [first, *more] if isinstance(more, (list, tuple)) else [first, more]
    return [unpack_path(x) if isinstance(x, (list, tuple)) else x for x in some]


def get_image_key(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): The same for docs with the same (first) picture, `None` without one."""
    return image_key(get_stored_image(doc))


def get_regions(doc: Doc) -> list[Region]:
    """RETURNS (List[Region]): The objects of the picture. A new list: to change it, assign.
    RAISES (TypeError): What is stored are no regions.
    """
    stored = get_entry(doc, REGIONS_KEY)
    return [] if stored is None else normalize_regions(stored)


def read_regions(doc: Doc) -> list[Region]:
    """RETURNS (List[Region]): The same for `doc._.regions`: none, with a warning, if unreadable."""
    try:
        return get_regions(doc)
    except TypeError as err:  # written past the setter
        warn(f"A post counts as one without regions, as they can't be read: {err}")
        return []


def describe_regions(doc: Doc) -> str:
    """RETURNS (str): Equal for docs with equal regions, also where `get_regions` can't read them."""
    return repr(get_entry(doc, REGIONS_KEY))


def count_regions(doc: Doc, found: FoundRegions | None = None) -> int:
    """RETURNS (int): How many regions there are, or will be with those found; they need not be readable."""
    if found is not None:
        return len(found.regions)
    stored = get_entry(doc, REGIONS_KEY)
    return len(stored) if isinstance(stored, (list, tuple)) else 0


def set_regions(doc: Doc, value: Any) -> None:
    """Attach objects of the picture; see `normalize_regions`. A note on the regions that were there stays as
    long as one of them does: a part of them comes from the same source.
    """
    regions = None if value is None else normalize_regions(value)
    try:
        before = get_regions(doc)
    except TypeError:
        before = []
    set_entry(doc, REGIONS_SOURCE_KEY, None)
    if (regions or []) != before:
        _forget_looks(doc)
    if not any(region in before for region in regions or ()):
        set_regions_note(doc, None)
    set_entry(doc, REGIONS_KEY, None if regions is None else [pack_region(x) for x in regions])


def get_regions_note(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): What has to be known about where the regions come from, in one line."""
    return get_line(doc, REGIONS_NOTE_KEY)


def set_regions_note(doc: Doc, note: str | None) -> None:
    """Say where the regions that are attached now come from, or take it back with `None`."""
    set_line(doc, REGIONS_NOTE_KEY, note)


def set_found_regions(doc: Doc, found: FoundRegions | None) -> None:
    """Attach what a region getter found, if it did."""
    if found is not None:
        set_regions(doc, found.regions)
        set_entry(doc, REGIONS_SOURCE_KEY, None if found.source is None else pack_text(found.source))
        if found.note is not None:
            set_regions_note(doc, found.note)


def get_regions_source(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): See `FoundRegions`; `None` for regions that somebody attached."""
    return unpack_text(get_entry(doc, REGIONS_SOURCE_KEY))


def take_picture_findings(doc: Doc, copy: Doc) -> None:
    """Write to a doc what a picture encoder wrote to a copy of it."""
    if describe_regions(copy) != describe_regions(doc):
        set_regions(doc, get_regions(copy))
    for key in (REGIONS_SOURCE_KEY, REGIONS_NOTE_KEY, ENCODER_ERROR_KEY, ERROR_KINDS_KEY):
        set_entry(doc, key, get_entry(copy, key))


def get_image_error(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): Why the picture, or some of its objects, were not used."""
    return "; ".join(filter(None, (get_line(doc, key) for key in (ERROR_KEY, ENCODER_ERROR_KEY)))) or None


def set_image_error(doc: Doc, value: str | None) -> None:
    """Say why the picture was not used, or take it back with `None`."""
    set_line(doc, ERROR_KEY, value)
    set_encoder_error(doc, None)


def set_encoder_error(doc: Doc, value: str | None, kinds: Sequence[str] = ()) -> None:
    """The same, from a picture encoder: beside what a reader said, instead of what an encoder said before.
    The kind of each thing that can't be used is one of `images.errors.KINDS`.
    """
    set_line(doc, ENCODER_ERROR_KEY, value)
    set_entry(doc, ERROR_KINDS_KEY, list(kinds) or None)


def get_image_error_kinds(doc: Doc) -> list[str]:
    """RETURNS (List[str]): Of what kinds the things were that an encoder couldn't use, for counting."""
    kinds = get_entry(doc, ERROR_KINDS_KEY)
    return [kind for kind in kinds if isinstance(kind, str)] if isinstance(kinds, (list, tuple)) else []


def get_predicted(doc: Doc, name: str | None = None) -> dict[tuple[int, int, str], float]:
    """RETURNS (Dict[Tuple[int, int, str], float]): What a component (the first that has it, if `name` is
    `None`) predicted: confidences by first character, one past the last, and label.
    """
    found: dict[tuple[int, int, str], float] = {}
    for _, row in get_rows(doc, PREDICTED_KEY, name):
        if len(row) == 4 and is_whole(row[0]) and is_whole(row[1]) and is_finite(row[3]):
            label = unpack_text(row[2])
            if label is not None and 0 <= row[3] <= 1:
                found.setdefault((row[0], row[1], label), row[3])
    return found


def set_predicted(doc: Doc, name: str, predicted: dict[tuple[int, int, str], float]) -> None:
    """Keep what a component predicted for a doc, instead of what it predicted before."""
    rows = [[start, end, label, confidence] for (start, end, label), confidence in predicted.items()]
    set_rows(doc, PREDICTED_KEY, name, rows)


def get_confidence(span: Span) -> float | None:
    """RETURNS (Optional[float]): Probability, 0-1, of a span that was predicted with just this label."""
    return get_predicted(span.doc).get((span.start_char, span.end_char, span.label_))


def set_region_weights(doc: Doc, name: str, weights: dict[tuple[int, int], Sequence[float]]) -> None:
    """Keep what a component's spans (first character, one past the last) attended to in the picture."""
    rows = [[start, end, [float(x) for x in row]] for (start, end), row in weights.items()]
    set_rows(doc, REGION_WEIGHTS_KEY, name, rows)


def _read_weights(doc: Doc) -> Iterator[tuple[str, tuple[int, int], list[float]]]:
    for component, row in get_rows(doc, REGION_WEIGHTS_KEY):
        if len(row) == 3 and is_whole(row[0]) and is_whole(row[1]):
            weights = row[2]
            if isinstance(weights, (list, tuple)) and all(map(is_finite, weights)):
                yield component, (row[0], row[1]), list(weights)


def get_weighted_spans(doc: Doc, *, without: str) -> set[tuple[int, int]]:
    """RETURNS (Set[Tuple[int, int]]): The spans that components other than this one keep weights for."""
    return {span for name, span, _ in _read_weights(doc) if name != without}


def get_region_weights(span: Span) -> list[float] | None:
    """What an entity attended to in the picture when C was made (Eq. 17): mean over the attention heads and
    the entity's tokens, of the component that ran last.

    RETURNS (Optional[List[float]]): The weight of the whole picture (of all, if there are several), then that
        of each of `doc._.regions`, 0 for those that could not be used; their sum is 1. `None` for a post
        without a (readable) picture and for a span that no component of this package looked at.
    """
    doc, result = span.doc, None
    if get_stored_image(doc) is not None:
        for _, found, weights in _read_weights(doc):
            if found == (span.start_char, span.end_char) and len(weights) == 1 + count_regions(doc):
                result = weights
    return result


ATTRIBUTES: tuple[tuple[Any, str, Any, Any], ...] = (
    (Doc, "image", get_image, set_image),
    (Doc, "images", get_images, set_images),
    (Doc, "regions", read_regions, set_regions),
    (Doc, "image_error", get_image_error, set_image_error),
    (Doc, "relations", read_relations, set_relations),
    (Span, "confidence", get_confidence, None),
    (Span, "region_weights", get_region_weights, None),
    (Span, "boxes", get_boxes, set_boxes),
    (Span, "region", get_region, None),
)
"""Of which class, name, getter and setter."""


def register_extensions() -> None:
    """Register the attributes, once. An attribute of the same name that is already there stays, and is never
    used by this package: what can't be reached by its name then is said in a warning.
    """
    taken = []
    for cls, name, getter, setter in ATTRIBUTES:
        if not cls.has_extension(name):
            cls.set_extension(name, getter=getter, setter=setter)
        elif not is_ours(cls, name):
            what = cls.__name__.lower()
            functions = f"get_{name}({what})" + (f" and set_{name}({what}, ...)" if setter else "")
            taken.append(f"{cls.__name__}._.{name} (use {functions})")
    if taken:
        warn(
            "These attributes are another package's, or your own, and stay so: neither do they show what "
            "spacy-mmib finds, nor does it see what is assigned to them, pictures included. Use the "
            f"functions of spacy_mmib.post.extensions instead: {', '.join(taken)}; or remove the other "
            "attribute before spacy-mmib is loaded (Doc.remove_extension, Span.remove_extension). What "
            "spacy-mmib 0.1.0 stored in files under these names isn't read either."
        )


register_extensions()
