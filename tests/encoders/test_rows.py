"""Rows of a grid and of a pyramid, against the same computed by hand."""

import numpy
import pytest
import torch
import torchvision.models

from spacy_mmib.encoders.torchvision import Backbone, make_preset


def make_network(arch, size, **settings):
    torch.manual_seed(0)
    backbone = Backbone(arch=arch, preset=make_preset(arch, None, size), **settings)
    network = torchvision.models.get_model(arch, weights=None).eval()
    backbone.load_classifier_state(network.state_dict())
    pictures = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    return backbone, network, pictures


@torch.no_grad()
def compute_stages(network, pictures) -> list[numpy.ndarray]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(pictures))))
    stages = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        stages.append(x.numpy())
    return stages


def average(maps, k) -> numpy.ndarray:
    """(r, k * k, channels), row by row: each the mean of its part, from the first place it touches to the last."""
    side = maps.shape[-1]
    edges = [(i * side // k, -(-(i + 1) * side // k)) for i in range(k)]
    parts = [maps[:, :, y0:y1, x0:x1].mean((2, 3)) for y0, y1 in edges for x0, x1 in edges]
    return numpy.stack(parts, axis=1)


@pytest.mark.parametrize(("size", "k"), [(224, 7), (160, 2), (64, 5)])
def test_grid(size, k):
    backbone, network, pictures = make_network("resnet18", size, rows="grid", rows_size=k)
    last = compute_stages(network, pictures)[-1]
    rows = backbone(pictures, at_once=2).view(3, 1 + k * k, 512)
    numpy.testing.assert_allclose(rows[:, 0], last.mean((2, 3)), atol=1e-4, rtol=1e-4)
    numpy.testing.assert_allclose(rows[:, 1:], average(last, k), atol=1e-4, rtol=1e-4)
    if size == 224:  # the map is 7 x 7: its places as they are
        numpy.testing.assert_allclose(rows[:, 1 + 7 * 3 + 5], last[:, :, 3, 5], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("size", "p"), [(224, 2), (64, 2), (96, 3)])
def test_pyramid(size, p):
    backbone, network, pictures = make_network("resnet18", size, rows="pyramid", rows_size=p)
    expected = numpy.concatenate([average(stage, p) for stage in compute_stages(network, pictures)], axis=2)
    rows = backbone(pictures, at_once=2)
    assert (backbone.width, backbone.rows_per_picture) == (64 + 128 + 256 + 512, p * p)
    numpy.testing.assert_allclose(rows.view(3, p * p, -1), expected, atol=1e-4, rtol=1e-4)


def test_sizes_of_resnet50():
    preset = make_preset("resnet50", None, None)
    grid = Backbone(arch="resnet50", preset=preset, rows="grid")
    assert (grid.rows_per_picture, grid.width) == (1 + 49, 2048)
    pyramid = Backbone(arch="resnet50", preset=preset, rows="pyramid", rows_size=2)
    assert (pyramid.rows_per_picture, pyramid.width) == (4, 256 + 512 + 1024 + 2048)


def test_networks_without_stages_or_map():
    preset = make_preset("squeezenet1_1", None, 64)
    with pytest.raises(ValueError, match="needs the four stages of a ResNet; 'squeezenet1_1' has none"):
        Backbone(arch="squeezenet1_1", preset=preset, rows="pyramid")
    with pytest.raises(ValueError, match='rows = "grid" needs a network whose last feature map.*mobilenet'):
        Backbone(arch="mobilenet_v3_small", preset=preset, rows="grid")
    assert Backbone(arch="squeezenet1_1", preset=preset, rows="grid", rows_size=2).rows_per_picture == 5
