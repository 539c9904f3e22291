"""Collect what a page shows of a post, as templates take it."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from spacy.tokens import Doc

from ..images.errors import ImageError
from ..post.boxes import get_region
from ..post.extensions import (
    get_confidence,
    get_image_error,
    get_region_weights,
    get_regions,
    get_stored_images,
)
from ..post.regions import Region, clip_box
from ..post.relations import ASKED, get_relations
from .arcs import get_hue, lay_out

if TYPE_CHECKING:
    import PIL.Image

    from ..evaluation.contributions import Contributions

OBJECT = "object"
"""What an object without a label is called."""
SMALLEST = 160
"""Pixels. Pictures whose longer side is less are shown enlarged, or their objects could not be told apart."""
CROP_SIZE = 96
"""Pixels, of the longer side of crops that are shown."""


class SmallPicture(NamedTuple):
    """A picture as it is shown: a data URI of a JPEG, width and height of the upright original in pixels
    (which the boxes of objects are in), and the width at which it is shown.
    """

    uri: str
    width: int
    height: int
    shown_width: int


def make_post(
    doc: Doc,
    *,
    max_size: int,
    contributions: "Contributions | None" = None,
    unrelated: bool = False,
    heading: str | None = None,
) -> dict[str, Any]:
    """Collect what is shown of a post.

    max_size (int): Longer side of the picture, in pixels.
    contributions (Optional[Contributions]): Shades of its tokens and regions.
    unrelated (bool): Show relations whose label is "None" or "", too.
    RETURNS (Dict[str, Any]): The post. Two with the same "key" show the same, so that they may share a page.
    """
    token_shares, region_shares = None, None
    if contributions is not None:
        from ..evaluation.contributions import shares

        if len(contributions.tokens) != len(doc):
            raise ValueError(
                f"The contributions are of a post with {len(contributions.tokens)} tokens, but this one has "
                f"{len(doc)}: {doc.text[:60]!r}. Give them in the order of the docs."
            )
        token_shares = shares(contributions.tokens)
        region_shares = shares(contributions.regions) or None
    text = make_text(doc, shares=token_shares, unrelated=unrelated)
    picture = make_picture(doc, max_size=max_size, shares=region_shares)
    digest = hashlib.blake2b(repr((text, picture)).encode("utf8", "replace"), digest_size=8)
    return {
        "key": f"mmib-{digest.hexdigest()}",
        "heading": heading,
        "text": text,
        "picture": picture,
        "shaded": contributions is not None,
        "has_weights": any(piece["weights"] is not None for piece in text["pieces"]),
        "sources": sorted({piece["object"]["source"] for piece in text["pieces"] if piece["object"]}),
    }


def make_text(doc: Doc, *, shares: Sequence[float] | None = None, unrelated: bool = False) -> dict[str, Any]:
    """Collect what is shown of the text of a post.

    shares (Optional[Sequence[float]]): Shades of its tokens, 0-1.
    RETURNS (Dict[str, Any]): "pieces" (entities, and the text between them, whose "label" is `None`), "arcs",
        "lang", and the "problem" if relations can't be read.
    """
    tokens = [(token.text_with_ws, None if shares is None else shares[token.i]) for token in doc]
    pieces: list[dict[str, Any]] = []
    at, seen = 0, bool(get_stored_images(doc))
    for ent in doc.ents:
        found = get_region(ent) if seen else None
        # What an entity is says more than where its tokens look.
        weights = get_region_weights(ent) if found is None else None
        # The space behind an entity is not a part of it.
        last, (_, share) = doc[ent.end - 1], tokens[ent.end - 1]
        entity = {
            "tokens": [*tokens[ent.start : ent.end - 1], (last.text, share)],
            "label": ent.label_,
            "hue": get_hue(ent.label_),
            "confidence": get_confidence(ent),
            "weights": None if weights is None else [_percent(weight) for weight in weights],
            "object": None if found is None else asdict(found),
            "after": last.whitespace_,
        }
        pieces += [{"tokens": tokens[at : ent.start]}, entity]
        at = ent.end
    pieces.append({"tokens": tokens[at:]})
    problem, relations = None, []
    try:
        relations = [r for r in get_relations(doc) if unrelated or r.label not in ("None", ASKED)]
    except ValueError as err:  # written past the setter
        problem = f"Relations that can't be read: {err}"
    return {
        "pieces": [
            {"label": None, "weights": None, "object": None, **piece} for piece in pieces if piece["tokens"]
        ],
        "arcs": lay_out(relations),
        "lang": doc.lang_,
        "problem": problem,
    }


def make_picture(doc: Doc, *, max_size: int, shares: Sequence[float] | None = None) -> dict[str, Any]:
    """Collect what is shown of the pictures of a post.

    shares (Optional[Sequence[float]]): Shades of the picture and its regions, 0-1, instead of the mean
        weights that entities give them, which are not shown if it is known which objects these are.
    RETURNS (Dict[str, Any]): The "pictures" (made small, `None` for one that can't be shown), their "regions"
        (number 0: all pictures), those "named" (of which there is more to say than where) and "errors".
    """
    tried = [try_small(stored, max_size) for stored in get_stored_images(doc)]
    pictures = [small for small, _ in tried]
    known = get_image_error(doc)
    errors = [error for _, error in tried if error is not None and error not in (known or "")]
    errors += [] if known is None else [known]
    regions: list[Region] = []
    if pictures:
        try:
            regions = get_regions(doc)
        except TypeError as err:  # written past the setter
            errors.append(str(err))
    views = [_make_region(i, region, pictures) for i, region in enumerate(regions, 1)]
    objects = [(ent, found) for ent in doc.ents if (found := get_region(ent)) is not None]
    for ent, found in objects:
        if views and found.index is not None:
            of = {"text": ent.text, "hue": get_hue(ent.label_), **asdict(found)}
            views[found.index]["entities"].append(of)
    if shares is None:
        given = [] if objects else [get_region_weights(ent) for ent in doc.ents]
        weights = [some for some in given if some is not None and len(some) == len(regions) + 1]
        shares = [sum(column) / len(weights) for column in zip(*weights)]
    if len(shares) == len(regions) + 1:
        views.insert(0, _describe(0, "the whole picture" if len(pictures) == 1 else "the whole pictures"))
        for view, share in zip(views, shares):
            view["weight"] = _percent(share)
    return {
        "pictures": pictures,
        "regions": views,
        "named": [view for view in views if not _is_bare(view)],
        "errors": errors,
    }


def _is_bare(view: dict[str, Any]) -> bool:
    """Whether all that is known of a region is a box."""
    more = (view[key] for key in ("score", "crop", "note", "weight"))
    bare = view["box"] is not None and view["name"] == OBJECT and not view["entities"]
    return bare and all(value is None for value in more)


def _describe(number: int, name: str, **known: Any) -> dict[str, Any]:
    """A region: its "box" in pixels, as far as it is inside the "picture" of that index, or the picture of a
    ready "crop", "note", why it isn't shown, "weight" in percent, "entities" that it is.
    """
    nothing = dict.fromkeys(("score", "picture", "box", "crop", "note", "weight"))
    return {"number": number, "name": name, **nothing, "entities": [], **known}


def _make_region(number: int, region: Region, pictures: list[SmallPicture | None]) -> dict[str, Any]:
    if isinstance(region, str):
        crop, error = try_small(region, CROP_SIZE)
        return _describe(number, "crop", crop=crop, note=error and f"can't be shown: {error}")
    at = region.get("image", 0)
    view = _describe(number, region["label"] or OBJECT, score=region["score"], picture=at)
    small = pictures[at] if at < len(pictures) else None
    if small is not None:
        try:
            view["box"] = clip_box(region["box"], small.width, small.height)
        except ValueError as err:
            view["note"] = str(err)
    return view


def _percent(share: float) -> int:
    return round(100 * min(1.0, max(0.0, share)))


def try_small(value: Any, max_size: int) -> tuple[SmallPicture | None, str | None]:
    """RETURNS (Tuple[Optional[SmallPicture], Optional[str]]): The picture, or why it can't be shown."""
    if value is None:
        return None, None
    try:
        return make_small(value, max_size), None
    except ImageError as err:
        return None, str(err)


def make_small(value: Any, max_size: int) -> SmallPicture:
    """Read a picture, within the limits and the time that pipelines give it, and make it small; no URL. The
    longer side is `max_size` pixels then, unless it was less.
    """
    from ..images.reader import PictureReader

    reader = PictureReader()

    def shrink() -> SmallPicture:
        image: PIL.Image.Image = reader.read(value)
        width, height = image.size
        image.thumbnail((max_size, max_size))
        file = io.BytesIO()
        # Nothing of the file goes along: neither EXIF data, which can tell a place, nor a colour profile.
        image.save(file, "JPEG", quality=82, exif=b"", icc_profile=None)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        enlarged = max(1.0, min(SMALLEST, max_size) / max(image.size))
        shown_width = max(1, round(image.width * enlarged))
        return SmallPicture(f"data:image/jpeg;base64,{data}", width, height, shown_width)

    # In a thread of the pool, which gives up pictures that hang the decoder.
    small: SmallPicture = reader.submit(shrink).result()
    return small
