"""Small things that several rooms need."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("spacy.mmib")
"""Below spaCy's own logger: takes its level and handlers (`spacy train -V` shows INFO and DEBUG)."""


class MMIBWarning(UserWarning):
    """Something a user should know about, from spacy-mmib. Filter it as any Python warning."""


def warn(message: str) -> None:
    """Warn in one line.

    message (str): What, where, what to do.
    """
    warnings.warn(f"[spacy-mmib] {message}", MMIBWarning, stacklevel=3)


def show(value: Any, how: Callable[[Any], str] = repr) -> str:
    """RETURNS (str): Any value, short, for a message. Whatever it is, this doesn't raise."""
    try:
        return how(value)[:80]
    except Exception:  # a number of too many digits, too deep a nesting, a foreign __repr__
        return f"a {type(value).__name__}"


def one_line(text: str) -> str:
    """RETURNS (str): The lines of a text as one. Anything else in it stays as it is: it may be a path."""
    return " ".join(line.strip() for line in text.splitlines()).strip()
