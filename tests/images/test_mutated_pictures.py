"""Pictures made by accident or in bad faith: each is read, or refused with a reason; nothing else happens."""

import gc
import os
import warnings
from collections import Counter

import numpy
import PIL.Image
import pytest
from mutations import MAGICS, mutated_pictures, whole_pictures

from spacy_mmib.images.errors import KINDS
from spacy_mmib.images.reader import PictureReader
from spacy_mmib.images.reading import ImageError, probe_image

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


@pytest.fixture(scope="module")
def pictures():
    return mutated_pictures(2000, seed=0)


def outcome(read, data):
    """What came out: the size of the picture, or the kind and the text of the reason."""
    try:
        image = read(data)
    except ImageError as err:
        return err.kind, str(err)
    assert image.mode == "RGB"
    pixels = numpy.asarray(image)
    assert pixels.dtype == numpy.uint8
    assert pixels.size > 0
    return "read", image.size


def test_each_is_read_or_refused_with_a_reason(pictures, capfd):
    reader = PictureReader()
    outcomes = [outcome(reader.read, data) for data in pictures]
    for kind, text in outcomes:
        if kind != "read":
            assert kind in KINDS
            assert text
            assert text.isprintable()
            assert len(text) < 500
    kinds = Counter(kind for kind, _ in outcomes)
    assert kinds["read"] > 300
    assert kinds["format"] > 300
    assert kinds["damaged"] > 300
    assert kinds["too_many_pixels"] > 5
    assert not kinds["timeout"]
    assert not kinds["crashed"]
    captured = capfd.readouterr()  # libtiff's own messages can't be turned off from Python
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_threads_say_the_same(pictures):
    reader = PictureReader(threads=3, timeout=60)
    some = pictures[::4]
    jobs = [reader.submit(outcome, reader.read, data) for data in some]
    assert [job.result() for job in jobs] == [outcome(reader.read, data) for data in some]


def test_where_warnings_are_errors_they_are_reasons(pictures):
    """Pillow warns of much that is malformed, and what that leads to is the program's choice."""
    reader = PictureReader()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes = [outcome(reader.read, data) for data in pictures[::4]]
    assert {kind for kind, _ in outcomes} <= {"read", *KINDS}


def test_the_header_says_the_same_size(pictures):
    reader = PictureReader()
    for data in pictures:
        kind, size = outcome(reader.read, data)
        if kind == "read":
            assert probe_image(data) == size


def test_reading_them_leaves_no_files_and_no_memory_behind(pictures, recwarn):
    def count_pictures():
        gc.collect()  # an open file that is collected warns
        return sum(issubclass(type(o), PIL.Image.Image) for o in gc.get_objects())

    reader = PictureReader()
    before = count_pictures()
    recwarn.clear()
    warnings.simplefilter("always")
    for data in pictures[:500]:
        outcome(reader.read, data)
    assert count_pictures() <= before
    left = [w for w in recwarn if not w.filename.startswith(os.path.dirname(PIL.__file__))]
    assert not [str(w.message) + w.filename for w in left]


def test_each_whole_picture_is_read():
    reader = PictureReader()
    assert [outcome(reader.read, data)[0] for data in whole_pictures()] == ["read"] * len(whole_pictures())


def test_all_formats_of_pillow_are_among_them():
    PIL.Image.init()
    assert set(PIL.Image.OPEN) <= set(MAGICS)
    assert mutated_pictures(100, seed=3) == mutated_pictures(100, seed=3)
    assert mutated_pictures(100, seed=3) != mutated_pictures(100, seed=4)
    assert len(set(mutated_pictures(2000))) > 1900
    assert all(mutated_pictures(2000))
