"""A layer that stands in for a picture encoder that is a component of its own: spaCy's `Tok2VecListener` for
pictures."""

from collections.abc import Callable, Sequence
from typing import Any

from spacy.errors import Errors
from spacy.pipeline.tok2vec import Tok2VecListener
from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.picture_vectors import get_picture_vectors

RENAMED = "renamed"
"""Attribute of the layer: {the name in the config: the component's name now}, empty if they are the same.
Saved with the weights: `nlp.rename_pipe` leaves the configs of other components as they are.
"""


class Img2VecListener(Model[list[Doc], list[Floats2d]]):
    """Gets its vectors from an `mmib_img2vec` component, and sends gradients back to it.

    upstream_name (str): The component's name, or "*" for any.
    width (Optional[int]): Width of its vectors; `None` to learn it from the component.
    """

    name = "img2vec-listener"

    def __init__(self, upstream_name: str, width: int | None = None) -> None:
        super().__init__(name=self.name, forward=forward, dims={"nO": width}, attrs={RENAMED: {}})
        self._configured_name = upstream_name
        self._linked: tuple[object, str] | None = None
        self._received = _Received()

    @property
    def upstream_name(self) -> str:
        """RETURNS (str): The name of the component that it listens to, or "*" for any."""
        name: str = self.attrs[RENAMED].get(self._configured_name, self._configured_name)
        return name

    @property
    def component_name(self) -> str:
        """RETURNS (str): The same, and in a pipeline which component "*" is."""
        return self.upstream_name if self._linked is None else self._linked[1]

    def link(self, key: object, name: str) -> None:
        """Belong to a component from now on.

        key (object): Tells the component from others, whatever they are called.
        name (str): The component's name.
        """
        self._linked = key, name

    def follow(self, key: object, name: str) -> None:
        """Take note that a component has another name, if this layer belongs to it.

        key (object): The component's.
        name (str): Its name now.
        """
        if self._linked is None or self._linked[0] is not key:
            return
        self._linked = key, name
        if self._configured_name != "*":
            same = name == self._configured_name
            self.attrs[RENAMED] = {} if same else {self._configured_name: name}

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
        self._received.batch = batch_id, outputs, backprop

    def take(self) -> tuple[int, list[Floats2d], Callable[..., Any]] | None:
        """RETURNS (Optional[Tuple[int, List[Floats2d], Callable]]): What was received and not used yet."""
        batch, self._received.batch = self._received.batch, None
        return batch


class _Received:
    """A training batch that a listener has received and not used yet: its id, vectors, and where gradients
    go. Copies are empty: the functions can't be pickled, and gradients belong to the original.
    """

    def __init__(self) -> None:
        self.batch: tuple[int, list[Floats2d], Callable[..., Any]] | None = None

    def __reduce__(self) -> Any:
        return _Received, ()


def forward(
    model: Img2VecListener, docs: Sequence[Doc], is_train: bool
) -> tuple[list[Floats2d], Callable[[list[Floats2d]], Any]]:
    """RETURNS (Tuple[List[Floats2d], Callable]): The vectors of these docs, and where their gradient goes.
    RAISES (ValueError): The component has not seen these docs.
    """
    batch = model.take() if is_train else None
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
            raise ValueError(_say_not_encoded(model.component_name, doc, is_train))
        found.append(vectors)
    return found, _no_backprop


def _say_not_encoded(name: str, doc: Doc, is_train: bool) -> str:
    component = "a component mmib_img2vec" if name == "*" else f"the component {name!r}"
    what = (
        f"{component} has not encoded the picture of the post {doc.text[:60]!r} (or the doc has got another "
        "picture since), which another component wants from it. "
    )
    if is_train:
        return (
            f"{what[0].upper()}{what[1:]}It has to be in annotating_components in [training] (in Python: "
            "nlp.update(..., annotates=[...])) if it is frozen, and in the pipeline before that component."
        )
    return (
        f"{what[0].upper()}{what[1:]}It has to be in the pipeline, before that component, and enabled. If "
        "this happens in training: components that annotate predict there, so what they listen to has to be "
        "in annotating_components in [training] as well (in Python: nlp.update(..., annotates=[...]))."
    )


def _no_backprop(d_vectors: list[Floats2d]) -> list[Doc]:
    return []
