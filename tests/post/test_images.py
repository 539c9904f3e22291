"""Pictures: what can be attached, what survives, what is read how."""

import io
import pickle
import struct

import numpy
import PIL.Image
import PIL.ImageOps
import pytest
import spacy
from conftest import docbin, encoded, make_picture
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

import spacy_mmib.post.extensions
from spacy_mmib.images.reading import ImageError, probe_image, read_image, to_rgb
from spacy_mmib.images.values import Pixels, image_key, to_stored
from spacy_mmib.post.regions import clip_box, normalize_regions


def near(image: PIL.Image.Image, expected, at=(0, 0), tolerance=2) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(image.getpixel(at), expected))


# Attaching and keeping

ARRAY = numpy.arange(4 * 3 * 3, dtype="uint8").reshape(4, 3, 3)
VALUES = {
    "none": (None, None),
    "str": ("images/a.jpg", "images/a.jpg"),
    "path": (spacy.util.ensure_path("images/a.jpg"), "images/a.jpg"),
    "bytes": (b"\xff\xd8 a jpeg", b"\xff\xd8 a jpeg"),
    "bytearray": (bytearray(b"abc"), b"abc"),
    "array": (ARRAY, ARRAY),
    "pil": (PIL.Image.fromarray(ARRAY), ARRAY),
}


def same(value, expected) -> bool:
    if isinstance(value, PIL.Image.Image):
        value = numpy.asarray(value)
    if isinstance(expected, numpy.ndarray):
        return isinstance(value, numpy.ndarray) and (value == expected).all()
    return type(value) is type(expected) and value == expected


ROUND_TRIPS = {
    "bytes": lambda doc: Doc(Vocab()).from_bytes(doc.to_bytes()),
    "docbin": docbin,
    "pickle": lambda doc: pickle.loads(pickle.dumps(doc)),
    "copy": lambda doc: doc.copy(),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_pictures_survive(value, round_trip):
    attached, expected = VALUES[value]
    doc = Doc(Vocab(), words=["Rob", "ate"])
    doc._.image = attached
    doc._.regions = [(0, 0, 2.5, 3), {"box": [1, 1, 2, 2], "label": "cat", "score": 0.5}, "crops/a.png"]
    doc._.image_error = "two\nlines"
    doc.ents = [spacy.tokens.Span(doc, 0, 1, label="PER")]
    spacy_mmib.post.extensions.set_predicted(doc, "mmib_ner", {(0, 3, "PER"): 0.75})
    for _ in range(2):
        doc = ROUND_TRIPS[round_trip](doc)
    assert same(doc._.image, expected)
    assert doc._.regions == [
        {"box": [0.0, 0.0, 2.5, 3.0], "label": None, "score": None},
        {"box": [1.0, 1.0, 2.0, 2.0], "label": "cat", "score": 0.5},
        "crops/a.png",
    ]
    assert doc._.image_error == "two lines"
    assert doc.ents[0]._.confidence == 0.75


def test_defaults_and_taking_back():
    doc = Doc(Vocab(), words=["a"])
    assert (doc._.image, doc._.regions, doc._.image_error) == (None, [], None)
    doc._.image, doc._.regions = "a.jpg", [(0, 0, 1, 1)]
    doc._.image_error = "broken"
    doc._.image = "b.jpg"  # another picture: what was wrong with the first is no longer true
    assert doc._.image_error is None
    doc._.image = doc._.regions = None
    assert not doc.user_data


def test_copying_a_doc_copies_no_pixels():
    doc = Doc(Vocab(), words=["a"])
    doc._.image = ARRAY
    stored = spacy_mmib.post.extensions.get_stored_image
    assert stored(doc.copy()) is stored(doc)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1, 2], TypeError, "takes a path .* got list"),
        (3.5, TypeError, "got float"),
        (ARRAY / 255, TypeError, "arrays of uint8 .* got float64.*astype"),
        (ARRAY[..., 0], ValueError, r"got shape \(4, 3\)"),
        (ARRAY[:0], ValueError, r"got shape \(0, 3, 3\)"),
        (numpy.zeros((4, 3, 4), "uint8"), ValueError, r"got shape \(4, 3, 4\)"),
    ],
)
def test_values_that_are_no_picture(value, error, message):
    doc = Doc(Vocab(), words=["a"])
    with pytest.raises(error, match=message):
        doc._.image = value
    assert doc._.image is None
    with pytest.raises(ImageError, match=message):  # e.g. put into user_data by hand
        read_image(value)
    assert image_key(value) is None


def test_a_pil_image_cut_short_is_refused_when_attached():
    data = encoded(make_picture("red", (200, 200)), "JPEG")
    lazy = PIL.Image.open(io.BytesIO(data[: len(data) // 2]))
    doc = Doc(Vocab(), words=["a"])
    with pytest.raises(ValueError, match="can't be decoded.*Attach its path"):
        doc._.image = lazy


def test_equal_pictures_have_equal_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert image_key(None) is None
    assert image_key("a/../b.jpg") == image_key(str(tmp_path / "b.jpg")) == image_key(tmp_path / "b.jpg")
    assert image_key(b"a") == image_key(b"a") != image_key(b"b")
    assert image_key(to_stored(ARRAY)) == image_key(ARRAY) == image_key(PIL.Image.fromarray(ARRAY))
    assert image_key(ARRAY) != image_key(ARRAY + 1)


def test_pixels_state_their_size():
    with pytest.raises(ValueError, match="take 12 bytes, not 3"):
        Pixels("array", 2, 2, b"abc")


# Reading


def test_modes_are_converted_rightly():
    red = make_picture("red")
    palette = red.convert("P")
    assert near(read_image(encoded(palette)), (255, 0, 0))
    assert near(read_image(encoded(red.convert("L"))), (76, 76, 76))
    assert near(read_image(encoded(PIL.Image.new("1", (4, 4), 1))), (255, 255, 255))
    assert near(read_image(encoded(red.convert("CMYK"), "JPEG")), (254, 0, 0), tolerance=3)
    assert near(read_image(encoded(red.convert("CMYK"), "TIFF")), (255, 0, 0))
    assert near(to_rgb(red.convert("YCbCr")), (254, 0, 0))


def test_transparency_is_composited_on_white():
    rgba = PIL.Image.new("RGBA", (4, 4), (200, 0, 0, 0))  # hidden red
    assert near(read_image(encoded(rgba)), (255, 255, 255))
    half = PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert near(read_image(encoded(half)), (127, 127, 127))
    grey_alpha = PIL.Image.new("LA", (4, 4), (10, 0))
    assert near(read_image(encoded(grey_alpha)), (255, 255, 255))
    palette = PIL.Image.new("P", (4, 4), 3)
    palette.putpalette([9, 9, 9] * 256)
    assert near(read_image(encoded(palette, "PNG", transparency=3)), (255, 255, 255))
    keyed = PIL.Image.new("RGB", (4, 4), (1, 2, 3))
    assert near(read_image(encoded(keyed, "PNG", transparency=(1, 2, 3))), (255, 255, 255))


def test_16_bits_and_floats_are_scaled_not_clipped():
    ramp = numpy.array([[0, 32768, 65535]], dtype="uint16")
    pixels = numpy.asarray(read_image(encoded(PIL.Image.fromarray(ramp))))[0, :, 0]
    assert pixels.tolist() == [0, 128, 255]
    dark = PIL.Image.fromarray(numpy.array([[0, 100]], dtype="uint16"))
    assert numpy.asarray(to_rgb(dark)).max() <= 1  # dark stays dark, whatever its brightest pixel
    for values in ([[0.0, 0.5, 1.0]], [[0.0, 127.5, 255.0]]):
        tiff = encoded(PIL.Image.fromarray(numpy.array(values, dtype="float32")), "TIFF")
        assert numpy.asarray(read_image(tiff))[0, :, 0].tolist() == [0, 128, 255]
    wild = PIL.Image.fromarray(numpy.array([[-10.0, 990.0, numpy.nan]], dtype="float32"))
    assert numpy.asarray(to_rgb(wild))[0, :2, 0].tolist() == [0, 255]
    flat = PIL.Image.fromarray(numpy.full((2, 2), 1e9, dtype="float32"))
    assert numpy.isfinite(numpy.asarray(to_rgb(flat))).all()


def test_exif_rotation_is_applied():
    image = make_picture("black", (40, 20))
    image.paste((255, 0, 0), (0, 0, 10, 20))  # red at the left
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    upright = read_image(encoded(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (20, 40)
    assert near(upright, (254, 0, 0), at=(10, 2), tolerance=12)
    assert near(upright, (0, 0, 0), at=(10, 35), tolerance=12)


def test_animations_give_their_first_frame():
    frames = [make_picture(colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert near(read_image(data), (255, 0, 0), tolerance=8)


def test_files_that_cant_be_read_give_one_line(tmp_path):
    data = encoded(make_picture("red", (200, 200)), "JPEG")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut.png").write_bytes(encoded(make_picture("red", (200, 200)))[:60])
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    expected = {
        "empty.jpg": "empty",
        "text.jpg": "not a picture",
        "cut.jpg": "can't be decoded",
        "cut.png": "can't be",
        "folder.jpg": "is a folder",
        "missing.jpg": "no such file",
        "empty.jpg/x.jpg": "no such file",
        "script.eps": "not a picture",
        "a\0b.jpg": "can't open",
        "x" * 5000: "can't open",
    }
    for name, message in expected.items():
        with pytest.raises(ImageError, match=message) as info:
            read_image(tmp_path / name)
        assert "\n" not in str(info.value)
        if not name.startswith("cut"):
            with pytest.raises(ImageError, match=message):
                probe_image(tmp_path / name)
    for value, message in (
        (b"", "empty"),
        (b"abc", "not a picture"),
        (data[:300], "can't be"),
        (None, "no picture"),
    ):
        with pytest.raises(ImageError, match=message):
            read_image(value)
    probe_image(data)
    probe_image(to_stored(ARRAY))


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_bombs_are_refused_before_decoding(side):
    bomb = encoded(PIL.Image.new("1", (side, side)))
    assert len(bomb) < 1_000_000
    for read in (read_image, probe_image):
        with pytest.raises(ImageError, match="too large"):
            read(bomb)


# Regions


def test_regions_that_are_none():
    doc = Doc(Vocab(), words=["a"])
    for value in ("crop.png", {"box": (0, 0, 1, 1)}, 3):
        with pytest.raises(TypeError, match="takes a list"):
            doc._.regions = value
    bad_score = [{"box": (0, 0, 1, 1), "score": "high"}]
    for value in (
        [(1, 2, 3)],
        [None],
        [{"label": "x"}],
        [("a", "b", "c", "d")],
        bad_score,
        [(0, 0, 1, 10**400)],
    ):
        with pytest.raises(TypeError, match=r"regions\[0\] is neither"):
            doc._.regions = value
    assert normalize_regions([numpy.array([1, 2, 3, 4])])[0]["box"] == [1.0, 2.0, 3.0, 4.0]


def test_boxes_are_clipped_or_refused():
    assert clip_box((-5, 1.5, 3.2, 99), 10, 8) == (0, 1, 4, 8)
    for box, message in [
        ((float("nan"), 0, 1, 1), "not finite"),
        ((3, 0, 1, 5), "no pixel"),
        ((2, 2, 2, 5), "no pixel"),
        ((20, 0, 30, 5), "no pixel"),
    ]:
        with pytest.raises(ValueError, match=message):
            clip_box(box, 10, 8)


def test_another_picture_takes_its_own_regions():
    doc = Doc(Vocab(), words=["a"])
    doc._.regions = [(0, 0, 5, 5)]
    doc._.image = "a.jpg"  # regions may be attached first
    assert len(doc._.regions) == 1
    doc._.image = "a.jpg"
    assert len(doc._.regions) == 1
    doc._.image = "b.jpg"
    assert doc._.regions == []


def test_confidence_belongs_to_an_entity_of_just_this_label():
    doc = Doc(Vocab(), words=["Rob", "ate"])
    spacy_mmib.post.extensions.set_predicted(doc, "mmib_ner", {(0, 3, "PER"): 0.75})
    span = lambda *args, **kwargs: spacy.tokens.Span(doc, *args, **kwargs)
    assert span(0, 1, label="PER")._.confidence == 0.75
    assert span(0, 1, label="CAT")._.confidence is None
    assert span(0, 2, label="PER")._.confidence is None
    spacy_mmib.post.extensions.set_predicted(doc, "mmib_ner", {})
    assert not doc.user_data


def test_damaged_pixels_in_a_docbin_harm_their_own_post_only():
    good, bad = (Doc(Vocab(), words=["a"]) for _ in range(2))
    good._.image = ARRAY
    for foreign in (
        [1],
        ["pil", -1, -1, b"abc"],
        ["pil", 0, 5, b""],
        ["array", "1", 1, "x"],
        [[], {}, 0, None],
    ):
        bad.user_data[spacy_mmib.post.extensions.IMAGE_KEY] = {"__spacy_mmib_pixels__": foreign}
        data = DocBin(store_user_data=True, docs=[good, bad]).to_bytes()
        docs = list(DocBin(store_user_data=True).from_bytes(data).get_docs(Vocab()))
        assert same(docs[0]._.image, ARRAY)
        with pytest.raises(ImageError, match="takes a path"):
            read_image(docs[1]._.image)


def test_pictures_without_pixels():
    doc = Doc(Vocab(), words=["a"])
    for size in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="has no pixels"):
            doc._.image = PIL.Image.new("RGB", size)
        with pytest.raises(ValueError, match="at least 1 pixel"):
            Pixels("pil", *size, b"")


def test_malformed_exif_turns_nothing_and_breaks_nothing():
    # Two entries: the width as text (writing this EXIF data anew would fail), and orientation 6.
    entries = struct.pack("<HHIIHHII", 0x0100, 2, 5, 38, 0x0112, 3, 1, 6)
    tiff = b"II*\x00" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0) + b"wide\x00"
    data = encoded(make_picture("red", (40, 20)), "JPEG", exif=b"Exif\x00\x00" + tiff)
    with pytest.raises(Exception, match="."):
        PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    assert read_image(data).size == (20, 40)
    for junk in (b"Exif\x00\x00junk", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"):
        assert read_image(encoded(make_picture("red", (40, 20)), "JPEG", exif=junk)).size == (40, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = PIL.Image.fromarray(numpy.arange(6 * 4 * 3, dtype="uint8").reshape(6, 4, 3))
    data = encoded(image, "PNG", exif=exif)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    assert (numpy.asarray(read_image(data)) == numpy.asarray(expected)).all()


def test_floats_just_above_one_are_no_dark_picture():
    ramp = PIL.Image.fromarray(numpy.array([[0.0, 0.5, 1.001]], dtype="float32"))
    assert numpy.asarray(to_rgb(ramp))[0, :, 0].tolist() == [0, 128, 255]


def test_keys_follow_links_and_know_shapes(tmp_path):
    make_picture("red").save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert image_key(tmp_path / "a.png") == image_key(tmp_path / "b.png")
    grey = numpy.zeros((4, 6, 3), "uint8")
    assert image_key(grey) != image_key(grey.transpose(1, 0, 2).copy())
    assert image_key("a\0b") == "path:a\0b"
