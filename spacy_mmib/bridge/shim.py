"""Wrap a torch module for Thinc such that it can be built late, serves many threads and travels as data.

Widths and label counts are only known when a pipeline is initialized or loaded, so a wrapped module
starts as a placeholder. Stored, it is its class's name, its settings and its tensors (safetensors inside
msgpack): loading builds the module from its settings, and no pickle is ever read.
"""

import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import safetensors.torch
import srsly
import torch
from thinc.api import (
    ArgsKwargs,
    CupyOps,
    Model,
    PyTorchGradScaler,
    PyTorchShim,
    get_current_ops,
)
from thinc.layers.pytorchwrapper import forward as forward_wrapped
from thinc.util import get_torch_default_device
from torch import nn

from ..fusion.mmib import MMIBCore
from ..heads.crf import NERHead
from ..heads.pairs import RelationHead
from ..util import warn


def _make_encoder(family: str, name: str, /, **settings: Any) -> nn.Module:
    # torchvision, transformers and timm take seconds to import, and a pipeline needs one of them at most.
    encoder: nn.Module = getattr(import_module(f"spacy_mmib.encoders.{family}"), name)(**settings)
    return encoder


MODULES: dict[str, Callable[..., nn.Module]] = {
    "Backbone": partial(_make_encoder, "torchvision", "Backbone"),
    "HFVision": partial(_make_encoder, "huggingface", "HFVision"),
    "TimmVision": partial(_make_encoder, "timm", "TimmVision"),
    "MMIBCore": MMIBCore,
    "NERHead": NERHead,
    "RelationHead": RelationHead,
}
"""The only classes that stored modules can name. Each takes its `settings` as keywords."""


# nlp.pipe(n_process=...) forks where the platform forks. OpenMP's threads don't survive a fork, so a child
# of a process that has already predicted would wait for them forever; one thread needs none.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class Unbuilt(nn.Module):
    """Stands where a module will be once its sizes are known."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """RAISES (ValueError): Always."""
        raise ValueError(
            "This model has no weights yet: its sizes are only known after nlp.initialize() (or "
            "'spacy train'), or after loading a saved pipeline with spacy.load()."
        )


class Shim(PyTorchShim):
    """Tells the module by an argument, `training`, what Thinc's shim tells it by its mode. The mode is one
    for all threads that use a pipeline: what one sets after its prediction, another meets in its own.
    """

    def predict(self, inputs: ArgsKwargs) -> Any:
        """Run the module, without gradients.

        inputs (ArgsKwargs): Its arguments.
        RETURNS (Any): What it returns.
        """
        with torch.no_grad(), torch.autocast("cuda", enabled=self._mixed_precision):
            return self._model(*inputs.args, **inputs.kwargs, training=False)

    def begin_update(self, inputs: ArgsKwargs) -> tuple[Any, Callable[[ArgsKwargs], ArgsKwargs]]:
        """Run the module for training.

        inputs (ArgsKwargs): Its arguments.
        RETURNS (Tuple[Any, Callable]): What it returns, and the callback for the gradient.
        """
        kwargs = {**inputs.kwargs, "training": True}
        result: tuple[Any, Callable[[ArgsKwargs], ArgsKwargs]]
        result = super().begin_update(ArgsKwargs(inputs.args, kwargs))
        return result

    def finish_update(self, optimizer: Any) -> None:
        """Take a step, and let the module mend what optimizers don't know about its weights.

        optimizer (Optimizer): The optimizer.
        """
        super().finish_update(optimizer)
        _constrain(self._model)


def _constrain(module: nn.Module) -> None:
    constrain = getattr(module, "constrain", None)
    if constrain is not None:
        constrain()


def wrap_module(
    convert_inputs: Callable[..., Any],
    convert_outputs: Callable[..., Any],
    *,
    mixed_precision: bool = False,
    grad_scaler_config: dict[str, Any] | None = None,
    runtime_settings: dict[str, Any] | None = None,
) -> Model[Any, Any]:
    """Make a Thinc layer around a module that will be set by `set_module` or by loading.

    convert_inputs (Callable): As in `thinc.api.PyTorchWrapper_v3`. The module gets `training` besides.
    convert_outputs (Callable): As in `thinc.api.PyTorchWrapper_v3`.
    mixed_precision (bool): Run whitelisted operations in half precision. GPU only: on CPU it is
        ignored with a warning.
    grad_scaler_config (Optional[Dict[str, Any]]): Settings of `thinc.api.PyTorchGradScaler`.
    runtime_settings (Optional[Dict[str, Any]]): Settings of the module that its weights don't depend on:
        when it is loaded these hold, not those it was saved with, so that a config can change them.
    RETURNS (Model): The layer.
    """
    if mixed_precision and not isinstance(get_current_ops(), CupyOps):
        warn("mixed_precision = true is ignored: it needs a GPU, and this pipeline runs on CPU.")
        mixed_precision = False
    shim = Shim(
        Unbuilt(),
        mixed_precision=mixed_precision,
        grad_scaler=PyTorchGradScaler(mixed_precision, **(grad_scaler_config or {})),
        serialize_model=serialize_module,
        deserialize_model=partial(deserialize_module, runtime_settings=runtime_settings),
    )
    return Model(
        "pytorch",
        forward_wrapped,
        attrs={"convert_inputs": convert_inputs, "convert_outputs": convert_outputs},
        shims=[shim],
        dims={"nI": None, "nO": None},
    )


def get_module(layer: Model[Any, Any]) -> nn.Module:
    """RETURNS (nn.Module): The module a layer wraps, `Unbuilt` before initialization."""
    module: nn.Module = layer.shims[0]._model
    return module


def set_module(layer: Model[Any, Any], module: nn.Module) -> None:
    """Put a built module in the layer's shim, on the device of the current ops."""
    layer.shims[0]._model = module.to(get_torch_default_device())


def serialize_module(module: nn.Module) -> bytes:
    """RETURNS (bytes): Class name, settings and tensors as msgpack and safetensors."""
    msg: dict[str, Any] = {"module": None}
    if not isinstance(module, Unbuilt):
        state = {key: tensor.contiguous().cpu() for key, tensor in module.state_dict().items()}
        msg = {
            "module": type(module).__name__,
            "settings": module.settings,
            "state": safetensors.torch.save(state),
        }
    data: bytes = srsly.msgpack_dumps(msg)
    return data


def deserialize_module(
    module: nn.Module,
    data: bytes,
    device: torch.device,
    runtime_settings: dict[str, Any] | None = None,
) -> nn.Module:
    """Build the stored module.

    module (nn.Module): What was there before; not used.
    data (bytes): See `serialize_module`.
    device (torch.device): Where to put it.
    runtime_settings (Optional[Dict[str, Any]]): See `wrap_module`.
    RETURNS (nn.Module): The module, with its weights.
    """
    msg = srsly.msgpack_loads(data)
    if msg["module"] is None:
        return Unbuilt()
    if msg["module"] not in MODULES:
        raise ValueError(
            f"The saved pipeline holds a module {msg['module']!r} that this version of spacy-mmib doesn't "
            f"know (it knows {sorted(MODULES)}). Install the version it was saved with."
        )
    with torch.random.fork_rng(devices=[]):  # the random weights it starts with are replaced at once
        built = MODULES[msg["module"]](**{**msg["settings"], **(runtime_settings or {})})
    built.load_state_dict(safetensors.torch.load(msg["state"]))
    _constrain(built)
    return built.to(device)
