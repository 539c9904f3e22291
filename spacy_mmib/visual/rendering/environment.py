"""Templates in which everything that comes from a post is escaped."""

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

# What no HTML document may hold (HTML: 13.2.3.5), and halves of surrogate pairs, which no file may.
IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@lru_cache(maxsize=1)
def get_environment() -> jinja2.Environment:
    """RETURNS (jinja2.Environment): With the templates of rendering and report. Values are escaped whatever
    the name of the template; names that aren't set are errors.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("spacy_mmib.visual.rendering"),
                jinja2.PackageLoader("spacy_mmib.visual.report"),
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = show_percent
    environment.filters["lines"] = _join_lines
    return environment


def read_asset(package: str, name: str) -> Markup:
    """Read a style sheet or script of ours, which goes into a page as it is.

    package (str): "spacy_mmib.visual.rendering" or "spacy_mmib.visual.report".
    name (str): The file's name in its folder of templates.
    RETURNS (Markup): The content.
    """
    return Markup((files(package) / "templates" / name).read_text(encoding="utf8"))


def show_percent(value: float | None, digits: int = 0) -> str:
    """RETURNS (str): A share, 0-1, for people; a dash for `None`."""
    return "-" if value is None else f"{value * 100:.{digits}f} %"


def _join_lines(values: Iterable[str]) -> str:
    return "\n".join(values)


def _finalize(value: Any) -> Any:
    if isinstance(value, str) and IMPOSSIBLE.search(value):
        cleaned = IMPOSSIBLE.sub("\ufffd", value)
        return Markup(cleaned) if isinstance(value, Markup) else cleaned
    return value
