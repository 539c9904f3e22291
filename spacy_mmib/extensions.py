"""`Doc._` and `Span._` attributes: what a post has beside its text.

Everything lives in `Doc.user_data`, in immutable or plain form, so that `Doc.to_bytes`,
`DocBin(store_user_data=True)`, pickle, `Doc.copy` and `nlp.pipe(n_process=...)` keep it.

| attribute | what |
|---|---|
| `doc._.image` | the picture of the post: see `images.values.ImageValue` |
| `doc._.regions` | objects in the picture: see `regions.normalize_regions` |
| `doc._.image_error` | `None`, or one line that says why a picture was not used |
| `doc._.relations` | relations between spans of the post: see `relations.Relation` |
| `ent._.confidence` | probability of a predicted entity, 0-1, or `None` |
| `ent._.region_weights` | what of the picture an entity attended to: see `get_region_weights` |
"""

from collections.abc import Sequence
from typing import Any

from spacy.tokens import Doc, Span

from .images.values import StoredImage, from_stored, image_key, to_stored
from .regions import Region, normalize_regions
from .relations import get_relations, set_relations

IMAGE_KEY = ("._.", "image", None, None)
REGIONS_KEY = ("._.", "regions", None, None)
ERROR_KEY = ("._.", "image_error", None, None)
# What whoever uses the regions has to know about where they come from, e.g. that they leak a label.
REGIONS_NOTE_KEY = ("spacy_mmib", "regions_note", None, None)
# What the picture encoder found, which is found again each time it runs; and of what kinds that was.
ENCODER_ERROR_KEY = ("spacy_mmib", "encoder_error", None, None)
ERROR_KINDS_KEY = ("spacy_mmib", "error_kinds", None, None)
# What found the regions, if it wasn't the user.
REGIONS_SOURCE_KEY = ("spacy_mmib", "regions_source", None, None)
# Predicted entities by component: {name: [(start_char, end_char, label, confidence), ...]}
PREDICTED_KEY = ("spacy_mmib", "predicted", None, None)
# What spans attended to in the picture, by component: {name: [(start_char, end_char, weights), ...]}
REGION_WEIGHTS_KEY = ("spacy_mmib", "region_weights", None, None)


def get_image(doc: Doc) -> Any:
    """RETURNS (ImageValue): The picture as it was attached; paths come back as `str`, PIL images as RGB."""
    return from_stored(doc.user_data.get(IMAGE_KEY))


def set_image(doc: Doc, value: Any, *, keep_regions: bool = False) -> None:
    """Attach a picture. What was known about an earlier one is forgotten: why it could not be used, its
    regions, and what entities attended to in it.

    value (ImageValue): The picture, or `None`.
    keep_regions (bool): It is the same picture, under another path.
    RAISES (TypeError, ValueError): Not a kind of value that can be a picture.
    """
    stored = to_stored(value)
    before = doc.user_data.get(IMAGE_KEY)
    none = stored is None or before is None
    if none or not (keep_regions or image_key(stored) == image_key(before)):
        _set(doc, REGION_WEIGHTS_KEY, None)
        if not none:
            set_regions(doc, None)
    _set(doc, IMAGE_KEY, stored)
    set_image_error(doc, None)


def get_stored_image(doc: Doc) -> StoredImage:
    """RETURNS (StoredImage): The picture in its stored form, without building an object for it."""
    stored: StoredImage = doc.user_data.get(IMAGE_KEY)
    return stored


def get_image_key(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): The same for docs with the same picture, `None` without one."""
    return image_key(doc.user_data.get(IMAGE_KEY))


def get_regions(doc: Doc) -> list[Region]:
    """RETURNS (List[Region]): The objects of the picture, in order; empty if there are none. A new list:
    to change the regions, assign.
    """
    stored = doc.user_data.get(REGIONS_KEY)
    return [] if stored is None else normalize_regions(stored)


def count_regions(doc: Doc) -> int:
    """RETURNS (int): How many regions there are, also where `get_regions` can't read them."""
    stored = doc.user_data.get(REGIONS_KEY)
    return len(stored) if isinstance(stored, (list, tuple)) else 0


def set_regions(doc: Doc, value: Any) -> None:
    """Attach objects of the picture; see `normalize_regions` for what is accepted. A note on the regions
    that were there stays as long as one of them does: a part of them comes from the same source.
    """
    regions = None if value is None else normalize_regions(value)
    _set(doc, REGIONS_SOURCE_KEY, None)
    if (regions or None) != (doc.user_data.get(REGIONS_KEY) or None):
        _set(doc, REGION_WEIGHTS_KEY, None)
    if get_regions_note(doc) is not None:
        noted = doc.user_data.get(REGIONS_KEY)
        if not any(region in (noted or ()) for region in regions or ()):
            set_regions_note(doc, None)
    _set(doc, REGIONS_KEY, regions)


def get_regions_note(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): What has to be known about where the regions come from, in one line."""
    return _one_line(doc.user_data.get(REGIONS_NOTE_KEY))


def set_regions_note(doc: Doc, note: str | None) -> None:
    """Say where the regions come from, or take it back with `None`. It belongs to the regions that are
    attached now: see `set_regions`.
    """
    _set(doc, REGIONS_NOTE_KEY, _one_line(note))


def set_found_regions(
    doc: Doc, regions: list[Region], source: str | None, note: str | None
) -> None:
    """Attach what a region getter found.

    regions (List[Region]): Normalized.
    source (Optional[str]): What determines them, beside the picture, so that they aren't searched for again.
    note (Optional[str]): See `set_regions_note`.
    """
    set_regions(doc, regions)
    _set(doc, REGIONS_SOURCE_KEY, source)
    if note is not None:
        set_regions_note(doc, note)


def get_regions_source(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): See `set_found_regions`; `None` for regions that somebody attached."""
    source: str | None = doc.user_data.get(REGIONS_SOURCE_KEY)
    return source


def take_picture_findings(doc: Doc, copy: Doc) -> None:
    """Write to a doc what a picture encoder wrote to a copy of it: regions, where they come from, and what
    could not be used.
    """
    if copy.user_data.get(REGIONS_KEY) != doc.user_data.get(REGIONS_KEY):
        set_regions(doc, get_regions(copy))
    for key in (REGIONS_SOURCE_KEY, REGIONS_NOTE_KEY, ENCODER_ERROR_KEY, ERROR_KINDS_KEY):
        _set(doc, key, copy.user_data.get(key))


def get_image_error(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): Why the picture, or some of its objects, were not used."""
    errors = (doc.user_data.get(key) for key in (ERROR_KEY, ENCODER_ERROR_KEY))
    return "; ".join(filter(None, errors)) or None


def set_image_error(doc: Doc, value: str | None) -> None:
    """Say why the picture was not used, or take it back with `None`."""
    _set(doc, ERROR_KEY, _one_line(value))
    set_encoder_error(doc, None)


def set_encoder_error(doc: Doc, value: str | None, kinds: Sequence[str] = ()) -> None:
    """The same, from a picture encoder: beside what a reader said, instead of what an encoder said before.

    kinds (Sequence[str]): The kind of each thing that can't be used; see `images.reading.ImageError`.
    """
    _set(doc, ENCODER_ERROR_KEY, _one_line(value))
    _set(doc, ERROR_KINDS_KEY, list(kinds) or None)


def get_image_error_kinds(doc: Doc) -> list[str]:
    """RETURNS (List[str]): Of what kinds the things were that an encoder couldn't use, for counting."""
    return list(doc.user_data.get(ERROR_KINDS_KEY) or ())


def get_predicted(doc: Doc, name: str) -> dict[tuple[int, int, str], float]:
    """What a component predicted for a doc.

    name (str): The component's name.
    RETURNS (Dict[Tuple[int, int, str], float]): Confidences by first character, one past the last
        character, and label.
    """
    found = (doc.user_data.get(PREDICTED_KEY) or {}).get(name, ())
    return {(start, end, label): confidence for start, end, label, confidence in found}


def set_predicted(doc: Doc, name: str, predicted: dict[tuple[int, int, str], float]) -> None:
    """Keep what a component predicted for a doc, instead of what it predicted before."""
    everyone = dict(doc.user_data.get(PREDICTED_KEY) or {})
    everyone.pop(name, None)
    if predicted:
        everyone[name] = [[*key, confidence] for key, confidence in predicted.items()]
    _set(doc, PREDICTED_KEY, everyone or None)


def get_confidence(span: Span) -> float | None:
    """RETURNS (Optional[float]): Probability, 0-1, of a span that a component of this package predicted as
    an entity of just this label; `None` for any other span.
    """
    key = (span.start_char, span.end_char, span.label_)
    for name in span.doc.user_data.get(PREDICTED_KEY) or ():
        confidence = get_predicted(span.doc, name).get(key)
        if confidence is not None:
            return confidence
    return None


def set_region_weights(
    doc: Doc, name: str, weights: dict[tuple[int, int], Sequence[float]]
) -> None:
    """Keep what a component's spans attended to in the picture, instead of what it kept before, and of what
    others kept for the same spans. Forgotten as soon as the doc gets another picture or other regions.

    name (str): The component's name.
    weights (Dict[Tuple[int, int], Sequence[float]]): By first character and one past the last; see
        `get_region_weights`.
    """
    stored = dict(doc.user_data.get(REGION_WEIGHTS_KEY) or {})
    stored.pop(name, None)
    everyone = {}
    for other, rows in stored.items():
        kept = [row for row in rows if (row[0], row[1]) not in weights]
        if kept:
            everyone[other] = kept
    if weights:
        everyone[name] = [[*span, [float(x) for x in row]] for span, row in weights.items()]
    _set(doc, REGION_WEIGHTS_KEY, everyone or None)


def get_weighted_spans(doc: Doc, *, without: str) -> set[tuple[int, int]]:
    """RETURNS (Set[Tuple[int, int]]): First character and one past the last of spans that other components
    than this one keep weights for.
    """
    stored = doc.user_data.get(REGION_WEIGHTS_KEY) or {}
    return {(row[0], row[1]) for name, rows in stored.items() if name != without for row in rows}


def get_region_weights(span: Span) -> list[float] | None:
    """What an entity attended to in the picture when C was made (Eq. 17): mean over the attention heads and
    the entity's tokens.

    RETURNS (Optional[List[float]]): The weight of the whole picture, then that of each of `doc._.regions`, 0
        for those that could not be used; their sum is 1. `None` for a post without a (readable) picture and
        for a span that no component of this package looked at.
    """
    doc = span.doc
    stored = doc.user_data.get(REGION_WEIGHTS_KEY)
    if not stored or get_stored_image(doc) is None:
        return None
    expected = 1 + count_regions(doc)
    for rows in stored.values():
        for start, end, weights in rows:
            if (start, end) == (span.start_char, span.end_char) and len(weights) == expected:
                return list(weights)
    return None


def _one_line(text: str | None) -> str | None:
    return None if text is None else " ".join(str(text).split()) or None


def _set(doc: Doc, key: Any, value: Any) -> None:
    if value is None:
        doc.user_data.pop(key, None)
    else:
        doc.user_data[key] = value


def register_extensions() -> None:
    """Register the attributes, once. An attribute of the same name that is already there stays."""
    if not Doc.has_extension("image"):
        Doc.set_extension("image", getter=get_image, setter=set_image)
    if not Doc.has_extension("regions"):
        Doc.set_extension("regions", getter=get_regions, setter=set_regions)
    if not Doc.has_extension("image_error"):
        Doc.set_extension("image_error", getter=get_image_error, setter=set_image_error)
    if not Doc.has_extension("relations"):
        Doc.set_extension("relations", getter=get_relations, setter=set_relations)
    if not Span.has_extension("confidence"):
        Span.set_extension("confidence", getter=get_confidence)
    if not Span.has_extension("region_weights"):
        Span.set_extension("region_weights", getter=get_region_weights)


register_extensions()
