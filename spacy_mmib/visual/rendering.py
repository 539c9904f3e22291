"""`spacy_mmib.render`: posts as HTML, in displaCy's manner, from templates that escape all of a post."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup
from spacy.tokens import Doc

from .collect import make_post

if TYPE_CHECKING:
    from ..evaluation.contributions import Contributions

# What no HTML document may hold (HTML: 13.2.3.5), and halves of surrogate pairs, which no file may.
IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


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

    Where it is known which object an entity is (`ent._.region`), that has a frame in the entity's colour;
    otherwise objects are as dark as entities look at them on average (`ent._.region_weights`), and as one
    entity does while it is pointed at. Pictures are read within the limits of
    `spacy-mmib.picture_reader.v1`, no URL is opened, and what comes from a post is text, never markup.

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
    if isinstance(docs, Doc):
        docs = [docs]
        if contributions is not None and not isinstance(contributions, (list, tuple)):
            contributions = [contributions]  # type: ignore[list-item]
    docs = list(docs)
    for i, doc in enumerate(docs):
        if not isinstance(doc, Doc):
            raise TypeError(
                f"render takes a Doc or several; the {i + 1}. is a {type(doc).__name__}. (A Span has no "
                "picture: give the doc it is of.)"
            )
    if max_size < 1:
        raise ValueError(f"max_size is the longer side of pictures in pixels, not {max_size}.")
    shades: list[Any] = [None] * len(docs) if contributions is None else list(contributions)  # type: ignore[arg-type]
    if len(shades) != len(docs):
        raise ValueError(
            f"There are {len(docs)} posts, but contributions for {len(shades)}: give one for each, or None "
            "for a post that has none."
        )
    posts = [
        make_post(doc, max_size=max_size, contributions=shade, unrelated=unrelated)
        for doc, shade in zip(docs, shades)
    ]
    html = to_html(posts, page=page)
    from spacy.util import is_in_jupyter

    if jupyter or (jupyter is None and is_in_jupyter()):
        from IPython.display import HTML, display

        # The class keeps MathJax from looking for formulas between dollar signs.
        display(HTML(f'<div class="tex2jax_ignore">{html}</div>'))
        return None
    return html


def to_html(posts: Sequence[dict[str, Any]], *, page: bool) -> str:
    """RETURNS (str): Posts that `make_post` made, as a page or a part of one."""
    template = get_environment().get_template("page.html" if page else "posts.html")
    return template.render(posts=posts, css=read_asset("post.css")).strip()


@lru_cache(maxsize=1)
def get_environment() -> jinja2.Environment:
    """RETURNS (jinja2.Environment): It escapes all values, and names that aren't set are errors."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spacy_mmib.visual"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share, digits=0: f"{share * 100:.{digits}f} %"
    return environment


def read_asset(name: str) -> Markup:
    """RETURNS (Markup): A style sheet or script of ours, which goes into a page as it is."""
    return Markup((files("spacy_mmib.visual") / "templates" / name).read_text(encoding="utf8"))


def _finalize(value: Any) -> Any:
    if isinstance(value, str) and IMPOSSIBLE.search(value):
        cleaned = IMPOSSIBLE.sub("\ufffd", value)
        return Markup(cleaned) if isinstance(value, Markup) else cleaned
    return value
