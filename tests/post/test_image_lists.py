"""Posts with several pictures: `doc._.images`, and regions that say in which of them they are."""

import pickle

import numpy
import pytest
from conftest import VOCAB, docbin, encoded, make_doc, make_picture
from spacy.tokens import Doc

from spacy_mmib.post.extensions import (
    IMAGE_KEY,
    IMAGES_KEY,
    copy_images,
    get_images,
    get_stored_images,
    set_region_weights,
    set_regions_note,
)
from spacy_mmib.training.local_pictures import PictureCounts, PictureFolder

BOX = {"box": [0.0, 0.0, 9.0, 9.0], "label": None, "score": None}


def test_image_is_the_first_of_images():
    doc = make_doc()
    assert doc._.images == []
    assert doc._.image is None
    doc._.images = ["a.jpg", b"b"]
    assert (doc._.image, doc._.images) == ("a.jpg", ["a.jpg", b"b"])
    doc._.images.append("c.jpg")  # a new list each time
    assert len(doc._.images) == 2
    doc._.image = "c.jpg"
    assert doc._.images == ["c.jpg"]
    for nothing in (None, [], (), float("nan")):
        doc._.images = ["a.jpg", "b.jpg"]
        doc._.images = nothing
        assert doc._.images == []
        assert doc._.image is None
        assert not doc.user_data
    doc._.images = ["a.jpg", "b.jpg"]
    doc._.image = None
    assert doc._.images == []
    assert not doc.user_data


def test_kinds_may_be_mixed_and_come_from_a_generator(tmp_path):
    array = numpy.zeros((3, 4, 3), "uint8")
    values = [tmp_path / "a.png", b"bytes", make_picture("red", (5, 6)), array, bytearray(b"more")]
    doc = make_doc()
    doc._.images = (value for value in values)
    path, content, image, pixels, more = doc._.images
    assert (path, content, more) == (str(tmp_path / "a.png"), b"bytes", b"more")
    assert image.size == (5, 6)
    assert pixels.shape == (3, 4, 3)


@pytest.mark.parametrize(
    "value",
    [
        "a.jpg",
        b"bytes",
        bytearray(b"bytes"),
        {"a": 1},
        5,
        make_picture("red"),
        numpy.zeros((2, 3, 3), "uint8"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_single_value_is_no_list(value):
    doc = make_doc("before.jpg")
    with pytest.raises(TypeError, match=r"doc\._\.images takes a list.*assign it to doc\._\.image"):
        doc._.images = value
    assert doc._.images == ["before.jpg"]


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (["a.jpg", None], TypeError, r"images\[1\]: .*got None. Leave it out"),
        (["a.jpg", float("nan")], TypeError, r"images\[1\]: .*Leave it out"),
        ([["a.jpg"]], TypeError, r"images\[0\]: .*got list"),
        ([5], TypeError, r"images\[0\]: .*got int"),
        (["a.jpg", numpy.zeros((2, 2), "uint8")], ValueError, r"images\[1\]: .*shape \(2, 2\)"),
    ],
)
def test_what_is_no_picture_is_said_with_its_place(values, kind, said):
    doc = make_doc("before.jpg")
    with pytest.raises(kind, match=said):
        doc._.images = values
    assert doc._.images == ["before.jpg"]


def test_one_picture_is_kept_as_before():
    one, other = make_doc("a.jpg", [(0, 0, 9, 9)]), make_doc(None, [(0, 0, 9, 9)])
    other._.images = ["a.jpg"]
    assert one.user_data == other.user_data
    assert set(one.user_data) == {IMAGE_KEY, ("._.", "spacy_mmib.regions", None, None)}
    assert one._.regions == [BOX]  # without an index


def test_regions_know_their_picture():
    doc = make_doc()
    doc._.images = ["a.jpg", "b.jpg"]
    doc._.regions = [
        {**BOX, "image": numpy.int64(1)},
        {**BOX, "image": 0},
        {**BOX, "image": None},
        "crop.png",
    ]
    assert doc._.regions == [{**BOX, "image": 1}, BOX, BOX, "crop.png"]
    for wrong in (-1, 1.0, "1", True, [1]):
        with pytest.raises(TypeError, match=r'regions\[0\]: "image" is the index of its picture'):
            doc._.regions = [{**BOX, "image": wrong}]
    assert len(doc._.regions) == 4


def test_regions_stay_as_long_as_their_pictures_do():
    doc = make_doc("a.jpg", [(0, 0, 9, 9)])
    set_region_weights(doc, "ner", {(0, 1): [0.5, 0.5]})
    before = dict(doc.user_data)
    doc._.images = ["a.jpg"]
    assert doc.user_data == before  # the same
    doc._.images = ["a.jpg", "b.jpg"]
    assert doc._.regions == [BOX]
    assert len(doc.user_data) == 3
    doc._.regions = [BOX, {**BOX, "image": 1}]
    doc._.images = ["b.jpg", "a.jpg"]
    assert doc._.regions == []
    doc._.regions = [{**BOX, "image": 1}]
    doc._.images = ["b.jpg"]
    assert doc._.regions == []


@pytest.mark.parametrize(
    "trip",
    [
        lambda doc: Doc(VOCAB).from_bytes(doc.to_bytes()),
        docbin,
        lambda doc: pickle.loads(pickle.dumps(doc)),
        lambda doc: doc.copy(),
    ],
    ids=["bytes", "docbin", "pickle", "copy"],
)
def test_they_are_saved_with_the_doc(trip):
    doc = make_doc()
    doc._.images = ["a.jpg", b"b", make_picture("red", (5, 6)), numpy.ones((3, 4, 3), "uint8"), "c\udce9.jpg"]
    doc._.regions = [{**BOX, "image": 3}]
    again = trip(doc)
    assert get_stored_images(again) == get_stored_images(doc)
    assert again._.regions == doc._.regions
    assert (again._.images[3] == 1).all()
    assert again._.images[4] == "c\udce9.jpg"
    once_more = Doc(VOCAB, words=["post"])
    copy_images(again, once_more)
    assert get_stored_images(once_more) == get_stored_images(doc)


@pytest.mark.parametrize("more", [5, "b.jpg", {"a": 1}, [None], [5, ["path"]], ("path", 5, None), b"x"])
def test_damaged_user_data_is_no_crash(more, tmp_path):
    make_picture("red").save(tmp_path / "a.png")
    doc = make_doc("a.png", [(0, 0, 9, 9)])
    doc.user_data[IMAGES_KEY] = more
    assert get_images(doc)[0] == "a.png"
    PictureFolder(tmp_path).localize(doc)
    assert get_images(doc) == [str(tmp_path / "a.png")]  # the good one is used
    assert "picture 2 of " in doc._.image_error
    assert doc._.regions == [BOX]
    del doc.user_data[IMAGE_KEY]
    doc.user_data[IMAGES_KEY] = more
    assert doc._.images == []


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(
    ("bad", "said", "kind"),
    [
        ("missing.png", "no such file", "missing"),
        ("../secret.png", "outside", "outside"),
        ("https://example.org/a.png", "URL", None),
        (b"no picture", "no picture", None),
    ],
)
def test_a_bad_picture_is_taken_off_alone(tmp_path, at, bad, said, kind):
    root = tmp_path / "corpus"
    root.mkdir()
    make_picture("red").save(tmp_path / "secret.png")
    for name in "ab":
        make_picture("red").save(root / f"{name}.png")
    values = ["a.png", "b.png"]
    values.insert(at, bad)
    doc = make_doc()
    doc._.images = values
    doc._.regions = [{**BOX, "label": str(i), "image": i} for i in (2, 1, 0, 7)] + ["b.png"]
    set_regions_note(doc, "note")
    counts = PictureCounts()
    assert PictureFolder(root).localize(doc, counts) == "with_picture"
    assert doc._.images == [str(root / "a.png"), str(root / "b.png")]
    assert doc._.image_error.startswith(f"picture {at + 1} of 3: ")
    assert (counts.with_picture, counts.dropped_pictures, counts.dropped_crops) == (1, 1, 0)
    assert counts.not_used == 1
    assert "1 further pictures left out" in counts.summary()
    if kind is not None:
        assert counts.reasons == {kind: 1}
    # The objects of the other pictures have moved with them.
    boxes = [region for region in doc._.regions if isinstance(region, dict)]
    left = [i for i in range(3) if i != at]
    expected = [(str(i), left.index(i)) for i in (2, 1, 0) if i != at]
    assert [(box["label"], box.get("image", 0)) for box in boxes] == [*expected, ("7", 7)]
    assert (len(doc._.regions) - len(boxes)) == (at != 0)  # crops are the first one's


def test_no_picture_is_left(tmp_path):
    doc = make_doc()
    doc._.images = ["a.png", "../b.png"]
    doc._.regions = [BOX]
    counts = PictureCounts()
    assert PictureFolder(tmp_path).localize(doc, counts) == "missing"
    assert (doc._.images, doc._.regions, counts.missing, counts.dropped_pictures) == ([], [], 1, 0)
    assert doc._.image_error.startswith("picture 1 of 2: ")
    assert "; picture 2 of 2: " in doc._.image_error


def test_pictures_of_any_size_stay_inside_the_root_later(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    for name in "ab":
        (root / f"{name}.png").write_bytes(encoded(make_picture("red")))
    doc = make_doc()
    doc._.images = ["a.png", "b.png"]
    PictureFolder(root).localize(doc)
    again = docbin(doc)
    assert [image.root for image in get_stored_images(again)] == [str(root.resolve())] * 2
