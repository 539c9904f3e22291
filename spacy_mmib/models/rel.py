"""`spacy-mmib.REL.v1`: text encoder, picture encoder, any fusion, classifier of pairs of spans."""

from collections.abc import Sequence
from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import FusionInput, PairInput, PairScores, PostVectors
from ..heads.markers import MARKERS
from ..heads.pairs import RelationInput, build_pairs_v1
from .pair_classifier import classify_pairs
from .post_encoder import make_model


@registry.architectures("spacy-mmib.REL.v1")
def build_rel_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    fusion: Model[FusionInput, PostVectors] | None,
    img2vec: Model[list[Doc], list[Floats2d]] | None = None,
    *,
    head: Model[RelationInput, Floats2d] | None = None,
    entity_repr: Literal["pool", "start", "marker"] = "pool",
    markers: Sequence[str] = MARKERS,
    hidden_size: int | None = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
) -> Model[PairInput, PairScores]:
    """Build a model of `mmib_rel`: both encoders, a fusion, and a classifier of pairs of spans (Eq. 19, 28
    of the MMIB paper).

    tok2vec (Model[List[Doc], List[Floats2d]]): Text vectors, a row a token: any of spaCy's. With
        `entity_repr = "marker"` no listener: those know the posts as they are only.
    fusion, hidden_size, autocast, mixed_precision, grad_scaler_config: As in `spacy-mmib.NER.v1`; here the
        head takes part in `autocast`.
    img2vec (Optional[Model[List[Doc], List[Floats2d]]]): As there; a listener in either case.
    head (Optional[Model[RelationInput, Floats2d]]): `spacy-mmib.Pairs.v1`, which is what `None` means too, or
        `spacy-mmib.PCNN.v1`.
    entity_repr (str): "pool": the mean of C over the tokens of the span (Eq. 19); a post is encoded once.
        "start": C at its first token. "marker": C at the marker before the span, the post being encoded anew
        for each pair with markers round head and tail, as in the code released with the paper. Costs a text
        encoding a pair: a post of 10 entities has 90 ordered pairs.
    markers (Sequence[str]): Before and after the head, before and after the tail; tokens that the text
        encoder sees. A word piece encoder splits what is not in its vocabulary.
    RETURNS (Model[PairInput, PairScores]): Gives logits.
    RAISES (ValueError): Settings that don't fit together.
    """
    if entity_repr not in ("pool", "start", "marker"):
        raise ValueError(f"entity_repr is 'pool', 'start' or 'marker', not {entity_repr!r}.")
    if isinstance(markers, str) or len(markers) != 4 or not all(str(m).strip() for m in markers):
        raise ValueError(
            f"markers are four tokens: before and after the head, before and after the tail; got {markers!r}."
        )
    listens = any(hasattr(node, "upstream_name") for node in tok2vec.walk())
    if entity_repr == "marker" and listens:
        raise ValueError(
            'entity_repr = "marker" encodes a post anew for each pair, so it needs a text encoder of its '
            "own, not a listener. Use one (for a transformer: spacy-transformers.Tok2VecTransformer.v3), "
            'or entity_repr = "pool".'
        )
    return make_model(
        "rel",
        classify_pairs,
        build_pairs_v1() if head is None else head,
        tok2vec,
        fusion,
        img2vec,
        hidden_size=hidden_size,
        autocast=autocast,
        mixed_precision=mixed_precision,
        grad_scaler_config=grad_scaler_config,
        attrs={"entity_repr": entity_repr, "markers": [str(m) for m in markers]},
    )
