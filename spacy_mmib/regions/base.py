"""Region getters: what finds the objects in pictures, named in a config by `@region_getters`. Free of Pillow
and torch. Other packages register theirs by the entry point group `spacy_region_getters`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import catalogue
from spacy.tokens import Doc
from spacy.util import registry

from ..post.regions import Region

if TYPE_CHECKING:
    import PIL.Image

Pictures: TypeAlias = Sequence["PIL.Image.Image | None"]


def get_region_getters() -> Any:
    """RETURNS (catalogue.Registry): The registry, an attribute of spaCy's own, where configs look."""
    if not hasattr(registry, "region_getters"):
        registry.region_getters = catalogue.create("spacy", "region_getters", entry_points=True)
    return registry.region_getters


region_getters = get_region_getters()


class RegionGetter:
    """Finds the objects in the pictures of posts. Subclass it, or register a plain function from docs and
    pictures to lists of regions.

    A getter may look at the picture and the text, never at annotations.
    """

    needs_pictures: bool = True
    """Whether it looks at pixels. If not, no picture is decoded for it, and it gets `None` for each."""

    writes: bool = True
    """Whether what it finds is written to `doc._.regions`."""

    of_doc: bool = False
    """Whether the regions it returns are those in `doc._.regions`, as `get_regions` returns them."""

    note: str | None = None
    """What users of the regions have to know, e.g. that they leak a label."""

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """Find the objects of posts with a picture, which is RGB and upright.

        RETURNS (List[List[Region]]): The regions of each, best first, in a form that `normalize_regions`
            takes; boxes in pixels of the picture.
        """
        raise NotImplementedError

    def get_identity(self) -> str | None:
        """RETURNS (Optional[str]): What, beside the picture and `get_query`, determines the result: name,
        settings, weights. Regions are cached under it; `None` switches caching off.
        """
        return None

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): What of the text determines the result."""
        return ""


AnyRegionGetter: TypeAlias = RegionGetter | Callable[..., Any]


class FunctionGetter(RegionGetter):
    """A plain function from docs and pictures. What it depends on is unknown, so nothing is cached."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): What the function returns."""
        return [list(regions) for regions in self.function(docs, pictures)]


def as_getter(getter: AnyRegionGetter) -> RegionGetter:
    """RETURNS (RegionGetter): What a config gave, as a getter."""
    return getter if isinstance(getter, RegionGetter) else FunctionGetter(getter)
