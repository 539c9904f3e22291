"""What both components share: labels, loss weights, loading, and a stream that one bad post can't stop."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar, TypeAlias

from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer, set_dropout_rate
from thinc.types import Floats1d

from ..encoders.dropout import draw_dropout
from ..encoders.picture_queue import find_encoder_layers, get_settings
from ..post.extensions import get_image_error, get_regions_note, get_stored_image
from ..training.schedules import Weight
from .collapse import CollapseMonitor
from .evaluations import warn_if_evaluated_once
from .robust import NO_WEIGHTS, RobustPipe

LossWeight: TypeAlias = float | Iterable[float]

SETTINGS: dict[str, Any] = {
    "loss_weights": {},
    "beta1": None,
    "beta2": None,
    "alignment_weight": None,
    "picture_dropout": 0.3,
    "region_dropout": 0.0,
    "max_batch_tokens": 8192,
    "lock_transformer": True,
}
"""Settings that both components have, with their defaults."""

OLD_WEIGHTS = {"beta1": "kl_text", "beta2": "kl_image", "alignment_weight": "alignment"}
"""Settings of version 0.1, and the losses of MMIB that they are the weights of."""


def take_first(get_examples: Any, n: int = 10) -> Any:
    """RETURNS (Callable[[], List[Example]]): Gives the first examples only: where spaCy checks those of a
    corpus it reads it to its end. What can't be called stays as it is, for spaCy to complain of.
    """
    return (lambda: list(islice(get_examples(), n))) if callable(get_examples) else get_examples


class MMIBPipe(RobustPipe, TrainablePipe):
    """A trainable component with a fusion in its model. Subclasses say what its labels are, and what
    it predicts, annotates and learns.

    annotations (ClassVar[str]): What the examples have to hold, for a message.
    """

    annotations: ClassVar[str]

    def __init__(
        self,
        vocab: Vocab,
        model: Model[Any, Any],
        name: str,
        *,
        loss_weights: Mapping[str, LossWeight | None] | None = None,
        old_weights: Sequence[LossWeight | None] = (None, None, None),
        picture_dropout: float = 0.3,
        region_dropout: float = 0.0,
        max_batch_tokens: int = 8192,
        scorer: Callable[..., Any] | None = None,
    ) -> None:
        """Initialize the component.

        vocab (Vocab): The shared vocabulary.
        model (Model): Its model, with the layers `head` and possibly `fusion` as refs.
        name (str): The component's name in the pipeline, and the key of its losses.
        loss_weights (Optional[Mapping[str, Union[float, Iterable[float]]]]): By the names that the fusion
            gives its losses, the weight of each, 0 or more: a number, or a schedule with a value an update.
            Losses that aren't named have the weight that the fusion gives them.
        old_weights (Sequence[Optional[Union[float, Iterable[float]]]]): The settings beta1, beta2 and
            alignment_weight (`OLD_WEIGHTS`). Without effect on a fusion that has no such loss.
        picture_dropout (float): The probability, 0-1, that a post is learned from without its picture, drawn
            anew in each update: a model that always had pictures is of little use where they are missing.
            Components of a pipeline drop the same pictures.
        region_dropout (float): The same for each object of the pictures that stay.
        max_batch_tokens (int): Tokens processed at once in prediction, padding included, if no single post
            is longer: bounds memory, and results don't depend on it.
        scorer (Optional[Callable]): Scores examples.
        RAISES (ValueError): A weight below 0, of a loss that the fusion doesn't have, or given twice; a rate
            that is no probability.
        """
        self.vocab = vocab
        self.model = model
        self.name = name
        self.scorer = scorer
        self.max_batch_tokens = max_batch_tokens
        self.picture_dropout, self.region_dropout = picture_dropout, region_dropout
        for setting in ("picture_dropout", "region_dropout"):
            if not 0 <= getattr(self, setting) <= 1:
                raise ValueError(f"{name}: {setting} is a probability, 0-1, not {getattr(self, setting)}.")
        self.cfg: dict[str, Any] = {"labels": []}
        self._weights = _make_weights(name, model, loss_weights or {}, old_weights)
        self._monitor = CollapseMonitor(name)
        self._said: set[str] = set()

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): What the component can predict."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """RETURNS (List[str]): What `spacy init labels` writes and `initialize` takes."""
        return list(self.cfg["labels"])

    def add_label(self, label: str) -> int:
        """Add a label, before the component is initialized.

        label (str): The label.
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

    def _find_labels(self, examples: Iterable[Example]) -> set[str]:
        raise NotImplementedError

    def _get_output_size(self) -> int:
        return len(self.labels)

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Collect the labels, infer sizes and create the weights.

        get_examples (Callable[[], Iterable[Example]]): Returns a representative sample.
        nlp (Optional[Language]): The pipeline. If regions of the examples are known to leak their labels,
            its meta says so from now on.
        labels (Optional[Sequence[str]]): From `spacy init labels`; taken from the examples if `None`.
        RAISES (ValueError): There is no label at all, or settings don't fit together.
        """
        method = f"{type(self).__name__}.initialize"
        validate_get_examples(take_first(get_examples), method)
        # Initializing again starts over.
        self._forget_sizes()
        self.cfg.pop("leaks", None)
        self.cfg.pop("updates", None)
        self._monitor.reset()
        self._said.clear()
        notes: set[str | None] = set()
        lengths: list[int] = []

        def look_at_examples() -> Iterator[Example]:
            for example in get_examples():
                validate_examples([example], method)
                lengths.append(len(example))
                notes.add(get_regions_note(example.predicted))
                yield example

        found = self._find_labels(look_at_examples())
        for _, component in [] if nlp is None else nlp.pipeline:
            layers = find_encoder_layers(getattr(component, "model", None))
            notes.update(get_settings(layer).get_regions.note for layer in layers)
        # Sorted: the same data in any order, the same model.
        for label in sorted(found - {""}) if labels is None else labels:
            self.add_label(label)
        if not self.labels:
            raise ValueError(
                f"{self.name} has no labels: the examples hold no {self.annotations}, and neither "
                "add_label nor 'spacy init labels' gave any."
            )
        self._note_leaks(notes)
        if nlp is not None:
            # Once for all components.
            if self is next((pipe for _, pipe in nlp.pipeline if isinstance(pipe, MMIBPipe)), None):
                warn_if_evaluated_once(nlp, lengths)
            if self.cfg.get("leaks"):
                meta = nlp.meta.setdefault("spacy_mmib", {})
                meta["leaks"] = sorted({*self.cfg["leaks"], *meta.get("leaks", ())})
        self._warn_about_lost_pictures(islice(get_examples(), 100), "trains on text only")
        docs = list(islice((eg.predicted for eg in get_examples() if len(eg.predicted)), 10))
        self.model.set_dim("nO", self._get_output_size(), force=True)
        self.model.initialize(X=docs)

    def _note_leaks(self, notes: set[str | None]) -> None:
        """Remember what leaks the labels of the data the component is trained on. In its own settings, which
        go with it into other pipelines.
        """
        leaks = {*self.cfg.get("leaks", ()), *filter(None, notes)}
        if leaks:
            self.cfg["leaks"] = sorted(leaks)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): The scores that the component's scorer gives the predicted docs."""
        examples = list(examples)
        self._warn_about_lost_pictures(examples[:100], "is scored on text only")
        scores: dict[str, Any] = super().score(examples, **kwargs)
        return scores

    def _warn_about_lost_pictures(self, examples: Iterable[Example], result: str) -> None:
        """spaCy's own reader, the default of every config, builds predicted docs without pictures."""
        if self.model.maybe_get_ref("img2vec") is not None and any(
            get_stored_image(eg.reference) is not None
            and get_stored_image(eg.predicted) is None
            and get_image_error(eg.predicted) is None
            for eg in examples
        ):
            self._warn_once(
                f"the corpus has pictures, but its reader drops them, so this {result}. Use @readers = "
                "\"spacy-mmib.Corpus.v1\" in [corpora.train] and [corpora.dev], and 'spacy mmib evaluate' "
                "instead of 'spacy evaluate'."
            )

    def _forget_sizes(self) -> list[tuple[Model[Any, Any], str, int | None]]:
        """Take back the sizes of the weights, which Thinc refuses to change, and return what they were."""
        head = self.model.get_ref("head")
        nodes = [(self.model, "nO"), (head, "nI"), (head, "nO")]
        sizes = [(node, dim, node.maybe_get_dim(dim)) for node, dim in nodes]
        for node, dim in nodes:
            node.set_dim(dim, None, force=True)
        return sizes

    @contextmanager
    def _loading(self, exclude: Iterable[str]) -> Iterator[None]:
        """Let the weights have other sizes than before, unless they stay or loading fails."""
        cfg = copy.deepcopy(self.cfg)
        sizes: list[tuple[Model[Any, Any], str, int | None]] = []
        if "model" not in exclude:
            sizes = self._forget_sizes()
            self.cfg.pop("leaks", None)  # said of the weights that go
            if "cfg" not in exclude:
                self.cfg.pop("updates", None)  # not in pipelines of version 0.1
        try:
            with super()._loading(exclude):
                yield
        except Exception:
            self.cfg = cfg
            for node, dim, size in sizes:
                node.set_dim(dim, size, force=True)
            raise

    def _check_loaded(self) -> None:
        """Refuse labels and weights that don't belong together, or can't predict."""
        labels: Any = self.cfg.get("labels")
        problem = None
        strings = isinstance(labels, list) and all(isinstance(x, str) and x.strip() for x in labels)
        if not strings or len(set(labels)) < len(labels):
            problem = f"the labels are no list of different, non-empty strings: {str(labels)[:80]}"
        elif self._is_initialized:
            (shim,) = self.model.get_ref("head").shims
            size, wanted = getattr(shim._model, "settings", {}).get("n_labels"), self._get_output_size()
            if size != wanted:
                problem = f"the weights are for {size} labels, not for {wanted}: {labels}"
        if problem is not None:
            raise ValueError(
                f"{self.name}: {problem}. The component's cfg was damaged, or is of another component: take "
                "both from a copy, or train again."
            )
        super()._check_loaded()

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
        drop (float): Dropout rate of Thinc layers; fusions have their own, a setting of the architecture.
        sgd (Optional[Optimizer]): If given, the weights are updated.
        losses (Optional[Dict[str, float]]): Added to: the total under the component's name, its unweighted
            parts under `<name>_task` and, for each loss of the fusion whose weight isn't 0, `<name>_<loss>`.
        RETURNS (Dict[str, float]): `losses`.
        """
        from ..bridge.shim import fetch

        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        losses.setdefault(f"{self.name}_task", 0.0)
        examples = list(examples)
        validate_examples(examples, f"{type(self).__name__}.update")
        if not self._is_initialized:
            raise ValueError(NO_WEIGHTS.format(name=self.name))
        docs = [eg.predicted for eg in examples]
        if not any(len(doc) for doc in docs):
            return losses
        set_dropout_rate(self.model, drop)
        # Counted in the settings, so that schedules go on where a training that was saved has left them.
        step = self.cfg.get("updates", 0)
        weights = {loss: value for loss, weight in self._weights.items() if (value := weight.at(step))}
        fusion = self.model.maybe_get_ref("fusion")
        if fusion is not None:
            fusion.attrs["watch"] = self._monitor.watching
        X, gold = self._get_batch(examples)
        if self.model.maybe_get_ref("img2vec") is not None:
            draw_dropout(docs, self.name, self.picture_dropout, self.region_dropout)
        output, backprop = self.model.begin_update(X)
        full_like = self.model.ops.xp.full_like
        d_losses = {k: full_like(value, weights[k]) for k, value in output.losses.items() if k in weights}
        task_loss, d_output = self._get_loss(gold, output, weights)
        d_output.losses = d_losses
        self._add_losses(examples, output, d_output, weights)
        known = {name: value for name, value in output.losses.items() if name in weights}
        # Asked for before backprop, which a GPU then works on while they come.
        wait = fetch([task_loss, *known.values(), *output.logs.values()])
        backprop(d_output)
        # Afterwards: a picture encoder may have searched for the regions.
        self._note_leaks({get_regions_note(doc) for doc in docs})
        numbers = iter(wait())
        total = task = next(numbers)
        losses[f"{self.name}_task"] += task
        for loss, value in zip(known, numbers):
            key = f"{self.name}_{loss}"
            losses[key] = losses.get(key, 0.0) + value
            total += weights[loss] * value
        losses[self.name] += total
        self._monitor.name = self.name  # nlp.rename_pipe
        self._monitor.update(dict(zip(output.logs, numbers)), output.posteriors)
        if sgd not in (None, False):
            self.finish_update(sgd)
        return losses

    def _get_batch(self, examples: list[Example]) -> tuple[Any, list[Any]]:
        """RETURNS (Tuple[Any, List[numpy.ndarray]]): What goes into the model, and the gold of each post."""
        raise NotImplementedError

    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, Any]:
        """Compute the task loss.

        examples (Iterable[Example]): The batch.
        scores (Union[PostVectors, PairScores]): What the model gave for it.
        RETURNS (Tuple[float, Union[PostVectors, PairScores]]): The loss, and its gradient with respect to
            what the model gave.
        """
        _, gold = self._get_batch(list(examples))
        loss, gradient = self._get_loss(gold, scores, {})
        return float(loss[0]), gradient

    def _get_loss(self, gold: list[Any], output: Any, weights: Mapping[str, float]) -> tuple[Floats1d, Any]:
        """RETURNS (Tuple[Floats1d, Any]): The task loss, (1,), and the gradient of it and of the head's other
        losses, which are added to those of the output.
        """
        raise NotImplementedError

    def _add_losses(
        self, examples: list[Example], output: Any, d_output: Any, weights: Mapping[str, float]
    ) -> None:
        """Add losses of further heads to those that the model gave, and their gradients to its gradient."""

    def _find_label(self, label: str, reference: Doc) -> int:
        """RETURNS (int): The number of a gold label."""
        if label not in self.cfg["labels"]:
            raise ValueError(
                f"{self.name}: the label {label!r} in the training data is not one of {list(self.labels)}, "
                f"which it was initialized with (post: {reference.text[:60]!r}). Initialize with data that "
                "has all labels, or with add_label."
            )
        return int(self.cfg["labels"].index(label))

    def finish_update(self, sgd: Optimizer) -> None:
        """Update the weights with what was accumulated, and take the schedules a step further."""
        super().finish_update(sgd)
        self.cfg["updates"] = self.cfg.get("updates", 0) + 1


def _make_weights(
    name: str,
    model: Model[Any, Any],
    loss_weights: Mapping[str, LossWeight | None],
    old_weights: Sequence[LossWeight | None],
) -> dict[str, Weight]:
    """RETURNS (Dict[str, Weight]): Of each loss of the model's fusion, head and pointer."""
    defaults: dict[str, LossWeight] = {}
    for layer in map(model.maybe_get_ref, ("fusion", "head", "pointer")):
        defaults.update({} if layer is None else layer.attrs.get("losses", {}))
    given = {loss: value for loss, value in loss_weights.items() if value is not None}
    for loss in given:
        if loss not in defaults:
            has = f"has {', '.join(defaults)}" if defaults else "has no losses of its own"
            raise ValueError(
                f"{name}: loss_weights names {loss!r}, but the model's fusion {has}. Leave it out, or set it "
                "to null."
            )
    weights = {loss: Weight(x, f"loss_weights.{loss}") for loss, x in {**defaults, **given}.items()}
    for (old_name, loss), value in zip(OLD_WEIGHTS.items(), old_weights):
        if value is not None and loss in given:
            raise ValueError(
                f"{name}: {old_name} and loss_weights.{loss} are the same setting; keep the latter."
            )
        if value is not None and loss in weights:
            weights[loss] = Weight(value, old_name)
    return weights
