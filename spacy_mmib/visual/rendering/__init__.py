"""Posts as HTML: picture, objects, entities and relations. `spacy_mmib.render` is `render` of this."""

from .render import render

__all__ = ["render"]
