"""The queue in front of a picture encoder: what it shares, what it forgets, and that it stops nothing."""

import copy
import pickle

import pytest
from conftest import IMG2VEC, make_picture
from spacy.tokens import Doc
from spacy.util import registry
from spacy.vocab import Vocab

from spacy_mmib.encoders.encoder_settings import QUEUE, find_encoder_layers, get_settings, read_ahead

VOCAB = Vocab()


@pytest.fixture
def encoder():
    encoder = registry.resolve({"img2vec": IMG2VEC})["img2vec"]
    encoder.initialize()
    return encoder


def make_doc(image) -> Doc:
    doc = Doc(VOCAB, words=["a", "post"])
    doc._.image = image
    return doc


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
