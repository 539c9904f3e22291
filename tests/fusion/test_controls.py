"""The controls: concatenation and the gated residual."""

import numpy
import pytest
import torch

from spacy_mmib.fusion.concat import Concat
from spacy_mmib.fusion.gated import Gated

TEXT, IMAGE, WIDTH = 6, 5, 8
ROWS = {"first": lambda v: v[0], "mean": lambda v: v.mean(0), "sum": lambda v: v.sum(0)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def to_numpy(module):
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def fuse(module, x, v):
    """The context of one post, with rows of padding after its own."""
    text = torch.cat([x, torch.randn(2, TEXT)]).double()
    image = torch.cat([v, torch.randn(1, IMAGE)]).double()
    masks = torch.arange(len(text)) < len(x), torch.arange(len(image)) < len(v)
    batch = [one.unsqueeze(0) for one in (text, masks[0], image, masks[1])]
    context = module(*batch, torch.tensor([0]), training=False).context
    return context[0, : len(x)].detach().numpy()


@pytest.mark.parametrize("pooling", list(ROWS))
def test_concat(pooling):
    module = Concat(text_width=TEXT, image_width=IMAGE, width=WIDTH, pooling=pooling).double()
    x, v, p = torch.randn(3, TEXT), torch.randn(4, IMAGE), to_numpy(module)
    context = fuse(module, x, v)
    h = x.numpy() @ p["text_projection.weight"].T + p["text_projection.bias"]
    picture = ROWS[pooling](v.numpy()) @ p["image_projection.weight"].T + p["image_projection.bias"]
    numpy.testing.assert_allclose(context[:, :WIDTH], h, atol=1e-6)
    numpy.testing.assert_allclose(context[:, WIDTH:], numpy.tile(picture, (3, 1)), atol=1e-6)
    context = fuse(module, x, v[:0])
    numpy.testing.assert_allclose(context[:, WIDTH:], numpy.tile(p["no_picture"], (3, 1)), atol=1e-6)


@pytest.mark.parametrize("gate", ["vector", "scalar"])
@pytest.mark.parametrize("pooling", list(ROWS))
def test_gated(gate, pooling):
    module = Gated(text_width=TEXT, image_width=IMAGE, width=TEXT, gate=gate, pooling=pooling).double()
    x, v, p = torch.randn(3, TEXT), torch.randn(4, IMAGE), to_numpy(module)
    picture = ROWS[pooling](v.numpy())
    expected = []
    for h in x.numpy():
        g = 1 / (1 + numpy.exp(-(p["gate.weight"] @ numpy.concatenate([h, picture]) + p["gate.bias"])))
        assert g.shape == (TEXT if gate == "vector" else 1,)
        expected.append(h + g * (p["image_projection.weight"] @ picture))
    numpy.testing.assert_allclose(fuse(module, x, v), expected, atol=1e-6)
    numpy.testing.assert_allclose(fuse(module, x, v[:0]), x.numpy(), atol=1e-6)
