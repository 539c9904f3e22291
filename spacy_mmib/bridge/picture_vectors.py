"""Picture vectors that one component computed and others use, as long as the doc lives.

Beside the doc rather than in its `user_data`: they are found again in no time from the picture, and would
be in every `Doc.to_bytes`, `DocBin` and `Doc.copy` otherwise.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy
from spacy.tokens import Doc
from thinc.types import Floats2d

from ..post.extensions import describe_regions, get_stored_image
from ..post.values import StoredImage


@dataclass(frozen=True)
class _Encoded:
    """Vectors, and what they are of: with another picture or other objects they are worthless."""

    image: StoredImage
    regions: str
    vectors: Floats2d
    rows: list[int] | None


_ENCODED: "WeakKeyDictionary[Doc, dict[str, _Encoded]]" = WeakKeyDictionary()

_ROWS: "WeakKeyDictionary[Doc, list[int]]" = WeakKeyDictionary()
"""Of each doc, what the rows of the picture vectors that were made last stand for."""


def set_picture_vectors(doc: Doc, name: str, vectors: Floats2d) -> None:
    """Keep what a component computed, instead of what it computed before.

    doc (Doc): The post.
    name (str): The component's name.
    vectors (Floats2d): A row a region.
    """
    # A copy, not a view that would keep the vectors of the whole batch alive.
    described = describe_regions(doc)
    encoded = _Encoded(get_stored_image(doc), described, vectors.copy(), get_region_rows(doc))
    _ENCODED.setdefault(doc, {})[name] = encoded


def get_picture_vectors(doc: Doc, name: str) -> Floats2d | None:
    """RETURNS (Optional[Floats2d]): What the component computed for this very doc object, if it has, and for
    the picture and the objects that the doc has now.
    """
    encoded = _ENCODED.get(doc, {}).get(name)
    if encoded is None or encoded.image != get_stored_image(doc):
        return None
    if encoded.regions != describe_regions(doc):
        return None
    # The encoder of another component may have made vectors with other rows since.
    set_region_rows(doc, encoded.rows)
    return encoded.vectors


def set_region_rows(doc: Doc, rows: list[int] | None) -> None:
    """Say what the rows of the picture vectors that were just made stand for. Objects that can't be used have
    none.

    doc (Doc): The post.
    rows (Optional[List[int]]): For each row 0 for the whole picture (or a patch of it), and i + 1 for
        `doc._.regions[i]`; `None` if that is not known.
    """
    if rows is None:
        _ROWS.pop(doc, None)
    else:
        _ROWS[doc] = rows


def get_region_rows(doc: Doc) -> list[int] | None:
    """RETURNS (Optional[List[int]]): See `set_region_rows`."""
    return _ROWS.get(doc)


def sum_by_region(
    values: "numpy.ndarray[Any, Any]", rows: list[int] | None, n_regions: int
) -> "numpy.ndarray[Any, Any]":
    """Sort what belongs to rows of picture vectors by what they stand for.

    values (numpy.ndarray): A column a row of the picture vectors.
    rows (Optional[List[int]]): See `set_region_rows`. If nobody said, they are taken for the picture and all
        of its objects, if that is their number.
    n_regions (int): Of the doc.
    RETURNS (numpy.ndarray): A column for the whole picture (all patches together) and one for each region,
        0 for those that have no vector. No columns without a picture, or if it isn't known what is what.
    """
    n_rows = values.shape[1]
    if rows is None and n_rows == 1 + n_regions:
        rows = list(range(n_rows))
    if not n_rows or rows is None or len(rows) != n_rows or max(rows) > n_regions:
        return values[:, :0]
    result = numpy.zeros((len(values), 1 + n_regions), dtype=values.dtype)
    for column, row in enumerate(rows):
        result[:, row] += values[:, column]
    return result
