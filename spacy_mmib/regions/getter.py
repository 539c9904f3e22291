"""What a region getter is. This module imports neither Pillow nor torch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from spacy.tokens import Doc

from ..post.regions import Region

if TYPE_CHECKING:
    import PIL.Image


class RegionGetter:
    """Finds the objects in the pictures of posts. Subclass it, or register a plain function from docs and
    pictures to lists of regions.

    A getter never sees annotations: it may look at the picture and the text, not at entities or relations.
    """

    needs_pictures: bool = True
    """Whether it looks at pixels. If not it is called with `None` for every picture, and none is decoded for
    it."""

    writes: bool = True
    """Whether what it finds is written to `doc._.regions`."""

    of_doc: bool = False
    """Whether the regions it returns are those in `doc._.regions`, as `get_regions` returns them."""

    note: str | None = None
    """What whoever uses the regions has to know, e.g. that they leak a label: put on each doc as the note of
    its regions."""

    def __call__(
        self, docs: Sequence[Doc], pictures: Sequence["PIL.Image.Image | None"]
    ) -> list[list[Region]]:
        """Find the objects of a batch.

        docs (Sequence[Doc]): Posts with a picture.
        pictures (Sequence[Optional[PIL.Image.Image]]): Their pictures: RGB, upright.
        RETURNS (List[List[Region]]): The regions of each, in the order they are to be used, as
            `regions.normalize_regions` takes them; boxes in pixels of the picture.
        """
        raise NotImplementedError

    def get_identity(self) -> str | None:
        """RETURNS (Optional[str]): What, beside the picture and `get_query`, determines the result: name,
        settings, weights. Regions are cached under it; not at all if `None`.
        """
        return None

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): What of the text determines the result; "" if it doesn't depend on it."""
        return ""


class FunctionGetter(RegionGetter):
    """A plain function as getter. Nothing is known about what it depends on, so it isn't cached.

    function (Callable): Takes docs and pictures.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(
        self, docs: Sequence[Doc], pictures: Sequence["PIL.Image.Image | None"]
    ) -> list[list[Region]]:
        """See `RegionGetter`."""
        return [list(regions) for regions in self.function(docs, pictures)]


AnyRegionGetter: TypeAlias = RegionGetter | Callable[..., Any]


def as_getter(getter: AnyRegionGetter) -> RegionGetter:
    """RETURNS (RegionGetter): What a config gave, as a getter."""
    return getter if isinstance(getter, RegionGetter) else FunctionGetter(getter)
