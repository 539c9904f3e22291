"""Picture encoders, and what uses their vectors, for posts with several pictures."""

import itertools

import numpy
import pytest
import spacy
from conftest import IMG2VEC, VOCAB, encode, make_encoder, make_examples, make_nlp, make_picture, train
from spacy.tokens import Doc

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.cache.cache import FeatureCache
from spacy_mmib.encoders.cache_building import BuildError, build_cache
from spacy_mmib.encoders.picture_queue import QUEUE, read_ahead
from spacy_mmib.images.reader import PictureReader
from spacy_mmib.regions.base import RegionGetter

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
RNG = numpy.random.default_rng(0)
PICTURES = [RNG.integers(0, 255, (40, 30, 3), dtype="uint8") for _ in range(4)]
BOXES = [(0, 0, 9, 9), (5, 5, 30, 40)]


def make_post(images, regions=()) -> Doc:
    doc = Doc(VOCAB, words=["a", "post"])
    doc._.images = images
    doc._.regions = regions
    return doc


def box(i, image):
    return {"box": BOXES[i], "image": image}


def rows_of(encoder, image, boxes=()):
    return encoder.predict([make_post([image], [BOXES[i] for i in boxes])])[0]


def same(x, y):
    return x.shape == y.shape and numpy.allclose(x, y, atol=1e-4)


@pytest.fixture(params=["crop", "roi"])
def encoder(request):
    return make_encoder(arch="resnet18", region_features=request.param)


def test_rows_of_all_pictures_in_order(encoder):
    a, b, c = PICTURES[:3]
    doc = make_post([a, b, c], [box(0, 2), box(1, 0), box(1, 2), box(0, 0)])
    vectors = encoder.predict([make_post([c]), doc, make_post([]), make_post([b, b])])
    assert vectors.rows == [[0], [0, 2, 4, 0, 0, 1, 3], None, [0, 0]]
    assert same(vectors[1][:3], rows_of(encoder, a, [1, 0]))
    assert same(vectors[1][3:4], rows_of(encoder, b))
    assert same(vectors[1][4:], rows_of(encoder, c, [0, 1]))
    assert (vectors[3][0] == vectors[3][1]).all()
    assert doc._.image_error is None


def test_the_order_of_pictures_and_the_batch_change_nothing(encoder):
    posts = [[PICTURES[i] for i in order] for order in itertools.permutations(range(3), 2)] + [[PICTURES[3]]]
    alone = [encoder.predict([make_post(images)])[0] for images in posts]
    together = encoder.predict([make_post(images) for images in posts])
    assert all(map(same, alone, together))


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("bad", ["nope.png", b"no picture", "https://example.org/a.png"])
def test_a_broken_picture_leaves_the_others(at, bad):
    encoder = make_encoder()
    images = [PICTURES[0], PICTURES[1]]
    images.insert(at, bad)
    left = [i for i in range(3) if i != at]
    doc = make_post(images, [box(0, i) for i in range(3)])
    vectors = encoder.predict([doc])
    assert vectors.rows == [[0, left[0] + 1, 0, left[1] + 1]]
    assert same(vectors[0][:2], rows_of(encoder, PICTURES[0], [0]))
    assert doc._.image_error.startswith(f"picture {at + 1} of 3: ")
    assert doc._.image_error.count("picture ") - doc._.image_error.count("no picture") <= 2
    with pytest.raises(ValueError, match=f"picture {at + 1} of 3: "):
        make_encoder(on_image_error="raise").predict([make_post(images)])


def test_boxes_of_pictures_that_are_not_there():
    encoder = make_encoder()
    doc, one = (
        make_post(PICTURES[:2], [box(0, 0), box(0, 5), box(1, 1)]),
        make_post(PICTURES[:1], [box(0, 1)]),
    )
    broken = make_post(PICTURES[:2], [{"box": (7, 7, 1, 1), "image": 1}])
    vectors = encoder.predict([doc, one, broken, make_post(PICTURES[:1])])
    assert vectors.rows == [[0, 1, 0, 3], [0], [0, 0], [0]]
    assert doc._.image_error == "region 1: is in picture 6, but the post has 2"
    assert one._.image_error == "region 0: is in picture 2, but the post has 1"
    assert broken._.image_error.startswith("picture 2 of 2: region 0: the box")


def test_what_is_wrong_with_a_post_is_not_said_of_others_with_its_picture():
    encoder = make_encoder()
    docs = [make_post(PICTURES[:1], [box(0, 1)]), make_post(PICTURES[:1])]
    for some in (docs, docs[::-1]):
        encoder.predict(some)
        assert docs[1]._.image_error is None
        assert docs[0]._.image_error


@pytest.mark.parametrize(("most", "n"), [(1, 1), (4, 4), (None, 9)])
def test_so_many_pictures_and_so_many_objects_each(most, n):
    encoder = make_encoder(max_pictures=most, max_regions=1)
    doc = make_post(PICTURES[:3] * 3, [box(i, image) for image in (8, 0, 0) for i in range(2)])
    rows = encoder.predict([doc]).rows[0]
    assert rows.count(0) == n
    assert [row for row in rows if row] == [3] + [1] * (most is None)
    assert doc._.image_error is None
    with pytest.raises(ValueError, match="max_pictures has to be at least 1, not 0"):
        make_encoder(max_pictures=0)


def test_a_thousand_pictures(tmp_path):
    """Each is read as the network gets to it: few are in memory at a time."""
    encoder = make_encoder(max_pictures=None, batch_size=16, read_picture=PictureReader(prefetch=2))
    make_picture("red", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "other").mkdir()
    paths = [str(tmp_path / "other" / ".." / "a.png")] * 2 + [str(tmp_path / f"{i}.png") for i in range(998)]
    doc = make_post(paths)
    assert len(encoder.predict([doc])[0]) == 2  # only these are there
    assert doc._.image_error.count("no such file") == 998
    default = make_encoder()
    assert len(default.predict([make_post(paths[:2] * 500)])[0]) == 4


def test_equal_pictures_are_encoded_once(encoder, monkeypatch):
    queue, prepared = encoder.attrs[QUEUE], []
    prepare = queue._prepare
    monkeypatch.setattr(queue, "_prepare", lambda *args: prepared.append(args) or prepare(*args))
    a, b = PICTURES[:2]
    encoder.predict([make_post([a, b, a]), make_post([b]), make_post([b, a])])
    assert len(prepared) == 2


def test_what_was_begun_ahead_is_used_and_counts_pictures(monkeypatch):
    encoder = make_encoder(read_picture=PictureReader(prefetch=3))
    docs = [make_post(PICTURES[:2], [box(0, 1)]), make_post(PICTURES[:2])]
    expected = encoder.predict(docs)
    queue = encoder.attrs[QUEUE]
    read_ahead([encoder], docs)
    assert len(queue._pending) == 3
    found = encoder.predict(docs)
    assert not queue._pending
    assert found.rows == expected.rows
    assert all(map(same, found, expected))


def test_the_cache_keeps_each_picture(tmp_path, encoder):
    settings = {"arch": "resnet18", "region_features": encoder.attrs[QUEUE].settings.mode}
    cached = make_encoder(cache=FeatureCache(str(tmp_path / "f.sqlite"), dtype="float32"), **settings)
    store = cached.attrs[QUEUE].settings.cache.store
    a, b, c = PICTURES[:3]
    posts = [([a, b], [box(0, 1)]), ([b, a, "nope.png"], [box(0, 0)]), ([c, a], [box(1, 3)]), ([a], [])]
    expected = encoder.predict([make_post(*post) for post in posts])
    for _ in range(2):
        docs = [make_post(*post) for post in posts]
        found = cached.predict(docs)
        assert found.rows == expected.rows
        assert all(map(same, found, expected))
        assert docs[1]._.image_error.startswith("picture 3 of 3")
        assert docs[2]._.image_error
    assert store.stats()["entries"] == {"vectors": 3}  # a, b with its object, c


class Corner(RegionGetter):
    """Finds as many corners as the picture's first pixel says, and counts its calls."""

    def __init__(self):
        self.asked = 0

    def __call__(self, docs, pictures):
        self.asked += len(pictures)
        return [[(0, 0, i + 5, i + 5) for i in range(p.getpixel((0, 0))[0] % 3)] for p in pictures]

    def get_identity(self):
        return "corner"


def test_found_objects_get_their_picture():
    pictures = [picture.copy() for picture in PICTURES[:3]]
    for picture, n in zip(pictures, (2, 0, 1)):
        picture[0, 0, 0] = n
    getter = Corner()
    encoder = make_encoder(get_regions=getter)
    for images, found, rows in (
        (pictures, [None, None, 2], [0, 1, 2, 0, 0, 3]),
        (pictures[::-1], [None, 2, 2], [0, 1, 0, 0, 2, 3]),
        ([pictures[1], "nope.png", pictures[0]], [2, 2], [0, 0, 1, 2]),
    ):
        doc = make_post(images, [(0, 0, 30, 30)])
        vectors = encode(encoder, [doc])
        assert [region.get("image") for region in doc._.regions] == found
        assert vectors.rows == [rows]
        again = encode(encoder, [doc])
        assert again.rows == vectors.rows
        assert same(again[0], vectors[0])
    assert getter.asked == 3  # each picture once
    doc._.images = [pictures[0]]
    assert encode(encoder, [doc]).rows == [[0, 1, 2]]
    doc._.images = [pictures[0], pictures[2]]
    assert encode(encoder, [doc]).rows == [[0, 1, 2, 0, 3]]


@pytest.mark.parametrize("region_features", ["crop", "roi"])
def test_gradients_reach_the_pictures_they_are_of(region_features):
    """Those of a post with two pictures are those of two posts with one each."""

    def get_gradient(posts, d_rows):
        encoder = make_encoder(arch="squeezenet1_1", trainable=True, region_features=region_features)
        vectors, backprop = encoder([make_post(*post) for post in posts], True)
        assert [len(rows) for rows in vectors] == [len(rows) for rows in d_rows]
        backprop([numpy.full_like(rows, 1) * numpy.array(d)[:, None] for rows, d in zip(vectors, d_rows)])
        weights = next(get_module(encoder.layers[0]).parameters())
        return weights.grad.numpy().copy()

    a, b = PICTURES[:2]
    several = get_gradient([(["nope.png", a, b], [box(0, 2), box(1, 1)])], [[1, 2, 3, 4]])
    alone = get_gradient([([a], [box(1, 0)]), ([b], [box(0, 0)])], [[1, 2], [3, 4]])
    numpy.testing.assert_allclose(several, alone, rtol=1e-3, atol=1e-4)
    swapped = get_gradient([([b], [box(0, 0)]), ([a], [box(1, 0)])], [[1, 2], [3, 4]])
    assert abs(swapped - alone).max() > 1e-2


def test_a_component_on_posts_of_any_number():
    nlp = make_nlp()
    train(nlp, make_examples(nlp), steps=2)

    def posts():
        for images, regions in (
            ([], []),
            (PICTURES[:1], [BOXES[0]]),
            (PICTURES[:3], [box(0, 2), box(1, 1), box(0, 9)]),
            ([*PICTURES[:1], "nope.png"], []),
        ):
            doc = nlp.make_doc("Alex met Rob in Oslo")
            doc._.images, doc._.regions = images, regions
            yield doc

    alone = [nlp(doc).to_json() for doc in posts()]
    for batch_size, n_process in ((1, 1), (4, 1), (2, 2)):
        docs = list(nlp.pipe(posts(), batch_size=batch_size, n_process=n_process))
        assert [doc.to_json() for doc in docs] == alone
        assert len(docs[2]._.images) == 3
        assert "region 2" in docs[2]._.image_error
        for doc in docs:
            for ent in doc.ents:
                weights = ent._.region_weights
                assert (weights is None) == (not doc._.images)
                assert weights is None or len(weights) == 1 + len(doc._.regions)
                assert weights is None or sum(weights) == pytest.approx(1, abs=1e-4)


def test_a_cache_is_built_of_the_pictures_that_can_be_used(tmp_path):
    nlp = spacy.blank("en")
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(tmp_path / "f.sqlite")}
    nlp.add_pipe("mmib_img2vec", config={"model": {**IMG2VEC, "cache": cache}})
    nlp.initialize()
    posts = [[PICTURES[0], "nope.png"], ["nope.png", PICTURES[1], PICTURES[0]]]
    *_, result = build_cache(nlp, [make_post(images) for images in posts])
    assert (result.posts, result.with_picture, result.not_used) == (2, 2, 2)
    store = nlp.get_pipe("mmib_img2vec").model.attrs[QUEUE].settings.cache.store
    assert store.stats()["entries"] == {"vectors": 2}
    with pytest.raises(BuildError, match="Nothing was kept"):
        list(build_cache(nlp, [make_post(["nope.png", "no.png"])]))
