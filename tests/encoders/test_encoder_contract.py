"""What holds for the picture encoders of all families, with all kinds of rows."""

from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.util import registry
from spacy.vocab import Vocab
from tiny_vision import save_resnet, save_vit

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.util import MMIBWarning

TORCHVISION = {
    "@architectures": "spacy-mmib.TorchvisionEncoder.v1",
    "arch": "resnet18",
    "image_size": 64,
    "memory_format": "contiguous",
}
HF = {"@architectures": "spacy-mmib.HFVisionEncoder.v1"}
TIMM = {"@architectures": "spacy-mmib.TimmEncoder.v1", "name": "test_resnet", "image_size": 64}
TIMM_VIT = {**TIMM, "name": "test_vit"}
GRID = {"rows": "grid", "grid_size": 3}
REGIONS = {"rows": "regions"}
ROI = {"region_features": "roi"}

CASES = {
    "torchvision auto": TORCHVISION,
    "torchvision crop": {**TORCHVISION, **REGIONS},
    "torchvision roi": {**TORCHVISION, **REGIONS, **ROI},
    "torchvision grid": {**TORCHVISION, **GRID},
    "torchvision pyramid": {**TORCHVISION, "rows": "pyramid"},
    "transformers auto": {**HF, "name": "vit"},
    "transformers crop": {**HF, **REGIONS, "name": "vit"},
    "transformers crop with BatchNorm": {**HF, **REGIONS, "name": "resnet"},
    "transformers patches": {**HF, "name": "vit", "rows": "patches"},
    "timm auto": TIMM,
    "timm crop": {**TIMM, **REGIONS},
    "timm roi": {**TIMM, **REGIONS, **ROI},
    "timm grid": {**TIMM, **GRID},
    "timm ViT auto roi": {**TIMM_VIT, **ROI},
    "timm ViT roi": {**TIMM_VIT, **REGIONS, **ROI},
    "timm ViT grid": {**TIMM_VIT, **GRID},
}
EACH = {"grid": 1 + 3 * 3, "pyramid": 2 * 2, "patches": 1 + 4 * 4, "auto": 1 + 2 * 2}
"""Rows of a picture, by the setting `rows`; otherwise 1."""

BOXES = [(0, 0, 20, 30), (10, 5, 60, 50)]
VOCAB = Vocab()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("vision")
    return {"resnet": str(save_resnet(top / "resnet")), "vit": str(save_vit(top / "vit"))}


@pytest.fixture(params=CASES)
def config(request, folders) -> dict:
    config = dict(CASES[request.param])
    if config["@architectures"] == TIMM["@architectures"]:
        pytest.importorskip("timm")
    if "name" in config:
        config["name"] = folders.get(config["name"], config["name"])
    return config


def make_encoder(config, initialize=True, seed=0, **settings):
    encoder = registry.resolve({"x": {**config, **settings}})["x"]
    if initialize:
        spacy.util.fix_random_seed(seed)
        encoder.initialize()
    return encoder


def make_docs() -> list[Doc]:
    """With two objects, without picture, with one object, with none."""
    docs = []
    for i, n_regions in enumerate((2, None, 1, 0)):
        doc = Doc(VOCAB, words=["a", "post"])
        if n_regions is not None:
            doc._.image = numpy.random.RandomState(i).randint(0, 255, (60, 80, 3)).astype("uint8")
            doc._.regions = BOXES[:n_regions]
        docs.append(doc)
    return docs


def assert_same(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        numpy.testing.assert_allclose(a, b, **{"rtol": 1e-4, "atol": 1e-4, **tolerance})


def get_state(encoder) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in get_module(encoder.layers[0]).state_dict().items()}


def update(encoder, docs):
    optimizer = registry.optimizers.get("Adam.v1")(0.01)
    vectors, backprop = encoder.begin_update(docs)
    weights = numpy.random.RandomState(0)
    backprop([weights.randn(*v.shape).astype("float32") for v in vectors])
    named = get_module(encoder.layers[0]).named_parameters()
    grads = {name: p.grad.clone() for name, p in named if p.grad is not None}
    encoder.finish_update(optimizer)
    return grads


def test_rows_and_what_they_stand_for(config):
    encoder = make_encoder(config)
    docs = make_docs()
    vectors = encoder.predict(docs)
    rows = config.get("rows", "auto")
    each = EACH.get(rows, 1)
    objects = 0 if rows in ("grid", "patches") else 1
    expected = [[0, 1, 2], [], [0, 1], [0]] if objects else [[0], [], [0], [0]]
    if rows == "auto":
        expected[3] = [0] * each
    else:
        expected = [[row for row in of_doc for _ in range(each)] for of_doc in expected]
    width = encoder.get_dim("nO")
    assert [v.shape for v in vectors] == [(len(of_doc), width) for of_doc in expected]
    assert [rows_of or [] for rows_of in vectors.rows] == expected
    module = get_module(encoder.layers[0])
    assert (module.width, module.rows_per_picture) == (width, each)
    assert all(numpy.isfinite(v).all() and v.dtype == numpy.float32 for v in vectors)
    # Pictures differ, and so do the parts of one.
    assert numpy.abs(vectors[0][0] - vectors[3][0]).max() > 1e-3
    assert each == 1 or numpy.abs(vectors[0][1] - vectors[0][2]).max() > 1e-3
    # The pooled vector is the same whatever else there is.
    if rows in ("grid", "patches", "auto"):
        pooled = make_encoder({**config, "rows": "regions"}).predict(docs)
        assert_same([v[:1] for v in vectors], [v[:1] for v in pooled])
    if rows == "auto":
        assert_same(vectors[:3], pooled[:3])
        parts = make_encoder({**config, "max_regions": 0}).predict(docs)
        assert [len(v) for v in parts] == [each, 0, each, each]
        assert_same(parts[3:], vectors[3:])
        if "region_features" not in config and config["@architectures"] != HF["@architectures"]:
            assert_same(parts, make_encoder({**config, "rows": "grid"}).predict(docs))


def test_batches_and_order_make_no_difference(config):
    encoder = make_encoder(config)
    docs = make_docs()
    expected = encoder.predict(docs)
    assert_same(encoder.predict(docs[::-1])[::-1], expected)
    assert_same([encoder.predict([doc])[0] for doc in docs], expected)
    smaller = make_encoder(config, initialize=False, batch_size=2).from_bytes(encoder.to_bytes())
    assert_same(smaller.predict(docs), expected)


def test_threads_make_no_difference(config):
    encoder = make_encoder(config)
    docs = make_docs()
    expected = encoder.predict(docs)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda i: encoder.predict(make_docs()), range(8)):
            assert_same(found, expected)


def test_saved_and_loaded(config):
    encoder = make_encoder(config)
    docs = make_docs()
    torch.manual_seed(1)
    loaded = make_encoder(config, initialize=False).from_bytes(encoder.to_bytes())
    assert torch.initial_seed() == 1
    assert_same(loaded.predict(docs), encoder.predict(docs), atol=0, rtol=0)
    assert get_module(loaded.layers[0]).settings == get_module(encoder.layers[0]).settings


def test_frozen_is_frozen(config):
    encoder = make_encoder(config)
    before = get_state(encoder)
    module = get_module(encoder.layers[0])
    module.train()
    update(encoder, make_docs())
    after = get_state(encoder)
    assert all(torch.equal(after[key], before[key]) for key in before)  # BatchNorm's statistics too
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_gradients_reach_the_weights(config):
    encoder = make_encoder(config, trainable=True)
    before = get_state(encoder)
    grads = update(encoder, make_docs())
    first = next(name for name, grad in grads.items() if grad.dim() == 4)
    assert grads[first].abs().sum() > 0  # down to the pixels
    after = get_state(encoder)
    assert not torch.equal(after[first], before[first])
    statistics = [key for key in before if key.endswith("running_mean")]
    assert all(not torch.equal(after[key], before[key]) for key in statistics)
    module = get_module(encoder.layers[0])
    assert not any(part.training for part in module.modules())
    expected = encoder.predict(make_docs())
    assert_same(encoder.predict(make_docs()), expected, atol=0, rtol=0)


def test_no_gradient_no_change(config):
    encoder = make_encoder(config, trainable=True)
    before = get_state(encoder)
    vectors, backprop = encoder.begin_update(make_docs())
    backprop([v * 0 for v in vectors])
    after = get_state(encoder)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_half_precision(config):
    exact = make_encoder(config).predict(make_docs())
    half = make_encoder(config, autocast="bfloat16").predict(make_docs())
    for a, b in zip(exact, half):
        assert b.dtype == numpy.float32
        if len(a):
            assert 0 < numpy.abs(a - b).max() < 0.1 * numpy.abs(a).max()
    trained = make_encoder(config, trainable=True, autocast="bfloat16")
    vectors, backprop = trained.begin_update(make_docs())
    backprop([v / 10 for v in vectors])
    gradients = [p.grad for p in get_module(trained.layers[0]).parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    with pytest.warns(MMIBWarning, match="mixed_precision = true is ignored"):
        make_encoder(config, initialize=False, mixed_precision=True)


def test_what_is_cached_depends_on_weights_and_settings(config, tmp_path):
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(tmp_path / "f.sqlite")}
    docs = make_docs()
    passes = []

    def predict(**settings):
        encoder = make_encoder(config, cache=cache, **settings)
        with torch.no_grad():  # weights of folders don't depend on the seed
            next(get_module(encoder.layers[0]).parameters()).add_(settings.get("seed", 0) * 0.1)
        passes.clear()
        get_module(encoder.layers[0]).register_forward_hook(lambda m, i, output: passes.append(len(output)))
        return encoder.predict(docs)

    first = predict()
    assert passes
    assert_same(first, make_encoder(config).predict(docs), rtol=1e-3, atol=1e-3)
    assert_same(predict(batch_size=1), first, atol=0, rtol=0)
    assert not passes
    for other in ({"seed": 1}, {"image_size": 96}, {"autocast": "bfloat16"}):
        predict(**other)
        assert passes
    rows = config.get("rows", "auto")
    if rows in ("grid", "pyramid"):
        assert len(predict(**{f"{rows}_size": 4})[3]) == (17 if rows == "grid" else 16)
        assert passes
    if rows == "auto":
        assert len(predict(rows="regions")[3]) == 1
        assert passes


def test_settings_that_do_not_fit(config):
    with pytest.raises(ValueError, match="image_size has to be at least 1, not 0"):
        make_encoder(config, image_size=0)
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": "f.sqlite"}
    with pytest.raises(ValueError, match="A cache holds vectors of a frozen network"):
        make_encoder(config, trainable=True, cache=cache)
    with pytest.raises(Exception, match="rows"):
        make_encoder(config, rows="columns")
    if config.get("rows") in ("grid", "patches"):
        with pytest.raises(ValueError, match="no objects are encoded"):
            make_encoder(config, get_regions={"@region_getters": "spacy-mmib.none.v1"})
    if config.get("rows") in ("grid", "pyramid"):
        with pytest.raises(ValueError, match='region_features = "roi" is for rows = "auto" or "regions"'):
            make_encoder(config, region_features="roi")
