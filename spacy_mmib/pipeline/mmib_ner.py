"""`mmib_ner`: named entities from the text and the picture of a post."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
from spacy import util
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.training import Example, biluo_to_iob, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer, set_dropout_rate

from ..extensions import get_image_error, get_predicted, get_stored_image, set_predicted
from ..layers.data import TERMS, NERInput, NERTargets, PostVectors
from ..schedules import Weight
from ..util import warn
from .batching import batches_by_length
from .collapse import CollapseMonitor

DEFAULT_MODEL = {
    "@architectures": "spacy-mmib.MMIB_NER.v1",
    "tok2vec": {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "pretrained_vectors": None,
        "width": 96,
        "depth": 4,
        "embed_size": 2000,
        "window_size": 1,
        "maxout_pieces": 3,
        "subword_features": True,
    },
    "img2vec": {
        "@architectures": "spacy-mmib.TorchvisionEncoder.v1",
        "arch": "resnet50",
        "weights": None,
        "trainable": False,
    },
}


@Language.factory(
    "mmib_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type"],
    default_config={
        "model": DEFAULT_MODEL,
        "beta1": 0.1,
        "beta2": 0.1,
        "alignment_weight": 1.0,
        "max_batch_tokens": 8192,
        "scorer": {"@scorers": "spacy-mmib.ner_scorer.v1"},
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def make_mmib_ner(
    nlp: Language,
    name: str,
    model: Model[list[Doc], PostVectors],
    beta1: float | Iterable[float],
    beta2: float | Iterable[float],
    alignment_weight: float | Iterable[float],
    max_batch_tokens: int,
    scorer: Callable[..., Any] | None,
) -> "MMIBEntityRecognizer":
    """Create the component from a config; see `MMIBEntityRecognizer` for the settings."""
    return MMIBEntityRecognizer(
        nlp.vocab,
        model,
        name,
        beta1=beta1,
        beta2=beta2,
        alignment_weight=alignment_weight,
        max_batch_tokens=max_batch_tokens,
        scorer=scorer,
    )


class MMIBEntityRecognizer(TrainablePipe):
    """Recognizes entities with MMIB: text and picture encoder, variational information bottleneck,
    cross-modal fusion, CRF.

    Posts without a picture, or with one that can't be read, are processed from their text. Entities that
    other components or the user have set are kept, and predictions that overlap them dropped, as spaCy's
    own `ner` does; the component's own earlier predictions are replaced.
    """

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], PostVectors],
        name: str = "mmib_ner",
        *,
        beta1: float | Iterable[float] = 0.1,
        beta2: float | Iterable[float] = 0.1,
        alignment_weight: float | Iterable[float] = 1.0,
        max_batch_tokens: int = 8192,
        scorer: Callable[..., Any] | None = None,
    ) -> None:
        """Initialize the component.

        vocab (Vocab): The shared vocabulary.
        model (Model[List[Doc], PostVectors]): See `spacy-mmib.MMIB_NER.v1`.
        name (str): The component's name in the pipeline, and the key of its losses.
        beta1 (Union[float, Iterable[float]]): Weight of the text's KL (Eq. 29), or a schedule of it, with a
            value an update. At 0 the term is not computed.
        beta2 (Union[float, Iterable[float]]): The same for the pictures' KL.
        alignment_weight (Union[float, Iterable[float]]): The same for the alignment term.
        max_batch_tokens (int): Tokens processed at once in prediction, padding included, if no single post
            is longer: bounds memory, and results don't depend on it.
        scorer (Optional[Callable]): Scores examples, see `spacy-mmib.ner_scorer.v1`.
        """
        self.vocab = vocab
        self.model = model
        self.name = name
        self.scorer = scorer
        self.max_batch_tokens = max_batch_tokens
        self.cfg: dict[str, Any] = {"labels": []}
        self._weights = {
            "kl_text": Weight(beta1, "beta1"),
            "kl_image": Weight(beta2, "beta2"),
            "alignment": Weight(alignment_weight, "alignment_weight"),
        }
        self._step_weights: dict[str, float] | None = None
        self._monitor = CollapseMonitor(name)
        self._said: set[str] = set()

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): The entity labels, without BIO prefixes."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """RETURNS (List[str]): What `spacy init labels` writes and `initialize` takes."""
        return list(self.cfg["labels"])

    def add_label(self, label: str) -> int:
        """Add an entity label, before the component is initialized.

        label (str): The label, without BIO prefix.
        RETURNS (int): 0 if it was there, otherwise 1.
        RAISES (ValueError): Not a label, or the model has its output size already.
        """
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"{self.name}: a label is a non-empty string, not {label!r}.")
        if label in self.cfg["labels"]:
            return 0
        if self._is_initialized:
            raise ValueError(
                f"{self.name}: can't add the label {label!r} to a model that is already initialized for "
                f"{list(self.labels)}. Add all labels first, then call nlp.initialize() and train."
            )
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        return 1

    @property
    def _is_initialized(self) -> bool:
        return bool(self.model.get_ref("head").has_dim("nO"))

    def _require_initialized(self) -> None:
        if not self._is_initialized:
            raise ValueError(
                f"{self.name} has no weights yet. Train the pipeline ('spacy train', or nlp.initialize() and "
                "nlp.update()), or load a trained one with spacy.load()."
            )

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Collect the labels, infer sizes and create the weights.

        get_examples (Callable[[], Iterable[Example]]): Returns a representative sample.
        nlp (Optional[Language]): The pipeline.
        labels (Optional[Sequence[str]]): From `spacy init labels`; taken from the examples if `None`.
        RAISES (ValueError): There is no label at all, or settings don't fit together.
        """
        validate_get_examples(get_examples, "MMIBEntityRecognizer.initialize")
        # Initializing again starts over.
        self._forget_sizes()
        self._monitor.reset()
        self._said.clear()
        self._step_weights = None
        for weight in self._weights.values():
            weight.restart()
        if labels is not None:
            for label in labels:
                self.add_label(label)
        else:
            found = {ent.label_ for eg in get_examples() for ent in eg.reference.ents}
            for label in sorted(found - {""}):  # sorted: the same data in any order, the same model
                self.add_label(label)
        if not self.labels:
            raise ValueError(
                f"{self.name} has no labels: the examples hold no entities (doc.ents), and neither "
                "add_label nor 'spacy init labels' gave any."
            )
        self._warn_about_lost_pictures(islice(get_examples(), 100), "trains on text only")
        docs = list(islice((eg.predicted for eg in get_examples() if len(eg.predicted)), 10))
        self.model.set_dim("nO", len(self.labels), force=True)
        self.model.initialize(X=docs)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score a batch of examples with the component's scorer.

        examples (Iterable[Example]): Gold and predicted docs.
        RETURNS (Dict[str, Any]): The scores.
        """
        examples = list(examples)
        self._warn_about_lost_pictures(examples[:100], "is scored on text only")
        scores: dict[str, Any] = super().score(examples, **kwargs)
        return scores

    def _warn_about_lost_pictures(self, examples: Iterable[Example], result: str) -> None:
        """spaCy's own reader, the default of every config, builds predicted docs without pictures."""
        for eg in examples:
            had, has = (get_stored_image(doc) is not None for doc in (eg.reference, eg.predicted))
            if had and not has and get_image_error(eg.predicted) is None:
                if result not in self._said:
                    self._said.add(result)
                    warn(
                        f"{self.name}: the corpus has pictures, but its reader drops them, so this {result}. "
                        'Use @readers = "spacy-mmib.Corpus.v1" in [corpora.train] and [corpora.dev], and '
                        "'spacy mmib evaluate' instead of 'spacy evaluate'."
                    )
                return

    def _forget_sizes(self) -> list[tuple[Model[Any, Any], str, int | None]]:
        """Take back the sizes of the weights: Thinc refuses to change one that is set.

        RETURNS (List[Tuple[Model, str, Optional[int]]]): What they were.
        """
        head = self.model.get_ref("head")
        sizes = [
            (node, dim, node.maybe_get_dim(dim))
            for node, dim in ((self.model, "nO"), (head, "nI"), (head, "nO"))
        ]
        for node, dim, _ in sizes:
            node.set_dim(dim, None, force=True)
        return sizes

    @contextmanager
    def _new_sizes(self, exclude: Iterable[str]) -> Iterator[None]:
        """While loading: let the weights have other sizes than before, unless they stay or loading fails."""
        if "model" in exclude:
            yield
            return
        sizes = self._forget_sizes()
        try:
            yield
        except Exception:
            for node, dim, size in sizes:
                node.set_dim(dim, size, force=True)
            raise

    def from_bytes(
        self, bytes_data: bytes, *, exclude: Iterable[str] = ()
    ) -> "MMIBEntityRecognizer":
        """Load from a bytestring, whatever sizes the component had before.

        bytes_data (bytes): From `to_bytes`.
        exclude (Iterable[str]): Names of serialization fields to leave out.
        RETURNS (MMIBEntityRecognizer): The component.
        """
        with self._new_sizes(exclude):
            super().from_bytes(bytes_data, exclude=exclude)
        return self

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "MMIBEntityRecognizer":
        """Load from a folder, whatever sizes the component had before.

        path (Union[str, Path]): The folder.
        exclude (Iterable[str]): Names of serialization fields to leave out.
        RETURNS (MMIBEntityRecognizer): The component.
        """
        with self._new_sizes(exclude):
            super().from_disk(path, exclude=exclude)
        return self

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Find the entities of a batch, without changing the docs (but for `doc._.image_error`).

        docs (Iterable[Doc]): The posts, pictures at `doc._.image`.
        RETURNS (List[Optional[DecodedEntities]]): For each doc token offsets, label indices and
            confidences of its entities; `None` for a doc without tokens.
        """
        self._require_initialized()
        docs = list(docs)
        head = self.model.get_ref("head")
        predictions: list[Any] = [None] * len(docs)
        for group in batches_by_length(docs, self.max_batch_tokens):
            vectors = self.model.predict([docs[i] for i in group])
            for i, entities in zip(group, head.predict(NERInput(vectors.context))):
                predictions[i] = entities
        return predictions

    def set_annotations(self, docs: Iterable[Doc], predictions: list[Any]) -> None:
        """Write predicted entities to `doc.ents` and their confidences to `ent._.confidence`.

        docs (Iterable[Doc]): The posts.
        predictions (List[Optional[DecodedEntities]]): As `predict` returns them.
        """
        for doc, entities in zip(docs, predictions):
            if entities is not None:
                self._set_entities(doc, entities)

    def _set_entities(self, doc: Doc, entities: Any) -> None:
        before = get_predicted(doc, self.name)
        own = [e for e in doc.ents if (e.start_char, e.end_char, e.label_) in before]
        taken = {token.i for token in doc if token.ent_iob_ in ("B", "I")}
        taken.difference_update(token.i for ent in own for token in ent)
        found, confidences = [], {}
        for start, end, label, confidence in zip(*entities):
            # spaCy has no entities that begin or end with white space.
            while start < end and doc[start].is_space:
                start += 1
            while start < end and doc[end - 1].is_space:
                end -= 1
            if start < end and taken.isdisjoint(range(start, end)):
                span = Span(doc, start, end, label=self.labels[label])
                found.append(span)
                confidences[span.start_char, span.end_char, span.label_] = confidence
        set_predicted(doc, self.name, confidences)
        predicted = {token.i for span in found for token in span}
        rest = [doc[i : i + 1] for i in range(len(doc)) if i not in taken and i not in predicted]
        doc.set_ents(found, outside=rest, default="unmodified")

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Process a stream of docs in batches. If a batch fails its docs are processed one by one, and
        only those that fail by themselves go to the error handler.

        stream (Iterable[Doc]): The posts.
        batch_size (int): Docs at a time.
        YIELDS (Doc): In order.
        """
        error_handler = self.get_error_handler()
        for docs in util.minibatch(stream, size=batch_size):
            docs = list(docs)
            try:
                self.set_annotations(docs, self.predict(docs))
            except Exception:
                for doc in docs:
                    try:
                        self.set_annotations([doc], self.predict([doc]))
                    except Exception as err:
                        error_handler(self.name, self, [doc], err)
                    else:
                        yield doc
            else:
                yield from docs

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from a batch (Eq. 29).

        examples (Iterable[Example]): Pictures are those of `Example.predicted`.
        drop (float): Dropout rate of Thinc layers; the core has its own, see `spacy-mmib.MMIB_NER.v1`.
        sgd (Optional[Optimizer]): If given, the weights are updated.
        losses (Optional[Dict[str, float]]): Added to: the total under the component's name, its unweighted
            parts under `<name>_task`, `<name>_kl_text`, `<name>_kl_image`, `<name>_alignment`.
        RETURNS (Dict[str, float]): `losses`.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        losses.setdefault(f"{self.name}_task", 0.0)
        examples = list(examples)
        validate_examples(examples, "MMIBEntityRecognizer.update")
        self._require_initialized()
        docs = [eg.predicted for eg in examples]
        if not any(len(doc) for doc in docs):
            return losses
        set_dropout_rate(self.model, drop)
        if self._step_weights is None:
            self._step_weights = {term: weight.next() for term, weight in self._weights.items()}
        weights = self._step_weights
        self.model.get_ref("core").attrs["terms"] = [term for term in TERMS if weights[term]]
        vectors, backprop = self.model.begin_update(docs)
        task_loss, d_context = self.get_loss(examples, vectors)
        backprop(self._get_gradient(vectors, d_context, weights))
        losses[f"{self.name}_task"] += task_loss
        losses[self.name] += task_loss
        for term, value in vectors.terms.items():
            key = f"{self.name}_{term}"
            losses[key] = losses.get(key, 0.0) + float(value[0])
            losses[self.name] += weights[term] * float(value[0])
        self._monitor.update(vectors.kl_per_dim)
        if sgd not in (None, False):
            self.finish_update(sgd)
        return losses

    def finish_update(self, sgd: Optimizer) -> None:
        """Update the weights with what was accumulated, and take the schedules a step further.

        sgd (Optimizer): The optimizer.
        """
        super().finish_update(sgd)
        self._step_weights = None

    def get_loss(self, examples: Iterable[Example], scores: PostVectors) -> tuple[float, list[Any]]:
        """The task loss: negative log-likelihood of the gold tags, mean over posts (Eq. 27).

        examples (Iterable[Example]): The batch.
        scores (PostVectors): What the model gave for its docs.
        RETURNS (Tuple[float, List[Floats2d]]): The loss, and its gradient with respect to C.
        """
        head = self.model.get_ref("head")
        examples = list(examples)
        full = [i for i, eg in enumerate(examples) if len(eg.predicted)]
        targets = NERTargets([self._get_tags(examples[i]) for i in full])
        context = [scores.context[i] for i in full]
        loss, backprop_head = head.begin_update(NERInput(context, targets))
        d_full = backprop_head(self.model.ops.xp.ones_like(loss))
        d_context = list(scores.context)
        for i, d_rows in zip(full, d_full):
            d_context[i] = d_rows
        return float(loss[0]), d_context

    def _get_gradient(
        self, vectors: PostVectors, d_context: list[Any], weights: dict[str, float]
    ) -> PostVectors:
        xp = self.model.ops.xp
        d_terms = {
            term: xp.full_like(value, weights[term]) for term, value in vectors.terms.items()
        }
        return PostVectors(d_context, d_terms)

    def _get_tags(self, example: Example) -> "numpy.ndarray[Any, Any]":
        """RETURNS (numpy.ndarray): See `NERTargets`. Tokens whose gold is missing (`-`) or can't be aligned
        with the tokenization are unknown, not O.
        """
        biluo = example.get_aligned_ner()
        known = ["-" if tag in (None, "", "-") else tag for tag in biluo]
        tags = numpy.full(len(known), -1, dtype="int64")
        for i, tag in enumerate(biluo_to_iob(known)):
            if tag == "O":
                tags[i] = 0
            elif tag != "-":
                prefix, label = tag.split("-", 1)
                if label not in self.cfg["labels"]:
                    raise ValueError(
                        f"{self.name}: the label {label!r} in the training data is not one of "
                        f"{list(self.labels)}, which it was initialized with (post: "
                        f"{example.reference.text[:60]!r}). Initialize with data that has all labels, or "
                        "with add_label."
                    )
                tags[i] = 2 * self.cfg["labels"].index(label) + (1 if prefix == "B" else 2)
        return tags
