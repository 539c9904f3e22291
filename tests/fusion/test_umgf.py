"""UMGF's graph against loops over its nodes."""

import math

import numpy
import pytest
import torch

from spacy_mmib.fusion.umgf import UMGF, Gate

N, D, IMAGE = 3, 4, 5
TEXT_MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
IMAGE_MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_module(**settings) -> UMGF:
    widths = {"text_width": D, "image_width": IMAGE, "width": D, "inner_width": D}
    settings = widths | {"layers": 2, "heads": 2, "feed_forward": 3, "dropout": 0.0} | settings
    module = UMGF(**settings).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def layer_norm(x, norm):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / numpy.sqrt(var + norm.eps) * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def gather(x, o, gate, normalize):
    """For each node the sum of the other modality's, gated by pair and dimension."""
    result = numpy.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(o)):
            g = 1 / (1 + numpy.exp(-linear(numpy.concatenate([x[i], o[j]]), gate.linear)))
            result[i] += g * o[j] / (len(o) if normalize else 1)
    return result


def attend(x, nodes):
    """Two heads; without projections the values are the nodes themselves, half a node a head."""
    projected = linear(x, nodes.attention)
    q, k = projected[:, :D], projected[:, D : 2 * D]
    v = projected[:, 2 * D :] if projected.shape[1] > 2 * D else x
    heads = []
    for part in (slice(0, D // 2), slice(D // 2, D)):
        scores = numpy.exp(q[:, part] @ k[:, part].T / math.sqrt(D / 2))
        heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
    attended = numpy.concatenate(heads, -1)
    return layer_norm(x + (attended if v is x else linear(attended, nodes.output)), nodes.norms[0])


def finish(x, gathered, nodes):
    x = layer_norm(x + gathered, nodes.norms[1])
    first, _, second = nodes.feed_forward
    return layer_norm(x + linear(numpy.maximum(linear(x, first), 0), second), nodes.norms[2])


def run_by_hand(module, h, v, normalize):
    x, o = linear(h, module.tokens), v
    for layer in module.objects:
        o = numpy.maximum(linear(o, layer), 0)
    for layer in module.layers:
        of_text, of_objects = layer.text, layer.objects
        x = attend(x, of_text)
        if not len(o):
            x = finish(x, 0, of_text)
            continue
        o = attend(o, of_objects)
        to_text = gather(x, o, of_text.gate, normalize)
        if layer is not module.layers[-1]:
            o = finish(o, gather(o, x, of_objects.gate, normalize), of_objects)
        x = finish(x, to_text, of_text)
    return numpy.concatenate([h, x], -1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("keep_whole", [False, True])
def test_the_graph(normalize, keep_whole):
    """Three posts with two objects, one, and none: without the whole picture nothing is left of the last."""
    module = make_module(normalize=normalize, keep_whole=keep_whole)
    text, image = torch.randn(3, N, D).double(), torch.randn(3, 3, IMAGE).double()
    output = module(text, TEXT_MASK, image, IMAGE_MASK, torch.arange(3), training=False)
    for i in range(3):
        h, v = text[i][TEXT_MASK[i]].numpy(), image[i][IMAGE_MASK[i]].numpy()
        expected = run_by_hand(module, h, v if keep_whole else v[1:], normalize)
        numpy.testing.assert_allclose(output.context[i][TEXT_MASK[i]].detach().numpy(), expected, atol=1e-10)


def test_without_objects_the_picture_is_as_none():
    """In a batch of such posts alone, and of posts without any picture."""
    module, text, ids = make_module(keep_whole=False), torch.randn(3, N, D).double(), torch.arange(3)
    image = torch.randn(3, 1, IMAGE).double()
    found = [
        module(text, TEXT_MASK, image[:, :rows], torch.ones(3, rows).bool(), ids, training=False).context
        for rows in (0, 1)
    ]
    torch.testing.assert_close(*found)


def test_gates_are_summed_as_published():
    """What a token gathers grows with the number of objects; not so if normalized."""
    x, o = torch.randn(1, 1, D), torch.randn(1, 1, D)
    for normalize, factor in ((False, 3.0), (True, 1.0)):
        gate = Gate(D, normalize)
        one, three = (gate(x, o.expand(1, n, D), torch.ones(1, n).bool()) for n in (1, 3))
        torch.testing.assert_close(three, factor * one)


def test_settings_that_make_no_sense():
    for settings in ({"heads": 3}, {"layers": 0}):
        with pytest.raises(ValueError, match="UMGF needs a layer or more, .* heads"):
            make_module(**settings)
