"""Picture vectors that one component computed and others use, as long as the doc lives.

Beside the doc rather than in its `user_data`: they are found again in no time from the picture, and would
be in every `Doc.to_bytes`, `DocBin` and `Doc.copy` otherwise.
"""

from weakref import WeakKeyDictionary

from spacy.tokens import Doc
from thinc.types import Floats2d

_VECTORS: "WeakKeyDictionary[Doc, dict[str, Floats2d]]" = WeakKeyDictionary()


def set_picture_vectors(doc: Doc, name: str, vectors: Floats2d) -> None:
    """Keep what a component computed, instead of what it computed before.

    doc (Doc): The post.
    name (str): The component's name.
    vectors (Floats2d): A row a region.
    """
    _VECTORS.setdefault(doc, {})[name] = vectors


def get_picture_vectors(doc: Doc, name: str) -> Floats2d | None:
    """RETURNS (Optional[Floats2d]): What the component computed for this very doc object, if it has."""
    return _VECTORS.get(doc, {}).get(name)
