"""`spacy-mmib.CRF.v1`: the sub-layer that makes entities of picture-aware text vectors, or learns to."""

from typing import Any, Literal

from spacy.util import registry
from thinc.api import Model

from ..bridge.data import NERInput
from ..bridge.shim import wrap_module
from .borders import BorderBias, BorderFirst
from .crf import NERHead, convert_inputs, convert_outputs


@registry.architectures("spacy-mmib.CRF.v1")
def build_crf_v1(borders: Literal["bias", "decide"] | None = None) -> Model[NERInput, Any]:
    """Build the sub-layer `head` of `spacy-mmib.NER.v1`: a linear-chain CRF over BIO tags (Eq. 18, 27 of the
    MMIB paper).

    borders (Optional[str]): What a second CRF over O, B and I without types is for. It learns from vectors
        that the fusion gives for this (`spacy-mmib.UMT.v1` with `auxiliary = true`), otherwise from the text
        vectors. "bias": its emissions are half of those of the main one, as in UMT; its loss is named
        "borders" and has the weight 0.5. "decide": it alone finds the entities, and C only tells their types:
        the control "text decides borders, the picture types". `None`: there is none.
    RETURNS (Model[NERInput, Union[List[DecodedEntities], List[float], Floats1d]]): Entities of each post, or
        probabilities of those that are given, or with gold tags the loss, followed by that of "borders" if
        there is one; its gradient callback gives those of C and of what borders are told from.
    RAISES (ValueError): `borders` is something else.
    """
    heads = {None: NERHead, "bias": BorderBias, "decide": BorderFirst}
    if borders not in heads:
        raise ValueError(f"borders is 'bias', 'decide' or null, not {borders!r}.")
    layer = wrap_module(heads[borders], convert_inputs, convert_outputs)
    layer.name = "ner_head"
    layer.attrs.update(borders=borders is not None, losses={"borders": 0.5} if borders == "bias" else {})
    return layer
