"""Damaged pipelines: refused when they are loaded, in one sentence."""

import contextlib
import json
import random
import warnings

import numpy
import pytest
import spacy
import srsly
from conftest import entities, make_nlp, make_rel_nlp, new_docs

from spacy_mmib.bridge.shim import get_module
from spacy_mmib.pipeline.robust import DIGESTS


@pytest.fixture
def folder(trained, tmp_path):
    trained.to_disk(tmp_path / "nlp")
    return tmp_path / "nlp"


def test_what_is_whole_is_loaded(folder, trained):
    assert (folder / "mmib_ner" / DIGESTS).exists()
    expected = entities(trained.pipe(new_docs(trained)))
    nlp = spacy.load(folder)
    assert entities(nlp.pipe(new_docs(nlp))) == expected
    again = make_nlp().from_bytes(trained.to_bytes())
    assert entities(again.pipe(new_docs(again))) == expected


def test_pipelines_of_before_have_no_digests(folder, trained):
    (folder / "mmib_ner" / DIGESTS).unlink()
    nlp = spacy.load(folder)
    assert entities(nlp.pipe(new_docs(nlp))) == entities(trained.pipe(new_docs(trained)))
    msg = srsly.msgpack_loads(trained.get_pipe("mmib_ner").to_bytes())
    del msg[DIGESTS]
    make_nlp().get_pipe("mmib_ner").from_bytes(srsly.msgpack_dumps(msg))


@pytest.mark.parametrize("part", ["model", "cfg"])
@pytest.mark.parametrize("where", range(5))
def test_a_flipped_bit(folder, trained, part, where):
    path = folder / "mmib_ner" / part
    data = bytearray(path.read_bytes())
    place = random.Random(where).randrange(len(data))
    data[place] ^= 1 << where
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"mmib_ner: .*{part} changed after the component was saved"):
        spacy.load(folder)
    data = bytearray(trained.get_pipe("mmib_ner").to_bytes(exclude=["vocab"]))
    data[(2 * place) % len(data)] ^= 1 << where
    with pytest.raises(ValueError, match="mmib_ner: "):
        make_nlp().get_pipe("mmib_ner").from_bytes(bytes(data))


@pytest.mark.parametrize("where", range(10))
def test_a_flipped_bit_without_digests_never_raises_what_names_nothing(folder, where):
    (folder / "mmib_ner" / DIGESTS).unlink()
    path = folder / "mmib_ner" / "model"
    data = bytearray(path.read_bytes())
    data[random.Random(where).randrange(min(len(data), 3000))] ^= 1 << where % 8
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        spacy.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["fusion", "head", "tok2vec", "img2vec"])
def test_weights_that_are_not_finite(value, place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = make_nlp()
        pipe = nlp.get_pipe("mmib_ner")
        pipe.add_label("PER")
        nlp.initialize()
    layer = pipe.model.get_ref(place)
    if place == "tok2vec":
        node = next(node for node in layer.walk() if node.param_names)
        node.get_param(node.param_names[0])[..., 0] = value
    else:
        layer = layer.layers[0] if place == "img2vec" else layer
        parameter = next(get_module(layer).parameters())
        parameter.data[(0,) * parameter.dim()] = value
    data = nlp.to_bytes()
    with pytest.raises(ValueError, match="mmib_ner: the stored weights .* aren't finite"):
        make_nlp().from_bytes(data)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["PER"], "weights are for 2 labels, not for 1"),
        (["PER", "ORG", "LOC"], "weights are for 2 labels, not for 3"),
        ([], "weights are for 2 labels, not for 0"),
        *(
            (labels, "no list of different, non-empty strings")
            for labels in (
                ["PER", "PER"],
                [1, 2],
                [None, "ORG"],
                ["PER", ""],
                [["PER"], "ORG"],
                None,
                "PER",
                {"PER": 1},
            )
        ),
    ],
)
def test_labels_that_do_not_fit(folder, labels, message):
    (folder / "mmib_ner" / DIGESTS).unlink()
    path = folder / "mmib_ner" / "cfg"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": labels}))
    with pytest.raises(ValueError, match=f"mmib_ner: .*{message}"):
        spacy.load(folder)


@pytest.mark.parametrize("negative", ["couple", "", None, 3])
def test_negative_labels_that_are_none(trained_rel, negative):
    pipe = trained_rel.get_pipe("mmib_rel")
    msg = srsly.msgpack_loads(pipe.to_bytes())
    del msg[DIGESTS]
    msg["cfg"] = json.dumps({**json.loads(msg["cfg"]), "negative_label": negative})
    with pytest.raises(ValueError, match="mmib_rel: the negative label"):
        make_rel_nlp().get_pipe("mmib_rel").from_bytes(srsly.msgpack_dumps(msg))


def test_labels_of_another_component(trained_rel):
    pipe = trained_rel.get_pipe("mmib_rel")
    msg = srsly.msgpack_loads(pipe.to_bytes())
    del msg[DIGESTS]
    msg["cfg"] = json.dumps({**json.loads(msg["cfg"]), "labels": ["couple"]})
    with pytest.raises(ValueError, match="mmib_rel: the weights are for 3 labels, not for 2"):
        make_rel_nlp().get_pipe("mmib_rel").from_bytes(srsly.msgpack_dumps(msg))


def test_the_shared_picture_encoder_is_checked_too(trained_joint, tmp_path):
    trained_joint.to_disk(tmp_path)
    path = tmp_path / "mmib_img2vec" / "model"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="mmib_img2vec: .*model changed after"):
        spacy.load(tmp_path)


def test_a_frozen_component_is_stored_byte_for_byte(trained, tmp_path):
    """Weight decay moves forbidden transitions of the CRF; neither training of others nor loading does."""
    nlp = make_nlp().from_bytes(trained.to_bytes())
    pipe = nlp.get_pipe("mmib_ner")
    transitions = get_module(pipe.model.get_ref("head")).crf.transitions
    assert float(transitions.detach().min()) == -10_000.0
    before = pipe.to_bytes(exclude=["vocab"])
    list(nlp.pipe(new_docs(nlp)))
    assert pipe.to_bytes(exclude=["vocab"]) == before
    again = make_nlp().get_pipe("mmib_ner").from_bytes(before, exclude=["vocab"])
    assert again.to_bytes(exclude=["vocab"]) == before
    numpy.testing.assert_array_equal(transitions.detach().numpy()[0, 2::2], -10_000.0)
