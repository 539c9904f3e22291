"""What passes between components and layers. Free of torch, so that components can import it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy
from spacy.tokens import Doc
from thinc.types import Floats1d, Floats2d

from ..post.boxes import EntityRegion
from ..post.regions import FoundRegions

T = TypeVar("T")


class PictureVectors(list[Floats2d]):
    """What a picture encoder gives for a batch of posts: a list, as any layer's, that knows what its rows
    are. A plain list, from somebody else's layer, is one of which that isn't known.

    vectors (Iterable[Floats2d]): Of each post.
    rows (Sequence[Optional[List[int]]]): Of each post, for each row 0 for a whole picture (or a part of it),
        and i + 1 for `doc._.regions[i]`; `None` if that is not known. Objects that can't be used have no row.
        If a post has several pictures, the rows of the first come first, then those of the second.
    found (Optional[Sequence[Optional[FoundRegions]]]): At inference, of each post, what was found in its
        picture and isn't attached yet: `set_annotations` does that.
    """

    def __init__(
        self,
        vectors: Iterable[Floats2d],
        rows: Sequence[list[int] | None],
        found: Sequence[FoundRegions | None] | None = None,
    ) -> None:
        super().__init__(vectors)
        self.rows = list(rows)
        self.found: list[FoundRegions | None] = [None] * len(self) if found is None else list(found)


def as_picture_vectors(vectors: Sequence[Floats2d]) -> PictureVectors:
    """RETURNS (PictureVectors): Of whatever a picture encoder gave."""
    if isinstance(vectors, PictureVectors):
        return vectors
    return PictureVectors(vectors, [None] * len(vectors))


class EncodedPosts(list[Doc]):
    """Docs whose pictures have been encoded: those of a batch together, in full batches of the network, while
    models get groups of posts of similar length.

    image (PictureVectors): Of each post.
    encoder (Optional[Model]): The picture encoder they are from; `None` for a model without one of its own.
    """

    def __init__(self, docs: Iterable[Doc], image: PictureVectors, encoder: Any) -> None:
        super().__init__(docs)
        self.image, self.encoder = image, encoder

    def take(self, rows: Sequence[int]) -> "EncodedPosts":
        """RETURNS (EncodedPosts): Some of them."""
        parts: Any = (self, self.image, self.image.rows, self.image.found)
        docs, *image = ([part[i] for i in rows] for part in parts)
        return EncodedPosts(docs, PictureVectors(*image), self.encoder)


class TextVectors(list[Floats2d]):
    """What a text encoder that looks at pictures gives: a list, as any text encoder's, with the picture
    vectors that went into it.

    vectors (Iterable[Floats2d]): Of each post.
    image (PictureVectors): Of each post.
    """

    def __init__(self, vectors: Iterable[Floats2d], image: PictureVectors) -> None:
        super().__init__(vectors)
        self.image = image


def choose(values: Sequence[T], rows: Sequence[int]) -> Sequence[T]:
    """RETURNS (Sequence): Of some posts of a batch, in order. Of all of them it is the very sequence, which
    may be more than a list.
    """
    return values if len(rows) == len(values) else [values[i] for i in rows]


def spread(
    chosen: Sequence[T], rows: Sequence[int], posts: Sequence[Any], make: Callable[[int], T]
) -> Sequence[T]:
    """RETURNS (Sequence): Of all posts: the inverse of `choose`, with what `make` gives for the others."""
    if len(rows) == len(posts):
        return chosen
    found = dict(zip(rows, chosen))
    return [found[i] if i in found else make(i) for i in range(len(posts))]


def sum_by_region(
    values: "numpy.ndarray[Any, Any]", rows: list[int] | None, n_regions: int
) -> "numpy.ndarray[Any, Any]":
    """Sort what belongs to rows of picture vectors by what they stand for.

    values (numpy.ndarray): A column a row of the picture vectors.
    rows (Optional[List[int]]): As in `PictureVectors`. If it isn't known, they are taken for the picture and
        all of its objects, if that is their number.
    n_regions (int): Of the doc.
    RETURNS (numpy.ndarray): A column for whole pictures (all their parts together) and one for each region,
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


@dataclass
class FusionInput:
    """Vectors of a batch of posts with tokens: a row a token, and a row a region, row 0 the whole picture.
    Keys are equal for equal pictures and texts; outside training they only tell posts without a picture
    (`None`) apart.
    """

    text: Sequence[Floats2d]
    image: Sequence[Floats2d]
    image_keys: list[str | None]
    text_keys: list[str]


@dataclass
class Posterior:
    """What the latents of the text or picture of one post are drawn from, without dropout: the vectors `x`,
    and means and variances of width d, a row each for the first tokens or regions. Equal ones have one key.
    """

    key: str
    x: "numpy.ndarray[Any, Any]"
    mu: "numpy.ndarray[Any, Any]"
    variance: "numpy.ndarray[Any, Any]"


Posteriors: TypeAlias = dict[str, list[Posterior]]
"""Of the posts of a batch, by modality: "text", and "image" for those with a picture."""


@dataclass
class PostVectors:
    """What a fusion makes of a batch of posts; as a gradient, the same with d(loss)/d(value).

    context (Sequence[Floats2d]): C, picture-aware text vectors, a row a token.
    losses (Dict[str, Floats1d]): The fusion's own losses, in training, by name, shape (1,).
    logs (Dict[str, Floats1d]): Numbers to watch, by name, shape (1,). No gradient.
    borders (Sequence[Floats2d]): What a head may tell the borders of entities from, a row a token: vectors
        that the fusion gives for that, or those of the text. As a gradient empty if no head has used them.
    weights (List[numpy.ndarray]): At inference, what each token attended to in the picture, mean over heads:
        a row a token. From the fusion a column a row of the picture vectors; from `encode_posts` a column for
        the whole picture and one for each of `doc._.regions`, or none if there is no picture. Empty list: the
        fusion doesn't attend. No gradient.
    posteriors (Posteriors): In training, if the layer's attribute "watch" is set, of a fusion that has
        any. No gradient.
    found (List[Optional[FoundRegions]]): From `encode_posts`, as in `PictureVectors`. No gradient.
    text, image (List[Floats2d]): From `encode_posts`, what C was made of. No gradient of `text`.
    rows (List[Optional[List[int]]]): From `encode_posts`, as in `PictureVectors`. No gradient.
    """

    context: Sequence[Floats2d]
    losses: dict[str, Floats1d] = field(default_factory=dict)
    logs: dict[str, Floats1d] = field(default_factory=dict)
    borders: Sequence[Floats2d] = field(default_factory=list)
    weights: list["numpy.ndarray[Any, Any]"] = field(default_factory=list)
    posteriors: Posteriors = field(default_factory=dict)
    found: list[FoundRegions | None] = field(default_factory=list)
    text: list[Floats2d] = field(default_factory=list)
    image: list[Floats2d] = field(default_factory=list)
    rows: list[list[int] | None] = field(default_factory=list)


@dataclass
class NERInput:
    """What goes into the entity head: C and what borders may be told from, and in training the gold, int64 a
    token: 0 for O, 2j + 1 for B and 2j + 2 for I of label j, -1 where it is unknown. Or, to be asked for the
    probabilities of entities, these: post, first token and one past the last, label.
    """

    context: Sequence[Floats2d]
    borders: Sequence[Floats2d]
    tags: list["numpy.ndarray[Any, Any]"] | None = None
    spans: list[tuple[int, int, int, int]] | None = None


@dataclass
class PointerInput:
    """What goes into a pointer, of posts with at least one entity each.

    context, image (List[Floats2d]): C, and the picture vectors.
    objects (List[numpy.ndarray]): Of each post, float32, which row of its picture vectors (a row) is of the
        whole picture (column 0) and of each of `doc._.regions`: 1 for yes. No columns without a picture.
    spans (List[List[Tuple[int, int]]]): First token and one past the last of each entity.
    targets (Optional[List[List[List[int]]]]): In training, for each entity the columns of `objects` that it
        is, 0 for "not in the picture"; empty where that isn't known.
    """

    context: list[Floats2d]
    image: list[Floats2d]
    objects: list["numpy.ndarray[Any, Any]"]
    spans: list[list[tuple[int, int]]]
    targets: list[list[list[int]]] | None = None


class DecodedEntities(NamedTuple):
    """The entities of one post: the first token of each, one past its last token, the index of its label, and
    its probability under the CRF, 0-1. `weights` are those of all tokens, `found` is what was found in the
    picture, as in `PostVectors`; `regions` says which object each entity is, if somebody has looked.
    """

    starts: list[int]
    ends: list[int]
    labels: list[int]
    confidences: list[float]
    weights: "numpy.ndarray[Any, Any] | None" = None
    found: FoundRegions | None = None
    regions: list[EntityRegion] | None = None


PairArray: TypeAlias = "numpy.ndarray[Any, Any]"
"""int64, a row a pair of spans: first token and one past the last of the head, then of the tail."""


SpanWeights: TypeAlias = "dict[tuple[int, int], list[numpy.ndarray[Any, Any]]]"
"""By first token and one past the last of a span: what it attended to in the picture, as in
`PostVectors.weights`, mean over the tokens that stand for it; once each time the span was encoded."""


@dataclass
class PairInput:
    """Posts, and which pairs of their spans to classify, possibly none."""

    docs: list[Doc]
    pairs: list[PairArray]


@dataclass
class PairScores:
    """What a relation model makes of them; as a gradient, the same with d(loss)/d(value).

    scores (Floats2d): Logits, a row a pair, in the order of the posts and their pairs, a column a label.
    losses, logs, posteriors, found: As in `PostVectors`.
    weights (List[SpanWeights]): At inference, of each post. No gradient.
    """

    scores: Floats2d
    losses: dict[str, Floats1d] = field(default_factory=dict)
    logs: dict[str, Floats1d] = field(default_factory=dict)
    weights: list[SpanWeights] = field(default_factory=list)
    posteriors: Posteriors = field(default_factory=dict)
    found: list[FoundRegions | None] = field(default_factory=list)
