"""What MMIB makes of posts on the way to its output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from spacy.tokens import Doc
from thinc.api import Model

from ..bridge.shim import get_module, pad
from ..encoders.dropout import encode_pictures
from ..fusion.mmib import MMIB
from ..post.extensions import set_found_regions


@dataclass(frozen=True)
class Inspection:
    """Of a post, in float32, m + 1 being the rows of its picture vectors: 0 without a picture.

    text (numpy.ndarray): X^T, projected to the width d of the fusion, (n, d).
    z_text (numpy.ndarray): Z^T, the mean of its posterior, (n, d).
    image (numpy.ndarray): X^V = W_v of the picture vectors, (m + 1, d).
    z_image (numpy.ndarray): Z^V, (m + 1, d).
    weights (numpy.ndarray): What each token attended to in the picture (Eq. 17), (n, m + 1).
    rows (Optional[List[int]]): What the rows of a picture stand for, as in `PictureVectors`.
    """

    text: "numpy.ndarray[Any, Any]"
    z_text: "numpy.ndarray[Any, Any]"
    image: "numpy.ndarray[Any, Any]"
    z_image: "numpy.ndarray[Any, Any]"
    weights: "numpy.ndarray[Any, Any]"
    rows: list[int] | None


def inspect_posts(model: Model[Any, Any], docs: Sequence[Doc]) -> list[Inspection]:
    """Run both encoders and the parts of the fusion, which has to be MMIB, as at inference. Objects that a
    region getter finds are attached to the docs.

    model (Model): Has the sub-layers `tok2vec`, `img2vec` and `fusion` as refs.
    docs (Sequence[Doc]): A batch, each doc with tokens; at least one.
    RETURNS (List[Inspection]): Of each post.
    RAISES (ValueError): The fusion is another one.
    """
    fusion = get_module(model.get_ref("fusion"))
    if not isinstance(fusion, MMIB):
        raise ValueError(f"Only the fusion MMIB has latents to look into, not {type(fusion).__name__}.")
    text = model.get_ref("tok2vec").predict(docs)
    image, _ = encode_pictures(model, docs, False)
    found = fusion.inspect(*pad(text), *pad(image))
    x_text, z_text, x_image, z_image, weights = (tensor.float().cpu().numpy() for tensor in found)
    for doc, regions in zip(docs, image.found):
        set_found_regions(doc, regions)
    sizes = zip(map(len, text), map(len, image), image.rows)
    return [
        Inspection(x_text[i, :n], z_text[i, :n], x_image[i, :m], z_image[i, :m], weights[i, :n, :m], rows)
        for i, (n, m, rows) in enumerate(sizes)
    ]
