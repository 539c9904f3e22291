"""A layer that stands in for a picture encoder that is a component of its own: spaCy's `Tok2VecListener` for
pictures."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from spacy.errors import Errors
from spacy.pipeline.tok2vec import Tok2VecListener
from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d

from .picture_vectors import get_picture_vectors


class Img2VecListener(Model[list[Doc], list[Floats2d]]):
    """Gets its vectors from an `mmib_img2vec` component, and sends gradients back to it.

    upstream_name (str): The component's name, or "*" for any.
    width (Optional[int]): Width of its vectors; `None` to learn it from the component.
    """

    name = "img2vec-listener"

    def __init__(self, upstream_name: str, width: int | None = None) -> None:
        super().__init__(name=self.name, forward=forward, dims={"nO": width})
        self.upstream_name = upstream_name
        # Which component that is; set by it.
        self.component_name = upstream_name

    def receive(
        self,
        batch_id: int,
        outputs: list[Floats2d],
        backprop: Callable[[list[Floats2d]], Any],
    ) -> None:
        """Take what the component computed for a training batch, to be used once.

        batch_id (int): See `Tok2VecListener.get_batch_id`.
        outputs (List[Floats2d]): The vectors.
        backprop (Callable): Takes their gradient.
        """
        _BATCHES[self] = batch_id, outputs, backprop


_BATCHES: "WeakKeyDictionary[Img2VecListener, tuple[int, list[Floats2d], Callable[..., Any]]]"
_BATCHES = WeakKeyDictionary()
"""The training batch that each listener has received and not used yet: its id, vectors, and where gradients
go. Not on the listener, which would take functions along that can't be pickled."""


def forward(
    model: Img2VecListener, docs: Sequence[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], Any]]:
    """RETURNS (Tuple[List[Floats2d], Callable]): The vectors of these docs, and where their gradient goes.
    RAISES (ValueError): The component has not seen these docs.
    """
    batch = _BATCHES.pop(model, None) if is_train else None
    if batch is not None:
        # Used up: with the encoder frozen from the next update on, a batch of the same texts with other
        # pictures would get these vectors.
        expected, outputs, backprop = batch
        batch_id = Tok2VecListener.get_batch_id(docs)
        if batch_id != expected:
            raise ValueError(Errors.E953.format(id1=batch_id, id2=expected))
        return outputs, backprop
    found = []
    for doc in docs:
        vectors = get_picture_vectors(doc, model.component_name)
        if vectors is None:
            where = "annotating_components in [training]" if is_train else "the pipeline, before"
            raise ValueError(
                f"The component {model.component_name!r} has not encoded the picture of the post "
                f"{doc.text[:60]!r} (or the doc has got another picture since), which another component "
                f"wants from it. It has to be in {where}"
                f"{'' if is_train else ' that component, and enabled'}."
            )
        found.append(vectors)
    return found, _no_backprop


def _no_backprop(d_vectors: list[Floats2d]) -> list[Doc]:
    return []
