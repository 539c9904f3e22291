"""Reading pictures ahead of the encoder that will be asked for them. Free of torch and Pillow, so that
components and batchers can import it.
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from spacy.tokens import Doc
from thinc.api import Model

from .encoder_settings import EncoderSettings

READS_AHEAD = "picture_encoder"
"""Name of the layers that do."""


class ReadsAhead(Protocol):
    """What reads for an encoder: see `picture_plans.Planner`."""

    def prefetch(self, docs: Iterable[Doc]) -> None:
        """Begin to read the pictures of posts."""


_PLANNERS: "WeakKeyDictionary[Any, ReadsAhead]" = WeakKeyDictionary()
"""What reads for each network that has been used. By network: Thinc's models can't be referred to weakly."""

_VOCABS: "WeakKeyDictionary[Any, Any]" = WeakKeyDictionary()
"""Of each network, the vocabulary whose docs it has encoded last: tells which pipeline it is in. The
vocabulary itself, not its id, which is another's once it is gone.
"""

_LOCK = threading.Lock()
"""Of both: they can't be looked through while another thread adds to them."""


def _start_anew() -> None:
    # The threads that would finish what was begun are in the parent, and so may be the owner of the lock.
    global _LOCK
    _LOCK = threading.Lock()
    _PLANNERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def get_planner(network: Any) -> Any:
    """RETURNS (Optional[ReadsAhead]): What reads for a network, if that is known."""
    with _LOCK:
        return _PLANNERS.get(network)


def set_planner(network: Any, planner: ReadsAhead) -> ReadsAhead:
    """Say what reads for a network, unless another thread has just said so.

    network (nn.Module): The network of a picture encoder.
    planner (ReadsAhead): What reads.
    RETURNS (ReadsAhead): What reads for it now.
    """
    with _LOCK:
        return _PLANNERS.setdefault(network, planner)


def note_use(network: Any, docs: Sequence[Doc]) -> None:
    """Remember that a network encodes pictures of this pipeline, so that `prefetch` finds it."""
    if docs:
        with _LOCK:
            _VOCABS[network] = docs[0].vocab


def find_encoder_layers(model: Any) -> list[Any]:
    """RETURNS (List[Model]): The layers of picture encoders in a model."""
    if not isinstance(model, Model):
        return []
    return [node for node in model.walk() if node.name == READS_AHEAD]


def find_encoders(model: Any) -> list[Any]:
    """RETURNS (List[nn.Module]): The networks of the picture encoders in a model."""
    return [layer.layers[0].shims[0]._model for layer in find_encoder_layers(model)]


def get_settings(layer: Model[Any, Any]) -> EncoderSettings:
    """RETURNS (EncoderSettings): Of a picture encoder's layer."""
    function: Any = layer._func
    settings: EncoderSettings = function.keywords["settings"]
    return settings


def prefetch(docs: Sequence[Doc], networks: Iterable[Any] | None = None) -> None:
    """Begin to read the pictures of posts that will be encoded soon. Networks that haven't been used yet
    don't take part.

    docs (Sequence[Doc]): The posts.
    networks (Optional[Iterable[nn.Module]]): `None` for those that have encoded docs of the same pipeline.
    """
    if networks is None:
        wanted = docs[0].vocab if docs else None
        with _LOCK:
            networks = [network for network, vocab in _VOCABS.items() if vocab is wanted]
    for network in networks:
        planner = get_planner(network)
        if planner is not None:
            # What fails now fails again when it is asked for, where it belongs to a post.
            with contextlib.suppress(Exception):
                planner.prefetch(docs)
