"""Region getters that find nothing out: no objects, a grid, what is on the doc already."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spacy.tokens import Doc

from ..post.extensions import get_regions
from ..post.regions import Region
from .getter import RegionGetter
from .registry import region_getters

if TYPE_CHECKING:
    import PIL.Image


class NoRegions(RegionGetter):
    """The whole picture only; `doc._.regions` is neither looked at nor changed."""

    needs_pictures = False
    writes = False

    def __call__(
        self, docs: Sequence[Doc], pictures: Sequence["PIL.Image.Image | None"]
    ) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): Nothing for each."""
        return [[] for _ in docs]


class GivenRegions(RegionGetter):
    """What is in `doc._.regions`."""

    needs_pictures = False
    writes = False
    of_doc = True

    def __call__(
        self, docs: Sequence[Doc], pictures: Sequence["PIL.Image.Image | None"]
    ) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): The regions of each doc."""
        return [get_regions(doc) for doc in docs]


class GridRegions(RegionGetter):
    """k x k equal parts of the picture, row by row.

    k (int): Parts a side.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"A grid has at least 1 part a side (k), not {k}.")
        self.k = k

    def __call__(
        self, docs: Sequence[Doc], pictures: Sequence["PIL.Image.Image | None"]
    ) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): A box a part. Parts of pictures with fewer than k pixels a side
        overlap.
        """
        return [self._cut(*picture.size) if picture else [] for picture in pictures]

    def _cut(self, width: int, height: int) -> list[Region]:
        return [
            {
                "box": [
                    column * width / self.k,
                    row * height / self.k,
                    (column + 1) * width / self.k,
                    (row + 1) * height / self.k,
                ],
                "label": None,
                "score": None,
            }
            for row in range(self.k)
            for column in range(self.k)
        ]

    def get_identity(self) -> str:
        """RETURNS (str): Depends on k only."""
        return f"grid k={self.k}"


@region_getters("spacy-mmib.none.v1")
def make_no_regions_v1() -> RegionGetter:
    """RETURNS (RegionGetter): See `NoRegions`."""
    return NoRegions()


@region_getters("spacy-mmib.given.v1")
def make_given_regions_v1() -> RegionGetter:
    """RETURNS (RegionGetter): See `GivenRegions`."""
    return GivenRegions()


@region_getters("spacy-mmib.grid.v1")
def make_grid_regions_v1(k: int = 2) -> RegionGetter:
    """Make a getter that cuts pictures into k x k parts, as early systems did (the paper's [11], [12]).

    k (int): Parts a side.
    RETURNS (RegionGetter): See `GridRegions`.
    """
    return GridRegions(k)
