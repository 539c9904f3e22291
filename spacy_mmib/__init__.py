"""Multimodal information extraction for spaCy.

This module imports nothing, `render` only when it is asked for: srsly loads our msgpack hooks while spaCy
itself is being imported, and torch must not be imported before a model is built. spaCy finds components,
architectures and the rest through entry points; creating any pipeline registers the `Doc._` attributes
(without a pipeline, `import spacy_mmib.post.extensions` does).
"""

from typing import TYPE_CHECKING, Any

from .about import __version__

if TYPE_CHECKING:
    from .visual.rendering import render

__all__ = ["__version__", "render"]


def __getattr__(name: str) -> Any:
    if name == "render":
        from .visual.rendering import render

        return render
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
