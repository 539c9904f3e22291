"""What a page shows of a post, in the form templates take."""

from dataclasses import dataclass

from .arcs import ArcDrawing
from .pictures import SmallPicture

OBJECT = "object"
"""What an object without a label is called."""


@dataclass(frozen=True)
class TokenView:
    """A piece of text with the same shade: a token, or more if there are no shades.

    share (Optional[float]): 0-1.
    """

    text: str
    share: float | None = None


@dataclass(frozen=True)
class PieceView:
    """An entity, or the text between two.

    label (Optional[str]): The type of the entity; `None` for text between.
    confidence (Optional[float]): 0-1.
    weights (Optional[List[int]]): See `get_weights`, in percent.
    """

    tokens: list[TokenView]
    label: str | None = None
    hue: int = 0
    confidence: float | None = None
    weights: list[int] | None = None
    after: str = ""


@dataclass(frozen=True)
class RegionView:
    """An object of the picture, or (number 0) the whole picture.

    number (int): As in `ent._.region_weights`.
    name (str): What it is called.
    box (Optional[Tuple[float, float, float, float]]): Left, top, width and height in percent of the
        picture, as far as it is inside.
    crop (Optional[SmallPicture]): The picture of a ready crop.
    note (Optional[str]): Why it isn't shown.
    weight (Optional[int]): Percent.
    """

    number: int
    name: str
    score: float | None = None
    box: tuple[float, float, float, float] | None = None
    crop: SmallPicture | None = None
    note: str | None = None
    weight: int | None = None

    @property
    def is_bare(self) -> bool:
        """RETURNS (bool): Whether all that is known is a box."""
        known = (self.score, self.weight, self.crop, self.note)
        return self.box is not None and self.name == OBJECT and known == (None,) * 4


@dataclass(frozen=True)
class TextView:
    """Text with entities and relations."""

    pieces: list[PieceView]
    arcs: ArcDrawing | None
    lang: str
    problem: str | None = None


@dataclass(frozen=True)
class PictureView:
    """A picture with its objects, and what is wrong with it."""

    small: SmallPicture | None
    regions: list[RegionView]
    errors: list[str]
    attached: bool

    @property
    def named(self) -> list[RegionView]:
        """RETURNS (List[RegionView]): The objects that there is more to say of than where they are."""
        return [region for region in self.regions if not region.is_bare]


@dataclass(frozen=True)
class PostView:
    """A post. Two with the same key show the same, so that they may share a page."""

    key: str
    text: TextView
    picture: PictureView
    shaded: bool

    @property
    def has_weights(self) -> bool:
        """RETURNS (bool): Whether any entity says where it looked."""
        return any(piece.weights is not None for piece in self.text.pieces)
