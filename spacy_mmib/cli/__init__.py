"""`spacy mmib ...`: what spaCy's own commands can't do because they drop the pictures.

spaCy imports this package whenever any of its commands runs, so commands import what they need only
when they run.
"""

from . import audit, cache, cache_build, evaluate, predict  # registers the commands
from .app import mmib_cli

__all__ = ["audit", "cache", "cache_build", "evaluate", "mmib_cli", "predict"]
