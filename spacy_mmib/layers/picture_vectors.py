"""Picture vectors that one component computed and others use, as long as the doc lives.

Beside the doc rather than in its `user_data`: they are found again in no time from the picture, and would
be in every `Doc.to_bytes`, `DocBin` and `Doc.copy` otherwise.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from spacy.tokens import Doc
from thinc.types import Floats2d

from ..extensions import REGIONS_KEY, get_stored_image
from ..images.values import StoredImage


@dataclass(frozen=True)
class _Encoded:
    """Vectors, and what they are of: with another picture or other objects they are worthless."""

    image: StoredImage
    regions: str
    vectors: Floats2d


_ENCODED: "WeakKeyDictionary[Doc, dict[str, _Encoded]]" = WeakKeyDictionary()


def set_picture_vectors(doc: Doc, name: str, vectors: Floats2d) -> None:
    """Keep what a component computed, instead of what it computed before.

    doc (Doc): The post.
    name (str): The component's name.
    vectors (Floats2d): A row a region.
    """
    # A copy, not a view that would keep the vectors of the whole batch alive.
    encoded = _Encoded(get_stored_image(doc), _describe_regions(doc), vectors.copy())
    _ENCODED.setdefault(doc, {})[name] = encoded


def get_picture_vectors(doc: Doc, name: str) -> Floats2d | None:
    """RETURNS (Optional[Floats2d]): What the component computed for this very doc object, if it has, and for
    the picture and the objects that the doc has now.
    """
    encoded = _ENCODED.get(doc, {}).get(name)
    if encoded is None or encoded.image != get_stored_image(doc):
        return None
    return encoded.vectors if encoded.regions == _describe_regions(doc) else None


def _describe_regions(doc: Doc) -> str:
    return repr(doc.user_data.get(REGIONS_KEY))
