"""`spacy-mmib.MMIB_REL.v1` and, to compare with, the same without the MMIB core."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import PairInput, PairScores
from ..fusion.layer import MMIBLayer
from ..heads.pairs_layer import RelationHeadLayer, build_relation_head
from .markers import MARKERS
from .pair_classifier import classify_pairs
from .post_encoder import init_post_encoder


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
    feed_forward: Literal["transformer", "linear"] = "transformer",
    kl_reduction: Literal["mean", "position", "sum"] = "mean",
    alignment_pooling: Literal["mean", "first"] = "mean",
    discriminator: Literal["scalar", "vector"] = "scalar",
    max_negatives: int = 16,
    initial_log_var: float = 0.0,
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
) -> Model[PairInput, PairScores]:
    """Build the model of `mmib_rel`: both encoders, the MMIB core (Eq. 4-9, 16-17, 20-26) and a linear
    classifier of pairs of spans (Eq. 19, 28).

    tok2vec (Model[List[Doc], List[Floats2d]]): Text vectors, a row a token: any of spaCy's. With
        `entity_repr = "marker"` no listener: those know the posts as they are only.
    img2vec (Model[List[Doc], List[Floats2d]]): Picture vectors, a row a region, row 0 the whole picture, no
        rows without a picture. A listener in either case.
    entity_repr (str): "pool": the mean of C over the tokens of the span (Eq. 19); a post is encoded once.
        "marker": C at the marker before the span, the post being encoded anew for each pair with markers
        round head and tail, as in the code released with the paper. Costs a text encoding a pair: a post of
        10 entities has 90 ordered pairs.
    markers (Sequence[str]): Before and after the head, before and after the tail; tokens that the text
        encoder sees. A word piece encoder splits what is not in its vocabulary.
    hidden_size (Optional[int]): d. `None`: the width of the text vectors; another number projects them.
    heads (int): Attention heads; must divide d. The paper has 12 with d = 768.
    dropout (float): 0-1, within the core, on attention weights. The rate in [training] does not reach it.
    residual_dropout (Optional[float]): 0-1, within the core, on what is added to the residual connections.
        `None`: as `dropout`; 0.0: none, as in the released code.
    feed_forward (str): "transformer" or "linear", see `spacy-mmib.MMIB_NER.v1`.
    kl_reduction (str): "mean" over real positions and dimensions; "sum" over both as in Eq. 21, which at the
        paper's beta drowns the task; or "position": sum over positions, mean over dimensions. That grows with
        the length of a post as the likelihood of its tags does, and not with d.
    alignment_pooling (str): What the discriminator gets of text and picture: the "mean" over real tokens and
        over the picture and its objects, or of each the "first": the first token and the whole picture. The
        released code takes the first by default, for its text [CLS], which has no row here.
    discriminator (str): "scalar" (Eq. 26), or "vector" as in the released code.
    max_negatives (int): In-batch pictures set against each text in the alignment term.
    initial_log_var (float): Around where log sigma^2 starts.
    mixed_precision (bool): Run the core in half precision where that is safe. GPU only, see
        `spacy-mmib.MMIB_NER.v1`.
    grad_scaler_config (Optional[Dict[str, Any]]): Settings of `thinc.api.PyTorchGradScaler`.
    RETURNS (Model[PairInput, PairScores]): Gives logits.
    RAISES (ValueError): Settings that don't fit together.
    """
    settings = {
        "heads": heads,
        "dropout": dropout,
        "residual_dropout": residual_dropout,
        "feed_forward": feed_forward,
        "kl_reduction": kl_reduction,
        "alignment_pooling": alignment_pooling,
        "discriminator": discriminator,
        "max_negatives": max_negatives,
        "initial_log_var": initial_log_var,
    }
    core = MMIBLayer(
        settings=settings, mixed_precision=mixed_precision, grad_scaler_config=grad_scaler_config
    )
    return _build(
        "mmib_rel",
        tok2vec,
        {"img2vec": img2vec, "core": core},
        entity_repr=entity_repr,
        markers=markers,
        hidden_size=hidden_size,
        settings=settings,
    )


@registry.architectures("spacy-mmib.Text_REL.v1")
def build_text_rel_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    *,
    entity_repr: Literal["pool", "marker"] = "pool",
    markers: Sequence[str] = MARKERS,
) -> Model[PairInput, PairScores]:
    """Build a model for `mmib_rel` without pictures and without the MMIB core: the classifier of Eq. 19 on
    the text vectors as they are. What the core adds is measured against it.

    tok2vec (Model[List[Doc], List[Floats2d]]): See `spacy-mmib.MMIB_REL.v1`.
    entity_repr (str): See there.
    markers (Sequence[str]): See there.
    RETURNS (Model[PairInput, PairScores]): Gives logits.
    RAISES (ValueError): Settings that don't fit together.
    """
    return _build(
        "text_rel",
        tok2vec,
        {},
        entity_repr=entity_repr,
        markers=markers,
        hidden_size=None,
        settings={},
    )


def _build(
    name: str,
    tok2vec: Model[list[Doc], list[Floats2d]],
    mmib: dict[str, Model[Any, Any]],
    *,
    entity_repr: str,
    markers: Sequence[str],
    hidden_size: int | None,
    settings: dict[str, Any],
) -> Model[PairInput, PairScores]:
    if entity_repr not in ("pool", "marker"):
        raise ValueError(f"entity_repr is 'pool' or 'marker', not {entity_repr!r}.")
    if isinstance(markers, str) or len(markers) != 4 or not all(str(m).strip() for m in markers):
        raise ValueError(
            f"markers are four tokens: before and after the head, before and after the tail; got {markers!r}."
        )
    if entity_repr == "marker" and any(hasattr(node, "upstream_name") for node in tok2vec.walk()):
        raise ValueError(
            'entity_repr = "marker" encodes a post anew for each pair, so it needs a text encoder of its '
            "own, not a listener. Use one (for a transformer: spacy-transformers.Tok2VecTransformer.v3), "
            'or entity_repr = "pool".'
        )
    head = RelationHeadLayer()
    layers = {"tok2vec": tok2vec, **mmib, "head": head}
    return Model(
        name,
        classify_pairs,
        init=partial(init, hidden_size=hidden_size, settings=settings),
        layers=list(layers.values()),
        refs={"img2vec": None, "core": None, **layers},
        dims={"nO": None},
        # Attributes, which a saved model brings along: its weights depend on them.
        attrs={"entity_repr": entity_repr, "markers": [str(m) for m in markers]},
    )


def init(
    model: Model[PairInput, PairScores],
    X: list[Doc] | None = None,
    Y: Any = None,
    *,
    hidden_size: int | None,
    settings: dict[str, Any],
) -> None:
    """Initialize all sub-layers, from a sample of posts. The number of labels, the negative one included,
    has to be there as dimension nO.
    """
    width = init_post_encoder(model, X, hidden_size=hidden_size, settings=settings)
    build_relation_head(model.get_ref("head"), width=width, n_labels=model.get_dim("nO"))
