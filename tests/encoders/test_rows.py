"""Rows of a grid and of a pyramid, against the same computed by hand, and of pictures with and without objects."""

import numpy
import PIL.Image
import pytest
import spacy
import torch
import torchvision.models

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.encoders.torchvision import Backbone, build_torchvision_encoder_v1, make_preset


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


def make_encoder(initialize=True, **settings):
    settings = {"arch": "resnet18", "image_size": 64, "memory_format": "contiguous", **settings}
    encoder = build_torchvision_encoder_v1(**settings)
    if initialize:
        torch.manual_seed(0)
        encoder.initialize()
    return encoder


def make_doc(regions, seed=0):
    doc = spacy.blank("en")("a post")
    doc._.image = numpy.random.RandomState(seed).randint(0, 255, (60, 80, 3)).astype("uint8")
    doc._.regions = regions
    return doc


@pytest.mark.parametrize("region_features", ["crop", "roi"])
def test_objects_that_can_be_used_are_there_instead_of_a_grid(region_features, tmp_path):
    PIL.Image.new("RGB", (9, 9), "red").save(tmp_path / "crop.png")
    crop, box, outside = str(tmp_path / "crop.png"), (0, 0, 20, 30), (100, 100, 120, 120)
    docs = [
        make_doc(regions) for regions in ([crop], [box, crop], [outside, box], [outside], ["gone.png"], [])
    ]
    encoder = make_encoder(region_features=region_features)
    vectors = encoder.predict(docs)
    assert vectors.rows == [[0, 1], [0, 1, 2], [0, 2], *[[0] * 5] * 3]
    expected = make_encoder(rows="regions", region_features=region_features).predict(docs)
    for found, of_regions in zip(vectors, expected, strict=True):
        numpy.testing.assert_allclose(found[: len(of_regions)], of_regions, atol=1e-4, rtol=1e-4)
    for found in vectors[3:5]:
        numpy.testing.assert_allclose(found, vectors[5], atol=1e-4, rtol=1e-4)
    assert [bool(doc._.image_error) for doc in docs] == [False, False, True, True, True, False]


@pytest.mark.parametrize(
    "settings",
    [
        {"arch": "mobilenet_v3_small"},  # no map as wide as its vectors
        {"image_size": 32},  # a map of one place
        {"grid_size": 3},  # a map of 2 x 2 places
    ],
)
def test_without_a_map_to_divide_there_is_the_whole_picture(settings):
    docs = [make_doc([]), make_doc([(0, 0, 20, 30)])]
    vectors = make_encoder(**settings).predict(docs)
    assert vectors.rows == [[0], [0, 1]]
    for found, expected in zip(vectors, make_encoder(rows="regions", **settings).predict(docs), strict=True):
        numpy.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match='region_features = "roi" needs a network'):
        make_encoder(arch="mobilenet_v3_small", region_features="roi")


def test_a_pipeline_keeps_the_rows_it_was_saved_with():
    """Version 0.1 had no such setting: a stored config gets today's default, and the network has none."""
    docs = [make_doc([]), make_doc([(0, 0, 20, 30)])]
    encoder = make_encoder(rows="regions")
    stored = get_module(encoder.layers[0]).settings
    del stored["rows"], stored["rows_size"]
    loaded = make_encoder(initialize=False).from_bytes(encoder.to_bytes())
    for _ in range(2):
        for found, expected in zip(loaded.predict(docs), encoder.predict(docs), strict=True):
            numpy.testing.assert_array_equal(found, expected)
        loaded = make_encoder(initialize=False).from_bytes(loaded.to_bytes())
    grid = make_encoder(initialize=False, rows="grid", grid_size=2).from_bytes(encoder.to_bytes())
    assert get_module(grid.layers[0]).rows_per_picture == 5
