"""Layers whose linear parts compute with integers of 8 bits, for prediction on CPU."""

from collections.abc import Callable
from typing import Any

import safetensors.torch
import srsly
import torch
from spacy.util import registry
from spacy_transformers.layers.hf_shim import HFShim
from thinc.api import ArgsKwargs, Model, PyTorchShim
from torch import nn
from torch.nn import functional as F

from .shim import Shim


class Int8Linear(nn.Module):
    """y = W x + b with integers from -127 to 127: a scale for each row of W, found once, and one for each x.
    Scales for a whole batch, which torch and ONNX Runtime offer, would let a post's result depend on the
    posts beside it. Sums of integers are exact: here it depends on nothing but the post.

    linear (nn.Linear): What it takes the place of.
    scale (Optional[torch.Tensor]): Of each row of W, if its weights are such integers already.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, scale: torch.Tensor | None = None) -> None:
        super().__init__()
        weight = linear.weight.detach()
        if scale is None:
            scale = weight.abs().amax(1).clamp(min=1e-20) / 127
            weight = weight / scale.unsqueeze(1)
        self.register_buffer("weight", weight.round().to(torch.int8))
        self.register_buffer("scale", scale, persistent=False)  # states hold what that of a Linear holds
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (torch.Tensor): (..., nI). RETURNS (torch.Tensor): (..., nO), float32."""
        rows = x.reshape(-1, x.shape[-1]).float()
        if rows.device.type != "cpu":  # where these integers gain nothing
            return F.linear(x.float(), self.weight * self.scale.unsqueeze(1), self.bias)
        scales = rows.abs().amax(1, keepdim=True).clamp_(min=1e-20).div_(127)
        y = torch._int_mm((rows / scales).round_().to(torch.int8), self.weight.t()) * scales
        y = y.mul_(self.scale) if self.bias is None else torch.addcmul(self.bias, y, self.scale, out=y)
        return y.view(*x.shape[:-1], len(self.weight))


def find(module: nn.Module | None, kind: type[nn.Module]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The modules of exactly this class in a module, by name."""
    children = [] if module is None else module.named_modules()
    return {name: child for name, child in children if type(child) is kind}


class Int8Shim(PyTorchShim):
    """A shim that makes the linear parts of what it loads `Int8Linear`; a mixin. It reads what its kind of
    shim has written without it, too.
    """

    def begin_update(self, inputs: ArgsKwargs) -> tuple[Any, Callable[..., Any]]:
        """RAISES (ValueError): With such weights."""
        if find(self._model, Int8Linear):
            raise ValueError(
                "This pipeline was optimized for prediction: its 8-bit weights can't be trained. Train the "
                "pipeline it was made from, and optimize the result."
            )
        result: tuple[Any, Callable[..., Any]] = super().begin_update(inputs)
        return result

    def to_bytes(self) -> bytes:
        """RETURNS (bytes): What its kind of shim writes, and the scales, as msgpack."""
        scales = {name: linear.scale for name, linear in find(self._model, Int8Linear).items()}
        data = {"shim": super().to_bytes(), "scales": safetensors.torch.save(scales)}
        result: bytes = srsly.msgpack_dumps(data)
        return result

    def from_bytes(self, data: bytes) -> Any:
        """RETURNS (PyTorchShim): The same shim, with what was written by either kind of shim."""
        msg = srsly.msgpack_loads(data)
        plain = "scales" not in msg
        shim = super().from_bytes(data if plain else msg["shim"])
        scales = {} if plain else safetensors.torch.load(msg["scales"])
        for name, linear in find(self._model, nn.Linear).items():
            if plain or name in scales:
                owner, _, own_name = name.rpartition(".")
                setattr(self._model.get_submodule(owner), own_name, Int8Linear(linear, scales.get(name)))
        return shim


class Int8ModuleShim(Int8Shim, Shim):
    """Of the modules of this package."""


class Int8HFShim(Int8Shim, HFShim):
    """Of spacy-transformers."""


SHIMS: dict[type[PyTorchShim], type[Int8Shim]] = {Shim: Int8ModuleShim, HFShim: Int8HFShim}


@registry.architectures("spacy-mmib.Int8.v1")
def build_int8_v1(layer: Model[Any, Any]) -> Model[Any, Any]:
    """Let a text or picture encoder compute with 8-bit weights, once these are loaded; `spacy mmib optimize`
    writes pipelines with it. It can't be trained; initialized anew, it is as if it weren't in here.

    layer (Model): An encoder of this package or of spacy-transformers.
    RETURNS (Model): The same.
    """
    for node in layer.walk():
        for shim in node.shims:
            if type(shim) in SHIMS:
                shim.__class__ = SHIMS[type(shim)]
    if replace := layer.attrs.get("replace_listener_cfg"):
        layer.attrs["replace_listener_cfg"] = lambda config, listener: {
            **config,
            "layer": replace(config["layer"], listener),
        }
    return layer


def count_linear(layer: Model[Any, Any]) -> int:
    """RETURNS (int): How many linear parts of a layer with weights `build_int8_v1` would change."""
    shims = [shim for node in layer.walk() for shim in node.shims if type(shim) in SHIMS]
    return sum(len(find(shim._model, nn.Linear)) for shim in shims)
