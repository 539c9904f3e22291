"""`spacy mmib optimize`, and the layers with 8-bit weights that it makes. Small encoders with random weights."""

import numpy
import pytest
import spacy
import torch
from commands import run, save_pairs
from conftest import IMG2VEC, LANGUAGE, MODEL, make_examples
from spacy.util import registry
from tiny_bert import save_tiny_bert
from tiny_vision import save_vit
from torch import nn

from spacy_mmib.bridge.int8 import Int8Linear
from spacy_mmib.bridge.shim import get_module

TEXTS = ["Rob had dinner with us", "we", "", "so many words in this post, it needs windows! " * 6]
WINDOWS = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 24, "stride": 16}
LISTENER = {"@architectures": "spacy-transformers.TransformerListener.v1", "grad_factor": 1.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One pipeline with spacy-transformers' encoder, one with ours and a ViT, one with nothing to gain."""
    folder = tmp_path_factory.mktemp("optimize")
    name, vit = save_tiny_bert(folder / "bert"), str(save_vit(folder / "vit"))
    trf = {"@architectures": "spacy-transformers.TransformerModel.v3", "name": name, "get_spans": WINDOWS}
    listener = {**LISTENER, "pooling": {"@layers": "reduce_mean.v1"}}
    hf_text = {"@architectures": "spacy-mmib.HFTextEncoder.v1", "name": name, "window": 24, "stride": 16}
    hf_vision = {"@architectures": "spacy-mmib.HFVisionEncoder.v1", "name": vit}
    for kind, own in (
        ("trf", {"tok2vec": listener, "img2vec": IMG2VEC}),
        ("ours", {"tok2vec": hf_text, "img2vec": hf_vision}),
        ("cnn", {}),
    ):
        nlp = spacy.blank(LANGUAGE)
        if kind == "trf":
            nlp.add_pipe("transformer", config={"model": trf})
        nlp.add_pipe("mmib_ner", config={"model": {**MODEL, **own}})
        nlp.initialize(lambda nlp=nlp: make_examples(nlp))
        nlp.to_disk(folder / kind)
        result = run("optimize", folder / kind, folder / f"{kind}8")
        assert (result.exit_code == 0) == (kind != "cnn"), result.output
    assert "no encoder of this pipeline gains" in result.stderr
    assert not (folder / "cnn8").exists()
    return folder


def encode(nlp, texts):
    """Rows of the text encoder."""
    docs = [nlp.make_doc(text) for text in texts]
    if "transformer" in nlp.pipe_names:
        docs = list(nlp.get_pipe("transformer").pipe(docs))
    return nlp.get_pipe("mmib_ner").model.get_ref("tok2vec").predict(docs)


def get_encoders(nlp):
    model = nlp.get_pipe("mmib_ner").model
    if "transformer" in nlp.pipe_names:
        return [get_module(nlp.get_pipe("transformer").model.layers[0])]
    return [get_module(model.get_ref(name).layers[0]) for name in ("tok2vec", "img2vec")]


def test_a_linear_layer_computes_with_rounded_weights_and_rows():
    torch.manual_seed(0)
    linear, x = nn.Linear(5, 3), torch.randn(2, 4, 5) * torch.logspace(-3, 3, 4)[:, None]
    x[0, 0] = 0
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().numpy()
    wanted = numpy.zeros((2, 4, 3))
    for at in numpy.ndindex(2, 4):
        row = x[at].double().numpy()
        for o in range(3):
            w_step, x_step = abs(weight[o]).max() / 127, max(abs(row).max(), 1e-20) / 127
            sums = (numpy.rint(weight[o] / w_step) * numpy.rint(row / x_step)).sum()
            wanted[at][o] = sums * w_step * x_step + bias[o]
    assert numpy.allclose(Int8Linear(linear)(x), wanted, rtol=1e-5, atol=1e-6)
    assert numpy.allclose(linear(x).detach(), wanted, rtol=0.1, atol=0.05 * abs(wanted).max())
    no_bias = nn.Linear(5, 3, bias=False)
    assert torch.allclose(Int8Linear(no_bias)(x[1, 1]), no_bias(x[1, 1]), rtol=0.1, atol=0.1)
    assert Int8Linear(no_bias)(torch.zeros(0, 5)).shape == (0, 3)


@pytest.mark.parametrize("kind", ["trf", "ours"])
def test_vectors_stay_close_and_depend_on_nothing_but_the_post(models, kind):
    nlp, optimized = spacy.load(models / kind), spacy.load(models / f"{kind}8")
    assert optimized.get_pipe("mmib_ner").labels == nlp.get_pipe("mmib_ner").labels
    for encoder, before in zip(get_encoders(optimized), get_encoders(nlp)):
        linear = [m for m in before.modules() if type(m) is nn.Linear]
        assert linear
        assert len(linear) == len([m for m in encoder.modules() if isinstance(m, Int8Linear)])
        assert not any(type(m) is nn.Linear for m in encoder.modules())
    together = encode(optimized, TEXTS)
    for text, exact, rows in zip(TEXTS, encode(nlp, TEXTS), together, strict=True):
        assert numpy.allclose(rows, exact, atol=0.15)
        assert numpy.allclose(rows, encode(optimized, [text, "we"])[0], atol=1e-5)
    assert any(not numpy.array_equal(a, b) for a, b in zip(together, encode(nlp, TEXTS)))
    docs = list(optimized.pipe([example.x.copy() for example in make_examples(optimized)]))
    assert [doc.text for doc in docs] == [example.x.text for example in make_examples(optimized)]


@pytest.mark.parametrize("kind", ["trf", "ours"])
def test_is_saved_and_loaded_without_a_change_in_a_fraction_of_the_space(models, kind, tmp_path):
    optimized = spacy.load(models / f"{kind}8")
    wanted = encode(optimized, TEXTS)
    optimized.to_disk(tmp_path / "again")
    copy = spacy.blank(LANGUAGE).from_config(optimized.config).from_bytes(optimized.to_bytes())
    for nlp in (spacy.load(tmp_path / "again"), copy):
        for rows, own in zip(wanted, encode(nlp, TEXTS), strict=True):
            assert numpy.array_equal(rows, own)
    for encoder in get_encoders(copy):
        state = encoder.state_dict()
        assert {x.dtype for key, x in state.items() if key.endswith("query.weight")} == {torch.int8}


def test_is_the_same_if_made_twice(models, tmp_path):
    assert run("optimize", models / "ours", tmp_path).exit_code == 0
    name = "mmib_ner/model"
    assert (tmp_path / name).read_bytes() == (models / "ours8" / name).read_bytes()
    assert (tmp_path / "config.cfg").read_text() == (models / "ours8" / "config.cfg").read_text()


@pytest.mark.parametrize("kind", ["trf", "ours"])
def test_cannot_be_trained(models, kind):
    nlp = spacy.load(models / f"{kind}8")
    with pytest.raises(ValueError, match="optimized for prediction"):
        nlp.update(make_examples(nlp), sgd=nlp.create_optimizer())
    anew = spacy.blank(LANGUAGE).from_config(nlp.config)
    anew.initialize(lambda: make_examples(anew))
    anew.update(make_examples(anew), sgd=anew.create_optimizer())


def test_listeners_can_be_replaced(models, tmp_path):
    nlp = spacy.load(models / "trf8")
    wanted = encode(nlp, TEXTS)
    nlp.replace_listeners("transformer", "mmib_ner", ["model.tok2vec"])
    nlp.remove_pipe("transformer")
    nlp.to_disk(tmp_path)
    for rows, own in zip(wanted, encode(spacy.load(tmp_path), TEXTS), strict=True):
        assert numpy.allclose(rows, own, atol=1e-6)


def test_an_initialized_layer_is_not_8_bit_before_its_weights_are_loaded(models):
    block = {"@architectures": "spacy-mmib.HFTextEncoder.v1", "name": str(models / "bert")}
    layer = registry.resolve({"x": {"@architectures": "spacy-mmib.Int8.v1", "layer": block}})["x"]
    plain = registry.resolve({"x": block})["x"]
    plain.initialize()
    docs = [spacy.blank(LANGUAGE).make_doc(text) for text in TEXTS]
    layer.from_bytes(plain.to_bytes())
    assert isinstance(get_module(layer.layers[0]).bert.layers[0].query, Int8Linear)
    layer.initialize()
    for rows, own in zip(plain.predict(docs), layer.predict(docs), strict=True):
        assert numpy.array_equal(rows, own)
    layer.from_bytes(layer.to_bytes())
    assert type(get_module(layer.layers[0]).bert.layers[0].query) is nn.Linear


def test_scores_both(models, tmp_path):
    save_pairs(tmp_path / "posts.spacy")
    args = ["optimize", models / "ours", tmp_path / "out"]
    result = run(*args, "--data", tmp_path / "posts.spacy")
    assert result.exit_code == 0, result.output
    for word in ("components.mmib_ner.model.tok2vec", "components.mmib_ner.model.img2vec", "F1", "words a"):
        assert word in result.stdout
    again = run(*args)
    assert again.exit_code == 1
    assert "is not empty" in again.stderr
    assert run(*args, "--force").exit_code == 0
    same = run("optimize", models / "ours", models / "ours", "--force")
    assert same.exit_code == 1
    assert "it stays as it is" in same.stderr
    twice = run("optimize", models / "ours8", tmp_path / "twice")
    assert twice.exit_code == 1
    assert "optimized before" in twice.stderr
