"""The queue in front of a picture encoder: what it shares, what it forgets, and that it stops nothing."""

import copy
import pickle
import weakref

import numpy
import pytest
import torch
from conftest import make_doc, make_encoder, make_picture

from spacy_mmib.encoders.picture_queue import QUEUE, find_encoder_layers, get_settings, read_ahead
from spacy_mmib.images.errors import ImageError
from spacy_mmib.images.values import to_stored
from spacy_mmib.post.regions import normalize_regions


@pytest.fixture
def encoder():
    return make_encoder()


def test_what_fails_ahead_stops_nothing(encoder, monkeypatch):
    def fail(*args):
        raise ValueError("no such row")

    doc = make_doc(make_picture("red"))
    encoder.predict([doc])
    monkeypatch.setattr(encoder.attrs[QUEUE], "_make_request", fail)
    read_ahead([encoder], [doc])
    assert not encoder.attrs[QUEUE]._pending


def test_an_encoder_that_has_no_network_yet_reads_nothing(encoder):
    read_ahead([encoder], [make_doc(make_picture("red"))])
    assert not encoder.attrs[QUEUE]._pending


def test_copies_have_queues_of_their_own(encoder):
    doc = make_doc(make_picture("red"))
    (expected,) = encoder.predict([doc])
    read_ahead([encoder], [doc])
    for other in (encoder.copy(), copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        queue = other.attrs[QUEUE]
        assert queue is not encoder.attrs[QUEUE]
        assert not queue._pending
        (found,) = other.predict([doc])
        assert (found == expected).all()
    assert len(encoder.attrs[QUEUE]._pending) == 1
    assert find_encoder_layers(encoder) == [encoder]
    assert get_settings(encoder).name == "squeezenet1_1"


def test_other_weights_begin_anew(encoder):
    doc = make_doc(make_picture("red"))
    encoder.predict([doc])
    read_ahead([encoder], [doc])
    data = encoder.to_bytes()
    encoder.from_bytes(data)
    encoder.predict([make_doc(None)])
    assert not encoder.attrs[QUEUE]._pending


def test_what_is_remembered_has_no_pixels():
    """Objects are remembered for tens of thousands of pictures."""
    encoder = make_encoder(get_regions={"@region_getters": "spacy-mmib.grid.v1", "k": 2})
    for image in (make_picture("red", (300, 200)), numpy.zeros((200, 300, 3), "uint8")):
        encoder.predict([make_doc(image)])
    queue = encoder.attrs[QUEUE]
    assert len(queue._found) == 2
    assert len(pickle.dumps(list(queue._found))) < 1000


# Preparing


class Transform:
    """Keeps nothing but which pictures there were."""

    def __init__(self):
        self.seen = []

    def __call__(self, picture):
        assert sum(ref() is not None for ref, _ in self.seen) <= 1  # the whole picture
        self.seen.append((weakref.ref(picture), (picture.size, picture.getpixel((0, 0)))))
        return torch.zeros(3, 10, 10)

    stretch = __call__


@pytest.mark.parametrize("region_features", ["crop", "roi"])
def test_objects_are_cut_out_or_read_one_at_a_time(region_features, tmp_path):
    """Sixty crops of a large picture are never in memory together."""
    encoder = make_encoder(arch="resnet18", region_features=region_features)
    encoder.predict([make_doc(None)])
    image = make_picture("red", (40, 30))
    image.paste((0, 0, 255), (20, 10, 30, 20))
    make_picture("green", (7, 5)).save(tmp_path / "crop.png")
    boxes = [tmp_path / "crop.png", (20, 10, 30, 20), (5, 5, 1, 1), tmp_path / "no.png"]
    queue = encoder.attrs[QUEUE]
    queue.network.transform = Transform()
    units, order, problems = queue._prepare(to_stored(image), normalize_regions(boxes + boxes[1:2] * 60))
    assert [(problem.region, problem.kind) for problem in problems] == [(2, "box"), (3, "missing")]
    seen = [picture for _, picture in queue.network.transform.seen]
    assert seen[:2] == [((40, 30), (255, 0, 0)), ((7, 5), (0, 128, 0))]
    if region_features == "crop":
        assert order == list(range(63))
        assert seen[2:] == [((10, 10), (0, 0, 255))] * 61
        return
    assert len(units) == len(seen) == 2
    assert order == [0, 62, *range(1, 62)]
    numpy.testing.assert_allclose(units[0].boxes, [[5, 10 / 3, 7.5, 20 / 3]] * 61, rtol=1e-6)
    with pytest.raises(ImageError, match="the file is empty: the bytes of the picture"):
        queue._prepare(b"", normalize_regions(boxes))
