"""Half precision, and gradients that are accumulated in it."""

from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch
from thinc.api import SGD, PyTorchGradScaler, require_cpu, require_gpu, to_numpy
from thinc.layers.pytorchwrapper import convert_pytorch_default_inputs, convert_pytorch_default_outputs
from torch import nn

from spacy_mmib.bridge.shim import get_module, wrap_module
from spacy_mmib.training.optimizers import make_adam_v1
from spacy_mmib.util import MMIBWarning


class Network(nn.Module):
    """Two matrices, with a bound between them that nothing overflows behind."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, 3)
        self.seen: list[torch.dtype] = []

    def forward(self, x: torch.Tensor, *, training: bool) -> torch.Tensor:
        hidden = self.inner(x)
        self.seen.append(hidden.dtype)
        return self.outer(hidden.tanh()).float()


class ScalerOnCPU(PyTorchGradScaler):
    """Thinc's refuses tensors that aren't on a GPU."""

    def _scale_tensor(self, tensor, scale_per_device, inplace):
        return tensor.mul_(self._scale) if inplace else tensor * self._scale


def make_layer(autocast=None, scaler=None):
    torch.manual_seed(0)
    layer = wrap_module(Network, convert_pytorch_default_inputs, convert_pytorch_default_outputs)
    layer.shims[0].use_autocast(autocast)
    layer.initialize(X={"width": 8})
    if scaler is not None:
        layer.shims[0]._grad_scaler = scaler
    return layer


def make_batch(rows=12):
    state = numpy.random.RandomState(1)
    return state.randn(rows, 8).astype("float32"), state.randn(rows, 3).astype("float32")


def learn(layer, batches, optimizer=None):
    """RETURNS (Tuple): The gradients of all inputs, and the weights after a step from all batches."""
    d_inputs = []
    for X, dY in batches:
        _, backprop = layer.begin_update(layer.ops.asarray(X))
        d_inputs.append(to_numpy(backprop(layer.ops.asarray(dY))))
    layer.finish_update(optimizer or SGD(0.1, grad_clip=0.0))
    weights = [p.detach().cpu().numpy().copy() for p in get_module(layer).parameters()]
    return numpy.concatenate(d_inputs), weights


def check_accumulated(make, atol):
    X, dY = make_batch()
    d_whole, whole = learn(make(), [(X, dY)])
    d_parts, parts = learn(make(), [(X[i : i + 4], dY[i : i + 4]) for i in (0, 4, 8)])
    numpy.testing.assert_allclose(d_parts, d_whole, atol=atol)
    before = [p.detach().cpu().numpy() for p in get_module(make()).parameters()]
    for start, of_whole, of_parts in zip(before, whole, parts):
        assert abs(of_whole - start).max() > 0.1  # the first batch's alone would be a third of it
        numpy.testing.assert_allclose(of_parts, of_whole, atol=atol)


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
@pytest.mark.parametrize("scales", [False, True])
def test_accumulated_gradients_are_those_of_one_batch(autocast, scales):
    def make():
        return make_layer(autocast, ScalerOnCPU(True, init_scale=1024.0) if scales else None)

    check_accumulated(make, 0.02 if autocast else 1e-5)
    exact, scaled = learn(make_layer(autocast), [make_batch()]), learn(make(), [make_batch()])
    numpy.testing.assert_allclose(scaled[0], exact[0], atol=1e-5)  # a power of 2: the same digits


@pytest.mark.parametrize("make_optimizer", [lambda: SGD(0.1), lambda: make_adam_v1(0.1)])
def test_a_gradient_that_overflows_costs_a_step_and_half_the_scale(make_optimizer):
    scaler = ScalerOnCPU(True, init_scale=1024.0)
    layer = make_layer(scaler=scaler)
    before = [p.detach().numpy().copy() for p in get_module(layer).parameters()]
    X, dY = make_batch()
    given = dY.copy()
    given[0, 0] = 1e38
    optimizer = make_optimizer()
    d_inputs, after = learn(layer, [(X, dY), (X, given)], optimizer)
    assert d_inputs[:12].any()
    assert not d_inputs[12:].any()
    assert given[0, 0] == numpy.float32(1e38)  # somebody else's array
    for x, y in zip(before, after):
        numpy.testing.assert_array_equal(x, y)
    assert float(scaler._scale) == 512.0
    _, later = learn(layer, [(X, dY)], optimizer)
    expected = learn(make_layer(), [(X, dY)], make_optimizer())[1]
    for x, y in zip(later, expected):
        numpy.testing.assert_allclose(x, y, atol=1e-5)


def test_weights_and_what_goes_out_stay_in_float32():
    X, dY = make_batch()
    layer, exact = make_layer("bfloat16"), make_layer()
    module = get_module(layer)
    Y, backprop = layer.begin_update(X)
    assert Y.dtype == backprop(dY).dtype == layer.predict(X).dtype == "float32"
    assert module.seen == [torch.bfloat16] * 2
    assert {x.dtype for p in module.parameters() for x in (p, p.grad)} == {torch.float32}
    numpy.testing.assert_allclose(Y, exact.predict(X), atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):  # the setting decides, not what a caller is in
        numpy.testing.assert_array_equal(exact.predict(X), make_layer().predict(X))
    assert set(get_module(exact).seen) == {torch.float32}


def test_weights_that_another_thread_has_converted_are_not_used():
    layer, X = make_layer("bfloat16"), torch.from_numpy(make_batch()[0])
    module = get_module(layer)
    with torch.autocast("cpu", torch.bfloat16):
        before = module(X, training=False)
        module.outer.weight.data.mul_(2.0)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(layer.predict, X.numpy()).result()
    assert abs(found - before.detach().numpy()).max() > 0.1
    numpy.testing.assert_array_equal(found, layer.predict(X.numpy()))


def test_what_a_processor_cannot_do_is_said(monkeypatch):
    with pytest.warns(MMIBWarning, match='autocast = "float16" is ignored: it needs a GPU'):
        layer = make_layer("float16")
    layer.predict(make_batch()[0])
    assert get_module(layer).seen == [torch.float32]
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    with pytest.warns(MMIBWarning, match='"bfloat16" is slow on this processor'):
        make_layer("bfloat16")


@pytest.mark.gpu
def test_accumulated_gradients_on_a_gpu():
    require_gpu(0)
    try:
        check_accumulated(lambda: make_layer("float16"), 0.02)
    finally:
        require_cpu()
