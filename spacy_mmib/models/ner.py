"""`spacy-mmib.NER.v1`: text encoder, picture encoder, any fusion, CRF, and on demand a pointer at objects."""

from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import FusionInput, NERInput, PointerInput, PostVectors
from ..heads.entities import build_crf_v1
from .post_encoder import encode_posts, make_model


@registry.architectures("spacy-mmib.NER.v1")
def build_ner_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    fusion: Model[FusionInput, PostVectors] | None,
    img2vec: Model[list[Doc], list[Floats2d]] | None = None,
    *,
    head: Model[NERInput, Any] | None = None,
    pointer: Model[PointerInput, Any] | None = None,
    hidden_size: int | None = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
) -> Model[list[Doc], PostVectors]:
    """Build a model of `mmib_ner`: both encoders, a fusion, and a CRF over BIO tags (Eq. 18, 27 of the MMIB
    paper).

    tok2vec (Model[List[Doc], List[Floats2d]]): Text vectors, a row a token: any of spaCy's, a listener
        of a shared `tok2vec` or `transformer` included.
    fusion (Optional[Model[FusionInput, PostVectors]]): `spacy-mmib.MMIB.v1`, or another architecture that
        makes picture-aware text vectors of text and picture vectors. `None`: the text vectors as they are.
    img2vec (Optional[Model[List[Doc], List[Floats2d]]]): Picture vectors, a row a region, row 0 the whole
        picture, no rows without a picture. `None` with a fusion that doesn't look at pictures.
    head (Optional[Model[NERInput, Any]]): `spacy-mmib.CRF.v1`, which is what `None` means too.
    pointer (Optional[Model[PointerInput, Any]]): `spacy-mmib.Pointer.v1`: says which object of the picture an
        entity is (`ent._.region`), and learns it from `ent._.boxes`. `None`: nobody says it.
    hidden_size (Optional[int]): d. `None`: the width of the text vectors; another number projects them.
    autocast (Optional[str]): "bfloat16" or "float16": run what of fusion and pointer can stand it in this
        precision, in training and prediction; the CRF stays in float32, and so do weights, gradients, and
        what layers give each other. "float16" is for GPUs only, and scales gradients. `None`: float32. The
        encoders have such settings of their own.
    mixed_precision (bool): An older name of autocast = "float16".
    grad_scaler_config (Optional[Dict[str, Any]]): Settings of `thinc.api.PyTorchGradScaler`.
    RETURNS (Model[List[Doc], PostVectors]): Gives C; its ref "head" makes entities or a loss of it.
    RAISES (ValueError): The fusion needs pictures, and there is no picture encoder; or a pointer has no
        pictures to point at.
    """
    return make_model(
        "ner",
        encode_posts,
        build_crf_v1() if head is None else head,
        tok2vec,
        fusion,
        img2vec,
        pointer=pointer,
        hidden_size=hidden_size,
        autocast=autocast,
        mixed_precision=mixed_precision,
        grad_scaler_config=grad_scaler_config,
    )
