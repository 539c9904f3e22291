"""A layer that stands in for a picture encoder that is a component of its own."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from spacy.errors import Errors
from spacy.pipeline.tok2vec import Tok2VecListener
from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import PictureVectors, as_picture_vectors
from ..images.values import StoredImage
from ..post.extensions import describe_regions, get_stored_images

RENAMED = "renamed"
"""Attribute of the layer: {the name in the config: the component's name now}, empty if they are the same.
Saved with the weights: `nlp.rename_pipe` leaves the configs of other components as they are.
"""


class KeptVectors:
    """Picture vectors that a component computed, for its listeners, as long as the docs live. In their
    `user_data` they would be in every `Doc.to_bytes`, `DocBin` and `Doc.copy`. A pickle has none.
    """

    def __init__(self) -> None:
        # Of the pictures and the objects (the first two) that a doc had then.
        self._kept: WeakKeyDictionary[Doc, tuple[list[StoredImage], str, Floats2d, list[int] | None]]
        self._kept = WeakKeyDictionary()

    def __reduce__(self) -> Any:
        return KeptVectors, ()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, docs: Sequence[Doc], vectors: Sequence[Floats2d]) -> None:
        """Keep the vectors of posts, instead of what was there before."""
        for doc, of_doc, rows in zip(docs, vectors, as_picture_vectors(vectors).rows):
            # A copy, not a view that would keep the vectors of the whole batch alive.
            self._kept[doc] = get_stored_images(doc), describe_regions(doc), of_doc.copy(), rows

    def get(self, doc: Doc) -> tuple[Floats2d, list[int] | None] | None:
        """RETURNS (Optional[Tuple]): The vectors of this very doc object, if it still has the pictures and
        the objects that it had, and what their rows stand for.
        """
        kept = self._kept.get(doc)
        if kept is None or kept[:2] != (get_stored_images(doc), describe_regions(doc)):
            return None
        return kept[2:]


class Img2VecListener(Model[list[Doc], list[Floats2d]]):
    """Gets its vectors from an `mmib_img2vec` component, and sends gradients back to it.

    upstream_name (str): The component's name, or "*" for any.
    width (Optional[int]): Width of its vectors; `None` to learn it from the component.
    """

    name = "img2vec-listener"

    def __init__(self, upstream_name: str, width: int | None = None) -> None:
        super().__init__(name=self.name, forward=forward, dims={"nO": width}, attrs={RENAMED: {}})
        self._configured_name = upstream_name
        self.kept: KeptVectors | None = None  # what the component that it belongs to has computed
        self.component_name = upstream_name  # also where any component may be listened to
        self.received = _Received()

    @property
    def upstream_name(self) -> str:
        """RETURNS (str): The name of the component that it listens to, or "*" for any."""
        name: str = self.attrs[RENAMED].get(self._configured_name, self._configured_name)
        return name

    def link(self, kept: KeptVectors, name: str) -> None:
        """Belong to a component from now on. Its vectors tell it from others, whatever they are called."""
        self.kept, self.component_name = kept, name

    def follow(self, kept: KeptVectors, name: str) -> None:
        """Take note that a component has another name, if this layer belongs to it."""
        if self.kept is not kept:
            return
        self.component_name = name
        if self._configured_name != "*":
            same = name == self._configured_name
            self.attrs[RENAMED] = {} if same else {self._configured_name: name}

    def receive(
        self, batch_id: int, outputs: list[Floats2d], backprop: Callable[[list[Floats2d]], Any]
    ) -> None:
        """Take what the component computed for a batch (`Tok2VecListener.get_batch_id`), to be used once."""
        self.received.batch = batch_id, outputs, backprop


def get_image_width(img2vec: Model[list[Doc], list[Floats2d]]) -> int:
    """RETURNS (int): Width of the vectors of a picture encoder that is initialized.
    RAISES (ValueError): It doesn't say, or listens to a component that isn't there.
    """
    width: int | None = img2vec.maybe_get_dim("nO")
    if width is None:
        upstream = getattr(img2vec, "upstream_name", None)
        raise ValueError(
            f"The picture encoder listens to a component {upstream!r}, which is not in the pipeline before "
            'this one, or has not been initialized. Add it: nlp.add_pipe("mmib_img2vec", before=...), and '
            "set the listener's 'upstream' if it has another name."
            if upstream
            else "The picture encoder doesn't say the width of its vectors (dimension nO)."
        )
    return width


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
    """RETURNS (Tuple[List[Floats2d], Callable]): The vectors of these docs, and where their gradient goes."""
    if is_train and model.received.batch is not None:
        expected, outputs, backprop = model.received.batch
        # Used up: with the encoder frozen from the next update on, a batch of the same texts with other
        # pictures would get these vectors.
        model.received.batch = None
        batch_id = Tok2VecListener.get_batch_id(docs)
        if batch_id != expected:
            raise ValueError(Errors.E953.format(id1=batch_id, id2=expected))
        return outputs, backprop
    found = []
    for doc in docs:
        kept = None if model.kept is None else model.kept.get(doc)
        if kept is None:
            raise ValueError(_say_not_encoded(model.component_name, doc, is_train))
        found.append(kept)
    return PictureVectors([x for x, _ in found], [rows for _, rows in found]), lambda d_vectors: []


def _say_not_encoded(name: str, doc: Doc, is_train: bool) -> str:
    component = "A component mmib_img2vec" if name == "*" else f"The component {name!r}"
    what = (
        f"{component} has not encoded the picture of the post {doc.text[:60]!r} (or the doc has got another "
        "picture since), which another component wants from it. It has to be"
    )
    annotating = "in annotating_components in [training] (in Python: nlp.update(..., annotates=[...]))"
    if is_train:
        return f"{what} {annotating} if it is frozen, and in the pipeline before that component."
    return (
        f"{what} in the pipeline, before that component, and enabled. If this happens in training: "
        f"components that annotate predict there, so what they listen to has to be {annotating} as well."
    )


@registry.architectures("spacy-mmib.Img2VecListener.v1")
def build_img2vec_listener_v1(
    *, upstream: str = "mmib_img2vec", width: int | None = None
) -> Model[list[Doc], list[Floats2d]]:
    """Build a picture encoder that takes its vectors from a component `mmib_img2vec`, so that several
    components share them: a picture is encoded once a run.

    upstream (str): The name of that component in the pipeline, in which it has to come first; "*" for any.
    width (Optional[int]): Width of its vectors. `None`: learned from it.
    """
    return Img2VecListener(upstream, width)
