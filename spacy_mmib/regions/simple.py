"""Region getters that search for nothing: no objects, those on the doc, a grid."""

from collections.abc import Sequence

from spacy.tokens import Doc

from ..post.extensions import get_regions
from ..post.regions import Region
from .base import Pictures, RegionGetter, region_getters


@region_getters("spacy-mmib.none.v1")
class NoRegions(RegionGetter):
    """The whole picture only; `doc._.regions` is neither read nor changed."""

    needs_pictures = False
    writes = False

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): Nothing for each."""
        return [[] for _ in docs]


@region_getters("spacy-mmib.given.v1")
class GivenRegions(RegionGetter):
    """What is in `doc._.regions`."""

    needs_pictures = False
    writes = False
    of_doc = True

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): The regions of each doc."""
        return [get_regions(doc) for doc in docs]


@region_getters("spacy-mmib.grid.v1")
class GridRegions(RegionGetter):
    """k x k equal parts of the picture, row by row, as early systems have it (the paper's [11], [12]).

    k (int): Parts a side.
    RAISES (ValueError): Fewer than 1.
    """

    def __init__(self, k: int = 2) -> None:
        if k < 1:
            raise ValueError(f"A grid has at least 1 part a side (k), not {k}.")
        self.k = k

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): A box a part; they overlap where a side has fewer than k pixels."""
        return [self._cut(*picture.size) if picture else [] for picture in pictures]

    def _cut(self, width: int, height: int) -> list[Region]:
        x = [i * width / self.k for i in range(self.k + 1)]
        y = [i * height / self.k for i in range(self.k + 1)]
        return [
            {"box": [x[column], y[row], x[column + 1], y[row + 1]], "label": None, "score": None}
            for row in range(self.k)
            for column in range(self.k)
        ]

    def get_identity(self) -> str:
        """RETURNS (str): The setting."""
        return f"grid k={self.k}"
