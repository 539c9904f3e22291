"""`spacy-mmib.HFVisionEncoder.v1` as a layer and in a pipeline, with tiny models saved to disk."""

import numpy
import PIL.Image
import pytest
import spacy
from conftest import MODEL, entities, make_examples, make_nlp, make_picture, new_docs, train
from spacy.tokens import Doc
from spacy.util import registry
from spacy.vocab import Vocab
from tiny_vision import save_clip, save_dinov2, save_resnet, save_siglip, save_vit

from spacy_mmib.bridge.shim import get_module

SAVE = {
    "clip": save_clip,
    "dinov2": save_dinov2,
    "resnet": save_resnet,
    "siglip": save_siglip,
    "vit": save_vit,
}
VOCAB = Vocab()
BOXES = [(0, 0, 20, 30), (10, 5, 60, 50)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("vision")
    return {name: str(save(top / name)) for name, save in SAVE.items()}


def make_encoder(name, **settings):
    config = {"@architectures": "spacy-mmib.HFVisionEncoder.v1", "name": name, **settings}
    encoder = registry.resolve({"x": config})["x"]
    spacy.util.fix_random_seed(0)
    encoder.initialize()
    return encoder


def make_doc(image=None, regions=()) -> Doc:
    doc = Doc(VOCAB, words=["a", "post"])
    doc._.image = image
    doc._.regions = regions
    return doc


def random_picture(seed):
    return numpy.random.RandomState(seed).randint(0, 255, (60, 80, 3)).astype("uint8")


@pytest.mark.parametrize("kind", sorted(SAVE))
def test_a_row_a_region(kind, folders):
    encoder = make_encoder(folders[kind])
    width = encoder.get_dim("nO")
    docs = [make_doc(random_picture(1), BOXES), make_doc(), make_doc(random_picture(2))]
    vectors = encoder.predict(docs)
    assert [v.shape for v in vectors] == [(3, width), (0, width), (1, width)]
    crop = PIL.Image.fromarray(random_picture(1)).crop(BOXES[1])
    numpy.testing.assert_allclose(vectors[0][2], encoder.predict([make_doc(crop)])[0][0], atol=1e-5)
    again = make_encoder(folders[kind]).from_bytes(encoder.to_bytes()).predict(docs)
    for a, b in zip(vectors, again):
        numpy.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", sorted(SAVE))
def test_a_row_a_patch(kind, folders, tmp_path):
    encoder = make_encoder(folders[kind], rows="patches", batch_size=2)
    docs = [make_doc(random_picture(i), BOXES) for i in range(3)] + [make_doc()]
    vectors = encoder.predict(docs)
    module = get_module(encoder.layers[0])
    assert len({v.shape for v in vectors[:3]}) == 1
    assert len(vectors[0]) > 2
    assert len(vectors[3]) == 0
    pooled = make_encoder(folders[kind]).predict([make_doc(random_picture(1))])[0]
    numpy.testing.assert_allclose(vectors[1][0], pooled[0], atol=1e-5)
    assert module.width == vectors[0].shape[1]
    for i, doc in enumerate(docs):
        numpy.testing.assert_allclose(encoder.predict([doc])[0], vectors[i], atol=1e-5)
        assert len(doc._.regions) == (2 if i < 3 else 0)
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(tmp_path / "f.sqlite")}
    for _ in range(2):
        cached = make_encoder(folders[kind], rows="patches", cache=cache).predict(docs)
        for a, b in zip(cached, vectors):
            numpy.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_patches_learn(folders):
    encoder = make_encoder(folders[sorted(SAVE)[0]], rows="patches", trainable=True)
    docs = [make_doc(random_picture(1)), make_doc(), make_doc(random_picture(1))]
    vectors, backprop = encoder.begin_update(docs)
    backprop([v * 0 + 1 for v in vectors])
    grads = [p.grad for p in get_module(encoder.layers[0]).parameters() if p.grad is not None]
    assert any(bool(grad.abs().sum() > 0) for grad in grads)


def test_settings_that_do_not_fit():
    none = {"@region_getters": "spacy-mmib.none.v1"}
    with pytest.raises(ValueError, match="no objects are encoded"):
        make_encoder("x", rows="patches", get_regions=none)
    with pytest.raises(Exception, match="rows"):
        make_encoder("x", rows="columns")


def test_in_a_pipeline(folders, tmp_path):
    """Trained, saved, and loaded without the folder the weights came from."""
    name = folders[sorted(SAVE)[0]]
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
