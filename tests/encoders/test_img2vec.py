"""The torchvision encoder as a Thinc layer."""

import numpy
import PIL.Image
import pytest
import spacy
import torch
import torchvision.models
from conftest import make_doc, make_encoder, make_picture, normalize
from torchvision.transforms._presets import ImageClassification

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.encoders.base import PictureTransform
from spacy_mmib.encoders.torchvision import Backbone, make_preset
from spacy_mmib.util import MMIBWarning

RNG = numpy.random.RandomState(0)


PICTURES = [RNG.randint(0, 255, (40, 30, 3)).astype("uint8") for _ in range(5)]


def random_picture(height=40, width=30):
    return RNG.randint(0, 255, (height, width, 3)).astype("uint8")


def test_a_row_a_region_and_none_without_picture():
    encoder = make_encoder()
    docs = [
        make_doc(random_picture()),
        make_doc(),
        make_doc(random_picture(), [(0, 0, 9, 9), (3, 3, 20, 30)]),
        make_doc(None, [(0, 0, 9, 9)]),
    ]
    vectors = encoder.predict(docs)
    assert [v.shape for v in vectors] == [(1, 512), (0, 512), (3, 512), (0, 512)]
    assert encoder.get_dim("nO") == 512
    assert [v.shape for v in encoder.predict([make_doc()])] == [(0, 512)]
    assert encoder.predict([]) == []
    limited = make_encoder(max_regions=1)
    assert [len(v) for v in limited.predict(docs)] == [1, 0, 2, 0]


def test_rows_depend_on_nothing_but_their_picture():
    docs = [make_doc(random_picture(), [(0, 0, 5 + i, 9)] * (i % 4)) for i in range(9)]
    encoder = make_encoder(arch="resnet18", batch_size=64)
    together = encoder.predict(docs)
    for batch_size in (1, 3):
        smaller = make_encoder(False, arch="resnet18", batch_size=batch_size).from_bytes(encoder.to_bytes())
        for a, b in zip(together, smaller.predict(docs)):
            numpy.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(together, reversed(encoder.predict(docs[::-1]))):
        numpy.testing.assert_allclose(a, b, atol=1e-5)
    for doc, expected in zip(docs, together):
        numpy.testing.assert_allclose(encoder.predict([doc])[0], expected, atol=1e-5)


def test_as_few_forwards_as_the_bound_allows(monkeypatch):
    encoder = make_encoder(batch_size=4)
    docs = [make_doc(random_picture(), [(0, 0, 9, 9)] * 2) for _ in range(3)]
    sizes = []
    get_module(encoder.layers[0]).register_forward_hook(lambda m, i, output: sizes.append(len(output)))
    encoder.predict(docs)
    assert sizes == [4, 4, 1]


def test_features_are_what_the_classifier_would_get():
    torch.manual_seed(0)
    for arch, width in (("resnet18", 512), ("squeezenet1_1", 512), ("mobilenet_v3_small", 1024)):
        preset = make_preset(arch, None, 64)
        backbone = Backbone(arch=arch, preset=preset)
        network = torchvision.models.get_model(arch, weights=None).eval()
        backbone.load_classifier_state(network.state_dict())
        seen = []
        if arch == "squeezenet1_1":
            network.features.register_forward_hook(lambda m, i, o: seen.append(o.mean((2, 3))))
        else:
            linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
            linear.register_forward_hook(lambda m, i, o: seen.append(i[0]))
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            network(x)
        torch.testing.assert_close(backbone(x, 1), seen[0])
        assert backbone.width == width


@pytest.mark.parametrize(
    "arch",
    [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "mnasnet0_5",
        "regnet_y_400mf",
        "shufflenet_v2_x0_5",
        "swin_t",
    ],
)
def test_one_backbone_of_each_family(arch):
    backbone = Backbone(arch=arch, preset=make_preset(arch, None, 64))
    assert backbone(torch.zeros(2, 3, 64, 64), 9).shape == (2, backbone.width)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet50", "vit_b_16", "googlenet", "inception_v3", "vgg11", "maxvit_t"])
def test_large_backbones(arch):
    backbone = Backbone(arch=arch, preset=make_preset(arch, None, None), trainable=True)
    features = backbone(torch.zeros(2, 3, 224, 224), 9, training=True)
    assert features.shape == (2, backbone.width)


def test_unknown_backbone():
    with pytest.raises(ValueError, match="no classification model 'resnet5000'.*resnet50"):
        make_encoder(arch="resnet5000")


# Frozen and trainable


def batch_norm_state(encoder):
    state = get_module(encoder.layers[0]).state_dict()
    return {key: value.clone() for key, value in state.items() if "running" in key or "tracked" in key}


def test_a_single_picture_has_no_batch_statistics():
    encoder = make_encoder(arch="resnet18", trainable=True)
    before = batch_norm_state(encoder)
    vectors, backprop = encoder.begin_update([make_doc(random_picture())])
    backprop([v * 0 + 1 for v in vectors])
    torch.testing.assert_close(batch_norm_state(encoder), before)


@pytest.mark.parametrize("region_features", ["crop", "roi"])
def test_a_batch_that_teaches_nothing_moves_no_statistics(region_features):
    """Of a head whose batch has no pairs come zeros."""
    encoder = make_encoder(arch="resnet18", trainable=True, region_features=region_features)
    docs = [make_doc(random_picture(), [(0, 0, 9, 9)]), make_doc(), make_doc(random_picture())]
    before = batch_norm_state(encoder)
    vectors, backprop = encoder.begin_update(docs)
    backprop([v * 0 for v in vectors])
    torch.testing.assert_close(batch_norm_state(encoder), before)
    vectors, backprop = encoder.begin_update(docs)
    backprop([v * 0 + 1 for v in vectors])
    after = batch_norm_state(encoder)
    assert all(not torch.equal(after[key], before[key]) for key in before)


def run_updates(encoder, steps=3):
    optimizer = spacy.util.registry.optimizers.get("Adam.v1")(0.01)
    docs = [make_doc(random_picture(), [(0, 0, 9, 9)]), make_doc(), make_doc(random_picture())]
    for _ in range(steps):
        vectors, backprop = encoder.begin_update(docs)
        backprop([v * 0 + 1 for v in vectors])
        encoder.finish_update(optimizer)


def test_frozen_means_frozen():
    encoder = make_encoder(arch="resnet18", trainable=False)
    module = get_module(encoder.layers[0])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    run_updates(encoder)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
    module.train()
    assert not any(m.training for m in module.modules())


def test_trainable_means_trained():
    encoder = make_encoder(arch="resnet18", trainable=True, batch_size=2)
    module = get_module(encoder.layers[0])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    run_updates(encoder)
    changed = [key for key, value in module.state_dict().items() if not torch.equal(value, before[key])]
    assert any("running_mean" in key for key in changed)
    assert any(key.endswith("conv1.weight") for key in changed)


def test_gradient_reaches_the_network_through_chunks():
    """The gradient is the same however the pictures are cut into forwards, and each row has its own."""
    grads = []
    docs = [make_doc(picture, [(0, 0, 9, 9)] * i) for i, picture in enumerate(PICTURES[:4])]
    for batch_size in (2, 64):
        encoder = make_encoder(trainable=True, batch_size=batch_size)
        module = get_module(encoder.layers[0])
        for dropout in (m for m in module.modules() if isinstance(m, torch.nn.Dropout)):
            dropout.p = 0.0
        vectors, backprop = encoder.begin_update(docs)
        weights = numpy.random.RandomState(0)
        backprop([weights.randn(*v.shape).astype("float32") for v in vectors])
        grads.append(next(module.parameters()).grad.clone())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)


# Pre-processing


def test_the_preset_is_torchvisions_own():
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    picture = make_picture("red", (300, 200))
    preset = make_preset("resnet50", "IMAGENET1K_V2", None)
    assert preset["resize_size"] == 232
    found = PictureTransform(preset)(picture)
    assert found.dtype == torch.uint8  # a quarter of the bytes to copy to a GPU
    torch.testing.assert_close(normalize(found, preset), weights.transforms()(picture))
    assert make_preset("resnet50", None, None)["resize_size"] == 256
    assert PictureTransform(make_preset("resnet50", None, 48))(picture).shape == (3, 48, 48)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 500)])
def test_extreme_shapes(size):
    encoder = make_encoder(image_size=None)
    doc = make_doc(make_picture("red", size))
    vectors = encoder.predict([doc])[0]
    assert vectors.shape == (5, 512)
    assert numpy.isfinite(vectors).all()
    assert doc._.image_error is None


def test_what_is_cut_off_long_pictures_is_not_the_middle():
    picture = make_picture("black", (20_000, 10))
    picture.paste((255, 0, 0), (9_993, 0, 10_007, 10))
    preset = make_preset("resnet50", None, 48)
    shown = PictureTransform(preset)(picture)
    assert shown[0].float().mean() > 250
    upright = PictureTransform(preset)(picture.rotate(90, expand=True))
    assert upright[0].float().mean() > 250


def test_cutting_long_pictures_keeps_what_the_crop_shows():
    ramp = numpy.tile(numpy.arange(900, dtype="uint16").astype("uint8")[None, :, None], (100, 1, 3))
    picture = PIL.Image.fromarray(ramp)
    preset = make_preset("resnet50", None, None)
    found = normalize(PictureTransform(preset)(picture), preset)
    torch.testing.assert_close(found, ImageClassification(crop_size=224)(picture), atol=0.03, rtol=0)


# Weights


def test_local_weights(tmp_path):
    torch.manual_seed(5)
    network = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    import safetensors.torch

    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    doc = make_doc(random_picture())
    vectors = [
        make_encoder(weights=str(tmp_path / name)).predict([doc])[0]
        for name in ("weights.pth", "weights.safetensors")
    ]
    preset = make_preset("squeezenet1_1", None, 32)
    prepared = normalize(PictureTransform(preset)(PIL.Image.fromarray(doc._.image)), preset)
    expected = network.features(prepared[None])
    for v in vectors:
        numpy.testing.assert_allclose(v, expected.mean((2, 3)).detach().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="don't fit a torchvision 'resnet18'"):
        make_encoder(arch="resnet18", weights=str(tmp_path / "weights.pth"))


def test_weights_that_are_no_state_dict(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"neither a file nor one of torchvision's names.*IMAGENET1K_V1"
    ):
        make_encoder(weights="IMAGENET9K")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match="can't be read as a state dict"):
        make_encoder(weights=str(tmp_path / "junk.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="not a state dict|holds a list"):
        make_encoder(weights=str(tmp_path / "list.pth"))


class Evil:
    def __reduce__(self):
        import pathlib

        return (pathlib.Path.touch, (pathlib.Path(Evil.target),))


def test_pickles_are_never_executed(tmp_path):
    Evil.target = str(tmp_path / "executed")
    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="anything else pickled in them are refused"):
        make_encoder(weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_offline_the_message_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    with pytest.raises(OSError, match="Put the file .*squeezenet1_1-.*pth at ") as info:
        make_encoder(weights="IMAGENET1K_V1")
    assert str(tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth") in str(info.value)


def _no_network(*args, **kwargs):
    raise OSError("no network")


def test_named_weights_are_taken_from_torchs_cache(tmp_path, monkeypatch):
    """The real loading path, with a file put where the message says."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    torch.manual_seed(9)
    network = torchvision.models.get_model("squeezenet1_1", weights=None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    encoder = make_encoder(weights="IMAGENET1K_V1", image_size=None)
    loaded = get_module(encoder.layers[0])
    assert torch.equal(next(loaded.parameters()), next(network.parameters()))
    assert loaded.settings["preset"]["crop_size"] == 224


def test_weights_travel_with_the_model(tmp_path):
    weights = tmp_path / "weights.pth"
    torch.manual_seed(5)
    torch.save(torchvision.models.get_model("squeezenet1_1", weights=None).state_dict(), weights)
    encoder = make_encoder(weights=str(weights))
    docs = [make_doc(random_picture())]
    expected = encoder.predict(docs)[0]
    data = encoder.to_bytes()
    weights.unlink()
    loaded = make_encoder(initialize=False, weights=str(weights)).from_bytes(data)
    numpy.testing.assert_array_equal(loaded.predict(docs)[0], expected)
    assert loaded.get_dim("nO") == 512


def test_settings_of_the_config_hold_after_loading():
    """A server may lower the memory bound or change the policy of a pipeline somebody else trained."""
    data = make_encoder(arch="resnet18").to_bytes()
    doc = make_doc(random_picture(), [(0, 0, 9, 9)] * 3)
    assert len(make_encoder(False, arch="resnet18", max_regions=1).from_bytes(data).predict([doc])[0]) == 2
    strict = make_encoder(False, arch="resnet18", on_image_error="raise").from_bytes(data)
    with pytest.raises(ValueError, match="empty"):
        strict.predict([make_doc(b"")])
    trainable = make_encoder(False, arch="resnet18", trainable=True).from_bytes(data)
    before = get_module(trainable.layers[0]).network.conv1.weight.clone()
    run_updates(trainable, steps=1)
    assert not torch.equal(get_module(trainable.layers[0]).network.conv1.weight, before)


def test_loading_leaves_the_random_state_alone():
    encoder = make_encoder()
    data = encoder.to_bytes()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    encoder.from_bytes(data)
    assert torch.rand(1) == expected


def test_what_was_wrong_is_forgotten_when_it_is_right_again(tmp_path):
    encoder = make_encoder()
    doc = make_doc(str(tmp_path / "late.png"))
    with pytest.warns(MMIBWarning, match="no such file"):
        encoder.predict([doc])
    assert "no such file" in doc._.image_error
    make_picture("red").save(tmp_path / "late.png")
    assert len(encoder.predict([doc])[0]) == 1
    assert doc._.image_error is None
    doc._.image_error = "said by the reader"
    encoder.predict([doc])
    assert doc._.image_error == "said by the reader"


def test_settings_are_checked():
    with pytest.raises(ValueError, match="max_regions has to be at least 0, not -1"):
        make_encoder(max_regions=-1)
    with pytest.raises(ValueError, match="image_size has to be at least 1, not -3"):
        make_encoder(image_size=-3)
    with pytest.raises(ValueError, match="batch_size has to be at least 1"):
        make_encoder(batch_size=0)
    with pytest.raises(Exception, match="on_image_error"):
        make_encoder(on_image_error="ignore")


def test_random_frozen_weights_are_said():
    encoder = make_encoder(initialize=False)
    with pytest.warns(MMIBWarning, match="random weights and is frozen"):
        encoder.initialize()


def test_mixed_precision_is_ignored_on_cpu():
    with pytest.warns(MMIBWarning, match="mixed_precision = true is ignored"):
        encoder = make_encoder(mixed_precision=True)
    run_updates(encoder, steps=1)
