"""Multimodal information extraction for spaCy.

Importing the package registers the `Doc._` attributes (see `spacy_mmib.extensions`) and nothing else:
components, architectures and the rest are found by spaCy through entry points, and torch is imported
only when a pipeline's model is built.
"""

from . import extensions  # noqa: F401
from .about import __version__

__all__ = ["__version__"]
