"""Wrap a torch module for Thinc such that it can be built late, serves many threads and travels as data.

Widths and label counts are only known when a pipeline is initialized or loaded, so a wrapped module starts
as a placeholder. Stored, it is its class's name, its settings and its tensors (safetensors inside msgpack).
Which class that is, the layer knows from the architecture in the config: a stored file can't name another
one, and no pickle is ever read.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy
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
    torch2xp,
    xp2torch,
)
from thinc.layers.pytorchwrapper import forward as forward_wrapped
from thinc.types import ArrayXd, Floats2d
from thinc.util import convert_recursive, get_torch_default_device, iterate_recursive
from torch import nn

from ..util import warn

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

    dtype: torch.dtype | None = None
    """What those operations run in that can stand it; `None` for that of the weights."""

    def use_autocast(
        self,
        autocast: str | None,
        mixed_precision: bool = False,
        grad_scaler_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Run what can stand it in half precision, in prediction and in training. Weights, their gradients,
        and what comes in and goes out stay in float32.

        autocast (Optional[str]): "bfloat16"; or "float16", whose gradients are scaled so that small ones
            don't become 0: GPU only, on CPU it is ignored with a warning.
        mixed_precision (bool): An older name of "float16".
        grad_scaler_config (Optional[Mapping[str, Any]]): Settings of `thinc.api.PyTorchGradScaler`.
        """
        if autocast is None and not mixed_precision:
            return
        self.dtype = getattr(torch, autocast or "float16")
        if self.dtype == torch.bfloat16:
            # Unknown, and so not said, of processors that aren't x86.
            has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
            if self.device.type == "cpu" and platform.machine() in ("x86_64", "AMD64") and not has_bf16():
                warn(
                    'autocast = "bfloat16" is slow on this processor, which has no instructions for it '
                    "(avx512_bf16): set autocast = null."
                )
        elif isinstance(get_current_ops(), CupyOps):
            self._grad_scaler = PyTorchGradScaler(True, **(grad_scaler_config or {}))
            self._grad_scaler.to_(self.device)
        else:
            self.dtype = None
            setting = 'autocast = "float16"' if autocast else "mixed_precision = true"
            warn(f"{setting} is ignored: it needs a GPU, and this pipeline runs on CPU.")

    def _run(self, inputs: ArgsKwargs, training: bool) -> Any:
        # torch's cache of weights in half precision is one for all threads: what one has put there another
        # would find, though a step has changed the weights since.
        enabled = self.dtype is not None
        with torch.autocast(self.device.type, self.dtype, enabled=enabled, cache_enabled=False):
            return self._model(*inputs.args, **inputs.kwargs, training=training)

    def predict(self, inputs: ArgsKwargs) -> Any:
        """RETURNS (Any): What the module returns, without gradients."""
        with torch.no_grad():
            return self._run(inputs, training=False)

    def begin_update(self, inputs: ArgsKwargs) -> tuple[Any, Callable[[ArgsKwargs], ArgsKwargs]]:
        """RETURNS (Tuple[Any, Callable]): What the module returns, and the callback for the gradient."""
        output = self._run(inputs, training=True)

        def backprop(grads: ArgsKwargs) -> ArgsKwargs:
            # What comes from layers that aren't scaled is scaled here, and what goes to them is unscaled.
            # Thinc's shim unscales the gradients of weights here as well: those of earlier batches
            # ([training] accumulate_gradient) once more each time, so that they vanish.
            scaled = self._grad_scaler.scale(grads.kwargs["grad_tensors"])
            torch.autograd.backward(*grads.args, **{**grads.kwargs, "grad_tensors": scaled})
            d_inputs = [x.grad for x in iterate_recursive(_has_grad, inputs) if x.grad is not None]
            if self._grad_scaler.unscale(d_inputs):  # an overflow: the step is left out
                for d_input in d_inputs:
                    d_input.zero_()
            result: ArgsKwargs = convert_recursive(_has_grad, lambda x: x.grad, inputs)
            return result

        return output, backprop

    def finish_update(self, optimizer: Any) -> None:
        """Take a step, and let the module mend what optimizers don't know about its weights. An optimizer
        that takes whole modules (`update_module`, as `spacy-mmib.Adam.v1` has it) gets this one as a whole.
        """
        self._grad_scaler.unscale([p.grad for p in self._model.parameters() if p.grad is not None])
        update_module = getattr(optimizer, "update_module", None)
        if update_module is None:
            super().finish_update(optimizer)
        else:
            if not self._grad_scaler.found_inf:
                update_module(self.id, self._model.named_parameters())
            self._model.zero_grad()  # no gradients, not zeros: the next ones needn't be added to anything
            self._grad_scaler.update()
        _constrain(self._model)


def _has_grad(x: Any) -> bool:
    return hasattr(x, "grad")


def _constrain(module: nn.Module) -> None:
    constrain = getattr(module, "constrain", None)
    if constrain is not None:
        constrain()


def wrap_module(
    module_class: Callable[..., nn.Module],
    convert_inputs: Callable[..., Any],
    convert_outputs: Callable[..., Any],
    *,
    settings: Mapping[str, Any] | None = None,
    runtime_settings: Mapping[str, Any] | None = None,
) -> Model[Any, Any]:
    """Make a Thinc layer around a module that will be built by loading, or by the layer's `initialize` when
    that gets a dictionary: the settings that are known only then, sizes for example.

    module_class (Callable[..., nn.Module]): The module's class. Its attribute `stored_names`, if there is
        one, has the names that pipelines of earlier versions know it by.
    convert_inputs, convert_outputs (Callable): As in `thinc.api.PyTorchWrapper_v3`. The module gets
        `training` besides.
    settings (Optional[Mapping[str, Any]]): Settings of the module that are known already.
    runtime_settings (Optional[Mapping[str, Any]]): Settings that its weights don't depend on: when it is
        loaded these hold, not those it was saved with, so that a config can change them.
    RETURNS (Model): The layer.
    """
    runtime_settings = dict(runtime_settings or {})
    load = partial(deserialize_module, module_class=module_class, runtime_settings=runtime_settings)
    shim = Shim(Unbuilt(), serialize_model=serialize_module, deserialize_model=load)
    return Model(
        "pytorch",
        forward_wrapped,
        init=partial(_init, module_class=module_class, settings=dict(settings or {})),
        attrs={"convert_inputs": convert_inputs, "convert_outputs": convert_outputs},
        shims=[shim],
        dims={"nI": None, "nO": None},
    )


def _init(
    layer: Model[Any, Any], X: Any = None, Y: Any = None, *, module_class: Any, settings: Mapping[str, Any]
) -> None:
    if X is not None:
        set_module(layer, build_module(module_class, {**X, **settings}))


def get_module(layer: Model[Any, Any]) -> Any:
    """RETURNS (nn.Module): The module a layer wraps, `Unbuilt` before initialization."""
    return layer.shims[0]._model


def set_module(layer: Model[Any, Any], module: nn.Module) -> None:
    """Put a built module in the layer's shim, on the device of the current ops."""
    layer.shims[0]._model = module.to(get_torch_default_device())


def build_module(module_class: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    """RETURNS (nn.Module): A new module, with the settings it was built with as attribute `settings`, to be
    stored with it.
    """
    module = module_class(**settings)
    if not hasattr(module, "settings"):
        module.settings = dict(settings)
    return module


def serialize_module(module: Any) -> bytes:
    """RETURNS (bytes): Class name, settings and tensors as msgpack and safetensors."""
    msg: dict[str, Any] = {"module": None}
    if not isinstance(module, Unbuilt):
        state = {key: tensor.contiguous().cpu() for key, tensor in module.state_dict().items()}
        msg = {"module": type(module).__name__, "settings": module.settings}
        msg["state"] = safetensors.torch.save(state)
    data: bytes = srsly.msgpack_dumps(msg)
    return data


def deserialize_module(
    module: nn.Module,
    data: bytes,
    device: torch.device,
    *,
    module_class: Any,
    runtime_settings: Mapping[str, Any],
) -> nn.Module:
    """RETURNS (nn.Module): The stored module, with its weights, in place of the one that was there before.
    RAISES (ValueError): It is of another class.
    """
    msg = srsly.msgpack_loads(data)
    if msg["module"] is None:
        return Unbuilt()
    names = (module_class.__name__, *getattr(module_class, "stored_names", ()))
    if msg["module"] not in names:
        raise ValueError(
            f"The config says that this layer is a {names[0]!r}, but what was saved is a {msg['module']!r}. "
            "Load the pipeline with the config.cfg it was saved with."
        )
    with torch.random.fork_rng(devices=[]):  # the random weights it starts with are replaced at once
        built = build_module(module_class, {**msg["settings"], **runtime_settings})
    built.load_state_dict(safetensors.torch.load(msg["state"]))
    _constrain(built)
    result: nn.Module = built.to(device)
    return result


class PaddedRows(Sequence[Floats2d]):
    """Arrays of posts that are the rows of one tensor. Layers of ours hand the tensor on; an array, a view of
    it that is not to be written to, is made for whoever asks for it.

    tensor (torch.Tensor): (b, rows, width), 0 in rows of padding; without gradient.
    mask (torch.Tensor): Bool (b, rows), True for real rows.
    lengths (Sequence[int]): Real rows of each post.
    """

    def __init__(self, tensor: torch.Tensor, mask: torch.Tensor, lengths: Sequence[int]) -> None:
        self.tensor, self.mask, self.lengths = tensor, mask, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        return torch2xp(self.tensor[i, : self.lengths[i]])


def pad(arrays: Sequence[Floats2d], *, requires_grad: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack arrays, filling up with zeros.

    arrays (Sequence[Floats2d]): One a post, (rows, width); at least one. From `unpad` they are stacked still.
    requires_grad (bool): Whether the tensor is to receive a gradient.
    RETURNS (Tuple[torch.Tensor, torch.Tensor]): (b, most rows, width), and the mask, bool (b, most rows).
    """
    if isinstance(arrays, PaddedRows):
        return arrays.tensor.detach().requires_grad_(requires_grad), arrays.mask
    # Gathered from all rows and one of zeros: as few operators for many posts as for one.
    tensors = [xp2torch(array) for array in arrays]
    rows = torch.cat([*tensors, tensors[0].new_zeros(1, tensors[0].shape[1])])
    lengths = numpy.array([len(array) for array in arrays])[:, None]
    places = numpy.arange(lengths.max())
    index = numpy.where(places < lengths, places + lengths.cumsum(0) - lengths, len(rows) - 1)
    at = torch.from_numpy(index).to(rows.device)
    return nn.functional.embedding(at, rows).detach().requires_grad_(requires_grad), at < len(rows) - 1


def fetch(arrays: Sequence[ArrayXd]) -> Callable[[], list[float]]:
    """Begin to copy numbers from the device, all at once.

    arrays (Sequence[ArrayXd]): A number each.
    RETURNS (Callable[[], List[float]]): Waits for them: on a GPU for what it was to do before this call, and
        not for what it got to do since.
    """
    numbers = torch.cat([xp2torch(array).reshape(1).float() for array in arrays])
    copied = numbers.to("cpu", non_blocking=numbers.is_cuda)
    event = torch.cuda.current_stream(numbers.device).record_event() if numbers.is_cuda else None

    def wait() -> list[float]:
        if event is not None:
            event.synchronize()
        found: list[float] = copied.tolist()
        return found

    return wait


def unpad(tensor: torch.Tensor, like: Sequence[Any]) -> PaddedRows:
    """The inverse of `pad`.

    tensor (torch.Tensor): (b, rows, width).
    like (Sequence[Sized]): What has as many rows a post: the arrays that were padded, or docs.
    """
    if isinstance(like, PaddedRows):
        mask, lengths = like.mask, like.lengths
    else:
        lengths = [*map(len, like)]
        ends = torch.tensor(lengths, device=tensor.device).unsqueeze(1)
        mask = torch.arange(tensor.shape[1], device=tensor.device) < ends
    return PaddedRows(tensor.detach().masked_fill(~mask.unsqueeze(-1), 0), mask, lengths)
