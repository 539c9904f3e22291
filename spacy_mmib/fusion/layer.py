"""The MMIB core as a Thinc layer."""

from collections.abc import Callable
from typing import Any

import torch
from thinc.api import ArgsKwargs, Model, to_numpy, torch2xp, xp2torch
from thinc.types import Floats2d

from ..bridge.data import TERMS, CoreInput, Posterior, Posteriors, PostVectors
from ..bridge.padding import pad, unpad
from ..bridge.shim import set_module, wrap_module
from .mmib import CoreOutput, MMIBCore

RUNTIME_SETTINGS = (
    "dropout",
    "residual_dropout",
    "kl_reduction",
    "alignment_pooling",
    "max_negatives",
)
"""Settings of the core that its weights don't depend on."""

WATCHED_ROWS = 16
"""Of a post that is watched: what collapses does so in all of its rows."""


def MMIBLayer(
    *,
    settings: dict[str, Any],
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
) -> Model[CoreInput, PostVectors]:
    """Make the layer.

    settings (Dict[str, Any]): Of `fusion.mmib.MMIBCore`, without its widths.
    mixed_precision (bool): See `wrap_module`.
    grad_scaler_config (Optional[Dict[str, Any]]): See `wrap_module`.
    RETURNS (Model[CoreInput, PostVectors]): The layer. Its attribute "terms" says which regularizer
        terms a training step computes, "watch" whether it gives the posteriors.
    """
    layer = wrap_module(
        _convert_inputs,
        _convert_outputs,
        mixed_precision=mixed_precision,
        grad_scaler_config=grad_scaler_config,
        runtime_settings={name: settings[name] for name in RUNTIME_SETTINGS},
    )
    layer.name = "mmib_core"
    layer.attrs["terms"] = list(TERMS)
    layer.attrs["watch"] = False
    return layer


def build_core(
    layer: Model[CoreInput, PostVectors],
    *,
    text_width: int,
    image_width: int,
    hidden_size: int | None,
    settings: dict[str, Any],
) -> None:
    """Build the torch module, with new weights, once the widths of its inputs are known.

    text_width (int): Width of the text vectors.
    image_width (int): Width of the picture vectors.
    hidden_size (Optional[int]): d; `text_width` if `None`.
    settings (Dict[str, Any]): See `MMIBLayer`.
    RAISES (ValueError): Settings that don't fit, e.g. heads that don't divide the hidden size.
    """
    width = hidden_size or text_width
    module = MMIBCore(text_width=text_width, image_width=image_width, width=width, **settings)
    set_module(layer, module)


def _convert_inputs(
    model: Model[Any, Any], X: CoreInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], tuple[list[Floats2d], list[Floats2d]]]]:
    text, text_mask = pad(X.text, requires_grad=is_train)
    image, image_mask = pad(X.image, requires_grad=is_train)
    numbers: dict[str, int] = {}
    ids = [-1 if key is None else numbers.setdefault(key, len(numbers)) for key in X.image_keys]
    image_ids = torch.tensor(ids, device=text.device)
    watch = is_train and bool(model.attrs["watch"])
    args = (text, text_mask, image, image_mask, image_ids, tuple(model.attrs["terms"]), watch)

    def backprop(d_inputs: ArgsKwargs) -> tuple[list[Floats2d], list[Floats2d]]:
        d_text, d_image = d_inputs.args[0], d_inputs.args[2]
        # No gradient at all reaches the pictures of a batch in which no post has one.
        d_image = torch.zeros_like(image) if d_image is None else d_image
        return (
            unpad(d_text, [len(x) for x in X.text]),
            unpad(d_image, [len(x) for x in X.image]),
        )

    return ArgsKwargs(args=args, kwargs={}), backprop


def _convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[CoreInput, CoreOutput], is_train: bool
) -> tuple[PostVectors, Callable[[PostVectors], ArgsKwargs]]:
    X, output = inputs_outputs
    lengths = [len(x) for x in X.text]
    tensors: dict[str, Any] = {name: getattr(output, name) for name in TERMS}
    terms = {name: torch2xp(t.detach()) for name, t in tensors.items() if t is not None}
    kl_per_dim = {name: float(value) for name, value in output.kl_per_dim.items()}
    weights = []
    if output.weights is not None:
        every = output.weights.detach().cpu().numpy()
        weights = [every[i, : len(x), : len(X.image[i])].copy() for i, x in enumerate(X.text)]
    posteriors = _convert_posteriors(X, output)
    Y = PostVectors(unpad(output.context, lengths), terms, kl_per_dim, weights, posteriors)

    def backprop(dY: PostVectors) -> ArgsKwargs:
        d_context, _ = pad(dY.context)
        roots, grads = [output.context], [d_context]
        for name, d_term in dY.terms.items():
            # A term of a batch without any picture is a constant zero, outside the graph.
            if tensors[name].requires_grad:
                roots.append(tensors[name])
                grads.append(xp2torch(d_term))
        return ArgsKwargs(args=(roots,), kwargs={"grad_tensors": grads})

    return Y, backprop


def _convert_posteriors(X: CoreInput, output: CoreOutput) -> Posteriors:
    found: Posteriors = {}
    for name, tensors in (output.posteriors or {}).items():
        vectors, keys = (X.text, X.text_keys) if name == "text" else (X.image, X.image_keys)
        mu, variance = (tensor[:, :WATCHED_ROWS].cpu().numpy() for tensor in tensors)
        found[name] = [
            Posterior(
                str(key),
                to_numpy(x[:WATCHED_ROWS]),
                mu[i, : len(x)].copy(),
                variance[i, : len(x)].copy(),
            )
            for i, (key, x) in enumerate(zip(keys, vectors))
            if len(x)
        ]
    return found
