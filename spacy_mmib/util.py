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


def pack_text(text: str) -> str | bytes:
    """RETURNS (Union[str, bytes]): The same, or as bytes if it has halves of surrogate pairs (file names that
    aren't UTF-8 have), which no serialization of a doc can write.
    """
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        return text.encode("utf8", "surrogatepass")
    return text


def unpack_text(stored: Any) -> str | None:
    """RETURNS (Optional[str]): The inverse of `pack_text`; `None` for what isn't its result."""
    if isinstance(stored, bytes):
        try:
            return stored.decode("utf8", "surrogatepass")
        except UnicodeDecodeError:
            return None
    return stored if isinstance(stored, str) else None
