"""`mmib_ner`: named entities from the text and the picture of a post."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy
from spacy.attrs import ENT_IOB, IS_SPACE
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example, biluo_to_iob
from spacy.vocab import Vocab
from thinc.api import Model
from thinc.types import Floats1d

from ..bridge.data import DecodedEntities, NERInput, PointerInput, PostVectors, choose, spread, sum_by_region
from ..encoders.dropout import encode_ahead
from ..post.boxes import ENTITY_REGIONS_KEY, get_boxes, has_boxes, is_one_of, set_entity_regions
from ..post.extensions import (
    count_regions,
    get_predicted,
    get_regions,
    set_found_regions,
    set_predicted,
    set_region_weights,
)
from .base import SETTINGS, LossWeight, MMIBPipe
from .locking import lock_transformers
from .replacing import replace_listeners_by_path

DEFAULT_MODEL = {
    "@architectures": "spacy-mmib.NER.v1",
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
    "fusion": {"@architectures": "spacy-mmib.MMIB.v1"},
}

Locate: TypeAlias = Literal["pointer", "occlusion"] | None
LOOKING = {"pointer": "pointer", "occlusion": "img2vec"}
"""What says which object an entity is, and the sub-layer it needs."""

MOST_PADDING = 1.25
"""Tokens with padding to tokens without, in a group of any size worth the while."""

WORTHWHILE = 512
"""Tokens with padding of a group that keeps a processor busy."""


@Language.factory(
    "mmib_ner",
    assigns=["doc.ents", "token.ent_iob", "token.ent_type"],
    default_config={
        "model": DEFAULT_MODEL,
        **SETTINGS,
        "locate": "pointer",
        "scorer": {"@scorers": "spacy-mmib.ner_scorer.v1"},
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0, "ents_per_type": None},
)
def make_mmib_ner(
    nlp: Language,
    name: str,
    model: Model[list[Doc], PostVectors],
    loss_weights: dict[str, Any],
    beta1: LossWeight | None,
    beta2: LossWeight | None,
    alignment_weight: LossWeight | None,
    picture_dropout: float,
    region_dropout: float,
    max_batch_tokens: int,
    lock_transformer: bool,
    locate: Locate,
    scorer: Callable[..., Any] | None,
) -> "MMIBEntityRecognizer":
    """Create the component from a config; `MMIBPipe` says what the settings do.

    lock_transformer (bool): Whether one thread at a time runs a transformer of the pipeline; see `locking`.
    """
    replace_listeners_by_path(nlp)
    if lock_transformer:
        lock_transformers(nlp, model)
    return MMIBEntityRecognizer(
        nlp.vocab,
        model,
        name,
        loss_weights=loss_weights,
        old_weights=(beta1, beta2, alignment_weight),
        picture_dropout=picture_dropout,
        region_dropout=region_dropout,
        max_batch_tokens=max_batch_tokens,
        locate=locate,
        scorer=scorer,
    )


class MMIBEntityRecognizer(MMIBPipe):
    """Recognizes entities in posts: text encoder, picture encoder, fusion, CRF. `MMIBPipe` has the settings.

    Posts without a picture, or with one that can't be read, are processed from their text. Entities that
    other components or the user have set are kept, and predictions that overlap them dropped, as spaCy's
    own `ner` does; the component's own earlier predictions are replaced.
    """

    annotations = "entities (doc.ents)"

    def __init__(
        self, vocab: Vocab, model: Model[Any, Any], name: str, *, locate: Locate = "pointer", **settings: Any
    ) -> None:
        """Create the component; `MMIBPipe` has the other settings.

        locate (Optional[str]): What says which object of the picture an entity is (`ent._.region`): the
            "pointer" of the model, if it has one, or "occlusion", which needs no training but runs fusion and
            head once more for each object; `None` for nothing.
        """
        super().__init__(vocab, model, name, **settings)
        self.locate = locate

    @property
    def locate(self) -> Locate:
        """What says which object an entity is; may be set in a trained pipeline.

        RAISES (ValueError): Set to something else.
        """
        return self._locate_by

    @locate.setter
    def locate(self, value: Locate) -> None:
        if value is not None and value not in LOOKING:
            raise ValueError(f"{self.name}: locate is {value!r}; choose {', '.join(LOOKING)} or None.")
        self._locate_by = value

    def _find_labels(self, examples: Iterable[Example]) -> set[str]:
        return {ent.label_ for example in examples for ent in example.reference.ents}

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Find the entities of a batch, without changing the docs (but for `doc._.image_error`).

        RETURNS (List[Optional[DecodedEntities]]): For each doc; `None` for a doc without tokens.
        """
        docs = self._get_ready(docs)
        head = self.model.get_ref("head")
        predictions: list[Any] = [None] * len(docs)
        full = [i for i, doc in enumerate(docs) if len(doc)]
        posts = encode_ahead(self.model, [docs[i] for i in full])
        for rows in batches_by_length([len(doc) for doc in posts], self.max_batch_tokens):
            group, vectors = [full[k] for k in rows], self.model.predict(posts.take(rows))
            weights = vectors.weights or [None] * len(group)
            decoded = head.predict(NERInput(vectors.context, vectors.borders))
            for i, entities, of_tokens, found in zip(group, decoded, weights, vectors.found):
                predictions[i] = entities._replace(weights=of_tokens, found=found)
            if self._locate_by and self.model.maybe_get_ref(LOOKING[self._locate_by]) is not None:
                self._locate(docs, vectors, group, predictions)
        return predictions

    def _locate(
        self, docs: list[Doc], vectors: PostVectors, group: list[int], predictions: list[DecodedEntities]
    ) -> None:
        """Add to the predictions for a group of posts which object each entity is."""
        n_regions = [count_regions(docs[i], predictions[i].found) for i in group]
        objects = [_get_objects(vectors, at, n) for at, n in enumerate(n_regions)]
        some = {i: at for at, i in enumerate(group) if predictions[i].starts and objects[at] is not None}
        if not some:
            return
        context, text, image = (
            [x[at] for at in some.values()] for x in (vectors.context, vectors.text, vectors.image)
        )
        owners: list[Any] = [objects[at] for at in some.values()]
        decoded = [predictions[i] for i in some]
        if self._locate_by == "occlusion":
            from ..models.occlusion import find_by_occlusion

            found = find_by_occlusion(self.model, [docs[i] for i in some], text, image, decoded, owners)
        else:
            spans = [list(zip(entities.starts, entities.ends)) for entities in decoded]
            found = self.model.get_ref("pointer").predict(PointerInput(context, image, owners, spans))
        for i, regions in zip(some, found):
            predictions[i] = predictions[i]._replace(regions=regions)

    def set_annotations(self, docs: Iterable[Doc], predictions: list[Any]) -> None:
        """Write predicted entities to `doc.ents`, their confidences to `ent._.confidence`, what they
        attended to in the picture to `ent._.region_weights`, and which object they are to `ent._.region`;
        first to `doc._.regions` what a region getter found.
        """
        labels = self.cfg["labels"]
        for doc, entities in zip(docs, predictions):
            if entities is None:
                continue
            set_found_regions(doc, entities.found)
            before = get_predicted(doc, self.name)
            iobs, spaces = doc.to_array([ENT_IOB, IS_SPACE]).T  # a Token each takes longer
            taken = iobs % 2 == 1  # B or I: an entity of somebody else, or blocked
            for ent in doc.ents if before else ():
                if (ent.start_char, ent.end_char, ent.label_) in before:
                    taken[ent.start : ent.end] = False
            found, confidences, weights, regions = [], {}, {}, {}
            for i, (start, end, label, confidence) in enumerate(zip(*entities[:4])):
                # spaCy has no entities that begin or end with white space.
                while start < end and spaces[start]:
                    start += 1
                while start < end and spaces[end - 1]:
                    end -= 1
                if start < end and not taken[start:end].any():
                    span = Span(doc, start, end, label=labels[label])
                    found.append(span)
                    confidences[span.start_char, span.end_char, span.label_] = confidence
                    if entities.weights is not None and entities.weights.shape[1]:
                        mean = entities.weights[start:end].mean(axis=0)
                        weights[span.start_char, span.end_char] = mean
                    if entities.regions is not None:
                        regions[span.start_char, span.end_char] = entities.regions[i]
            set_predicted(doc, self.name, confidences)
            set_region_weights(doc, self.name, weights)
            if regions or ENTITY_REGIONS_KEY in doc.user_data:
                set_entity_regions(doc, self.name, regions)
            for span in found:
                taken[span.start : span.end] = True
            edges = numpy.flatnonzero(numpy.diff(taken, prepend=True, append=True))
            outside = [doc[start:end] for start, end in edges.reshape(-1, 2).tolist()]
            doc.set_ents(found, outside=outside, default="unmodified")

    def _get_batch(self, examples: list[Example]) -> tuple[list[Doc], list[Any]]:
        return [eg.predicted for eg in examples], [self._get_tags(eg) for eg in examples]

    def _get_loss(
        self, gold: list[Any], output: PostVectors, weights: Mapping[str, float]
    ) -> tuple[Floats1d, PostVectors]:
        """Negative log-likelihood of the gold tags, mean over posts that have tokens (Eq. 27)."""
        head = self.model.get_ref("head")
        full = [i for i, tags in enumerate(gold) if len(tags)]
        of_full: Any = (choose(x, full) for x in (output.context, output.borders, gold))
        loss, backprop_head = head.begin_update(NERInput(*of_full))
        d_loss = self.model.ops.xp.ones_like(loss)
        for i, name in enumerate(head.attrs["losses"], 1):
            output.losses[name] = loss[i : i + 1]
            d_loss[i] = weights.get(name, 0.0)
        d_context, d_borders = backprop_head(d_loss)
        d_output = PostVectors(spread(d_context, full, gold, output.context.__getitem__))
        if d_borders:
            d_output.borders = spread(d_borders, full, gold, output.borders.__getitem__)
        return loss[:1], d_output

    def _add_losses(
        self, examples: list[Example], output: Any, d_output: Any, weights: Mapping[str, float]
    ) -> None:
        """Let the pointer learn from entities with `ent._.boxes`; see `spacy-mmib.Pointer.v1`."""
        pointer = self.model.maybe_get_ref("pointer")
        if pointer is None or "pointer" not in weights:
            return
        taught = [(i, *self._get_targets(example, output, i)) for i, example in enumerate(examples)]
        taught = [row for row in taught if row[2]]
        output.losses["pointer"] = self.model.ops.alloc1f(1)
        if not taught:
            return
        posts, objects, spans, targets = map(list, zip(*taught))
        context, image = ([x[i] for i in posts] for x in (output.context, output.image))
        loss, backprop = pointer.begin_update(PointerInput(context, image, objects, spans, targets))
        output.losses["pointer"] = loss
        d_output.image = [self.model.ops.xp.zeros_like(x) for x in output.image]
        d_loss = self.model.ops.xp.full_like(loss, weights["pointer"])
        of_context = list(d_output.context)
        for i, d_context, d_image in zip(posts, *backprop(d_loss)):
            of_context[i] = of_context[i] + d_context
            d_output.image[i] = d_image
        d_output.context = of_context

    def _get_targets(self, example: Example, output: PostVectors, i: int) -> tuple[Any, list[Any], list[Any]]:
        """RETURNS (Tuple): `objects`, `spans` and `targets` of a post, as in `PointerInput`."""
        doc, spans, targets = example.predicted, [], []
        objects = _get_objects(output, i, count_regions(doc)) if has_boxes(example.reference) else None
        if objects is not None and objects.shape[1]:
            regions = get_regions(doc)
            for ent in example.reference.ents:
                boxes = get_boxes(ent)
                if boxes is None:
                    continue
                seen = {j for j, region in enumerate(regions, 1) if is_one_of(region, boxes)}
                right = [j for j in seen if objects[:, j].any()] if boxes else [0]
                aligned = example.get_aligned_spans_y2x([ent])
                if aligned and right:
                    spans.append((aligned[0].start, aligned[0].end))
                    targets.append(right)
        return objects, spans, targets

    def _get_tags(self, example: Example) -> "numpy.ndarray[Any, Any]":
        """RETURNS (numpy.ndarray): Tags as in `NERInput`. Tokens whose gold is missing (`-`) or can't be
        aligned with the tokenization are unknown, not O.
        """
        biluo = example.get_aligned_ner()
        known = ["-" if tag in (None, "", "-") else tag for tag in biluo]
        tags = numpy.full(len(known), -1, dtype="int64")
        for i, tag in enumerate(biluo_to_iob(known)):
            if tag == "O":
                tags[i] = 0
            elif tag != "-":
                prefix, label = tag.split("-", 1)
                number = self._find_label(label, example.reference)
                tags[i] = 2 * number + (1 if prefix == "B" else 2)
        return tags


def _get_objects(vectors: PostVectors, i: int, n_regions: int) -> "numpy.ndarray[Any, Any] | None":
    """RETURNS (Optional[numpy.ndarray]): As in `PointerInput`; `None` if what the rows are isn't known."""
    n_rows = len(vectors.image[i])
    objects = sum_by_region(numpy.eye(n_rows, dtype="float32"), vectors.rows[i], n_regions)
    return None if n_rows and not objects.shape[1] else objects


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Group posts of similar length. Results never depend on the grouping, time and memory do: one post of
    700 tokens would have a thousand tweets beside it padded to its length.

    lengths (Sequence[int]): Tokens of each post of a batch; posts without tokens are left out.
    max_tokens (int): Tokens of a group, padding included; a longer post is a group of its own.
    YIELDS (List[int]): Indices of posts.
    """
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: lengths[i])
    group: list[int] = []
    tokens = 0
    for i in order:
        padded = (len(group) + 1) * lengths[i]
        wasteful = padded > WORTHWHILE and padded > MOST_PADDING * (tokens + lengths[i])
        if group and (padded > max_tokens or wasteful):
            yield group
            group, tokens = [], 0
        group.append(i)
        tokens += lengths[i]
    if group:
        yield group
