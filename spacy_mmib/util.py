"""Small things that several rooms need."""

import logging
import warnings

logger = logging.getLogger("spacy.mmib")
"""Below spaCy's own logger: takes its level and handlers (`spacy train -V` shows INFO and DEBUG)."""


class MMIBWarning(UserWarning):
    """Something a user should know about, from spacy-mmib. Filter it as any Python warning."""


def warn(message: str) -> None:
    """Warn in one line.

    message (str): What, where, what to do.
    """
    warnings.warn(f"[spacy-mmib] {message}", MMIBWarning, stacklevel=3)
