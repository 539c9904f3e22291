"""The posts that a report shows, worst first, and what they can be filtered by."""

from collections.abc import Sequence
from typing import Any

from spacy.tokens import Doc

from ...evaluation.errors import AnyError, EntityError, PostChange
from ...post.extensions import get_image_error, get_stored_image
from ...post.relations import ASKED, get_relations
from ..collect import make_post, make_text

PICTURE_SIZE = 320


def sort_posts(posts: Sequence[PostChange]) -> list[PostChange]:
    """RETURNS (List[PostChange]): Worst first: by errors, then by those that the picture added, then those
    that it repaired.
    """
    return sorted(
        posts,
        key=lambda post: (-len(post.errors), -len(post.added), -len(post.repaired), post.index),
    )


def get_labels(posts: Sequence[PostChange], negative_label: str) -> tuple[list[str], list[str]]:
    """RETURNS (Tuple[List[str], List[str]]): Types of entities and labels of relations, gold or predicted."""
    found = [_get_labels_of(post) for post in posts]
    types = set().union(*(types for types, _ in found))
    relations = set().union(*(relations for _, relations in found))
    return sorted(types), sorted(relations - {negative_label, ASKED})


def _get_labels_of(post: PostChange) -> tuple[set[str], set[str]]:
    types: set[str] = set()
    relations: set[str] = set()
    for doc in (post.reference, post.doc):
        types |= {ent.label_ for ent in doc.ents}
        try:
            relations |= {relation.label for relation in get_relations(doc)}
        except ValueError:  # written past the setter; the text says so
            continue
    return types, relations


def make_example(
    post: PostChange, types: Sequence[str], relations: Sequence[str], *, compared: bool
) -> dict[str, Any]:
    """Collect what is shown of a post.

    post (PostChange): The post.
    types (Sequence[str]): The types of entities that can be filtered by.
    relations (Sequence[str]): The labels of relations; numbered on from the types.
    compared (bool): Whether it was predicted without its picture, too.
    RETURNS (Dict[str, Any]): "number" in the corpus (from 1), "post", "gold", "without" (the prediction
        without the picture, if its errors are others), "errors" and "repaired" ones in words, and what it can
        be filtered by: "text", "kinds" of errors, "labels" (numbers in the lists), "states" (what has to do
        with the picture).
    """
    own_types, own_relations = _get_labels_of(post)
    labels = [i for i, label in enumerate(types) if label in own_types]
    labels += [i for i, label in enumerate(relations, len(types)) if label in own_relations]
    added, repaired = (post.added, post.repaired) if compared else ([], [])
    errors = [
        _explain(error, post.doc, "only with the picture" if error in added else "") for error in post.errors
    ]
    states = {
        "changed": added or repaired,
        "added": added,
        "repaired": repaired,
        "none": get_stored_image(post.doc) is None,
        "refused": get_image_error(post.doc) is not None,
    }
    return {
        "number": post.index + 1,
        "post": make_post(post.doc, max_size=PICTURE_SIZE),
        "gold": make_text(post.reference),
        "without": make_text(post.without) if added or repaired else None,
        "errors": errors,
        "repaired": [_explain(error, post.without, "only without the picture") for error in repaired],
        "kinds": sorted({error["kind"].replace(" ", "-") for error in errors}),
        "labels": labels,
        "states": [state for state, holds in states.items() if holds],
        "text": post.doc.text.lower(),
    }


def _explain(error: AnyError, doc: Doc, note: str) -> dict[str, str]:
    what = "entity" if isinstance(error, EntityError) else "relation"
    gold, predicted = _name(error.gold, doc), _name(error.predicted, doc)
    if error.kind == "missed":
        text = f"{gold} is missed"
    elif error.kind == "spurious":
        text = f"{predicted} is predicted, but not gold"
    elif error.kind == "type":
        assert error.predicted is not None
        text = f"{gold} is predicted as {error.predicted[-1]}"
    else:
        text = f"{gold} is predicted as {predicted}"
    return {"kind": f"{what} {error.kind}", "text": text, "note": note}


def _name(where: tuple[int | str, ...] | None, doc: Doc) -> str:
    """RETURNS (str): The span or spans of a gold or predicted annotation, and its label."""
    if where is None:
        return ""
    *offsets, label = where
    spans = [f"“{doc[a:b].text}”" for a, b in zip(offsets[::2], offsets[1::2])]
    return f"{' → '.join(spans)} ({label or 'no type'})"
