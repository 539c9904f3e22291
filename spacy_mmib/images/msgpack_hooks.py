"""Msgpack hooks for pictures attached as objects.

srsly loads these while spaCy itself is still being imported (through the entry points
`srsly_msgpack_encoders` and `srsly_msgpack_decoders`), so this module must not import spaCy.
"""

from collections.abc import Callable
from typing import Any

from .values import Pixels


def encode_pixels(obj: Any, chain: Callable[[Any], Any] | None = None) -> Any:
    """Msgpack encoder for pictures that were attached as objects (registered in `srsly`)."""
    if isinstance(obj, Pixels):
        return {"__spacy_mmib_pixels__": [obj.kind, obj.height, obj.width, obj.data]}
    return obj if chain is None else chain(obj)


def decode_pixels(obj: Any, chain: Callable[[Any], Any] | None = None) -> Any:
    """Msgpack decoder, the inverse of `encode_pixels`."""
    if isinstance(obj, dict) and "__spacy_mmib_pixels__" in obj:
        try:
            kind, height, width, data = obj["__spacy_mmib_pixels__"]
            return Pixels("pil" if kind == "pil" else "array", height, width, data)
        except (TypeError, ValueError):
            # Not ours, or damaged: one such post must not make a whole file unreadable. Whoever reads the
            # picture finds a dict there and says so.
            return obj
    return obj if chain is None else chain(obj)
