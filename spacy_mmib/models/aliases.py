"""Architectures of version 0.1: `spacy-mmib.NER.v1` and `spacy-mmib.REL.v1` with a fusion that is given."""

from collections.abc import Sequence
from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import PairInput, PairScores, PostVectors
from ..fusion.blocks import FeedForward, Pooling
from ..fusion.mmib import Discriminator, KLReduction, build_mmib_v1
from ..heads.crf import crf_layer
from ..heads.markers import MARKERS
from . import ner, rel
from .post_encoder import encode_posts, make_model


@registry.architectures("spacy-mmib.MMIB_NER.v1")
def build_mmib_ner_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    img2vec: Model[list[Doc], list[Floats2d]],
    *,
    hidden_size: int | None = None,
    heads: int = 12,
    dropout: float = 0.1,
    residual_dropout: float | None = None,
    feed_forward: FeedForward = "transformer",
    kl_reduction: KLReduction = "mean",
    alignment_pooling: Pooling = "mean",
    discriminator: Discriminator = "scalar",
    max_negatives: int = 16,
    initial_log_var: float = 0.0,
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
) -> Model[list[Doc], PostVectors]:
    """Build `spacy-mmib.NER.v1` with `spacy-mmib.MMIB.v1`, which have these settings.

    RETURNS (Model[List[Doc], PostVectors]): The model of `mmib_ner`.
    """
    fusion = build_mmib_v1(
        heads,
        dropout,
        residual_dropout,
        feed_forward,
        kl_reduction,
        alignment_pooling,
        discriminator,
        max_negatives,
        initial_log_var,
    )
    return ner.build_ner_v1(
        tok2vec,
        fusion,
        img2vec,
        hidden_size=hidden_size,
        mixed_precision=mixed_precision,
        grad_scaler_config=grad_scaler_config,
    )


@registry.architectures("spacy-mmib.Text_NER.v1")
def build_text_ner_v1(tok2vec: Model[list[Doc], list[Floats2d]]) -> Model[list[Doc], PostVectors]:
    """Build `spacy-mmib.NER.v1` without pictures and without a fusion: the CRF on the text vectors as they
    are.

    RETURNS (Model[List[Doc], PostVectors]): The model of `mmib_ner`.
    """
    return make_model("text_ner", encode_posts, crf_layer(), tok2vec)


@registry.architectures("spacy-mmib.MMIB_REL.v1")
def build_mmib_rel_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    img2vec: Model[list[Doc], list[Floats2d]],
    *,
    entity_repr: Literal["pool", "marker"] = "pool",
    markers: Sequence[str] = MARKERS,
    hidden_size: int | None = None,
    heads: int = 12,
    dropout: float = 0.1,
    residual_dropout: float | None = None,
    feed_forward: FeedForward = "transformer",
    kl_reduction: KLReduction = "mean",
    alignment_pooling: Pooling = "mean",
    discriminator: Discriminator = "scalar",
    max_negatives: int = 16,
    initial_log_var: float = 0.0,
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
) -> Model[PairInput, PairScores]:
    """Build `spacy-mmib.REL.v1` with `spacy-mmib.MMIB.v1`, which have these settings.

    RETURNS (Model[PairInput, PairScores]): The model of `mmib_rel`.
    """
    fusion = build_mmib_v1(
        heads,
        dropout,
        residual_dropout,
        feed_forward,
        kl_reduction,
        alignment_pooling,
        discriminator,
        max_negatives,
        initial_log_var,
    )
    settings: dict[str, Any] = {"mixed_precision": mixed_precision, "grad_scaler_config": grad_scaler_config}
    settings.update(entity_repr=entity_repr, markers=markers, hidden_size=hidden_size)
    return rel.build_rel_v1(tok2vec, fusion, img2vec, **settings)


@registry.architectures("spacy-mmib.Text_REL.v1")
def build_text_rel_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    *,
    entity_repr: Literal["pool", "marker"] = "pool",
    markers: Sequence[str] = MARKERS,
) -> Model[PairInput, PairScores]:
    """Build `spacy-mmib.REL.v1` without pictures and without a fusion: the classifier on the text vectors as
    they are.

    RETURNS (Model[PairInput, PairScores]): The model of `mmib_rel`.
    """
    return rel.build("text_rel", tok2vec, entity_repr=entity_repr, markers=markers)
