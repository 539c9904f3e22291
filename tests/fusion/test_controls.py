"""The controls: concatenation, the gated residual, and a text-only model as large as a multimodal one."""

import numpy
import pytest
import torch
from spacy.util import registry

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.fusion.base import build_fusion
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


def make_text_layer(like, layers=1, width=48, image_width=20, text_width=32):
    settings = {"like": like, "layers": layers, "image_width": image_width, "heads": 4}
    config = {"@architectures": "spacy-mmib.TextLayer.v1", **settings}
    layer = registry.resolve({"fusion": config})["fusion"]
    build_fusion(layer, text_width=text_width, image_width=0, width=width)
    return layer


def count(layer):
    return sum(parameter.numel() for parameter in get_module(layer).parameters())


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", ["MMIB", "UMT", "AdapCoAtt"])
def test_the_text_layer_is_as_large_as_the_other(name, layers):
    like = {"@architectures": f"spacy-mmib.{name}.v1"}
    if name != "AdapCoAtt":
        like["heads"] = 4
    if name == "AdapCoAtt" and layers == 3:
        with pytest.raises(
            ValueError, match=r"AdapCoAtt has \S+ parameters, and 3 transformer layer.*NoFusion"
        ):
            make_text_layer(like, layers)
        return
    other = registry.resolve({"fusion": like})["fusion"]
    build_fusion(other, text_width=32, image_width=20, width=48)
    layer = make_text_layer(like, layers)
    assert len(get_module(layer).layers) == layers
    # Nearer is impossible: a unit more or less has 2d + 1 parameters.
    assert abs(count(layer) - count(other)) <= 48
    assert count(layer) == pytest.approx(count(other), rel=0.01)


def test_the_text_layer_counts_without_a_trace():
    like = {"@architectures": "spacy-mmib.UMT.v1", "heads": 4}
    layer = make_text_layer(like)
    found = get_module(layer).settings
    assert "like" not in found
    # Stored with its widths, it is the same module with other random numbers behind it or not.
    torch.manual_seed(7)
    one = make_text_layer(like)
    after = torch.rand(1)
    torch.manual_seed(7)
    other = type(get_module(layer))(**found)
    assert torch.equal(torch.rand(1), after)
    for a, b in zip(get_module(one).parameters(), other.parameters()):
        assert torch.equal(a, b)


def test_the_text_layer_is_loaded_without_what_it_was_measured_by():
    layer = make_text_layer({"@architectures": "spacy-mmib.UMT.v1", "heads": 4})
    # The other fusion has changed since: another one, which this layer would never have been like.
    config = {"@architectures": "spacy-mmib.TextLayer.v1", "image_width": 3, "dropout": 0.3}
    config["like"] = {"@architectures": "spacy-mmib.NoFusion.v1"}
    loaded = registry.resolve({"fusion": config})["fusion"]
    loaded.from_bytes(layer.to_bytes())
    assert count(loaded) == count(layer)
    assert {one.dropout for one in get_module(loaded).layers} == {0.3}
    with pytest.raises(ValueError, match="NoFusion has 0 parameters, and 1 transformer layer"):
        build_fusion(registry.resolve({"fusion": config})["fusion"], text_width=8, image_width=0, width=8)
