"""Text encoders that look at pictures: what holds for all of them, and the equations of each."""

import math

import numpy
import pytest
import spacy
import torch
from conftest import train
from spacy.training import Example
from spacy.util import fix_random_seed, registry
from tiny_text import make_rows_encoder, save_text_model

from spacy_mmib.bridge.data import PictureVectors, TextVectors
from spacy_mmib.bridge.shim import get_module
from spacy_mmib.encoders.dropout import draw_dropout
from spacy_mmib.joint.base import Batch

WIDTH, PICTURE, HEADS = 24, 10, 2
MODELS = {
    "VisualBERT": {},
    "HVPNeT": {"bottleneck": 6},
    "HVPNeT-as-published": {"bottleneck": 6, "as_published": True, "max_pictures": 3},
    "MKGformer": {"layers": 1},
    "MKGformer-both": {"layers": 2},
    "MKGformer-as-published": {"layers": 1, "as_published": True},
}
POSTS = [
    ("Rob had dinner with us", b"\1", 0),
    ("we", b"\2", 2),
    ("no picture here", None, 0),
    ("", b"\1", 0),
    ("so many words in this post that it needs windows", b"\3", 1),
]

every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return save_text_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="module", autouse=True)
def rows_encoder():
    registry.architectures.register("tests.PictureRows.v1", func=make_rows_encoder)


def make_encoder(name, bert, initialize=True, **settings):
    architecture = f"spacy-mmib.{name.split('-')[0]}.v1"
    img2vec = {"@architectures": "tests.PictureRows.v1", **settings.pop("img2vec", {})}
    block = {"@architectures": architecture, "name": bert, "img2vec": img2vec, "window": 24, "stride": 16}
    encoder = registry.resolve({"tok2vec": {**block, **MODELS.get(name, {}), **settings}})["tok2vec"]
    if initialize:
        fix_random_seed(0)
        encoder.initialize()
    return encoder


@pytest.fixture(scope="module")
def encoders(bert):
    """Of each model one, to predict with."""
    return {name: make_encoder(name, bert) for name in MODELS}


def make_text_encoder(bert):
    block = {"@architectures": "spacy-mmib.HFTextEncoder.v1", "name": bert, "window": 24, "stride": 16}
    encoder = registry.resolve({"tok2vec": block})["tok2vec"]
    encoder.initialize()
    return encoder


def make_docs(posts=POSTS):
    nlp = spacy.blank("en")
    docs = []
    for text, image, n_regions in posts:
        doc = nlp.make_doc(text)
        doc._.image = image
        doc._.regions = [(0, 0, 5 + i, 5) for i in range(n_regions)]
        docs.append(doc)
    return docs


def without_pictures(posts=POSTS):
    return make_docs([(text, None, 0) for text, *_ in posts])


@every_model
def test_pictures_change_rows_and_only_they(name, bert, encoders):
    encoder, plain = encoders[name], make_text_encoder(bert).predict(make_docs())
    docs = make_docs()
    rows = encoder.predict(docs)
    assert isinstance(rows, TextVectors)
    assert isinstance(rows.image, PictureVectors)
    assert [len(x) for x in rows.image] == [4, 12, 0, 4, 8]
    assert encoder.get_dim("nO") == WIDTH
    assert [x.shape for x in rows] == [(len(doc), WIDTH) for doc in docs]
    for x, text, (_, image, _) in zip(rows, plain, POSTS):
        if image is not None and len(x):
            assert not numpy.allclose(x, text, atol=1e-3)
    if name != "HVPNeT-as-published":  # where a missing picture is one of zeros
        numpy.testing.assert_allclose(rows[2], plain[2], atol=1e-5)
        for x, text in zip(encoder.predict(without_pictures()), plain):
            numpy.testing.assert_allclose(x, text, atol=1e-5)


@every_model
def test_batch_order_and_padding_change_nothing(name, encoders):
    encoder = encoders[name]
    together = encoder.predict(make_docs())
    for doc, expected in zip(make_docs(), together):
        numpy.testing.assert_allclose(encoder.predict([doc])[0], expected, atol=1e-5)
    for x, expected in zip(encoder.predict(make_docs(POSTS[::-1])), together[::-1]):
        numpy.testing.assert_allclose(x, expected, atol=1e-5)


@every_model
@pytest.mark.parametrize("trainable", [True, False])
def test_gradients_reach_what_is_new_and_the_pictures(name, bert, trainable):
    encoder = make_encoder(name, bert, trainable=trainable)
    rows, backprop = encoder.begin_update(make_docs())
    rng = numpy.random.default_rng(1)
    backprop([rng.normal(size=x.shape).astype("float32") for x in rows])
    module = get_module(encoder.layers[0])
    for key, parameter in module.named_parameters():
        if not trainable and key.startswith("bert."):
            assert parameter.grad is None, key
        elif "key.bias" not in key:  # of which softmax knows nothing
            assert parameter.grad is not None, key
            assert parameter.grad.abs().sum() > 0, key
    (d_image,) = encoder.get_ref("img2vec").attrs["gradients"]
    assert [len(x) for x in d_image] == [4, 12, 0, 4, 8]
    for d, (text, *_) in zip(d_image, POSTS):
        assert (numpy.abs(d).sum() > 0) == (len(d) > 0 and text != "")


@every_model
def test_without_any_picture_it_learns_from_texts(name, bert):
    frozen = make_encoder(name, bert, trainable=False)
    rows, backprop = frozen.begin_update(without_pictures())
    backprop(list(rows))  # there may be nothing to learn
    encoder = make_encoder(name, bert)
    rows, backprop = encoder.begin_update(without_pictures())
    assert all(numpy.isfinite(x).all() for x in rows)
    backprop(list(rows))
    grads = {k: p.grad for k, p in get_module(encoder.layers[0]).named_parameters() if p.grad is not None}
    assert grads["bert.words.weight"].abs().sum() > 0
    assert all(bool(grad.isfinite().all()) for grad in grads.values())


@every_model
def test_what_is_masked_changes_nothing(name, encoders):
    module = get_module(encoders[name].layers[0])
    ids, mask = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    image, image_mask = torch.randn(2, 8, PICTURE), torch.tensor([[1] * 4 + [0] * 4, [0] * 8]).bool()
    rows = tuple(torch.tensor(x) for x in ([1, 2, 5], [1.0, 1.0, 1.0], [0, 1, 2]))
    results = []
    for garbage in (0, 9):
        batch = Batch(
            torch.where(mask, ids, garbage), mask,
            torch.where(image_mask.unsqueeze(-1), image, float(garbage)), image_mask,
        )  # fmt: skip
        with torch.no_grad():
            results.append(module(batch, torch.tensor([0, 1]), rows, training=False))
    torch.testing.assert_close(*results)


@every_model
def test_saved_and_loaded(name, encoders):
    encoder = encoders[name]
    loaded = make_encoder(name, "no/such-folder", initialize=False).from_bytes(encoder.to_bytes())
    for one, other in zip(loaded.predict(make_docs()), encoder.predict(make_docs())):
        numpy.testing.assert_array_equal(one, other)


def test_picture_dropout(bert):
    encoder = make_encoder("VisualBERT", bert, dropout=0.0)
    docs = make_docs()
    draw_dropout(docs, "ner", 1.0, 0.0)
    rows, _ = encoder.begin_update(docs)
    assert [len(x) for x in rows.image] == [0] * 5
    for x, text in zip(rows, make_text_encoder(bert).predict(docs)):
        numpy.testing.assert_allclose(x, text, atol=1e-5)


# VisualBERT


def test_picture_rows_of_visualbert_are_words(encoders):
    """Against a run of the text model whose embeddings are these."""
    module = get_module(encoders["VisualBERT"].layers[0]).eval()
    ids, image = torch.tensor([[2, 5, 6, 3]]), torch.randn(1, 3, PICTURE)
    image_mask = torch.tensor([[True, True, False]])
    net = module.bert
    with torch.no_grad():
        x = module.encode(_batch(ids, image, image_mask), False)
        words = net.words(ids) + net.positions.weight[:4] + net.types.weight[0]
        start = net.types.weight[1] + net.positions.weight[0]
        torch.testing.assert_close(module.segment, start)
        pictures = image[:, :2] @ module.projection.weight.T + module.projection.bias + start
        y = net.norm(torch.cat([words, pictures], 1))
        for layer in net.layers:
            y = layer(y, torch.ones(1, 6).bool(), False)
    torch.testing.assert_close(x, y[:, :4])


def _batch(ids, image, image_mask):
    return Batch(ids, torch.ones_like(ids).bool(), image, image_mask)


# HVPNeT


def get_prefix(module, pictures):
    """Keys and values of each layer, in loops: pictures (m, 4 positions, channels) to (m * 4, 2 * d)."""
    w1, b1 = (x.detach().numpy() for x in (module.inner.weight, module.inner.bias))
    w2, b2 = (x.detach().numpy() for x in (module.outer.weight, module.outer.bias))
    layers = []
    for gate in module.gates:
        rows = []
        for picture in pictures:
            pieces = []  # of each position, four
            for row in picture:
                y = w2 @ numpy.tanh(w1 @ row + b1) + b2
                pieces.append([y[i * 2 * WIDTH : (i + 1) * 2 * WIDTH] for i in range(4)])
            means = numpy.concatenate([sum(of_row) / 4 for of_row in pieces])
            scores = gate.weight.detach().numpy() @ means + gate.bias.detach().numpy()
            scores = numpy.where(scores > 0, scores, 0.01 * scores)
            g = numpy.exp(scores) / numpy.exp(scores).sum()
            rows += [sum(g[i] * of_row[i] for i in range(4)) for of_row in pieces]
        layers.append(numpy.asarray(rows))
    return layers


def test_the_prefix_of_hvpnet(encoders):
    """Head h of row r has numbers h * 12 to h * 12 + 12 of that row; absent rows are masked."""
    module = get_module(encoders["HVPNeT"].layers[0])
    image = torch.randn(1, 12, PICTURE)
    image_mask = torch.tensor([[True] * 8 + [False] * 4])
    with torch.no_grad():
        prefix, mask = module.make_prefix(image, image_mask)
    assert torch.equal(mask, image_mask)
    expected = get_prefix(module, image[0, :8].reshape(2, 4, PICTURE).numpy())
    for (k, v), rows in zip(prefix, expected):
        assert k.shape == v.shape == (1, HEADS, 12, WIDTH // HEADS)
        for r in range(8):
            for h in range(HEADS):
                own = slice(h * 12, h * 12 + 12)
                numpy.testing.assert_allclose(k[0, h, r], rows[r, :WIDTH][own], atol=1e-5)
                numpy.testing.assert_allclose(v[0, h, r], rows[r, WIDTH:][own], atol=1e-5)


def test_the_prefix_of_hvpnet_as_published(encoders):
    """Scrambled twice, and made up with rows of zeros, here to three pictures, which aren't masked."""
    module = get_module(encoders["HVPNeT-as-published"].layers[0])
    image = torch.randn(1, 8, PICTURE)
    image_mask = torch.tensor([[True] * 4 + [False] * 4])
    with torch.no_grad():
        prefix, mask = module.make_prefix(image, image_mask)
    assert mask.shape == (1, 12)
    assert bool(mask.all())
    scrambled = numpy.zeros((3, 4, PICTURE), dtype="float32")
    numbers = [image[0, position, channel] for channel in range(PICTURE) for position in range(4)]
    for i, number in enumerate(numbers):
        scrambled[0, i // PICTURE, i % PICTURE] = number
    for (k, v), rows in zip(prefix, get_prefix(module, scrambled)):
        for found, of_rows in ((k, rows[:, :WIDTH]), (v, rows[:, WIDTH:])):
            assert found.shape == (1, HEADS, 12, WIDTH // HEADS)
            for i, number in enumerate(of_rows.ravel()):
                h, rest = divmod(i, 12 * (WIDTH // HEADS))
                at = divmod(rest, WIDTH // HEADS)
                assert abs(float(found[0, h, at[0], at[1]]) - number) < 1e-5
    # With 12 heads of 64 and 16 rows of 768, the first head is the first row and a third of the second.
    assert divmod(16 * 64 - 1, 768) == (1, 255)


def test_hvpnet_in_a_layer(bert):
    """Attention over prefix and text, in loops, of the first layer."""
    module = get_module(make_encoder("HVPNeT", bert).layers[0])
    image, ids = torch.randn(1, 4, PICTURE), torch.tensor([[2, 5, 3]])
    layer = module.bert.layers[0]
    with torch.no_grad():
        x = module.bert.embed(ids, False)
        ((pk, pv), *_), _ = module.make_prefix(image, torch.ones(1, 4).bool())
        q, k, v = (linear(x)[0].numpy() for linear in (layer.query, layer.key, layer.value))
        c = numpy.zeros((3, WIDTH), dtype="float32")
        for h in range(HEADS):
            own = slice(h * 12, h * 12 + 12)
            keys = numpy.concatenate([pk[0, h], k[:, own]])
            values = numpy.concatenate([pv[0, h], v[:, own]])
            for i in range(3):
                scores = keys @ q[i, own] / math.sqrt(12)
                weights = numpy.exp(scores) / numpy.exp(scores).sum()
                c[i, own] = weights @ values
        expected = layer.finish(x, torch.tensor(c)[None], False)
        module.bert.layers = module.bert.layers[:1]
        found = module.encode(_batch(ids, image, torch.ones(1, 4).bool()), False)
    torch.testing.assert_close(found, expected)


def test_hvpnet_wants_a_pyramid(bert):
    encoder = make_encoder("HVPNeT", bert, img2vec={"rows": 3})
    with pytest.raises(ValueError, match=r'takes 4 rows of each .* posts of \[3, .*rows = "pyramid"'):
        encoder.predict(make_docs())
    with pytest.raises(ValueError, match="bottleneck of HVPNeT has to be at least 1, not 0"):
        make_encoder("HVPNeT", bert, bottleneck=0)


# MKGformer


@pytest.mark.parametrize("name", ["MKGformer", "MKGformer-as-published"])
def test_the_fusion_of_mkgformer(name, encoders):
    module = get_module(encoders[name].layers[0])
    c, v = torch.randn(2, 3, WIDTH), torch.randn(2, 5, WIDTH)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    with torch.no_grad():
        f = module.see(c, v, mask).numpy()
        x = torch.randn(2, 3, WIDTH)
        layer, mix = module.bert.layers[1], module.mix[0]
        y = layer.finish(x, c, False, mix(torch.tensor(f))).numpy()
    scale = 1.0 if "published" in name else 1 / math.sqrt(WIDTH)
    for i in range(3):
        scores = [scale * float(c[0, i] @ v[0, j]) for j in range(3)]
        weights = numpy.exp(scores) / numpy.exp(scores).sum()
        expected = sum(weights[j] * v[0, j].numpy() for j in range(3))
        numpy.testing.assert_allclose(f[0, i], expected, atol=1e-5)
    assert not f[1].any()

    def linear(module, x):
        return x @ module.weight.detach().numpy().T + module.bias.detach().numpy()

    def normalize(module, x):
        x = (x - x.mean(-1, keepdims=True)) / numpy.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * module.weight.detach().numpy() + module.bias.detach().numpy()

    a = normalize(layer.attended_norm, x.numpy() + linear(layer.attended, c.numpy()))
    inner = linear(layer.inner, a) + f @ mix.weight.detach().numpy().T
    erf = numpy.vectorize(math.erf)
    inner = 0.5 * inner * (1 + erf(inner / math.sqrt(2)))
    numpy.testing.assert_allclose(y, normalize(layer.norm, a + linear(layer.outer, inner)), atol=1e-4)


def test_pictures_of_mkgformer_attend_to_the_text_of_the_layer_before(encoders):
    module = get_module(encoders["MKGformer"].layers[0])
    ids, mask = torch.tensor([[2, 5, 3, 0]]), torch.tensor([[1, 1, 1, 0]]).bool()
    image = torch.randn(1, 4, PICTURE)
    image_mask = torch.tensor([[1, 1, 1, 0]]).bool()
    first, last = module.bert.layers
    with torch.no_grad():
        x = module.bert.embed(ids, False)
        k, v = first.key(x)[0, :3].numpy(), first.value(x)[0, :3].numpy()
        pictures = module.projection(image)[:, :3]
        own = module.vision[0]
        q, k2, v2 = (linear(pictures)[0].numpy() for linear in (own.query, own.key, own.value))
        k, v = numpy.concatenate([k, k2]), numpy.concatenate([v, v2])
        c = numpy.zeros((3, WIDTH), dtype="float32")
        for h in range(HEADS):
            part = slice(h * 12, h * 12 + 12)
            for i in range(3):
                scores = k[:, part] @ q[i, part] / math.sqrt(12)
                c[i, part] = numpy.exp(scores) / numpy.exp(scores).sum() @ v[:, part]
        seen = own.finish(pictures, torch.tensor(c)[None], False)
        x = first(x, mask, False)
        c = last.attend(x, *last.keys(x), mask, False)
        f = module.see(c, seen, torch.ones(1, 3).bool())
        expected = last.finish(x, c, False, module.mix[0](f))
        found = module.encode(_batch(ids, image, image_mask)._replace(mask=mask), False)
    torch.testing.assert_close(found[:, :3], expected[:, :3])


def test_mkgformer_has_layers_enough(bert):
    with pytest.raises(ValueError, match="layers of MKGformer is 3; .* at most what its transformer has, 2"):
        make_encoder("MKGformer", bert, layers=3)


# In a pipeline


@pytest.mark.parametrize("name", ["VisualBERT", "HVPNeT", "MKGformer"])
def test_it_learns_what_only_pictures_tell(name, bert, tmp_path):
    img2vec = {"@architectures": "tests.PictureRows.v1"}
    tok2vec = {"@architectures": f"spacy-mmib.{name}.v1", "name": bert, "img2vec": img2vec, **MODELS[name]}
    model = {"@architectures": "spacy-mmib.NER.v1", "fusion": {"@architectures": "spacy-mmib.NoFusion.v1"}}
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", config={"model": {**model, "tok2vec": tok2vec}, "picture_dropout": 0.0})
    examples = []
    for image, label in ((b"\1", "PER"), (b"\2", "ORG")):
        doc = nlp.make_doc("Rob is here")
        doc._.image = image
        examples.append(Example.from_dict(doc, {"entities": [(0, 3, label)]}))
    train(nlp, examples, steps=40)
    nlp.to_disk(tmp_path)
    for pipeline in (nlp, spacy.load(tmp_path)):
        docs = [pipeline.make_doc("Rob is here") for _ in examples]
        for doc, example in zip(docs, examples):
            doc._.image = example.predicted._.image
        assert [[e.label_ for e in doc.ents] for doc in pipeline.pipe(docs)] == [["PER"], ["ORG"]]
