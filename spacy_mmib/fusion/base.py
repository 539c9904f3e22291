"""The seam: what a fusion is, and the Thinc layer around it. To add one, write a file beside this one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d
from torch import nn

from ..bridge.data import FusionInput, Posterior, Posteriors, PostVectors
from ..bridge.shim import get_module, pad, unpad, wrap_module
from .blocks import at_least_float32

WATCHED_ROWS = 16
"""Rows of a post that are watched at most."""


@dataclass
class FusionOutput:
    """What a fusion gives.

    context (torch.Tensor): Picture-aware text vectors, (b, n, context_width). Rows of padding mean nothing.
    losses (Dict[str, torch.Tensor]): In training, a value (1,) for each name in `Fusion.losses`.
    logs (Dict[str, torch.Tensor]): Numbers to watch during training, by name, without gradient.
    borders (Optional[torch.Tensor]): Vectors (b, n, border_width) that a head may tell the borders of
        entities from, instead of the text vectors.
    weights (Optional[torch.Tensor]): At inference, what each token attended to among the picture rows, mean
        over heads, (b, n, max(m + 1, 1)), 0 for rows that are masked; `None` if the model doesn't attend.
    """

    context: torch.Tensor
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    logs: dict[str, torch.Tensor] = field(default_factory=dict)
    borders: torch.Tensor | None = None
    weights: torch.Tensor | None = None


class Fusion(nn.Module):
    """Makes picture-aware text vectors of text and picture vectors. A subclass takes as keywords
    `text_width`, `image_width` (0 without pictures), `width` (d, the hidden size) and its settings.

    losses (ClassVar[Mapping[str, float]]): The names of its own losses, and the weight of each if the
        component's `loss_weights` doesn't say another.
    runtime (ClassVar[Tuple[str, ...]]): Settings that the weights don't depend on: a config may change them
        in a saved pipeline.
    uses_pictures (ClassVar[bool]): Whether it looks at picture vectors. If not, no picture is encoded.
    context_width (int): Width of the vectors it makes.
    border_width (int): Width of `FusionOutput.borders`; 0 if there are none.
    """

    losses: ClassVar[Mapping[str, float]] = {}
    runtime: ClassVar[tuple[str, ...]] = ()
    uses_pictures: ClassVar[bool] = True

    def __init__(self, context_width: int, border_width: int = 0) -> None:
        super().__init__()
        self.context_width = context_width
        self.border_width = border_width

    def forward(
        self,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        image: torch.Tensor,
        image_mask: torch.Tensor,
        image_ids: torch.Tensor,
        *,
        training: bool,
    ) -> FusionOutput:
        """Fuse text and picture. What is masked must change nothing, and no post any other one's context.

        text (torch.Tensor): Text vectors, (b, n, text_width).
        text_mask (torch.Tensor): Bool (b, n); at least one True a post.
        image (torch.Tensor): Picture vectors, row 0 the whole picture, (b, m + 1, image_width); m + 1 may be
            0.
        image_mask (torch.Tensor): Bool (b, m + 1); all False for a post without a picture.
        image_ids (torch.Tensor): Long (b,), negative for a post without a picture; in training equal for
            equal pictures.
        training (bool): Whether to drop out, sample and compute losses. An argument and not `self.training`:
            threads share the module.
        RETURNS (FusionOutput): The vectors, losses and weights.
        """
        raise NotImplementedError


def fusion_layer(fusion: type[Fusion], **settings: Any) -> Model[FusionInput, PostVectors]:
    """Make the Thinc layer of a fusion; `build_fusion` gives it weights once the widths are known.

    fusion (Type[Fusion]): Its class.
    settings (Any): Its settings, without the widths.
    RETURNS (Model[FusionInput, PostVectors]): The layer. Its attribute "losses" has the default weights of
        its losses by name; "watch" says whether a training step gives the posteriors of a model that has any.
    RAISES (ValueError): A dropout rate that is none.
    """
    for name, rate in settings.items():
        if name.endswith("dropout") and rate is not None and not 0 <= rate < 1:
            raise ValueError(
                f"{name} of the fusion {fusion.__name__} has to be 0-1, and below 1, not {rate}."
            )
    layer = wrap_module(
        fusion,
        _convert_inputs,
        _convert_outputs,
        settings=settings,
        runtime_settings={name: settings[name] for name in fusion.runtime},
    )
    layer.name = fusion.__name__
    layer.attrs.update(losses=dict(fusion.losses), watch=False, uses_pictures=fusion.uses_pictures)
    return layer


def build_fusion(
    layer: Model[FusionInput, PostVectors], *, text_width: int, image_width: int, width: int
) -> int:
    """Build the module of a fusion, with new weights. Without pictures `image_width` is 0.

    RETURNS (int): Width of the vectors it makes.
    RAISES (ValueError): Settings that don't fit, e.g. heads that don't divide the hidden size.
    """
    layer.initialize(X={"text_width": text_width, "image_width": image_width, "width": width})
    context_width: int = get_module(layer).context_width
    layer.set_dim("nO", context_width, force=True)
    return context_width


def _convert_inputs(
    model: Model[Any, Any], X: FusionInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], tuple[Sequence[Floats2d], Sequence[Floats2d]]]]:
    text, text_mask = pad(X.text, requires_grad=is_train)
    image, image_mask = pad(X.image, requires_grad=is_train)
    numbers: dict[str, int] = {}
    ids = [-1 if key is None else numbers.setdefault(key, len(numbers)) for key in X.image_keys]
    image_ids = torch.tensor(ids, device=text.device)

    def backprop(d_inputs: ArgsKwargs) -> tuple[Sequence[Floats2d], Sequence[Floats2d]]:
        d_text, _, d_image, *_ = d_inputs.args
        # No gradient reaches pictures that are not used: those of a batch without any, or of a text model.
        d_text = torch.zeros_like(text) if d_text is None else d_text
        d_image = torch.zeros_like(image) if d_image is None else d_image
        return unpad(d_text, X.text), unpad(d_image, X.image)

    return ArgsKwargs(args=(text, text_mask, image, image_mask, image_ids), kwargs={}), backprop


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[FusionInput, FusionOutput], is_train: bool
) -> tuple[PostVectors, Callable[[PostVectors], ArgsKwargs]]:
    X, output = inputs_outputs
    context = at_least_float32(output.context)
    losses = {name: torch2xp(loss.detach()) for name, loss in output.losses.items()}
    logs = {name: torch2xp(value.detach().reshape(1)) for name, value in output.logs.items()}
    weights = []
    if output.weights is not None:
        every = output.weights.detach().float().cpu().numpy()
        weights = [rows[: len(x), : len(v)].copy() for rows, x, v in zip(every, X.text, X.image)]
    posteriors: Posteriors = {}
    watch = is_train and model.attrs["watch"]
    find = getattr(get_module(model), "get_posteriors", None) if watch else None
    if find is not None:
        text, image = pad(X.text), pad(X.image)
        for name, found in find(*text, *image).items():
            keys, (x, mask) = (X.text_keys, text) if name == "text" else (X.image_keys, image)
            # Of a post its first rows: what collapses does so in all of them.
            rows = zip(*(tensor[:, :WATCHED_ROWS].cpu().numpy() for tensor in (mask, x, *found)))
            posteriors[name] = [
                Posterior(str(key), *(array[real] for array in arrays))
                for key, (real, *arrays) in zip(keys, rows)
                if real.any()
            ]
    borders = None if output.borders is None else at_least_float32(output.borders)
    of_posts = [] if borders is None else unpad(borders, X.text)
    Y = PostVectors(unpad(context, X.text), losses, logs, of_posts, weights, posteriors)

    def backprop(dY: PostVectors) -> ArgsKwargs:
        pairs = [(context, pad(dY.context)[0])]
        if borders is not None and dY.borders:
            pairs.append((borders, pad(dY.borders)[0]))
        pairs += [(output.losses[name], xp2torch(d_loss)) for name, d_loss in dY.losses.items()]
        # The context of a fusion without weights and losses of a batch without any picture are constants.
        pairs = [(root, grad) for root, grad in pairs if root.requires_grad]
        kwargs = {"grad_tensors": [grad for _, grad in pairs]}
        return ArgsKwargs(args=([root for root, _ in pairs],), kwargs=kwargs)

    return Y, backprop
