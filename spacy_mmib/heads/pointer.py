"""`spacy-mmib.Pointer.v1`: which object of the picture an entity is, or that it is not in the picture.

The task is that of grounded multimodal entity recognition (Yu et al., ACL 2023, "Grounded Multimodal Named
Entity Recognition on Social Media"); the head is not theirs, it is the simplest one that fits these models.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from spacy.util import registry
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats1d, Floats2d
from torch import nn

from ..bridge.data import PointerInput
from ..bridge.shim import pad, unpad, wrap_module
from ..fusion.blocks import at_least_float32
from ..post.boxes import EntityRegion


class Pointer(nn.Module):
    """An entity e is the mean of C over its tokens (as in Eq. 19), an object o the mean of its picture
    vectors, and "not in the picture" a learned vector n: p(. | e) is the softmax of
    (W_q e) . (W_k o) / sqrt(d) over the objects of the picture and of (W_q e) . n / sqrt(d).

    width, image_width (int): d, the width of C, and that of picture vectors.
    """

    def __init__(self, *, width: int, image_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(image_width, width)
        self.nowhere = nn.Parameter(torch.randn(width) / math.sqrt(width))

    def forward(
        self,
        context: torch.Tensor,
        image: torch.Tensor,
        spans: torch.Tensor,
        objects: torch.Tensor,
        targets: torch.Tensor | None = None,
        *,
        training: bool = False,
    ) -> torch.Tensor:
        """The loss if gold targets are given, probabilities otherwise.

        context (torch.Tensor): C, (b, n, d).
        image (torch.Tensor): Picture vectors, (b, m + 1, image_width); m + 1 may be 0.
        spans (torch.Tensor): The share of each token in an entity, (b, k, n).
        objects (torch.Tensor): The share of each row in an object, (b, r, m + 1); all 0: it has no row.
        targets (Optional[torch.Tensor]): Bool (b, k, 1 + r): what the entity is. All False: teaches nothing.
        training (bool): Makes no difference.
        RETURNS (torch.Tensor): -log of the probability that the entity is one of its targets, mean over
            entities that have any, (1,); or (b, k, 1 + r), "not in the picture" first.
        """
        query = self.query(spans @ context) / math.sqrt(context.shape[-1])
        scores = query @ self.key(objects @ image).transpose(1, 2)
        scores = scores.masked_fill(~objects.any(-1).unsqueeze(1), -math.inf)
        scores = torch.cat([(query @ self.nowhere).unsqueeze(-1), scores], -1)
        log_p = at_least_float32(scores).log_softmax(-1)
        if targets is None:
            return log_p.exp()
        taught = targets.any(-1)
        right = log_p[taught].masked_fill(~targets[taught], -math.inf).logsumexp(-1)
        return -(right.sum() / taught.sum().clamp(min=1)).reshape(1)


@registry.architectures("spacy-mmib.Pointer.v1")
def build_pointer_v1() -> Model[PointerInput, Any]:
    """Build the sub-layer `pointer` of `spacy-mmib.NER.v1`. It learns from gold entities with `ent._.boxes`:
    regions that have an IoU of at least 0.5 with one of the boxes are right, for `[]` it is "not in the
    picture". Other entities, those that no region fits, and posts without a picture teach nothing. Its loss
    is named "pointer"; the gradient goes to C and to the picture vectors.

    RETURNS (Model[PointerInput, Union[List[List[EntityRegion]], Floats1d]]): For each post what each entity
        is, or with targets the loss, shape (1,); its gradient callback gives those of C and picture vectors.
    """
    layer = wrap_module(Pointer, _convert_inputs, _convert_outputs)
    layer.name = "pointer"
    layer.attrs["losses"] = {"pointer": 1.0}
    return layer


def _convert_inputs(
    model: Model[Any, Any], X: PointerInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], tuple[Sequence[Floats2d], Sequence[Floats2d]]]]:
    context, image = (pad(x, requires_grad=is_train)[0] for x in (X.context, X.image))
    b, k, r = len(X.spans), max(map(len, X.spans)), max(max(of.shape[1] for of in X.objects), 1)
    spans = numpy.zeros((b, k, context.shape[1]), dtype="float32")
    objects = numpy.zeros((b, r, image.shape[1]), dtype="float32")
    targets = None if X.targets is None else numpy.zeros((b, k, r), dtype=bool)
    for i, (of_post, found) in enumerate(zip(X.spans, X.objects)):
        for j, (start, end) in enumerate(of_post):
            spans[i, j, start:end] = 1 / (end - start)
            if targets is not None and X.targets is not None:
                targets[i, j, X.targets[i][j]] = True
        objects[i, : found.shape[1], : len(found)] = (found / found.sum(0).clip(1)).T
    arrays = (spans, objects[:, 1:], targets)
    tensors = [None if x is None else torch.from_numpy(x).to(context.device) for x in arrays]

    def backprop(d_inputs: ArgsKwargs) -> tuple[Sequence[Floats2d], Sequence[Floats2d]]:
        d_context, d_image = d_inputs.args[:2]
        d_image = torch.zeros_like(image) if d_image is None else d_image  # no picture in the batch
        return unpad(d_context, X.context), unpad(d_image, X.image)

    return ArgsKwargs(args=(context, image, *tensors), kwargs={}), backprop


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[PointerInput, torch.Tensor], is_train: bool
) -> tuple[list[list[EntityRegion]] | Floats1d, Callable[[Floats1d], ArgsKwargs]]:
    X, output = inputs_outputs

    def backprop(d_loss: Floats1d) -> ArgsKwargs:
        return ArgsKwargs(args=([output],), kwargs={"grad_tensors": [xp2torch(d_loss)]})

    if X.targets is not None:
        return torch2xp(output.detach()), backprop
    found = []
    for spans, probabilities in zip(X.spans, output.cpu().numpy()):
        best = [(int(row.argmax()), float(row.max())) for row in probabilities[: len(spans)]]
        found.append([EntityRegion(j - 1 if j else None, min(1.0, p), "pointer") for j, p in best])
    return found, backprop
