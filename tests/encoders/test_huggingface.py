"""Vision models of transformers as picture encoders: tiny ones with random weights, read as published ones are."""

import json
import os
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy
import PIL.Image
import pytest
import spacy
import srsly
import torch
import transformers
from conftest import MODEL, entities, make_examples, make_nlp, make_picture, new_docs, normalize, train
from tiny_vision import SAVED, save_bert, save_vit

from spacy_mmib.encoders import huggingface
from spacy_mmib.encoders.base import PictureTransform
from spacy_mmib.encoders.huggingface import KNOWN, HFVision, to_preset

PRESET = {
    "crop_size": 32,
    "resize_size": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "resize": "exact",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: save(folder / name) for name, save in SAVED.items()}


def load(folder, **settings):
    return huggingface.load(str(folder), **{"image_size": None, **settings})


def get_patches(encoder, pictures, at_once=5) -> torch.Tensor:
    """(pictures, 1 + patches, width)"""
    return encoder(pictures, at_once).view(len(pictures), -1, encoder.width)


def make_photo(size=(90, 60), seed=0) -> PIL.Image.Image:
    """Smooth, as photos are: noise would show the rounding of every resampling."""
    noise = numpy.random.RandomState(seed).randint(0, 256, (5, 7, 3)).astype("uint8")
    return PIL.Image.fromarray(noise).resize(size, PIL.Image.Resampling.BICUBIC)


def make_batch(n=5, size=32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def get_vision_model(name, folder):
    """What a user of transformers would take, and how its pooled vector is read."""
    first = lambda output: output.last_hidden_state[:, 0]
    pooled = lambda output: output.pooler_output.flatten(1)
    return {
        "clip_vision": (transformers.CLIPVisionModel, pooled),
        "clip": (transformers.CLIPVisionModel, pooled),
        "siglip": (transformers.SiglipVisionModel, pooled),
        "vit": (transformers.ViTModel, first),
        "deit": (transformers.DeiTModel, first),
    }.get(name, (transformers.AutoModel, pooled))


# The same numbers as transformers'


@pytest.mark.parametrize("name", SAVED)
def test_vectors_are_those_of_transformers(folders, name):
    encoder = load(folders[name])
    model_class, get_pooled = get_vision_model(name, folders[name])
    model = model_class.from_pretrained(folders[name]).eval()
    pictures = make_batch()
    with torch.no_grad():
        output = model(pixel_values=pictures)
    vectors = encoder(pictures, at_once=2)
    assert vectors.shape == (5, encoder.width)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, get_pooled(output), atol=1e-5, rtol=1e-5)
    assert vectors.std(0).mean() > 0.01  # they tell pictures from one another
    patches = get_patches(load(folders[name], rows="patches"), pictures, 2)
    hidden = output.last_hidden_state
    rows = hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden
    torch.testing.assert_close(patches[:, 0], vectors, atol=1e-5, rtol=1e-5)
    n_patches = patches.shape[1] - 1
    assert n_patches == {"resnet": 16, "convnext": 16}.get(name, 4 * 4)
    torch.testing.assert_close(patches[:, 1:], rows[:, -n_patches:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("size", [(90, 60), (40, 120), (32, 32), (21, 21)])
def test_pictures_are_prepared_as_by_transformers(folders, name, size):
    processor = transformers.AutoImageProcessor.from_pretrained(folders[name], use_fast=False)
    photo = make_photo(size)
    preset = load(folders[name]).settings["preset"]
    expected = processor(photo, return_tensors="pt")["pixel_values"][0]
    # Where an odd number of pixels is cut off, torchvision may cut one more on the other side.
    close = (normalize(PictureTransform(preset)(photo), preset) - expected).abs()
    assert close.mean() < 0.02
    if size != (40, 120):
        assert close.max() < 0.02


def test_features_of_a_photo(folders):
    processor = transformers.AutoImageProcessor.from_pretrained(folders["clip"], use_fast=False)
    model = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    encoder = load(folders["clip"])
    photo = make_photo()
    prepared = PictureTransform(encoder.settings["preset"])(photo)[None]
    with torch.no_grad():
        output = model.vision_model(**processor(photo, return_tensors="pt"))
    torch.testing.assert_close(encoder(prepared, 1), output.pooler_output, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", SAVED)
def test_patches_are_in_the_order_of_the_picture(folders, name):
    """A change in one quadrant changes the rows of its patches most."""
    encoder = load(folders[name], rows="patches")
    picture = make_batch(1) * 0.1
    rows = encoder(picture, 1)[1:]
    grid = int(len(rows) ** 0.5)
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        changed = picture.clone()
        changed[..., y * 16 : (y + 1) * 16, x * 16 : (x + 1) * 16] += 2.0
        change = (encoder(changed, 1)[1:] - rows).norm(dim=1).view(grid, grid)
        half = grid // 2
        quadrants = change.view(2, half, 2, half).mean((1, 3))
        assert quadrants.argmax() == 2 * y + x


# Kept and built again


@pytest.mark.parametrize("name", SAVED)
def test_rebuilt_from_settings(folders, name):
    encoder = load(folders[name], rows="patches")
    settings = srsly.msgpack_loads(srsly.msgpack_dumps(encoder.settings))
    assert settings == encoder.settings == json.loads(json.dumps(encoder.settings))
    again = HFVision(**settings)
    again.load_state_dict(encoder.state_dict())
    assert again.settings == encoder.settings
    assert not again.training
    assert torch.equal(again(make_batch(), 5), encoder(make_batch(), 5))


def test_settings_cannot_name_code():
    """An attention implementation may be the name of a repository whose code transformers would run."""
    config = transformers.ViTConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    config = {**config.to_dict(), "image_size": 32, "intermediate_size": 8}
    evil = {
        "_attn_implementation": "some/kernels",
        "attn_implementation": "some/kernels",
        "auto_map": {"AutoModel": "some/repository--code.Model"},
    }
    encoder = HFVision(config={**config, **evil}, preset=PRESET)
    assert not set(evil) & set(encoder.settings["config"])
    assert encoder.network.config._attn_implementation in ("sdpa", "eager")


# Frozen and trained


@pytest.mark.parametrize("name", SAVED)
def test_a_trainable_one_learns(folders, name):
    encoder = load(folders[name], trainable=True)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    pictures, goal = make_batch(4), torch.randn(4, encoder.width)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (encoder(pictures, at_once=3, training=True) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    first = next(p for n, p in encoder.named_parameters() if p.dim() == 4)
    assert first.grad.abs().sum() > 0  # down to the pixels
    with torch.no_grad():
        assert not encoder(pictures, 4).requires_grad
    assert not any(module.training for module in encoder.modules())


def test_training_with_a_single_tiny_picture(folders):
    """BatchNorm has no statistics for a map of one position."""
    encoder = load(folders["resnet"], trainable=True, image_size=4)
    encoder(make_batch(3, size=4), at_once=2, training=True).sum().backward()
    assert not encoder.network.training


# Sizes


@pytest.mark.parametrize("name", SAVED)
def test_other_sizes_of_pictures(folders, name):
    encoder = load(folders[name], image_size=48, rows="patches")
    transform = PictureTransform(encoder.settings["preset"])
    picture = transform(make_photo())[None]
    assert picture.shape == (1, 3, 48, 48)
    rows = encoder(picture, 1)
    assert torch.isfinite(rows).all()
    assert rows.shape == (1 + 6 * 6, encoder.width)


def test_impossible_sizes(folders):
    with pytest.raises(ValueError, match=r"4 x 4 are smaller than a patch .*8 x 8"):
        load(folders["vit"], image_size=4)


def test_a_model_that_cannot_interpolate(folders, monkeypatch):
    forward = transformers.ViTModel.forward
    monkeypatch.setattr(
        transformers.ViTModel, "forward", lambda self, pixel_values: forward(self, pixel_values)
    )
    assert load(folders["vit"])(make_batch(), 5).shape == (5, 32)
    with pytest.raises(ValueError, match="made for pictures of 32 x 32"):
        load(folders["vit"], image_size=48)


# Preprocessing


def test_presets_of_known_models():
    """Settings as in published preprocessor_config.json files."""
    clip = transformers.CLIPImageProcessor().to_dict()
    preset = to_preset(clip)
    assert (preset["resize_size"], preset["crop_size"]) == (224, 224)
    assert preset["interpolation"] == "bicubic"
    assert "resize" not in preset
    assert preset["mean"] == pytest.approx(clip["image_mean"])
    vit = to_preset(transformers.ViTImageProcessor().to_dict())
    assert (vit["resize"], vit["interpolation"], vit["std"]) == ("exact", "bilinear", [0.5] * 3)
    fast = transformers.ViTImageProcessorFast().to_dict()
    assert to_preset(fast) == vit
    # Without rescaling the numbers are for pixels of 0 to 255.
    raw = to_preset({**clip, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": 255})
    assert raw["mean"] == pytest.approx([0.5] * 3)
    assert raw["std"] == pytest.approx([1.0] * 3)
    assert to_preset({**clip, "do_normalize": False})["mean"] == [0.0] * 3
    for size in ({"longest_edge": 9}, {"height": 3, "width": 4}):
        with pytest.raises(ValueError, match="size is"):
            to_preset({**clip, "size": size})


def test_a_preset_without_the_new_key_keeps_its_meaning():
    photo = make_photo((100, 40))
    old = {key: value for key, value in PRESET.items() if key != "resize"}
    short = PictureTransform({**old, "resize": "shortest"})
    assert torch.equal(PictureTransform(old)(photo), short(photo))
    assert not torch.equal(PictureTransform(PRESET)(photo), short(photo))
    with pytest.raises(ValueError, match="'shortest' or 'exact', not 'longest'"):
        PictureTransform({**old, "resize": "longest"})


@pytest.mark.parametrize("resize", ["shortest", "exact"])
def test_stretching_cuts_nothing_off(resize):
    picture = PIL.Image.new("RGB", (100, 40))
    picture.paste((255, 255, 255), (0, 0, 5, 40))  # a central crop would lose it
    transform = PictureTransform({**PRESET, "resize": resize, "resize_size": 36})
    stretched = transform.stretch(picture)
    assert stretched.shape == (3, 32, 32)
    assert stretched[:, :, 0].min() > 242
    assert stretched[:, :, 5:].max() < 13
    whole = PictureTransform({**PRESET, "resize": resize})(picture)
    assert (whole[:, :, 0].max() > 242) == (resize == "exact")


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes(size):
    for preset in (PRESET, {**PRESET, "resize": "shortest"}):
        picture = PIL.Image.new("RGB", size, "red")
        for tensor in (PictureTransform(preset)(picture), PictureTransform(preset).stretch(picture)):
            assert tensor.shape == (3, 32, 32)
            assert (tensor[0] == 255).all()


def test_several_threads_share_a_transform():
    transform = PictureTransform(PRESET)
    photos = [make_photo((50 + i, 40), seed=i) for i in range(8)]
    expected = [transform(photo) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(transform, photos * 10))
    assert all(torch.equal(tensor, expected[i % 8]) for i, tensor in enumerate(found))


def test_missing_preprocessing_is_said(folders, tmp_path):
    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="no preprocessor_config.json.*as for ImageNet"):
        encoder = load(folder)
    preset = encoder.settings["preset"]
    assert (preset["resize_size"], preset["crop_size"]) == (36, 32)
    # transformers 5 has it in another file.
    processor = json.loads((folders["vit"] / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(folder).settings == load(folders["vit"]).settings


def test_broken_preprocessing(folders, tmp_path):
    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "size": {"height": 32, "width": 24}}))
    with pytest.raises(ValueError, match="preprocessor_config.json .*32.*24.*not supported"):
        load(folder)
    file.write_text("{")
    with pytest.raises(ValueError, match="preprocessor_config.json of .*can't be used"):
        load(folder)


# What can't be loaded


def test_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="neither a local folder .*nor could it be downloaded") as info:
        load("spacy-mmib/no-such-model")
    message = str(info.value)
    assert "\n" not in message
    for part in ("'spacy-mmib/no-such-model'", "hf download", "set 'name' to its path"):
        assert part in message
    assert info.value.__cause__ is None  # no pages of tracebacks above it


def test_wrong_folders(folders, tmp_path):
    with pytest.raises(OSError, match="holds no transformers model: it needs config.json"):
        load(tmp_path)
    for name in (folders["vit"] / "config.json", "./nowhere", "/no/such/folder", "a/b/c", "../x", ""):
        with pytest.raises(OSError, match="neither a local folder|holds no transformers model"):
            load(name)
    shutil.copy(folders["vit"] / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ValueError, match="config.json of .*can't be"):
        load(tmp_path)


def test_a_text_model(tmp_path):
    with pytest.raises(ValueError, match=r"'bert', which is no vision model.*clip_vision_model.*vit"):
        load(save_bert(tmp_path / "bert"))
    with pytest.raises(ValueError, match="'bert'"):
        HFVision(config={"model_type": "bert"}, preset=PRESET)
    assert set(KNOWN) >= {"clip_vision_model", "siglip_vision_model", "dinov2", "vit"}


def test_a_model_with_code_of_its_own(folders, tmp_path):
    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\n")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    with pytest.raises(ValueError, match="needs Python code .*never run"):
        load(folder)
    assert not ran.exists()


def test_missing_and_foreign_weights(folders, tmp_path):
    import safetensors.torch

    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    del state["vit.layernorm.weight"]
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors of its 'vit' \(layernorm.weight\)"):
        load(folder)
    shutil.copy(folders["clip"] / "model.safetensors", file)
    with pytest.raises(ValueError, match=r"lack \d+ tensors of its 'vit'"):
        load(folder)
    file.write_bytes(b"junk")
    with pytest.raises(ValueError, match="weights of .*can't be used"):
        load(folder)
    file.unlink()
    with pytest.raises(OSError, match=r"needs config.json, model\.safetensors"):
        load(folder)


def test_weights_of_another_size(folders, tmp_path):
    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))
    with pytest.raises(ValueError, match="weights of .*can't be used: .*size"):
        load(folder)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_pickles_are_never_executed(folders, tmp_path, save):
    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    ran = tmp_path / "ran"
    evil = {"vit.layernorm.weight": Payload(str(ran))}
    if save == "torch":
        torch.save(evil, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    with pytest.raises(ValueError, match="weights of .*can't be used"):
        load(folder)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Payload(str(ran))))
    assert ran.exists()  # it would have worked


def test_transformers_that_never_unpickle_are_not_asked_to(folders, monkeypatch):
    own = transformers.PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls, folder, *args, config=None, **kwargs):  # as in transformers 4.45
        assert "weights_only" not in kwargs
        return own(cls, folder, *args, config=config, **kwargs)

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
    assert load(folders["vit"]) is not None


def test_torch_weights(folders, tmp_path):
    import safetensors.torch

    folder = shutil.copytree(folders["vit"], tmp_path / "vit")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    pictures = make_batch()
    assert torch.equal(load(folder)(pictures, 5), load(folders["vit"])(pictures, 5))


def test_half_precision_weights(folders, tmp_path):
    """Many checkpoints are stored so; vectors and what is saved with a pipeline are float32."""
    model = transformers.AutoModel.from_pretrained(folders["dinov2"]).half()
    model.save_pretrained(tmp_path)
    shutil.copy(folders["dinov2"] / "preprocessor_config.json", tmp_path)
    encoder = load(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    again = HFVision(**encoder.settings)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    # Newer versions of transformers keep the precision of the file.
    given = HFVision(**encoder.settings, network=again.network.half())
    assert {p.dtype for p in given.parameters()} == {torch.float32}


def test_the_random_state_is_left_alone(folders):
    torch.manual_seed(11)
    expected = torch.rand(3)
    for name in ("clip", "vit", "resnet"):
        torch.manual_seed(11)
        load(folders[name])
        assert torch.equal(torch.rand(3), expected)


def test_transformers_keeps_its_verbosity(tmp_path):
    folder = save_vit(tmp_path / "vit")
    before = transformers.logging.get_verbosity()
    try:
        transformers.logging.set_verbosity_info()
        load(folder)
        (folder / "model.safetensors").write_bytes(b"junk")
        with pytest.raises(ValueError, match="weights"):
            load(folder)
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
    finally:
        transformers.logging.set_verbosity(before)


def test_in_a_pipeline(folders, tmp_path):
    """Trained, saved, and loaded without the folder the weights came from."""
    name = str(folders["clip"])
    img2vec = {"@architectures": "spacy-mmib.HFVisionEncoder.v1", "name": name}
    nlp = make_nlp(model={**MODEL, "img2vec": img2vec})
    train(nlp, make_examples(nlp), steps=5)
    expected = entities(nlp.pipe(new_docs(nlp)))
    nlp.to_disk(tmp_path / "model")
    config = (tmp_path / "model" / "config.cfg").read_text()
    (tmp_path / "model" / "config.cfg").write_text(config.replace(name, "nowhere"))
    loaded = spacy.load(tmp_path / "model")
    assert entities(loaded.pipe(new_docs(loaded))) == expected
    doc = loaded.make_doc("Rob had dinner with us")
    doc._.image = make_picture("red")
    assert loaded(doc)._.image_error is None
