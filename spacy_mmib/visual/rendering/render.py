"""`spacy_mmib.render`: posts as HTML, in displaCy's manner."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spacy.tokens import Doc

from .collect import make_post
from .environment import get_environment, read_asset

if TYPE_CHECKING:
    from ...evaluation.contributions import Contributions


def render(
    docs: Doc | Iterable[Doc],
    *,
    page: bool = False,
    jupyter: bool | None = None,
    contributions: "Contributions | Sequence[Contributions | None] | None" = None,
    max_size: int = 400,
    unrelated: bool = False,
) -> str | None:
    """Show posts: the picture with its objects, the text with its entities, relations as arcs.

    Objects are as dark as entities look at them on average (`ent._.region_weights`), and as one entity does
    while it is pointed at. Pictures are read within the limits of `spacy-mmib.picture_reader.v1`, no URL
    is opened, and what comes from a post is text, never markup.

    docs (Union[Doc, Iterable[Doc]]): The posts.
    page (bool): A page of its own instead of a part of one.
    jupyter (Optional[bool]): Display the posts in a notebook, instead of returning them; `None`: if this is
        one.
    contributions (Optional[Sequence[Optional[Contributions]]]): What words and objects contribute, for each
        post (or for the only one), as shades; see `spacy_mmib.evaluation.contributions`.
    max_size (int): Longer side of pictures, in pixels.
    unrelated (bool): Show relations whose label is "None" or "", too.
    RETURNS (Optional[str]): HTML, the same for the same posts; `None` if it was displayed.
    RAISES (TypeError): Something that is no doc.
    RAISES (ValueError): Contributions that aren't those of the posts, or a size below 1.
    """
    posts = [docs] if isinstance(docs, Doc) else list(docs)
    for i, doc in enumerate(posts):
        if not isinstance(doc, Doc):
            raise TypeError(
                f"render takes a Doc or several; the {i + 1}. is a {type(doc).__name__}. (A Span has no "
                "picture: give the doc it is of.)"
            )
    if max_size < 1:
        raise ValueError(f"max_size is the longer side of pictures in pixels, not {max_size}.")
    shades = _match(posts, contributions, single=isinstance(docs, Doc))
    views = [
        make_post(doc, max_size=max_size, contributions=shade, unrelated=unrelated)
        for doc, shade in zip(posts, shades)
    ]
    template = get_environment().get_template("page.html" if page else "posts.html")
    html = template.render(posts=views, css=read_asset("spacy_mmib.visual.rendering", "post.css")).strip()
    from spacy.util import is_in_jupyter

    if jupyter or (jupyter is None and is_in_jupyter()):
        from IPython.display import HTML, display

        # The class keeps MathJax from looking for formulas between dollar signs.
        display(HTML(f'<div class="tex2jax_ignore">{html}</div>'))
        return None
    return html


def _match(
    docs: list[Doc],
    contributions: "Contributions | Sequence[Contributions | None] | None",
    *,
    single: bool,
) -> "list[Contributions | None]":
    if contributions is None:
        return [None] * len(docs)
    if single and not isinstance(contributions, (list, tuple)):
        return [contributions]  # type: ignore[list-item]
    shades: list[Contributions | None] = list(contributions)  # type: ignore[arg-type]
    if len(shades) != len(docs):
        raise ValueError(
            f"There are {len(docs)} posts, but contributions for {len(shades)}: give one for each, or None "
            "for a post that has none."
        )
    return shades
