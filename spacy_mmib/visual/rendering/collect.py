"""Collect what a page shows of a post."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc

from ...post.extensions import (
    get_confidence,
    get_image_error,
    get_region_weights,
    get_regions,
    get_stored_image,
)
from ...post.relations import ASKED, get_relations
from .arcs import lay_out
from .colours import get_hue
from .pictures import CROP_SIZE, SmallPicture, try_small
from .views import OBJECT, PictureView, PieceView, PostView, RegionView, TextView, TokenView

if TYPE_CHECKING:
    from ...evaluation.contributions import Contributions

NEGATIVE = "None"


def make_post(
    doc: Doc,
    *,
    max_size: int,
    contributions: "Contributions | None" = None,
    unrelated: bool = False,
) -> PostView:
    """Collect what is shown of a post.

    doc (Doc): The post.
    max_size (int): Longer side of the picture, in pixels.
    contributions (Optional[Contributions]): Shades of its tokens and regions.
    unrelated (bool): Show relations whose label is "None" or "", too.
    RETURNS (PostView): The post.
    """
    token_shares, region_shares = _get_shares(doc, contributions)
    text = make_text(doc, shares=token_shares, unrelated=unrelated)
    picture = make_picture(doc, max_size=max_size, shares=region_shares)
    digest = hashlib.blake2b(repr((text, picture)).encode("utf8", "replace"), digest_size=8)
    return PostView(f"mmib-{digest.hexdigest()}", text, picture, contributions is not None)


def make_text(doc: Doc, *, shares: Sequence[float] | None = None, unrelated: bool = False) -> TextView:
    """Collect what is shown of the text of a post.

    doc (Doc): The post.
    shares (Optional[Sequence[float]]): Shades of its tokens, 0-1.
    unrelated (bool): See `make_post`.
    RETURNS (TextView): Entities, and the text between them.
    """
    pieces, at = [], 0
    for ent in doc.ents:
        pieces.append(PieceView(_get_tokens(doc, at, ent.start, shares)))
        # The space behind an entity is not a part of it.
        tokens = _get_tokens(doc, ent.start, ent.end, shares, trim=True)
        weights = get_region_weights(ent)
        pieces.append(
            PieceView(
                tokens,
                ent.label_,
                get_hue(ent.label_),
                get_confidence(ent),
                None if weights is None else [_percent(weight) for weight in weights],
                doc[ent.end - 1].whitespace_,
            )
        )
        at = ent.end
    pieces.append(PieceView(_get_tokens(doc, at, len(doc), shares)))
    problem, relations = None, []
    try:
        relations = [r for r in get_relations(doc) if unrelated or r.label not in (NEGATIVE, ASKED)]
    except ValueError as err:  # written past the setter
        problem = f"Relations that can't be read: {err}"
    return TextView([piece for piece in pieces if piece.tokens], lay_out(relations), doc.lang_, problem)


def make_picture(doc: Doc, *, max_size: int, shares: Sequence[float] | None = None) -> PictureView:
    """Collect what is shown of the picture of a post.

    doc (Doc): The post.
    max_size (int): Longer side, in pixels.
    shares (Optional[Sequence[float]]): Shades of the picture and its regions, 0-1, instead of the mean
        weights that entities give them.
    RETURNS (PictureView): The picture and its objects.
    """
    stored = get_stored_image(doc)
    small, error = try_small(stored, max_size)
    errors = [line for line in (get_image_error(doc),) if line is not None]
    if error is not None and not any(error in line for line in errors):
        errors.insert(0, error)
    if stored is None:
        return PictureView(None, [], errors, False)
    try:
        regions = get_regions(doc)
    except TypeError as err:  # written past the setter
        regions = []
        errors.append(str(err))
    weights = shares if shares is not None else get_mean_weights(doc)
    if weights is not None and len(weights) != len(regions) + 1:
        weights = None
    views = [RegionView(0, "the whole picture")] if weights is not None else []
    views += [_make_region(i, region, small) for i, region in enumerate(regions, 1)]
    if weights is not None:
        views = [_with_weight(view, weights[view.number]) for view in views]
    return PictureView(small, views, errors, True)


def get_mean_weights(doc: Doc) -> list[float] | None:
    """RETURNS (Optional[List[float]]): The mean of `ent._.region_weights` over entities that have some."""
    found = [weights for ent in doc.ents if (weights := get_region_weights(ent)) is not None]
    if not found or len({len(weights) for weights in found}) > 1:
        return None
    return [sum(column) / len(found) for column in zip(*found)]


def _get_shares(
    doc: Doc, contributions: "Contributions | None"
) -> tuple[list[float] | None, list[float] | None]:
    if contributions is None:
        return None, None
    from ...evaluation.contributions import shares

    if len(contributions.tokens) != len(doc):
        raise ValueError(
            f"The contributions are of a post with {len(contributions.tokens)} tokens, but this one has "
            f"{len(doc)}: {doc.text[:60]!r}. Give them in the order of the docs."
        )
    regions = list(contributions.regions)
    return shares(contributions.tokens), shares(regions) if regions else None


def _get_tokens(
    doc: Doc, start: int, end: int, shares: Sequence[float] | None, *, trim: bool = False
) -> list[TokenView]:
    if start >= end:
        return []
    if shares is None:
        text = "".join(token.text_with_ws for token in doc[start:end])
        return [TokenView(text.removesuffix(doc[end - 1].whitespace_) if trim else text)]
    return [
        TokenView(token.text if trim and token.i == end - 1 else token.text_with_ws, shares[token.i])
        for token in doc[start:end]
    ]


def _make_region(number: int, region: Any, small: SmallPicture | None) -> RegionView:
    if isinstance(region, str):
        crop, error = try_small(region, CROP_SIZE)
        note = None if error is None else f"can't be shown: {error}"
        return RegionView(number, "crop", crop=crop, note=note)
    from ...post.regions import clip_box

    label, score = region.get("label") or OBJECT, region.get("score")
    if small is None:
        return RegionView(number, label, score)
    try:
        left, upper, right, lower = clip_box(region["box"], small.width, small.height)
    except ValueError as err:
        return RegionView(number, label, score, note=str(err))
    across, down = 100 / small.width, 100 / small.height
    box = (left * across, upper * down, (right - left) * across, (lower - upper) * down)
    return RegionView(number, label, score, box=box)


def _with_weight(view: RegionView, weight: float) -> RegionView:
    return RegionView(view.number, view.name, view.score, view.box, view.crop, view.note, _percent(weight))


def _percent(share: float) -> int:
    return round(100 * min(1.0, max(0.0, share)))
