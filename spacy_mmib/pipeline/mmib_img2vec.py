"""`mmib_img2vec`: picture vectors, computed once for all components that listen."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from spacy.language import Language
from spacy.pipeline.tok2vec import Tok2Vec
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer
from thinc.types import Floats2d

from ..bridge.data import as_picture_vectors
from ..encoders.listener import Img2VecListener, KeptVectors
from ..encoders.picture_queue import find_encoder_layers, get_settings
from ..post.extensions import set_found_regions
from .base import take_first
from .mmib_ner import DEFAULT_MODEL as NER_MODEL
from .replacing import replace_listeners_by_path
from .robust import RobustPipe

DEFAULT_MODEL = NER_MODEL["img2vec"]


@Language.factory("mmib_img2vec", default_config={"model": DEFAULT_MODEL})
def make_mmib_img2vec(nlp: Language, name: str, model: Model[list[Doc], list[Floats2d]]) -> "PictureEncoder":
    """Create the component from a config."""
    replace_listeners_by_path(nlp)
    return PictureEncoder(nlp.vocab, model, name)


class PictureEncoder(RobustPipe, Tok2Vec):
    """Encodes the pictures of posts for all components whose `img2vec` is a
    `spacy-mmib.Img2VecListener.v1`. To pictures what spaCy's `tok2vec` component is to text: it learns from
    the gradients of its listeners if its encoder is trainable, can be frozen (then list it among the
    annotating components), and `nlp.replace_listeners` takes it apart again.
    """

    def __init__(
        self, vocab: Vocab, model: Model[list[Doc], list[Floats2d]], name: str = "mmib_img2vec"
    ) -> None:
        self._name = name
        # Every listener it has ever had: those of components that are disabled when it is renamed are not in
        # its listener_map.
        self._followers: list[Img2VecListener] = []
        self.kept = KeptVectors()
        self._said: set[str] = set()
        layers = find_encoder_layers(model)
        self._learns = not layers or any(get_settings(layer).trainable for layer in layers)
        super().__init__(vocab, model, name)

    @property
    def name(self) -> str:
        """RETURNS (str): The component's name in the pipeline. spaCy sets it in `nlp.rename_pipe` and when
        the component is sourced; its listeners follow.
        """
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if name != self._name:
            self._name = name
            for listener in self._followers:
                listener.follow(self.kept, name)

    def find_listeners(self, component: Any) -> None:
        """Find the listeners of this component in the model of one further down the pipeline."""
        if isinstance(getattr(component, "model", None), Model):
            for node in component.model.walk():
                if isinstance(node, Img2VecListener) and node.upstream_name in ("*", self.name):
                    self.add_listener(node, component.name)

    def add_listener(self, listener: Any, component_name: str) -> None:
        """Add a listener of another component; it learns the width of the vectors, if that is known."""
        super().add_listener(listener, component_name)
        listener.link(self.kept, self.name)
        if not any(known is listener for known in self._followers):
            self._followers.append(listener)
        self._tell_width(listener)

    def _tell_width(self, listener: Img2VecListener) -> None:
        width = self.model.maybe_get_dim("nO")
        if width is not None:
            listener.set_dim("nO", width, force=True)

    def initialize(
        self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None
    ) -> None:
        """Build the encoder, and tell its listeners the width of its vectors."""
        super().initialize(take_first(get_examples), nlp=nlp)
        for listener in self.listeners:
            self._tell_width(listener)

    def predict(self, docs: Iterable[Doc]) -> list[Floats2d]:
        """Encode the pictures of a batch, without changing the docs (but for `doc._.image_error`).

        RETURNS (List[Floats2d]): A row a region, row 0 the whole picture; no rows without a picture.
        RAISES (ValueError): The encoder has not been built yet.
        """
        vectors: list[Floats2d] = self.model.predict(self._get_ready(docs))
        return vectors

    def set_annotations(self, docs: Sequence[Doc], tokvecses: list[Floats2d]) -> None:
        """Attach the objects that a region getter found (`doc._.regions`), and keep the vectors for the
        listeners. These are not part of the doc, and not saved with it.
        """
        for doc, found in zip(docs, as_picture_vectors(tokvecses).found):
            set_found_regions(doc, found)
        self.kept.keep(docs, tokvecses)

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Encode a training batch for the listeners. A trainable encoder learns from their gradients.

        RETURNS (Dict[str, float]): `losses`, with the sum of the squared gradients added under the
            component's name.
        """
        if self._learns:
            learned: dict[str, float] = super().update(examples, drop=drop, sgd=sgd, losses=losses)
            return learned
        # Nothing to learn, and in training the same vectors as in prediction. Kept with the docs they are
        # there for components that predict on them later in this update, too: annotating ones.
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, f"{type(self).__name__}.update")
        docs = [eg.predicted for eg in examples]
        self.set_annotations(docs, self.predict(docs))
        return losses
