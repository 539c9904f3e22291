"""Picture vectors, and what their rows stand for."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy
from thinc.types import Floats2d


class PictureVectors(list[Floats2d]):
    """What a picture encoder gives for a batch of posts: a list, as any layer's, that knows what its rows
    are. A plain list, from somebody else's layer, is one of which that isn't known.

    vectors (Iterable[Floats2d]): Of each post.
    rows (Sequence[Optional[List[int]]]): Of each post, for each row 0 for the whole picture (or a part of
        it), and i + 1 for `doc._.regions[i]`; `None` if that is not known. Objects that can't be used have
        no row.
    """

    def __init__(self, vectors: Iterable[Floats2d], rows: Sequence[list[int] | None]) -> None:
        super().__init__(vectors)
        self.rows = list(rows)


def get_rows(vectors: Sequence[Floats2d]) -> list[list[int] | None]:
    """RETURNS (List[Optional[List[int]]]): Those of `PictureVectors`, of whatever a picture encoder gave."""
    return vectors.rows if isinstance(vectors, PictureVectors) else [None] * len(vectors)


def sum_by_region(
    values: "numpy.ndarray[Any, Any]", rows: list[int] | None, n_regions: int
) -> "numpy.ndarray[Any, Any]":
    """Sort what belongs to rows of picture vectors by what they stand for.

    values (numpy.ndarray): A column a row of the picture vectors.
    rows (Optional[List[int]]): As in `PictureVectors`. If it isn't known, they are taken for the picture and
        all of its objects, if that is their number.
    n_regions (int): Of the doc.
    RETURNS (numpy.ndarray): A column for the whole picture (all its parts together) and one for each region,
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
