"""Noise in place of picture vectors."""

import shutil

import numpy
import pytest
import spacy
from conftest import (
    IMG2VEC,
    LISTENER,
    MODEL,
    make_doc,
    make_encoder,
    make_examples,
    make_picture,
    new_docs,
    train,
)
from spacy.util import registry
from thinc.api import Model

from spacy_mmib.bridge.data import PictureVectors
from spacy_mmib.bridge.shim import get_module
from spacy_mmib.encoders.picture_queue import QUEUE, find_encoder_layers, read_ahead
from spacy_mmib.post.regions import FoundRegions
from spacy_mmib.training.corpus import MultimodalCorpus

NOISE = {"@architectures": "spacy-mmib.NoiseEncoder.v1", "img2vec": IMG2VEC}


def make_noise(inner, **settings):
    noise = registry.architectures.get("spacy-mmib.NoiseEncoder.v1")(img2vec=inner, **settings)
    noise.initialize()
    return noise


def make_docs():
    images = [make_picture("red"), None, make_picture("blue"), make_picture("red")]
    return [make_doc(image, [(0, 0, 20, 20)] * (image is not None)) for image in images]


@pytest.fixture
def noise():
    return make_noise(make_encoder())


def test_noise_of_the_same_norm(noise):
    docs = make_docs()
    vectors, found = noise.layers[0].predict(docs), noise.predict(docs)
    assert noise.get_dim("nO") == noise.layers[0].get_dim("nO")
    assert (found.rows, found.found) == (vectors.rows, vectors.found)
    for a, b in zip(vectors, found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        numpy.testing.assert_allclose(*(numpy.linalg.norm(x, axis=1) for x in (a, b)), rtol=1e-5)
    rows = numpy.concatenate([found[0], found[2]])
    rows /= numpy.linalg.norm(rows, axis=1, keepdims=True)
    assert numpy.abs(rows @ rows.T - numpy.eye(4)).max() < 0.2  # of 512: nothing in common
    assert abs(rows.mean()) < 0.01
    numpy.testing.assert_allclose(found[0], found[3], rtol=1e-5)  # the same picture
    other = make_noise(noise.layers[0], seed=1).predict(docs)
    assert numpy.abs(other[0] - found[0]).max() > 0.1


def test_a_constant(noise):
    docs = [*make_docs(), make_doc(make_picture("green"))]  # the last one without an object
    constant = make_noise(noise.layers[0], kind="constant")
    found = constant.predict(docs)
    assert [len(rows) for rows in found] == [2, 0, 2, 2, 1]
    assert found.rows == constant.layers[0].predict(docs).rows
    for rows in found:
        numpy.testing.assert_array_equal(rows, found[0][: len(rows)])
    assert found[0].std() == pytest.approx(1.0, abs=0.1)
    assert abs(numpy.corrcoef([*found[0], noise.predict(docs)[0][0]]) - numpy.eye(3)).max() < 0.2
    other = make_noise(noise.layers[0], kind="constant", seed=1).predict(docs)
    assert numpy.abs(other[0] - found[0]).max() > 0.1
    with pytest.raises(ValueError, match="kind is 'zeros'; choose one of noise, constant"):
        make_noise(noise.layers[0], kind="zeros")


@pytest.mark.parametrize("kind", ["noise", "constant"])
def test_the_same_in_any_batch_and_in_training(noise, kind):
    docs, noise = make_docs(), make_noise(noise.layers[0], kind=kind)
    expected = noise.predict(docs)
    for found in (noise.predict(docs[::-1])[::-1], [noise.predict([doc])[0] for doc in docs]):
        for a, b in zip(found, expected, strict=True):
            numpy.testing.assert_allclose(a, b, rtol=1e-5)
    trained, _ = noise.begin_update(docs)
    for a, b in zip(trained, expected, strict=True):
        numpy.testing.assert_allclose(a, b, rtol=1e-5)


def test_last_bits_of_the_vectors_change_nothing():
    """They depend on the batch."""
    row = numpy.random.RandomState(0).randn(1, 8).astype("float32")
    vectors = [row, numpy.nextafter(row, 9), numpy.zeros_like(row)]
    result = PictureVectors(vectors, [[0]] * 3, [FoundRegions([], "x", None)] * 3)
    inner = Model("inner", lambda model, docs, is_train: (result, lambda d: []), dims={"nO": 8})
    docs = [make_doc(make_picture("red"))] * 3
    assert [rows.any() for rows in make_noise(inner, kind="constant").predict(docs)] == [True, True, False]
    found = make_noise(inner).predict(docs)
    numpy.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert not found[2].any()
    assert (found.rows, found.found) == (result.rows, result.found)
    assert result[0] is row  # what a listener may have got, too, is as it was


def test_pictures_in_another_folder_have_the_same_noise(noise, tmp_path):
    nlp = spacy.blank("en")
    found = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        for image in ("a.png", "b.png"):
            make_picture("red").save(folder / image)
        docs = [make_doc(image) for image in ("a.png", "b.png")]
        spacy.tokens.DocBin(docs=docs, store_user_data=True).to_disk(folder / "train.spacy")
        found.append(noise.predict([eg.predicted for eg in MultimodalCorpus(folder / "train.spacy")(nlp)]))
        shutil.rmtree(folder)
    numpy.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert numpy.abs(found[0][0] - found[0][1]).max() > 0.1


def test_what_is_wrapped_does_not_learn():
    noise = make_noise(make_encoder(arch="resnet18", trainable=True))
    module = get_module(noise.layers[0].layers[0])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    vectors, backprop = noise.begin_update(make_docs())
    backprop([numpy.ones_like(x) for x in vectors])
    noise.finish_update(registry.optimizers.get("Adam.v1")(0.01))
    assert all((value == before[key]).all() for key, value in module.state_dict().items())


def test_reading_ahead_and_cache(tmp_path):
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(tmp_path / "f.sqlite")}
    noise = make_noise(make_encoder(cache=cache))
    assert find_encoder_layers(noise) == noise.layers
    docs = make_docs()
    expected = noise.predict(docs)
    get_module(noise.layers[0].layers[0]).forward = None  # from the cache
    for a, b in zip(noise.predict(docs), expected, strict=True):
        numpy.testing.assert_array_equal(a, b)
    read_ahead(find_encoder_layers(noise), docs)
    assert noise.layers[0].attrs[QUEUE]._pending


@pytest.mark.parametrize("listens", [False, True])
def test_pipelines(listens, tmp_path):
    nlp = spacy.blank("en")
    img2vec = NOISE
    if listens:
        nlp.add_pipe("mmib_img2vec", config={"model": IMG2VEC})
        img2vec = {**NOISE, "img2vec": LISTENER}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": img2vec}})
    losses = train(nlp, make_examples(nlp), steps=30)
    assert numpy.isfinite(losses["mmib_ner"])
    nlp.to_disk(tmp_path / "model")
    loaded = spacy.load(tmp_path / "model")
    pipelines = [loaded]
    if listens:
        loaded.replace_listeners("mmib_img2vec", "mmib_ner", ["model.img2vec.img2vec"])
        loaded.remove_pipe("mmib_img2vec")
        loaded.to_disk(tmp_path / "alone")
        pipelines.append(spacy.load(tmp_path / "alone"))
    expected = get_confidences(nlp)
    assert len(expected) > 3
    for other in pipelines:
        assert get_confidences(other) == pytest.approx(expected, abs=1e-4)


def get_confidences(nlp) -> list[float]:
    return [ent._.confidence for doc in nlp.pipe(new_docs(nlp)) for ent in doc.ents]
