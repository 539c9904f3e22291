"""`spacy mmib ...`: what spaCy's own commands can't do because they drop the pictures.

spaCy imports this package whenever any of its commands runs, so commands import what spaCy doesn't have
loaded anyway (torch, Pillow, SQLite, scikit-learn) only when they run.
"""

# Registers the commands.
from . import audit, cache, contributions, errors, evaluate, gap, optimize, predict, report  # noqa: F401
from .app import mmib_cli

__all__ = ["mmib_cli"]
