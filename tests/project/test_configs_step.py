"""Every shipped config trains: filled, resolved, one step, one evaluation and predictions, on tiny posts and
with tiny encoders in the place of BERT and ResNet."""

import math
import warnings
from inspect import signature
from itertools import permutations
from pathlib import Path

import numpy
import pytest
import spacy
from conftest import make_picture
from spacy.tokens import DocBin, Span
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import registry
from thinc.api import Config
from tiny_bert import save_tiny_bert
from tiny_vision import save_clip_vision

from project.config import read_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in ROOT.glob("configs/*.cfg"))
PAPERS = [name for name in CONFIGS if "_trf" in name and "frozen" not in name]
TRAINING_POSTS = {"rel_trf": 7356, "rel_trf_released": 7356}
"""Of the dataset that a config's schedule is for; the others' is Twitter-2017."""

POSTS = [
    ("Rob met Mia in Oslo", "red"),
    ("Kim and Mia sing", "blue"),
    ("Mia sleeps", None),
    ("nobody is here", "white"),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Posts with entities, relations and pictures, some without."""
    folder = tmp_path_factory.mktemp("corpus")
    nlp = spacy.blank("en")
    docbin = DocBin(store_user_data=True)
    for text, colour in POSTS:
        doc = nlp.make_doc(text)
        if colour is not None:
            make_picture(colour).save(folder / f"{colour}.png")
            doc._.image = f"{colour}.png"
            doc._.regions = [(0, 0, 20, 20), (5, 5, 30, 30)]
        doc.ents = [Span(doc, t.i, t.i + 1, label="PER") for t in doc if t.text in "Rob Mia Kim"]
        doc._.relations = [(head, tail, "couple") for head, tail in permutations(doc.ents, 2)]
        docbin.add(doc)
    docbin.to_disk(folder / "posts.spacy")
    return folder


@pytest.fixture(scope="module")
def entities(bert, corpus, tmp_path_factory) -> str:
    """What joint_trf_frozen.cfg is trained on top of: the same without relations, not trained any further."""
    folder = tmp_path_factory.mktemp("entities") / "model-best"
    config = make_small("joint_trf", bert, corpus)
    del config["components"]["mmib_rel"]
    config["nlp"]["pipeline"].remove("mmib_rel")
    weights = config["training"]["score_weights"]
    config["training"]["score_weights"] = {k: v for k, v in weights.items() if k[:3] != "rel"}
    init_nlp(config).to_disk(folder)
    return str(folder)


def make_small(name: str, bert: str, corpus: Path, entities: str | None = None) -> Config:
    """The config with tiny encoders, for one step."""
    config = read_config(name)
    for layer in find_layers(config["components"]):
        if layer.get("name") in ("bert-base-uncased", "bert-base-cased"):
            layer["name"] = bert
        if layer.get("@architectures") == "spacy-mmib.TorchvisionEncoder.v1":
            arch = "resnet18" if layer["rows"] == "pyramid" else "squeezenet1_1"
            layer |= {"arch": arch, "weights": None, "image_size": 32}
        if layer.get("@architectures") == "spacy-mmib.HFVisionEncoder.v1":
            layer["name"] = str(save_clip_vision(Path(bert).parent / "clip"))
        if layer.get("@architectures") == "spacy-mmib.MKGformer.v1":
            layer["layers"] = 1
        if layer.get("@architectures") == "spacy-mmib.TimmEncoder.v1":
            layer |= {"name": "test_resnet", "weights": None, "image_size": 32}
        if layer.get("@region_getters") == "spacy-mmib.detector.v1":
            layer.clear()
            layer["@region_getters"] = "spacy-mmib.given.v1"
    config["paths"] |= {split: str(corpus / "posts.spacy") for split in ("train", "dev")}
    if "entities" in config["paths"]:
        config["paths"]["entities"] = entities
    config["training"] |= {"max_steps": 1, "max_epochs": 0, "eval_frequency": 1}
    rate = config["training"]["optimizer"]["learn_rate"]
    if isinstance(rate, dict) and rate["@schedules"] == "warmup_linear.v1":
        rate |= {"initial_rate": 0.1, "warmup_steps": 1, "total_steps": 10}
        # The first step of a warm-up has a rate of nothing.
        config["training"]["max_steps"] = 2
    return config


def find_layers(section):
    for value in section.values():
        if isinstance(value, dict):
            yield value
            yield from find_layers(value)


@pytest.mark.parametrize("config_name", CONFIGS)
def test_a_step_and_a_prediction(config_name, bert, corpus, entities):
    config = make_small(config_name, bert, corpus, entities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = init_nlp(config)
        before = {name: get_weights(nlp, name) for name in nlp.pipe_names}
        train(nlp)
        docs = list(nlp.pipe(read_posts(nlp, corpus)))
    info = nlp.meta["performance"]
    losses = {name: loss for name, loss in info.items() if name.endswith("_loss")}
    assert losses
    assert all(math.isfinite(loss) for loss in losses.values()), losses
    frozen = config["training"]["frozen_components"]
    for name in nlp.pipe_names:
        changed = get_weights(nlp, name) != before[name]
        # The picture encoder of the shipped configs is frozen, whatever it is part of.
        assert changed == (name not in frozen and name != "mmib_img2vec"), name
    for doc, (_, colour) in zip(docs, POSTS):
        assert doc._.image_error is None
        assert (doc._.image is not None) == (colour is not None)
        if "ner" in "".join(nlp.pipe_names):
            assert doc.has_annotation("ENT_IOB")
        if "mmib_rel" in nlp.pipe_names:
            assert all(0 <= rel.score <= 1 for rel in doc._.relations if rel.score is not None)


def get_weights(nlp, name: str) -> bytes:
    return nlp.get_pipe(name).model.to_bytes()


def read_posts(nlp, corpus: Path):
    docs = []
    for text, colour in POSTS:
        doc = nlp.make_doc(text)
        doc._.image = None if colour is None else str(corpus / f"{colour}.png")
        if len(doc) > 3:
            doc._.relations = [((0, 1), (2, 3), "")]
        docs.append(doc)
    return docs


@pytest.mark.parametrize("config_name", PAPERS)
def test_the_papers_setting(config_name):
    """Section IV.A.3: BERT-base, ResNet-50, AdamW with decay 0.01 and a rate of 3e-5, batches of 8, β 0.1."""
    config = read_config(config_name).interpolate()
    layers = list(find_layers(config["components"]))
    texts = {layer["name"] for layer in layers if "TransformerModel" in name_of(layer)}
    texts |= {layer["name"] for layer in layers if "Tok2VecTransformer" in name_of(layer)}
    assert texts == {"bert-base-uncased"}
    pictures = [layer for layer in layers if "TorchvisionEncoder" in name_of(layer)]
    assert len(pictures) == (0 if config_name == "baseline_trf" else 1)
    for layer in pictures:
        expected = ("resnet50", "IMAGENET1K_V1", False, "crop")
        keys = ("arch", "weights", "trainable", "region_features")
        assert tuple(layer[key] for key in keys) == expected
    for component in config["components"].values():
        if component["factory"] in ("mmib_ner", "mmib_rel"):
            assert component["loss_weights"] == {"kl_text": 0.1, "kl_image": 0.1, "alignment": 1.0}
    training = config["training"]
    optimizer, rate = training["optimizer"], training["optimizer"]["learn_rate"]
    assert (optimizer["L2"], optimizer["L2_is_weight_decay"]) == (0.01, True)
    assert rate["@schedules"] == "warmup_linear.v1"
    assert rate["initial_rate"] == pytest.approx(3e-5)
    assert (training["batcher"]["size"], training["max_epochs"]) == (8, 30)
    # The rate gets to nothing when the training ends, neither before nor behind it.
    posts = TRAINING_POSTS.get(config_name, 3373)
    steps = training["max_epochs"] * math.ceil(posts / 8)
    assert rate["total_steps"] == pytest.approx(steps, rel=0.01)
    assert training["eval_frequency"] <= math.ceil(posts / 8)
    assert rate["warmup_steps"] < 0.1 * steps


RELEASED = {
    "feed_forward": "linear",
    "residual_dropout": 0.0,
    "kl_reduction": "mean",
    "alignment_pooling": "first",
    "discriminator": "vector",
    "max_negatives": 1,
    "initial_log_var": 0.0,
}
"""What the code released with the paper does, of what there is a switch for."""


@pytest.mark.parametrize(("stem", "objects"), [("ner_trf", 4), ("rel_trf", 3)])
def test_the_released_codes_setting(stem, objects):
    configs = [read_config(name) for name in (stem, f"{stem}_released")]
    ours, released = (config["components"][f"mmib_{stem[:3]}"]["model"] for config in configs)
    for name, value in RELEASED.items():
        assert released["fusion"][name] == value
        assert ours["fusion"][name] != value or name == "kl_reduction", name
    assert released["img2vec"]["max_regions"] == objects
    assert [c["training"]["optimizer"].pop("grad_clip") for c in configs] == [1.0, 0.0]
    if stem == "rel_trf":
        assert (ours["entity_repr"], released["entity_repr"]) == ("pool", "marker")


def test_no_clipping_is_0():
    """In Thinc's optimizer, which the configs take, and in ours: a step of plain descent with a steep gradient."""
    gradient = numpy.full((4,), 1e4, dtype="float32")
    for name in ("Adam.v1", "spacy-mmib.Adam.v1"):
        make = registry.optimizers.get(name)
        moments = {}
        for clip in (0.0, 1.0):
            optimizer = make(0.1, grad_clip=clip)
            optimizer((0, "W"), numpy.zeros(4, dtype="float32"), gradient.copy())
            moments[clip] = float(optimizer.mom1[0, "W"][0])
        assert moments[0.0] == pytest.approx(0.1 * 1e4)
        assert moments[1.0] == pytest.approx(0.1 * 0.5)


@pytest.mark.parametrize("config_name", CONFIGS)
def test_configs_are_full(config_name):
    """Every setting that our architectures have is there, in their order, so that it is seen."""
    for layer in find_layers(read_config(config_name)["components"]):
        if name_of(layer).startswith("spacy-mmib."):
            build = registry.architectures.get(name_of(layer))
            shown = [name for name in layer if name not in ("@architectures", *SECTIONS)]
            names = [name for name in signature(build).parameters if name not in SECTIONS]
            assert shown == names, name_of(layer)


LAYERS = ("tok2vec", "img2vec", "fusion", "head", "pointer", "like")
SECTIONS = (*LAYERS, "get_regions", "cache", "grad_scaler_config", "read_picture")
"""What comes in sections of its own, and what may."""


def name_of(layer) -> str:
    return layer.get("@architectures", "")


def test_the_stand_ins_look_at_pictures(bert, corpus):
    """Otherwise nothing here would say anything about pictures."""
    nlp = init_nlp(make_small("ner_trf", bert, corpus))
    img2vec = nlp.get_pipe("mmib_ner").model.get_ref("img2vec")
    doc, other = read_posts(nlp, corpus)[:2]
    rows = [numpy.asarray(x) for x in img2vec.predict([doc, other])]
    assert rows[0].shape[0] >= 1
    assert not numpy.allclose(rows[0][0], rows[1][0])


def test_overlays(tmp_path):
    (tmp_path / "b.cfg").write_text(
        '[overlay]\nbase = "ner_trf"\ndrop = ["paths.vectors", "initialize"]\n[components]\n'
        "[components.mmib_ner]\nmax_batch_tokens = 5\n[components.mmib_ner.model]\n[components.mmib_ner.model.tok2vec]\n"
        '@architectures = "other"\n[training]\n[training.batcher]\nsize = 3\n'
    )
    base, changed = read_config("ner_trf"), read_config(tmp_path / "b.cfg", {"training.dropout": 0.3})
    # What names another function is another block; the rest is merged, and what is not named stays.
    assert changed["components"]["mmib_ner"]["model"]["tok2vec"] == {"@architectures": "other"}
    batcher = {**base["training"]["batcher"], "size": 3}
    assert changed["training"] == {**base["training"], "batcher": batcher, "dropout": 0.3}
    assert "vectors" not in changed["paths"]
    assert "initialize" not in changed
    # Over another config than its own base.
    other = read_config(f"joint_trf+{tmp_path / 'b.cfg'}")
    assert other["components"]["mmib_ner"]["max_batch_tokens"] == 5
    assert "mmib_rel" in other["components"]
    with pytest.raises(ValueError, match=r"no config .*nothing\.cfg.* ner_trf"):
        read_config("nothing")
