"""What surrounds the network of a picture encoder: region getters, the feature cache, reading ahead, RoIAlign."""

import numpy
import PIL.Image
import pytest
import spacy
import torch
from conftest import (
    IMG2VEC,
    LISTENER,
    MODEL,
    encode,
    entities,
    make_doc,
    make_encoder,
    make_examples,
    make_nlp,
    make_picture,
    new_docs,
    train,
)
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.encoders.picture_queue import QUEUE, find_encoder_layers, read_ahead
from spacy_mmib.encoders.torchvision import Backbone
from spacy_mmib.images.reader import PictureReader
from spacy_mmib.post.extensions import get_regions_note
from spacy_mmib.regions.base import RegionGetter, region_getters
from spacy_mmib.util import MMIBWarning

RNG = numpy.random.RandomState(0)
BOXES = [(0, 0, 20, 30), (10, 5, 60, 50), (3, 3, 9, 9)]


def random_picture(height=60, width=80):
    return RNG.randint(0, 255, (height, width, 3)).astype("uint8")


@pytest.fixture
def files(tmp_path):
    paths = []
    for i in range(6):
        paths.append(str(tmp_path / f"{i}.png"))
        PIL.Image.fromarray(random_picture()).save(paths[-1])
    return paths


def count_passes(encoder):
    """Sizes of the batches that go through the network from now on."""
    sizes = []
    network = get_module(encoder.layers[0]).network
    network.register_forward_hook(lambda m, i, output: sizes.append(len(i[0])))
    return sizes


def count_reads(monkeypatch):
    read = []
    original = PictureReader.read

    def counting(self, value):
        read.append(value)
        return original(self, value)

    monkeypatch.setattr(PictureReader, "read", counting)
    return read


# Region getters


def test_none_is_the_whole_picture_and_leaves_the_regions_alone():
    encoder = make_encoder(get_regions={"@region_getters": "spacy-mmib.none.v1"})
    doc = make_doc(random_picture(), BOXES)
    assert len(encoder.predict([doc])[0]) == 1
    assert len(doc._.regions) == 3


def test_given_is_the_default():
    picture = random_picture()
    given = make_encoder(get_regions={"@region_getters": "spacy-mmib.given.v1"})
    docs = [make_doc(picture, BOXES), make_doc(picture)]
    for a, b in zip(given.predict(docs), make_encoder().predict(docs)):
        numpy.testing.assert_array_equal(a, b)


def test_grid_cuts_the_picture_and_says_so_at_the_doc():
    encoder = make_encoder(get_regions={"@region_getters": "spacy-mmib.grid.v1", "k": 2})
    picture = random_picture(60, 80)
    doc = make_doc(picture)
    vectors = encode(encoder, [doc])[0]
    boxes = [region["box"] for region in doc._.regions]
    assert boxes == [[0, 0, 40, 30], [40, 0, 80, 30], [0, 30, 40, 60], [40, 30, 80, 60]]
    by_hand = encode(make_encoder(), [make_doc(picture, boxes)])[0]
    numpy.testing.assert_allclose(vectors, by_hand, atol=1e-6)
    with pytest.raises(ValueError, match="at least 1 part a side"):
        registry.resolve({"x": {"@region_getters": "spacy-mmib.grid.v1", "k": 0}})


@pytest.mark.parametrize("size", [(1, 1), (2, 700), (3, 3)])
def test_a_grid_finer_than_the_picture(size):
    encoder = make_encoder(get_regions={"@region_getters": "spacy-mmib.grid.v1", "k": 4})
    doc = make_doc(make_picture("red", size))
    vectors = encoder.predict([doc])[0]
    assert vectors.shape == (17, 512)
    assert doc._.image_error is None


class Recorder:
    def __init__(self):
        self.calls = []

    def __call__(self, docs, pictures):
        self.calls.append([picture.size for picture in pictures])
        return [[(0, 0, 10, 10)] for _ in docs]


def test_a_function_of_ones_own():
    recorder = Recorder()
    region_getters.register("test_own.v1", func=lambda: recorder)
    encoder = make_encoder(get_regions={"@region_getters": "test_own.v1"})
    docs = [make_doc(random_picture()), make_doc(), make_doc(b"no picture"), make_doc(None, BOXES)]
    with pytest.warns(MMIBWarning, match="not a picture"):
        vectors = encode(encoder, docs)
    assert [len(v) for v in vectors] == [2, 0, 0, 0]
    assert recorder.calls == [[(80, 60)]]  # pictures that can be read, in one call
    assert docs[0]._.regions[0]["box"] == [0, 0, 10, 10]


def test_a_picture_is_searched_once(files):
    recorder = Recorder()
    region_getters.register("test_once.v1", func=lambda: recorder)
    encoder = make_encoder(get_regions={"@region_getters": "test_once.v1"})
    encoder.predict([make_doc(files[0]), make_doc(files[1]), make_doc(files[0])])
    assert [len(call) for call in recorder.calls] == [2]


def test_regions_that_were_searched_for_are_not_searched_again(monkeypatch):
    from spacy_mmib.regions.simple import GridRegions

    calls = []
    original = GridRegions.__call__
    monkeypatch.setattr(GridRegions, "__call__", lambda s, d, p: calls.append(len(d)) or original(s, d, p))
    grid = {"@region_getters": "spacy-mmib.grid.v1", "k": 2}
    encoder = make_encoder(get_regions=grid)
    doc = make_doc(random_picture())
    expected = encode(encoder, [doc])[0]
    numpy.testing.assert_array_equal(encode(encoder, [doc.copy()])[0], expected)
    # Nor is a new doc with the same picture, as every epoch of a training makes them.
    numpy.testing.assert_array_equal(encode(encoder, [make_doc(doc._.image)])[0], expected)
    assert calls == [1]
    # Another getter or another picture: what is there doesn't hold.
    encode(make_encoder(get_regions={**grid, "k": 3}), [doc])
    assert calls == [1, 1]
    assert len(doc._.regions) == 9
    doc._.image = random_picture()
    encode(encoder, [doc])
    assert calls == [1, 1, 1]
    assert len(doc._.regions) == 4
    doc._.regions = BOXES  # by hand: the encoder's getter has the last word
    encode(encoder, [doc])
    assert calls == [1, 1, 1]
    assert len(doc._.regions) == 4


class Failing:
    def __init__(self, width, error):
        self.width, self.error = width, error

    def __call__(self, docs, pictures):
        if any(picture.width == self.width for picture in pictures):
            raise self.error
        return [[(0, 0, 5, 5)] for _ in docs]


def test_a_search_that_fails_for_one_picture():
    region_getters.register("test_fail.v1", func=lambda: Failing(33, RuntimeError("out of luck")))
    encoder = make_encoder(get_regions={"@region_getters": "test_fail.v1"})
    docs = [make_doc(random_picture(20, width)) for width in (30, 33, 40)]
    with pytest.warns(MMIBWarning, match="out of luck"):
        vectors = encoder.predict(docs)
    assert [len(v) for v in vectors] == [2, 1, 2]
    assert "no objects could be searched for (RuntimeError: out of luck)" in docs[1]._.image_error
    region_getters.register("test_weights.v1", func=lambda: Failing(30, OSError("no weights")))
    encoder = make_encoder(get_regions={"@region_getters": "test_weights.v1"})
    with pytest.raises(OSError, match="no weights"):
        encoder.predict(docs)


def test_getters_in_a_pipeline_find_regions_and_relations_of_nothing_else():
    """The result is at the doc after nlp.pipe, one row a region, for every doc with a picture."""
    grid = {"@region_getters": "spacy-mmib.grid.v1", "k": 2}
    nlp = make_nlp(model={**MODEL, "img2vec": {**IMG2VEC, "get_regions": grid}})
    train(nlp, make_examples(nlp), steps=2)
    for doc in nlp.pipe(new_docs(nlp), batch_size=3):
        assert len(doc._.regions) == (4 if doc._.image is not None else 0)


class Leaking(RegionGetter):
    note = "these regions tell the label"

    def __call__(self, docs, pictures):
        return [[(0, 0, 5, 5)] for _ in docs]


@pytest.mark.parametrize("shared", [False, True])
def test_a_note_of_the_getter_gets_to_docs_components_and_meta(shared):
    region_getters.register("test_leak.v1", func=Leaking)
    img2vec = {**IMG2VEC, "get_regions": {"@region_getters": "test_leak.v1"}}
    if shared:
        nlp = spacy.blank("en")
        nlp.add_pipe("mmib_img2vec", config={"model": img2vec})
        nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "img2vec": LISTENER}})
    else:
        nlp = make_nlp(model={**MODEL, "img2vec": img2vec})
    train(nlp, make_examples(nlp), steps=1)
    assert nlp.meta["spacy_mmib"]["leaks"] == [Leaking.note]
    component = nlp.get_pipe("mmib_ner")
    assert component.cfg["leaks"] == [Leaking.note]
    component.cfg.pop("leaks")  # as if it had been initialized elsewhere
    nlp.update(make_examples(nlp), sgd=False)
    assert component.cfg["leaks"] == [Leaking.note]
    docs = list(nlp.pipe(new_docs(nlp)))
    assert {get_regions_note(doc) for doc in docs if doc._.image is not None} == {Leaking.note}


# RoIAlign


def test_rois_are_averages_of_the_feature_map():
    encoder = make_encoder(arch="resnet18", image_size=128, region_features="roi")
    picture = random_picture(60, 80)
    vectors = encoder.predict([make_doc(picture, [(0, 0, 80, 60), (40, 0, 80, 60)])])[0]
    module = get_module(encoder.layers[0])
    square = PIL.Image.fromarray(picture).resize((128, 128), PIL.Image.Resampling.BILINEAR)
    x = torch.from_numpy(numpy.array(square)).permute(2, 0, 1).float() / 255
    preset = module.settings["preset"]
    x = (x - torch.tensor(preset["mean"])[:, None, None]) / torch.tensor(preset["std"])[:, None, None]
    seen = []
    module.network.layer4.register_forward_hook(lambda m, i, o: seen.append(o[0]))
    with torch.no_grad():
        module.network(x[None])
    feature_map = seen[0]  # 512 x 4 x 4
    numpy.testing.assert_allclose(vectors[0], feature_map.mean((1, 2)), atol=1e-4)
    # A box as large as the picture: the average, but for what lies beyond the outermost centres.
    assert numpy.corrcoef(vectors[1], vectors[0])[0, 1] > 0.99
    right = feature_map[:, :, 2:].mean((1, 2))
    left = feature_map[:, :, :2].mean((1, 2))
    assert numpy.abs(vectors[2] - right.numpy()).mean() < numpy.abs(vectors[2] - left.numpy()).mean()


def test_rois_need_one_pass_a_picture(files):
    encoder = make_encoder(arch="resnet18", image_size=64, region_features="roi", batch_size=2)
    sizes = count_passes(encoder)
    docs = [make_doc(file, BOXES) for file in files[:3]]
    vectors = encoder.predict(docs)
    assert [v.shape for v in vectors] == [(4, 512)] * 3
    assert sizes == [2, 1]
    for doc, expected in zip(docs, vectors):
        numpy.testing.assert_allclose(encoder.predict([doc])[0], expected, atol=1e-4)


def test_rois_and_ready_crops_keep_their_order(files):
    encoder = make_encoder(arch="resnet18", image_size=64, region_features="roi")
    box, crop = BOXES[1], files[1]
    mixed = encoder.predict([make_doc(files[0], [crop, box, "missing.png", crop, BOXES[0]])])[0]
    boxes = encoder.predict([make_doc(files[0], [box, BOXES[0]])])[0]
    alone = encoder.predict([make_doc(crop)])[0]
    expected = [boxes[0], alone[0], boxes[1], alone[0], boxes[2]]
    numpy.testing.assert_allclose(mixed, expected, atol=1e-4)


def test_gradients_of_rois_reach_the_network(files):
    encoder = make_encoder(arch="resnet18", image_size=64, region_features="roi", trainable=True)
    module = get_module(encoder.layers[0])
    docs = [make_doc(files[0], [files[1], BOXES[1]]), make_doc(), make_doc(files[2], BOXES)]
    vectors, backprop = encoder.begin_update(docs)
    d_vectors = [numpy.zeros_like(v) for v in vectors]
    d_vectors[0][2] = 1  # the box, which is computed before the crop
    backprop(d_vectors)
    grad = module.network.conv1.weight.grad.clone()
    module.zero_grad()
    vectors, backprop = encoder.begin_update([make_doc(files[0], [BOXES[1]]), make_doc(files[1]), docs[2]])
    d_vectors = [numpy.zeros_like(v) for v in vectors]
    d_vectors[0][1] = 1
    backprop(d_vectors)
    torch.testing.assert_close(module.network.conv1.weight.grad, grad, rtol=1e-3, atol=1e-4)


def test_a_network_without_feature_map_is_refused():
    with pytest.raises(
        ValueError, match="needs a network whose last feature map is as wide.*mobilenet_v3_small"
    ):
        make_encoder(arch="mobilenet_v3_small", region_features="roi")
    with pytest.raises(Exception, match="region_features"):
        make_encoder(region_features="pyramid")


@pytest.mark.parametrize("arch", ["regnet_y_400mf", "efficientnet_b0", "shufflenet_v2_x0_5", "mnasnet0_5"])
def test_feature_maps_of_other_networks(arch):
    preset = get_module(make_encoder(image_size=64).layers[0]).settings["preset"]
    backbone = Backbone(arch=arch, preset=preset, rois=True)
    boxes = [torch.tensor([[0.0, 0.0, 64.0, 64.0]]), torch.zeros(0, 4)]
    rows = backbone(torch.randn(2, 3, 64, 64), 8, boxes)
    assert rows.shape == (3, backbone.width)


# The feature cache


def cached(path, **settings):
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(path), **settings.pop("store", {})}
    return {"cache": cache, **settings}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_cached_vectors_are_those_that_were_computed(tmp_path, files, monkeypatch, dtype):
    docs = [make_doc(file, BOXES[:i]) for i, file in enumerate(files[:3])] + [make_doc()]
    expected = make_encoder().predict(docs)
    settings = cached(tmp_path / "f.sqlite", store={"dtype": dtype})
    first = make_encoder(**settings).predict(docs)
    read = count_reads(monkeypatch)
    encoder = make_encoder(**settings)
    passes = count_passes(encoder)
    again = encoder.predict([doc.copy() for doc in docs])
    assert not read
    assert not passes
    for a, b, c in zip(expected, first, again):
        numpy.testing.assert_array_equal(b, c)
        numpy.testing.assert_allclose(a, b, rtol=5e-4 if dtype == "float16" else 1e-6, atol=1e-6)
    assert [v.shape for v in again] == [(1, 512), (2, 512), (3, 512), (0, 512)]


def test_what_is_cached_depends_on_all_that_matters(tmp_path, files):
    path = tmp_path / "f.sqlite"
    doc = make_doc(files[0], BOXES)
    make_encoder(**cached(path)).predict([doc])

    def passes_of(doc, **settings):
        encoder = make_encoder(**cached(path, **settings))
        passes = count_passes(encoder)
        encoder.predict([doc])
        return sum(passes)

    assert passes_of(doc) == 0
    assert passes_of(make_doc(files[0], BOXES)) == 0
    assert passes_of(doc, batch_size=1, memory_format="contiguous") == 0
    assert passes_of(doc, seed=1) == 4  # other weights
    assert passes_of(doc, image_size=48) == 4
    assert passes_of(doc, max_regions=1) == 2
    assert passes_of(make_doc(files[0], BOXES[::-1])) == 4
    assert passes_of(make_doc(files[1], BOXES)) == 4
    with open(files[0], "rb") as file:
        assert passes_of(make_doc(file.read(), BOXES)) == 0  # the same file
    PIL.Image.fromarray(random_picture()).save(files[0])
    assert passes_of(doc) == 4  # the file has changed


def test_crops_are_cached_by_their_content(tmp_path, files):
    settings = cached(tmp_path / "f.sqlite")
    encoder = make_encoder(**settings)
    passes = count_passes(encoder)
    doc = make_doc(files[0], [files[1], files[2]])
    encoder.predict([doc])
    encoder.predict([doc])
    assert sum(passes) == 3
    PIL.Image.fromarray(random_picture()).save(files[2])
    encoder.predict([doc])
    assert sum(passes) == 6


def test_cached_pictures_are_those_of_the_image_root(tmp_path, monkeypatch):
    """Not those of the same name in the current folder."""
    for name in ("root", "current"):
        (tmp_path / name).mkdir()
        PIL.Image.fromarray(random_picture()).save(tmp_path / name / "a.png")
    monkeypatch.chdir(tmp_path / "current")
    reader = {"@misc": "spacy-mmib.picture_reader.v1", "image_root": str(tmp_path / "root")}
    settings = cached(tmp_path / "f.sqlite")
    expected = make_encoder().predict([make_doc(str(tmp_path / "root" / "a.png"))])[0]
    for _ in range(2):
        found = make_encoder(read_picture=reader, **settings).predict([make_doc("a.png")])[0]
        numpy.testing.assert_allclose(found, expected, rtol=5e-4, atol=1e-5)
    # What the reader refuses is not in the cache either, though its content is.
    outside = make_doc(str(tmp_path / "current" / "a.png"))
    make_encoder(**settings).predict([outside])
    with pytest.warns(MMIBWarning, match="leads out of the image root"):
        assert not len(make_encoder(read_picture=reader, **settings).predict([outside])[0])


def test_a_picture_that_changes_while_it_is_read_is_not_cached(tmp_path, files, monkeypatch):
    other = random_picture()
    original = PictureReader.read

    def swap(self, value):
        PIL.Image.fromarray(other).save(files[0])
        return original(self, value)

    with open(files[0], "rb") as file:
        before = file.read()
    encoder = make_encoder(**cached(tmp_path / "f.sqlite"))
    monkeypatch.setattr(PictureReader, "read", swap)
    encoder.predict([make_doc(files[0])])
    monkeypatch.setattr(PictureReader, "read", original)
    passes = count_passes(encoder)
    encoder.predict([make_doc(before)])
    assert passes == [1]


def test_what_had_a_problem_is_not_cached(tmp_path, files):
    encoder = make_encoder(**cached(tmp_path / "f.sqlite"))
    doc = make_doc(files[0], [(500, 500, 600, 600)])
    for _ in range(2):
        with pytest.warns(MMIBWarning, match="no pixel inside"):
            assert len(encoder.predict([doc])[0]) == 1
        assert "no pixel inside" in doc._.image_error


def test_searched_regions_are_cached(tmp_path, files, monkeypatch):
    grid = {"@region_getters": "spacy-mmib.grid.v1", "k": 2}
    settings = cached(tmp_path / "f.sqlite", get_regions=grid)
    expected = encode(make_encoder(**settings), [make_doc(file) for file in files])
    read = count_reads(monkeypatch)
    docs = [make_doc(file) for file in files]
    for a, b in zip(expected, encode(make_encoder(**settings), docs)):
        numpy.testing.assert_array_equal(a, b)
    assert not read
    assert all(len(doc._.regions) == 4 for doc in docs)


def test_a_trained_encoder_has_no_cache(tmp_path):
    with pytest.raises(Exception, match="A cache holds vectors of a frozen network"):
        make_encoder(trainable=True, **cached(tmp_path / "f.sqlite"))


def test_a_cache_that_cannot_be_opened_stops_nothing(files):
    encoder = make_encoder(**cached("/nowhere/at/all/f.sqlite"))
    with pytest.warns(MMIBWarning, match="nowhere"):
        assert len(encoder.predict([make_doc(files[0], BOXES)])[0]) == 4


def test_training_on_cached_features_reads_no_picture(tmp_path, monkeypatch):
    """And learns what it learns without, on float32 to the last digits."""
    store = {"dtype": "float32"}
    img2vec = {**IMG2VEC, **cached(tmp_path / "f.sqlite", store=store)}
    losses = []
    for model in (MODEL, {**MODEL, "img2vec": img2vec}, {**MODEL, "img2vec": img2vec}):
        nlp = make_nlp(model=model)
        if losses:
            encoder = find_encoder_layers(nlp.get_pipe("mmib_ner").model)[0]
            passes = []
            before = len(losses)
            losses.append(train(nlp, make_examples(nlp), steps=3))
            passes = count_passes(encoder)
            read = count_reads(monkeypatch)
            nlp.update(make_examples(nlp), sgd=False)
            assert not passes
            assert not read
            assert len(losses) == before + 1
        else:
            losses.append(train(nlp, make_examples(nlp), steps=3))
    for later in losses[1:]:
        assert later == pytest.approx(losses[0], rel=1e-3)


# Reading ahead and equal pictures


def test_equal_pictures_go_through_the_network_once(files):
    encoder = make_encoder()
    passes = count_passes(encoder)
    docs = [make_doc(files[0], BOXES), make_doc(files[1]), make_doc(files[0], BOXES), make_doc(files[0])]
    vectors = encoder.predict(docs)
    assert sum(passes) == 4 + 1 + 1
    numpy.testing.assert_array_equal(vectors[0], vectors[2])
    numpy.testing.assert_allclose(vectors[0][0], vectors[3][0], atol=1e-5)
    trained = make_encoder(trainable=True)
    passes = count_passes(trained)
    trained.begin_update(docs)
    assert sum(passes) == 4 + 1 + 4 + 1


@pytest.mark.parametrize(
    "reader",
    [
        {"threads": 0, "prefetch": 0},
        {"threads": 1, "prefetch": 1},
        {"threads": 3, "prefetch": 2},
        {"threads": 2, "prefetch": 100},
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_reading_ahead_changes_nothing(files, reader, batch_size):
    read_picture = {"@misc": "spacy-mmib.picture_reader.v1", **reader}
    docs = [make_doc(file, BOXES[: i % 4]) for i, file in enumerate(files)]
    docs += [make_doc(), make_doc(b"broken"), make_doc(files[0]), make_doc(str(files[0]) + "?")]
    with pytest.warns(MMIBWarning):
        expected = make_encoder().predict(docs)
    encoder = make_encoder(read_picture=read_picture, batch_size=batch_size)
    with pytest.warns(MMIBWarning):
        encoder.predict(docs[-1:])
    for start in (0, 4, 8):
        read_ahead([encoder], docs[start : start + 4])
        read_ahead([encoder], docs[start + 2 : start + 6])
        for doc, a, b in zip(
            docs[start : start + 4], expected[start : start + 4], encoder.predict(docs[start : start + 4])
        ):
            numpy.testing.assert_allclose(a, b, atol=1e-4)
            assert (doc._.image_error is None) == (len(b) > 0 or doc._.image is None)


def test_pictures_of_the_next_batch_are_read_ahead(files, monkeypatch):
    nlp = make_nlp()
    train(nlp, make_examples(nlp), steps=1)
    queue = find_encoder_layers(nlp.get_pipe("mmib_ner").model)[0].attrs[QUEUE]
    begun = []
    original = type(queue).begin
    monkeypatch.setattr(
        type(queue), "begin", lambda self, docs: begun.append(len(docs)) or original(self, docs)
    )
    docs = [nlp.make_doc(f"post {i}") for i in range(5)]
    for doc, file in zip(docs, files):
        doc._.image = file
    assert [doc.text for doc in nlp.pipe(docs, batch_size=2)] == [f"post {i}" for i in range(5)]
    assert begun == [2, 1]
    # Whoever asks for single posts may wait for an answer before the next question.
    begun.clear()
    list(nlp.pipe([docs[0]], batch_size=1))
    assert not begun


def test_nothing_begun_is_left_over(files):
    encoder = make_encoder(read_picture={"@misc": "spacy-mmib.picture_reader.v1", "prefetch": 3})
    docs = [make_doc(file) for file in files]
    encoder.predict(docs[:1])
    read_ahead([encoder], docs)
    queue = encoder.attrs[QUEUE]
    assert len(queue._pending) == 3
    encoder.predict(docs)
    assert not queue._pending


def test_the_batcher_makes_the_batches_of_spacys_own_and_reads_ahead(files, monkeypatch):
    nlp = make_nlp()
    examples = make_examples(nlp) * 2
    own = registry.resolve({"b": {"@batchers": "spacy.batch_by_sequence.v1", "size": 3}})["b"]
    ours = registry.resolve({"b": {"@batchers": "spacy-mmib.batch_by_sequence.v1", "size": 3}})["b"]
    assert list(ours(examples)) == [list(batch) for batch in own(examples)]
    assert list(ours([])) == []
    train(nlp, examples[:3], steps=1)
    queue = find_encoder_layers(nlp.get_pipe("mmib_ner").model)[0].attrs[QUEUE]
    begun = []
    original = type(queue).begin
    monkeypatch.setattr(
        type(queue), "begin", lambda self, docs: begun.append(len(docs)) or original(self, docs)
    )
    batches = [nlp.update(batch, sgd=False) for batch in ours(examples)]
    assert len(begun) == len(batches) - 1 > 0
    assert not queue._pending
    assert not any(example.predicted.user_hooks for example in examples)


def test_the_batcher_puts_posts_of_similar_length_together():
    vocab = Vocab()
    lengths = [9, 1, 7, 2, 8, 3, 30, 31, 4, 5, 6]
    docs = [Doc(vocab, words=["x"] * n) for n in lengths]
    examples = [Example(doc, doc.copy()) for doc in docs]
    settings = {"@batchers": "spacy-mmib.batch_by_sequence.v1", "size": 2, "buffer": 3}
    batcher = registry.resolve({"b": settings})["b"]
    spacy.util.fix_random_seed(0)
    batches = [[len(eg) for eg in batch] for batch in batcher(examples)]
    first, second = batches[:3], batches[3:]
    assert sorted(first) == [[1, 2], [3, 7], [8, 9]]
    assert sorted(map(len, second)) == [1, 2, 2]  # the last batch is not full
    assert sorted(n for batch in second for n in batch) == [4, 5, 6, 30, 31]
    spacy.util.fix_random_seed(0)
    assert [[len(eg) for eg in batch] for batch in batcher(examples)] == batches
    with pytest.raises(ValueError, match="at least 1, not 0"):
        registry.resolve({"b": {**settings, "buffer": 0}})


def test_nothing_that_is_not_finite_comes_out(files):
    encoder = make_encoder()
    network = get_module(encoder.layers[0]).network
    network.register_forward_hook(
        lambda m, i, o: o.index_fill(0, torch.tensor([0]), float("nan")) if len(o) > 1 else o
    )
    docs = [make_doc(files[0]), make_doc(files[1])]
    with pytest.warns(MMIBWarning, match="no finite numbers"):
        vectors = encoder.predict(docs)
    assert [len(v) for v in vectors] == [0, 1]
    assert all(numpy.isfinite(v).all() for v in vectors)
    assert "no finite numbers" in docs[0]._.image_error


def test_half_precision_is_near(files):
    docs = [make_doc(file, BOXES) for file in files[:2]]
    exact = make_encoder(arch="resnet18").predict(docs)
    half = make_encoder(arch="resnet18", autocast="bfloat16").predict(docs)
    for a, b in zip(exact, half):
        assert b.dtype == numpy.float32
        assert 0 < numpy.abs(a - b).max() < 0.05 * numpy.abs(a).max()


def test_settings_travel_with_a_pipeline(tmp_path, files):
    grid = {"@region_getters": "spacy-mmib.grid.v1", "k": 2}
    img2vec = {**IMG2VEC, "arch": "resnet18", "region_features": "roi", "get_regions": grid}
    nlp = make_nlp(model={**MODEL, "img2vec": {**img2vec, **cached(tmp_path / "f.sqlite")}})
    train(nlp, make_examples(nlp), steps=3)
    expected = entities(nlp.pipe(new_docs(nlp)))
    nlp.to_disk(tmp_path / "model")
    loaded = spacy.load(tmp_path / "model")
    assert entities(loaded.pipe(new_docs(loaded))) == expected
    parallel = list(loaded.pipe(new_docs(loaded), n_process=2, batch_size=2))
    assert entities(parallel) == expected
    assert [len(doc._.regions) for doc in parallel if doc._.image is not None] == [4] * 6
