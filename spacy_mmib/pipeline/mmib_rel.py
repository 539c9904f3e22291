"""`mmib_rel`: relations between spans of a post, from its text and its picture."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Model, NumpyOps, to_numpy
from thinc.types import Floats1d

from ..bridge.data import PairArray, PairInput, PairScores, SpanWeights
from ..encoders.dropout import encode_ahead
from ..post.extensions import get_weighted_spans, set_found_regions, set_region_weights
from ..post.regions import FoundRegions
from ..post.relations import (
    ASKED,
    RELATIONS_KEY,
    Pair,
    Relation,
    get_predicted_relations,
    get_relations,
    has_relations,
    set_predicted_relations,
    set_relations,
)
from ..post.user_data import get_entry
from ..util import warn
from .base import SETTINGS, LossWeight, MMIBPipe
from .instances import GetInstances, get_given_pairs
from .locking import lock_transformers
from .mmib_ner import DEFAULT_MODEL as NER_MODEL
from .mmib_ner import batches_by_length
from .replacing import replace_listeners_by_path

DEFAULT_MODEL = {**NER_MODEL, "@architectures": "spacy-mmib.REL.v1"}


@Language.factory(
    "mmib_rel",
    requires=["doc.ents"],
    assigns=["doc._.relations"],
    default_config={
        "model": DEFAULT_MODEL,
        "get_instances": {"@misc": "spacy-mmib.ordered_pairs.v1"},
        "negative_label": "None",
        "threshold": 0.0,
        **SETTINGS,
        "scorer": {"@scorers": "spacy-mmib.rel_scorer.v1"},
    },
    default_score_weights={
        "rel_micro_f": 1.0,
        "rel_micro_p": 0.0,
        "rel_micro_r": 0.0,
        "rel_macro_p": None,
        "rel_macro_r": None,
        "rel_macro_f": None,
        "rel_strict_p": None,
        "rel_strict_r": None,
        "rel_strict_f": None,
        "rel_accuracy": None,
        "rel_per_type": None,
    },
)
def make_mmib_rel(
    nlp: Language,
    name: str,
    model: Model[PairInput, PairScores],
    get_instances: GetInstances,
    negative_label: str,
    threshold: float,
    loss_weights: dict[str, Any],
    beta1: LossWeight | None,
    beta2: LossWeight | None,
    alignment_weight: LossWeight | None,
    picture_dropout: float,
    region_dropout: float,
    max_batch_tokens: int,
    lock_transformer: bool,
    scorer: Callable[..., Any] | None,
) -> "MMIBRelationExtractor":
    """Create the component from a config; `MMIBRelationExtractor` says what the settings do.

    lock_transformer (bool): Whether one thread at a time runs a transformer of the pipeline; see `locking`.
    """
    replace_listeners_by_path(nlp)
    if lock_transformer:
        lock_transformers(nlp, model)
    return MMIBRelationExtractor(
        nlp.vocab,
        model,
        name,
        get_instances=get_instances,
        negative_label=negative_label,
        threshold=threshold,
        loss_weights=loss_weights,
        old_weights=(beta1, beta2, alignment_weight),
        picture_dropout=picture_dropout,
        region_dropout=region_dropout,
        max_batch_tokens=max_batch_tokens,
        scorer=scorer,
    )


@dataclass(frozen=True)
class ScoredPairs:
    """What the model says of the candidates of a doc.

    instances (List[Tuple[Span, Span]]): Head and tail of each.
    probabilities (Floats2d): A row a candidate; column 0 is the negative label, then the others.
    weights (SpanWeights): What their spans attended to in the picture.
    found (Optional[FoundRegions]): What a region getter found in it.
    """

    instances: list[tuple[Span, Span]]
    probabilities: "numpy.ndarray[Any, Any]"
    weights: SpanWeights = field(default_factory=dict)
    found: FoundRegions | None = None


class MMIBRelationExtractor(MMIBPipe):
    """Classifies pairs of spans of posts: text encoder, picture encoder, fusion, softmax over the labels.

    Relations that other components or the user have set are kept; the component's own earlier predictions
    are replaced. What is predicted as unrelated isn't written, unless it was asked for: a relation with the
    empty label gets an answer, be it the negative label.

    One of them a pipeline: a second one would be scored under the same names, and keeps what the first one
    has answered.
    """

    annotations = "relations (doc._.relations)"

    def __init__(
        self,
        vocab: Vocab,
        model: Model[PairInput, PairScores],
        name: str = "mmib_rel",
        *,
        get_instances: GetInstances,
        negative_label: str = "None",
        threshold: float = 0.0,
        **settings: Any,
    ) -> None:
        """Initialize the component. The other settings are those of `MMIBPipe`.

        model (Model[PairInput, PairScores]): From `spacy-mmib.REL.v1`.
        get_instances (Callable[[Doc], List[Tuple[Span, Span]]]): The candidates, spans that may overlap.
        negative_label (str): What pairs without a relation are annotated with, if they are.
        threshold (float): 0-1. A relation whose probability is lower is not predicted, even if no other
            label is more probable.
        RAISES (ValueError): A threshold that is no probability, or an empty negative label.
        """
        super().__init__(vocab, model, name, **settings)
        if not 0 <= threshold <= 1:
            raise ValueError(f"{name}: the threshold is a probability, 0-1, not {threshold}.")
        if not negative_label:
            raise ValueError(f"{name}: the negative label can't be empty, which means 'not known'.")
        self.get_instances = get_instances
        self.threshold = threshold
        self.cfg["negative_label"] = negative_label

    @property
    def negative_label(self) -> str:
        """RETURNS (str): The label of pairs without a relation; not one of `labels`."""
        label: str = self.cfg["negative_label"]
        return label

    def add_label(self, label: str) -> int:
        """Add a relation label as `MMIBPipe.add_label` does. The negative one is always there."""
        return 0 if label == self.negative_label else super().add_label(label)

    def _get_output_size(self) -> int:
        return len(self.labels) + 1

    def _check_loaded(self) -> None:
        negative = self.cfg.get("negative_label")
        if not isinstance(negative, str) or not negative or negative in (self.cfg["labels"] or ()):
            raise ValueError(
                f"{self.name}: the negative label {negative!r} is empty, or one of the labels "
                f"{self.cfg['labels']}. The component's cfg was damaged: take it from a copy."
            )
        super()._check_loaded()

    def _find_labels(self, examples: Iterable[Example]) -> set[str]:
        """Find the labels, and say what of the gold annotations can't be learned."""
        found: set[str] = set()
        posts = unannotated = relations = lost = 0
        for example in examples:
            reference, align = example.reference, _make_aligner(example)
            related = [r for r in get_relations(reference) if r.label not in (ASKED, self.negative_label)]
            known = {_pair_of(*pair) for pair in self._get_candidates(reference)}
            found.update(r.label for r in related)
            posts += 1
            unannotated += not has_relations(reference)
            relations += len(related)
            lost += sum(r.pair not in known or None in (align(r.head), align(r.tail)) for r in related)
        if unannotated:
            warn(
                f"{self.name}: {unannotated} of {posts} posts are not annotated for relations and teach it "
                "nothing. If they have none, say so: doc._.relations = []."
            )
        if lost:
            warn(
                f"{self.name}: {lost} of {relations} gold relations are between spans that get_instances "
                "doesn't give (no entities, too far apart, overlapping), or that no tokens fit. They are not "
                "learned and count as missed in scoring."
            )
        return found

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """RETURNS (Dict[str, Any]): The scores that the component's scorer gives the predicted docs."""
        examples = list(examples)
        annotated = [eg for eg in examples if get_entry(eg.reference, RELATIONS_KEY)]
        asked = any(get_entry(eg.predicted, RELATIONS_KEY) for eg in annotated)
        if self.get_instances is get_given_pairs and annotated and not asked:
            self._warn_once(
                "it answers given pairs, but was given none, so it is scored as if it had found nothing. "
                'Set given = "pairs" in [corpora.dev] (of "spacy-mmib.Corpus.v1"), or use '
                "'spacy mmib evaluate'."
            )
        return super().score(examples, **kwargs)

    def predict(self, docs: Iterable[Doc]) -> list[ScoredPairs | None]:
        """Score the candidates of a batch, without changing the docs (but for `doc._.image_error`).

        RETURNS (List[Optional[ScoredPairs]]): For each doc; `None` for one whose relations can't be read.
        """
        docs = self._get_ready(docs)
        instances = [self._read_candidates(doc) for doc in docs]
        per_pair = self.model.attrs["entity_repr"] == "marker"
        encodings: list[tuple[int, PairArray]] = []  # the number of a post, and which of its pairs
        for i, spans in enumerate(instances):
            if spans:
                pairs = _to_array(spans)
                encodings += [(i, part) for part in numpy.split(pairs, len(pairs) if per_pair else 1)]
        numbers = {i: k for k, i in enumerate(dict(encodings))}
        posts = encode_ahead(self.model, [docs[i] for i in numbers])
        lengths = [len(docs[i]) + (4 if per_pair else 0) for i, _ in encodings]  # with four markers
        rows: list[list[Any]] = [[] for _ in docs]
        weights: list[SpanWeights] = [{} for _ in docs]
        regions: list[FoundRegions | None] = [None] * len(docs)
        for group in batches_by_length(lengths, self.max_batch_tokens):
            chosen: dict[int, list[PairArray]] = {}
            for i, part in map(encodings.__getitem__, group):
                chosen.setdefault(i, []).append(part)
            of_group = posts.take([numbers[i] for i in chosen])
            X = PairInput(of_group, [numpy.concatenate(parts) for parts in chosen.values()])
            output = self.model.predict(X)
            scores: Any = NumpyOps().softmax(to_numpy(output.scores))  # CuPy would compile a kernel
            ends = numpy.cumsum([len(array) for array in X.pairs])
            for i, of_post in zip(chosen, numpy.split(scores, ends)):
                rows[i].append(of_post)
            for i, found_regions in zip(chosen, output.found):
                regions[i] = found_regions
            for i, found in zip(chosen, output.weights):
                for span, vectors in found.items():
                    weights[i].setdefault(span, []).extend(vectors)
        empty = numpy.zeros((0, self._get_output_size()), dtype="float32")
        return [
            None if spans is None else ScoredPairs(spans, numpy.concatenate([empty, *found]), *seen)
            for spans, found, seen in zip(instances, rows, zip(weights, regions))
        ]

    def _read_candidates(self, doc: Doc) -> list[tuple[Span, Span]] | None:
        """RETURNS (Optional[List[Tuple[Span, Span]]]): The candidates; `None` if the relations on the doc
        can't be read, which then stay as they are.
        """
        try:
            get_relations(doc)
        except ValueError as err:
            warn(f"{self.name}: {err} No relations are predicted for this post.")
            return None
        return self._get_candidates(doc)

    def _get_candidates(self, doc: Doc) -> list[tuple[Span, Span]]:
        """RETURNS (List[Tuple[Span, Span]]): What `get_instances` gives, each pair once."""
        found: dict[Pair, tuple[Span, Span]] = {}
        for instance in self.get_instances(doc):
            try:
                head, tail = instance
                if not (head.doc is doc and tail.doc is doc and len(head) and len(tail)):
                    raise TypeError
            except (TypeError, ValueError, AttributeError):
                raise ValueError(
                    f"{self.name}: get_instances has to return pairs (head, tail) of spans of the doc it is "
                    f"given, none of them empty; got {str(instance)[:80]!r}."
                ) from None
            found.setdefault(_pair_of(head, tail), (head, tail))
        return list(found.values())

    def set_annotations(self, docs: Iterable[Doc], predictions: list[ScoredPairs | None]) -> None:
        """Write what was predicted to `doc._.relations`, and what the spans of candidates attended to in the
        picture to their `_.region_weights`, unless another component has; first to `doc._.regions` what a
        region getter found.
        """
        for doc, scored in zip(docs, predictions):
            weights = {}
            if scored is not None:
                set_found_regions(doc, scored.found)
                self._set_relations(doc, scored)
                others = get_weighted_spans(doc, without=self.name)
                for (start, end), vectors in scored.weights.items():
                    span = doc[start:end]
                    if (span.start_char, span.end_char) not in others:
                        mean = numpy.mean(vectors, axis=0, dtype="float64")
                        weights[span.start_char, span.end_char] = mean
            set_region_weights(doc, self.name, weights)

    def _set_relations(self, doc: Doc, scored: ScoredPairs) -> None:
        own = get_predicted_relations(doc, self.name)
        candidates = {_pair_of(*instance) for instance in scored.instances}
        kept, asked = [], set()
        for relation in get_relations(doc):
            key = relation.pair, relation.label
            # Without a score it is someone's own annotation, even if it agrees with a prediction.
            predicted = key in own and relation.score is not None
            question = relation.label == ASKED or (predicted and own[key])
            if question and relation.pair in candidates:
                asked.add(relation.pair)
            elif question:
                kept.append(Relation(relation.head, relation.tail, ASKED))
            elif not predicted:
                kept.append(relation)
        taken = {relation.pair for relation in kept if relation.label != ASKED}
        labels = [self.negative_label, *self.labels]
        found: list[Relation] = []
        for instance, row in zip(scored.instances, scored.probabilities):
            pair = _pair_of(*instance)
            best = int(row.argmax())
            if best and row[best] < self.threshold:
                best = 0
            if pair not in taken and (best or pair in asked):
                found.append(Relation(*instance, labels[best], float(row[best])))
        set_relations(doc, [*kept, *found])
        set_predicted_relations(doc, self.name, {(rel.pair, rel.label): rel.pair in asked for rel in found})

    def _get_batch(self, examples: list[Example]) -> tuple[PairInput, list[Any]]:
        gold = [self._get_gold(example) for example in examples]
        X = PairInput([eg.predicted for eg in examples], [pairs for pairs, _ in gold])
        return X, [targets for _, targets in gold]

    def _get_loss(
        self, gold: list[Any], output: PairScores, weights: Mapping[str, float]
    ) -> tuple[Floats1d, PairScores]:
        """Negative log-likelihood of the gold relation, mean over pairs (Eq. 28); 0 without any pair."""
        ops, scores = self.model.ops, output.scores
        if not len(scores):
            return ops.alloc1f(1), PairScores(ops.xp.zeros_like(scores))
        d_scores = ops.softmax(scores)
        rows, columns = ops.xp.arange(len(scores)), ops.asarray(numpy.concatenate(gold))
        # As a difference, so that the loss of a certain but wrong prediction stays finite.
        shifted = scores - scores.max(axis=1, keepdims=True)
        log_sum = ops.xp.log(ops.xp.exp(shifted).sum(axis=1))
        loss = (log_sum - shifted[rows, columns]).mean(keepdims=True)
        d_scores[rows, columns] -= 1
        return loss, PairScores(d_scores / len(scores))

    def _get_gold(self, example: Example) -> "tuple[numpy.ndarray[Any, Any], numpy.ndarray[Any, Any]]":
        """RETURNS (Tuple[numpy.ndarray, numpy.ndarray]): The candidates of the gold entities, in tokens of
        the predicted doc, and for each the column of its label. A pair with several gold labels occurs
        with each; one that is not annotated is negative, one with an empty label is unknown and left out.
        """
        reference = example.reference
        instances, targets = [], []
        if has_relations(reference):
            gold: dict[Pair, list[str]] = {}
            for relation in get_relations(reference):
                gold.setdefault(relation.pair, []).append(relation.label)
            align = _make_aligner(example)
            for head, tail in self._get_candidates(reference):
                labels = gold.get(_pair_of(head, tail), [self.negative_label])
                x_head, x_tail = align(head), align(tail)
                if x_head is None or x_tail is None or ASKED in labels:
                    continue
                for label in labels:
                    instances.append((x_head, x_tail))
                    negative = label == self.negative_label
                    targets.append(0 if negative else 1 + self._find_label(label, reference))
        return _to_array(instances), numpy.asarray(targets, dtype="int64")


def _pair_of(head: Span, tail: Span) -> Pair:
    return head.start_char, head.end_char, tail.start_char, tail.end_char


def _to_array(instances: Iterable[tuple[Span, Span]]) -> "numpy.ndarray[Any, Any]":
    rows = [(head.start, head.end, tail.start, tail.end) for head, tail in instances]
    return numpy.asarray(rows, dtype="int64").reshape(-1, 4)


def _make_aligner(example: Example) -> Callable[[Span], Span | None]:
    """RETURNS (Callable): Finds the span of the predicted doc with the characters of a gold one, if tokens
    fit.
    """

    @cache
    def align(span: Span) -> Span | None:
        found = example.get_aligned_spans_y2x([span], allow_overlap=True)
        return found[0] if found else None

    return align
