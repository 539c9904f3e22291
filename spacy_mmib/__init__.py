"""Multimodal information extraction for spaCy.

This module imports nothing: srsly loads our msgpack hooks while spaCy itself is being imported, and torch
must not be imported before a model is built. spaCy finds components, architectures and the rest through
entry points; creating any pipeline registers the `Doc._` attributes (without a pipeline,
`import spacy_mmib.extensions` does).
"""

from .about import __version__

__all__ = ["__version__"]
