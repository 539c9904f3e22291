"""`Doc._` and `Span._` attributes: what a post has beside its text.

Everything lives in `Doc.user_data` under spaCy's own keys, in immutable or plain form, so that
`Doc.to_bytes`, `DocBin(store_user_data=True)`, pickle, `Doc.copy` and `nlp.pipe(n_process=...)` keep it.

| attribute | what |
|---|---|
| `doc._.image` | the picture of the post: see `images.values.ImageValue` |
| `doc._.regions` | objects in the picture: see `regions.normalize_regions` |
| `doc._.image_error` | `None`, or one line that says why a picture was not used |
| `ent._.confidence` | probability of a predicted entity, 0-1, or `None` |
"""

from typing import Any

from spacy.tokens import Doc, Span

from .images.values import StoredImage, from_stored, image_key, to_stored
from .regions import Region, normalize_regions

IMAGE_KEY = ("._.", "image", None, None)
REGIONS_KEY = ("._.", "regions", None, None)
ERROR_KEY = ("._.", "image_error", None, None)


def get_image(doc: Doc) -> Any:
    """RETURNS (ImageValue): The picture as it was attached; paths come back as `str`, PIL images as RGB."""
    return from_stored(doc.user_data.get(IMAGE_KEY))


def set_image(doc: Doc, value: Any) -> None:
    """Attach a picture. Whatever was known about an earlier one's failure is forgotten.

    value (ImageValue): The picture, or `None`.
    RAISES (TypeError, ValueError): Not a kind of value that can be a picture.
    """
    _set(doc, IMAGE_KEY, to_stored(value))
    _set(doc, ERROR_KEY, None)


def get_stored_image(doc: Doc) -> StoredImage:
    """RETURNS (StoredImage): The picture in its stored form, without building an object for it."""
    stored: StoredImage = doc.user_data.get(IMAGE_KEY)
    return stored


def get_image_key(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): The same for docs with the same picture, `None` without one."""
    return image_key(doc.user_data.get(IMAGE_KEY))


def get_regions(doc: Doc) -> list[Region]:
    """RETURNS (List[Region]): The objects of the picture, in order; empty if there are none."""
    return normalize_regions(doc.user_data.get(REGIONS_KEY) or [])


def set_regions(doc: Doc, value: Any) -> None:
    """Attach objects of the picture; see `normalize_regions` for what is accepted."""
    _set(doc, REGIONS_KEY, normalize_regions(value) if value is not None else None)


def get_image_error(doc: Doc) -> str | None:
    """RETURNS (Optional[str]): Why the picture was not used."""
    error: str | None = doc.user_data.get(ERROR_KEY)
    return error


def set_image_error(doc: Doc, value: str | None) -> None:
    """Say why the picture was not used, or take it back with `None`."""
    _set(doc, ERROR_KEY, None if value is None else " ".join(str(value).split()))


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
    if not Span.has_extension("confidence"):
        Span.set_extension("confidence", default=None)


register_extensions()
