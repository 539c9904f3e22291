"""The posts that a report shows, worst first, and what they can be filtered by."""

from collections.abc import Sequence
from dataclasses import dataclass

from spacy.tokens import Doc

from ...evaluation.errors import AnyError, EntityError, PostChange
from ...post.extensions import get_image_error, get_stored_image
from ...post.relations import ASKED, get_relations
from ..rendering.collect import make_post, make_text
from ..rendering.views import PostView, TextView

PICTURE_SIZE = 320


@dataclass(frozen=True)
class ErrorView:
    """An error in words.

    kind (str): "entity type", "relation missed" and so on.
    text (str): What is wrong.
    note (str): Whether the picture has to do with it; "" if not.
    """

    kind: str
    text: str
    note: str


@dataclass(frozen=True)
class ExampleView:
    """A post as it is shown.

    number (int): Of the post in the corpus, from 1.
    without (Optional[TextView]): The prediction without the picture, if its errors are others.
    labels (List[int]): What is gold or predicted, numbers in the list of labels.
    states (List[str]): What has to do with the picture: "changed", "added", "repaired", "none", "refused".
    """

    number: int
    post: PostView
    gold: TextView
    without: TextView | None
    errors: list[ErrorView]
    repaired: list[ErrorView]
    kinds: list[str]
    labels: list[int]
    states: list[str]
    text: str


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
    types, relations = set(), set()
    for post in posts:
        for doc in (post.reference, post.doc):
            types |= {ent.label_ for ent in doc.ents}
            relations |= _get_relation_labels(doc) - {negative_label, ASKED}
    return sorted(types), sorted(relations)


def make_example(
    post: PostChange, types: Sequence[str], relations: Sequence[str], *, compared: bool
) -> ExampleView:
    """Collect what is shown of a post.

    post (PostChange): The post.
    types (Sequence[str]): The types of entities that can be filtered by.
    relations (Sequence[str]): The labels of relations; numbered on from the types.
    compared (bool): Whether it was predicted without its picture, too.
    RETURNS (ExampleView): The post.
    """
    docs = (post.reference, post.doc)
    found = {ent.label_ for doc in docs for ent in doc.ents}
    related = {label for doc in docs for label in _get_relation_labels(doc)}
    labels = [i for i, label in enumerate(types) if label in found]
    labels += [i for i, label in enumerate(relations, len(types)) if label in related]
    added, repaired = (post.added, post.repaired) if compared else ([], [])
    errors = [
        _explain(error, post.doc, "only with the picture" if error in added else "") for error in post.errors
    ]
    states = [
        state
        for state, holds in (
            ("changed", bool(added or repaired)),
            ("added", bool(added)),
            ("repaired", bool(repaired)),
            ("none", get_stored_image(post.doc) is None),
            ("refused", get_image_error(post.doc) is not None),
        )
        if holds
    ]
    return ExampleView(
        number=post.index + 1,
        post=make_post(post.doc, max_size=PICTURE_SIZE),
        gold=make_text(post.reference),
        without=make_text(post.without) if added or repaired else None,
        errors=errors,
        repaired=[_explain(e, post.without, "only without the picture") for e in repaired],
        kinds=sorted({error.kind.replace(" ", "-") for error in errors}),
        labels=labels,
        states=states,
        text=post.doc.text.lower(),
    )


def _get_relation_labels(doc: Doc) -> set[str]:
    try:
        return {relation.label for relation in get_relations(doc)}
    except ValueError:  # written past the setter; the text says so
        return set()


def _explain(error: AnyError, doc: Doc, note: str) -> ErrorView:
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
    return ErrorView(f"{what} {error.kind}", text, note)


def _name(where: tuple[int | str, ...] | None, doc: Doc) -> str:
    """RETURNS (str): The span or spans of a gold or predicted annotation, and its label."""
    if where is None:
        return ""
    *offsets, label = where
    spans = [f"“{doc[a:b].text}”" for a, b in zip(offsets[::2], offsets[1::2])]
    return f"{' → '.join(spans)} ({label or 'no type'})"
