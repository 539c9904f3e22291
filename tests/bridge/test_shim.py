"""The wrapper of torch modules: padding, a step of an optimizer, and numbers from the device."""

import copy

import numpy
import pytest
import torch
from spacy.util import registry
from thinc.api import ArgsKwargs, PyTorchGradScaler, PyTorchShim
from torch import nn

from spacy_mmib.bridge.shim import PaddedRows, Shim, fetch, pad, unpad


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.linear = nn.Linear(5, 6)
        self.sometimes = nn.Parameter(0.1 * torch.randn(3))
        self.never = nn.Parameter(torch.ones(2))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))

    def forward(self, x, training):
        return self.linear(self.linear.weight.tanh() @ x)


def make(name="spacy-mmib.Adam.v1", **settings):
    return registry.optimizers.get(name)(**{"learn_rate": 1e-3, "use_averages": False, **settings})


def give_gradients(module, step):
    """Long and short ones, and of one parameter in some steps only."""
    torch.manual_seed(step)
    for name, parameter in module.named_parameters():
        if name not in ("never", "frozen") and (name != "sometimes" or step % 3 == 1):
            gradient = 0.3 * torch.randn(parameter.shape)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


SETTINGS = {
    "as it is": {},
    "decay": {"L2": 0.1},
    "L2": {"L2": 0.1, "L2_is_weight_decay": False},
    "no clipping": {"grad_clip": 0.0, "eps": 1e-3, "beta1": 0.5},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_step_with_a_module_is_that_of_thincs_adam_with_each_parameter(kind):
    ours, thincs, single = Module(), Module(), Module()
    shims = [
        (Shim(ours), make(**SETTINGS[kind])),
        (PyTorchShim(thincs), make("Adam.v1", **SETTINGS[kind])),
        (PyTorchShim(single), make(**SETTINGS[kind])),  # which calls our optimizer once a parameter
    ]
    for step in range(100):
        for shim, optimizer in shims:
            give_gradients(shim._model, step)
            shim.finish_update(optimizer)
            optimizer.step_schedules()
    start = Module().state_dict()
    for other in (thincs, single):
        for name, expected in other.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], expected, rtol=0, atol=1e-6)
            changed = not torch.equal(expected, start[name])
            assert changed == (name not in ("never", "frozen", "empty")), name
    assert all(p.grad is None for p in ours.parameters())


def test_two_runs_are_byte_equal():
    runs = []
    for _ in range(2):
        shim, optimizer = Shim(Module()), make(L2=0.01)
        for step in range(10):
            give_gradients(shim._model, step)
            shim.finish_update(optimizer)
        runs.append(shim._model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_gradients_in_another_order_of_memory():
    modules = [Module(), Module()]
    for module, order in zip(modules, (torch.channels_last, torch.contiguous_format)):
        give_gradients(module, 0)
        gradient = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        module.conv.weight.grad = gradient.to(memory_format=order)
        Shim(module).finish_update(make(grad_clip=0.0, eps=1.0))
    assert torch.equal(modules[0].conv.weight, modules[1].conv.weight)


def test_a_step_between_forward_and_backward():
    """spaCy takes one with a shared tok2vec before the components that listen to it have their gradients."""
    shim, optimizer = Shim(Module()), make()
    give_gradients(shim._model, 0)
    _, backprop = shim.begin_update(ArgsKwargs((torch.ones(5, 5),), {}))
    shim.finish_update(optimizer)
    output, backprop = shim.begin_update(ArgsKwargs((torch.ones(5, 5),), {}))
    give_gradients(shim._model, 1)
    shim.finish_update(optimizer)
    backprop(ArgsKwargs(([output],), {"grad_tensors": [torch.ones_like(output)]}))
    assert shim._model.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["spacy-mmib.Adam.v1", "Adam.v1"])
def test_a_step_that_overflowed_is_left_out_and_lowers_the_scale(name):
    shim, optimizer = Shim(Module()), make(name)
    shim._grad_scaler = PyTorchGradScaler(True, init_scale=8.0)
    before = copy.deepcopy(shim._model.state_dict())
    give_gradients(shim._model, 0)
    shim._grad_scaler._found_inf = True
    shim.finish_update(optimizer)
    assert all(torch.equal(before[key], x) for key, x in shim._model.state_dict().items())
    assert not any(p.grad is not None and p.grad.any() for p in shim._model.parameters())
    assert (shim._grad_scaler._scale, shim._grad_scaler.found_inf) == (4.0, False)
    give_gradients(shim._model, 1)
    shim.finish_update(optimizer)
    assert not torch.equal(before["linear.weight"], shim._model.linear.weight)


def test_other_optimizers_get_one_parameter_at_a_time():
    shim, names = Shim(Module()), []

    def optimizer(key, weights, gradient):
        names.append(key)
        return weights - gradient, gradient

    give_gradients(shim._model, 0)
    expected = shim._model.linear.bias.detach() - shim._model.linear.bias.grad
    shim.finish_update(optimizer)
    assert (shim.id, "linear.bias") in names
    assert torch.equal(shim._model.linear.bias, expected)


def test_fetched_numbers_are_those_of_when_they_were_asked_for():
    arrays = [numpy.asarray([value], dtype="float32") for value in (1.5, -2.0)]
    wait = fetch([*arrays, numpy.asarray(0.25)])
    arrays[0] += 1
    assert wait() == [1.5, -2.0, 0.25]
    assert {type(number) for number in wait()} == {float}


RNG = numpy.random.RandomState(0)
LENGTHS = (3, 0, 5, 1)


@pytest.fixture(params=[4, 0], ids=["width 4", "width 0"])
def arrays(request):
    return [RNG.normal(size=(n, request.param)).astype("float32") for n in LENGTHS]


def test_padding_is_zeros_behind_the_rows(arrays):
    padded, mask = pad(arrays, requires_grad=True)
    assert padded.requires_grad
    assert padded.is_leaf
    assert mask.tolist() == [[i < n for i in range(5)] for n in LENGTHS]
    expected = numpy.zeros((4, 5, arrays[0].shape[1]), "float32")
    for row, array in zip(expected, arrays):
        row[: len(array)] = array
    assert (padded.detach().numpy() == expected).all()


def test_posts_without_any_rows():
    padded, mask = pad([numpy.zeros((0, 4), "float32")] * 2)
    assert padded.shape == (2, 0, 4)
    assert mask.shape == (2, 0)


def test_what_was_padded_is_not_padded_again(arrays):
    """What a layer leaves in rows of padding, be it NaN, no other one sees."""
    padded, mask = pad(arrays)
    rows = unpad(padded.masked_fill(~mask.unsqueeze(-1), float("nan")), arrays)
    assert isinstance(rows, PaddedRows)
    again, again_mask = pad(rows, requires_grad=True)
    assert again.requires_grad
    assert not rows.tensor.requires_grad
    assert again.data_ptr() == rows.tensor.data_ptr()
    assert torch.equal(again, padded)
    assert torch.equal(again_mask, mask)
    assert torch.equal(unpad(padded * 2, rows).tensor, padded * 2)


def test_rows_are_arrays_of_posts(arrays):
    rows = unpad(pad(arrays)[0], arrays)
    assert len(rows) == len(arrays)
    for found in (list(rows), rows[:], [rows[i] for i in range(-4, 0)]):
        assert all((a == b).all() and a.shape == b.shape for a, b in zip(found, arrays, strict=True))
