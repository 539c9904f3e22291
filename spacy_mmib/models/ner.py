"""`spacy-mmib.MMIB_NER.v1` and, to compare with, the same without the MMIB core."""

from functools import partial
from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import PostVectors
from ..fusion.layer import MMIBLayer
from ..heads.crf_layer import NERHeadLayer, build_ner_head
from .post_encoder import encode_posts, init_post_encoder


@registry.architectures("spacy-mmib.MMIB_NER.v1")
def build_mmib_ner_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    img2vec: Model[list[Doc], list[Floats2d]],
    *,
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
) -> Model[list[Doc], PostVectors]:
    """Build the model of `mmib_ner`: both encoders, the MMIB core (Eq. 4-9, 16-17, 20-26) and a CRF over
    BIO tags (Eq. 18, 27).

    tok2vec (Model[List[Doc], List[Floats2d]]): Text vectors, a row a token: any of spaCy's, a listener
        of a shared `tok2vec` or `transformer` included.
    img2vec (Model[List[Doc], List[Floats2d]]): Picture vectors, a row a region, row 0 the whole picture, no
        rows without a picture.
    hidden_size (Optional[int]): d. `None`: the width of the text vectors; another number projects them.
    heads (int): Attention heads; must divide d. The paper has 12 with d = 768.
    dropout (float): 0-1, within the core, on attention weights. The rate in [training] does not reach it.
    residual_dropout (Optional[float]): 0-1, within the core, on what is added to the residual connections.
        `None`: as `dropout`; 0.0: none, as in the released code.
    feed_forward (str): "transformer" (Linear, GELU, Linear, 4d wide) or "linear" (one Linear, as in the
        code released with the paper).
    kl_reduction (str): "mean" over real positions and dimensions; "sum" over both as in Eq. 21, which at the
        paper's beta drowns the task; or "position": sum over positions, mean over dimensions. That grows with
        the length of a post as the likelihood of its tags does, and not with d.
    alignment_pooling (str): What the discriminator gets of text and picture: the "mean" over real tokens and
        over the picture and its objects, or of each the "first": the first token and the whole picture. The
        released code takes the first by default, for its text [CLS], which has no row here.
    discriminator (str): "scalar" (Eq. 26), or "vector" as in the released code.
    max_negatives (int): In-batch pictures set against each text in the alignment term; the released
        code uses 1.
    initial_log_var (float): Around where log sigma^2 starts. 0: noise as strong as the signal, as in the
        paper; lower numbers start with less.
    mixed_precision (bool): Run the core in half precision where that is safe. GPU only, and not together
        with [training] accumulate_gradient above 1: Thinc unscales what is accumulated once more each time.
    grad_scaler_config (Optional[Dict[str, Any]]): Settings of `thinc.api.PyTorchGradScaler`.
    RETURNS (Model[List[Doc], PostVectors]): Gives C; its ref "head" makes entities or a loss of it.
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
        settings=settings,
        mixed_precision=mixed_precision,
        grad_scaler_config=grad_scaler_config,
    )
    return _build(
        "mmib_ner",
        tok2vec,
        {"img2vec": img2vec, "core": core},
        hidden_size=hidden_size,
        settings=settings,
    )


@registry.architectures("spacy-mmib.Text_NER.v1")
def build_text_ner_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
) -> Model[list[Doc], PostVectors]:
    """Build a model for `mmib_ner` without pictures and without the MMIB core: the CRF of Eq. 18 on the text
    vectors as they are. What the core adds is measured against it.

    tok2vec (Model[List[Doc], List[Floats2d]]): See `spacy-mmib.MMIB_NER.v1`.
    RETURNS (Model[List[Doc], PostVectors]): Gives the text vectors; its ref "head" makes entities or a loss
        of them.
    """
    return _build("text_ner", tok2vec, {}, hidden_size=None, settings={})


def _build(
    name: str,
    tok2vec: Model[list[Doc], list[Floats2d]],
    mmib: dict[str, Model[Any, Any]],
    *,
    hidden_size: int | None,
    settings: dict[str, Any],
) -> Model[list[Doc], PostVectors]:
    layers = {"tok2vec": tok2vec, **mmib, "head": NERHeadLayer()}
    return Model(
        name,
        encode_posts,
        # Not attributes of the model, which Thinc would restore from a saved one over the config's.
        init=partial(init, hidden_size=hidden_size, settings=settings),
        layers=list(layers.values()),
        refs={"img2vec": None, "core": None, **layers},
        dims={"nO": None},
    )


def init(
    model: Model[list[Doc], PostVectors],
    X: list[Doc] | None = None,
    Y: Any = None,
    *,
    hidden_size: int | None,
    settings: dict[str, Any],
) -> None:
    """Initialize all sub-layers. The number of labels has to be there as dimension nO."""
    width = init_post_encoder(model, X, hidden_size=hidden_size, settings=settings)
    build_ner_head(model.get_ref("head"), width=width, n_labels=model.get_dim("nO"))
