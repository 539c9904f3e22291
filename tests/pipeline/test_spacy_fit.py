"""What spaCy does with components and their listeners: sourcing, replacing, renaming, annotating, resuming."""

import copy
import pickle
import warnings

import numpy
import pytest
import spacy
from conftest import (
    IMG2VEC,
    LANGUAGE,
    LISTENER,
    MODEL,
    REL_MODEL,
    TOK2VEC,
    make_examples,
    make_nlp,
    make_rel_examples,
    relations,
    train,
)
from spacy.cli.debug_model import debug_model
from spacy.schemas import ConfigSchemaTraining
from spacy.tokens import DocBin
from spacy.util import load_model_from_config, registry

from spacy_mmib.training.schedules import Warmup, Weight
from spacy_mmib.util import MMIBWarning

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

TEXT, PICTURES, BOTH = ["model.tok2vec"], ["model.img2vec"], ["model.tok2vec", "model.img2vec"]


def make_shared_nlp(order=("tok2vec", "mmib_img2vec"), trainable=False):
    """Text and picture vectors shared by both components."""
    nlp = spacy.blank(LANGUAGE)
    models = {"tok2vec": TOK2VEC, "mmib_img2vec": {**IMG2VEC, "trainable": trainable}}
    for name in order:
        nlp.add_pipe(name, config={"model": models[name]})
    text = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}
    layers = {"tok2vec": text, "img2vec": LISTENER}
    weights = {"beta1": 0.01, "beta2": 0.01}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, **layers}, **weights})
    nlp.add_pipe("mmib_rel", config={"model": {**REL_MODEL, **layers}, **weights})
    return nlp


@pytest.fixture(scope="module")
def shared():
    """Has learned enough to find something. Shared: don't change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = make_shared_nlp()
        train(nlp, make_rel_examples(nlp), steps=18)
    assert sum(map(len, (doc.ents for doc in nlp.pipe(posts(nlp))))) > 3
    return nlp


@pytest.fixture(scope="module")
def saved(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    shared.to_disk(folder)
    return folder


@pytest.fixture
def nlp(saved):
    """A copy, to change."""
    return spacy.load(saved)


def posts(nlp):
    return [eg.predicted for eg in make_rel_examples(nlp)]


def found(nlp, docs=None) -> list[tuple]:
    docs = list(nlp.pipe(posts(nlp) if docs is None else docs))
    ents = [[(e.text, e.label_, round(e._.confidence, 3)) for e in doc.ents] for doc in docs]
    return list(zip(ents, relations(docs, 3)))


def source(folder, replace: dict[str, list[str]], leave_out=()):
    """A pipeline whose components all come from a saved one."""
    config = spacy.load(folder).config.copy()
    config["nlp"]["pipeline"] = [p for p in config["nlp"]["pipeline"] if p not in leave_out]
    config["components"] = {
        name: {"source": str(folder), **({"replace_listeners": replace[name]} if name in replace else {})}
        for name in config["nlp"]["pipeline"]
    }
    return load_model_from_config(config)


def architectures(nlp, name):
    model = nlp.config["components"][name]["model"]
    return [model[layer]["@architectures"].split(".")[1] for layer in ("tok2vec", "img2vec")]


def save_and_load(nlp, folder):
    nlp.to_disk(folder)
    return spacy.load(folder)


# Replacing listeners


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (TEXT, ["HashEmbedCNN", "Img2VecListener"]),
        (PICTURES, ["Tok2VecListener", "TorchvisionEncoder"]),
        (BOTH, ["HashEmbedCNN", "TorchvisionEncoder"]),
    ],
)
def test_each_path_is_replaced_by_what_it_listens_to(shared, saved, tmp_path, paths, expected):
    nlp = source(saved, {"mmib_ner": paths, "mmib_rel": paths})
    assert architectures(nlp, "mmib_ner") == architectures(nlp, "mmib_rel") == expected
    assert found(nlp) == found(shared)
    nlp.update(make_rel_examples(nlp), sgd=nlp.resume_training(), losses={})
    after = found(nlp)
    assert found(save_and_load(nlp, tmp_path)) == after


def test_replaced_listeners_need_no_shared_encoders(shared, saved):
    nlp = source(saved, {"mmib_ner": BOTH}, leave_out=("tok2vec", "mmib_img2vec", "mmib_rel"))
    assert nlp.pipe_names == ["mmib_ner"]
    assert [ents for ents, _ in found(nlp)] == [ents for ents, _ in found(shared)]


def test_the_order_of_the_shared_encoders_does_not_matter(tmp_path):
    nlp = make_shared_nlp(order=("mmib_img2vec", "tok2vec"))
    nlp.initialize(lambda: make_rel_examples(nlp))
    nlp.to_disk(tmp_path / "a")
    sourced = source(tmp_path / "a", {"mmib_ner": PICTURES, "mmib_rel": TEXT})
    assert architectures(sourced, "mmib_ner") == ["Tok2VecListener", "TorchvisionEncoder"]
    assert architectures(sourced, "mmib_rel") == ["HashEmbedCNN", "Img2VecListener"]
    assert found(save_and_load(sourced, tmp_path / "b")) == found(nlp)


@pytest.mark.parametrize(
    ("layers", "paths"),
    [
        ({"img2vec": LISTENER}, TEXT),  # has a text encoder of its own
        ({"tok2vec": {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}}, PICTURES),
    ],
)
def test_a_path_that_listens_to_nothing_is_refused(tmp_path, layers, paths):
    nlp = spacy.blank(LANGUAGE)
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    nlp.add_pipe("mmib_img2vec", config={"model": IMG2VEC})
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, **layers}})
    nlp.initialize(lambda: make_rel_examples(nlp))
    nlp.to_disk(tmp_path)
    with pytest.raises(ValueError, match=f"'mmib_ner': its '{paths[0]}' listens to no component"):
        source(tmp_path, {"mmib_ner": paths})


def test_listeners_replaced_by_hand(shared, nlp, tmp_path):
    nlp.replace_listeners("mmib_img2vec", "mmib_ner", PICTURES)
    nlp.replace_listeners("tok2vec", "mmib_ner", TEXT)
    nlp.replace_listeners("mmib_img2vec", "mmib_rel", PICTURES)
    assert nlp.get_pipe("mmib_img2vec").listening_components == []
    assert nlp.get_pipe("tok2vec").listening_components == ["mmib_rel"]
    nlp.remove_pipe("mmib_img2vec")
    assert found(save_and_load(nlp, tmp_path)) == found(shared)
    with pytest.raises(ValueError, match="E88"):
        nlp.replace_listeners("tok2vec", "nobody", TEXT)
    with pytest.raises(ValueError, match="listens to no component"):
        nlp.replace_listeners("tok2vec", "mmib_rel", ["model.pictures"])


def test_a_pipeline_can_be_copied_whose_listeners_are_replaced_later(shared, nlp):
    for i, other in enumerate((copy.deepcopy(nlp), pickle.loads(pickle.dumps(nlp)))):
        other.replace_listeners("mmib_img2vec", "mmib_ner", PICTURES)
        assert architectures(other, "mmib_ner")[1] == "TorchvisionEncoder"
        assert architectures(nlp, "mmib_ner")[1] == "Img2VecListener"
        assert found(other) == found(shared), i


# Names


@pytest.mark.parametrize("name", ["tok2vec", "mmib_img2vec", "mmib_ner", "mmib_rel"])
def test_a_renamed_component_goes_on(shared, nlp, tmp_path, name):
    nlp.rename_pipe(name, "other")
    assert found(nlp) == found(shared)
    again = save_and_load(nlp, tmp_path)
    assert found(again) == found(shared)
    if name == "mmib_img2vec":
        for pipeline in (nlp, again):
            encoder = pipeline.get_pipe("other")
            assert encoder.listening_components == ["mmib_ner", "mmib_rel"]
        other = spacy.blank(nlp.lang).from_config(nlp.config).from_bytes(nlp.to_bytes())
        assert found(other) == found(shared)
        again.rename_pipe("other", "third")
        again.rename_pipe("third", "mmib_img2vec")
        assert again.get_pipe("mmib_rel").model.get_ref("img2vec").upstream_name == "mmib_img2vec"
        assert found(again) == found(shared)
    if name != "tok2vec":  # spaCy's own listener loses sight of it
        losses = nlp.update(make_rel_examples(nlp), losses={})
        assert numpy.isfinite(list(losses.values())).all()


def test_a_trainable_encoder_goes_on_learning_under_another_name():
    nlp = make_shared_nlp(trainable=True)
    optimizer = nlp.initialize(lambda: make_rel_examples(nlp))
    nlp.rename_pipe("mmib_img2vec", "pictures")
    before = nlp.get_pipe("pictures").model.to_bytes()
    losses: dict = {}
    for _ in range(2):
        nlp.update(make_rel_examples(nlp)[:2], sgd=optimizer, losses=losses)
    assert losses["pictures"] > 0
    assert nlp.get_pipe("pictures").model.to_bytes() != before


def test_a_listener_that_is_disabled_takes_note_of_another_name(shared, nlp):
    with nlp.select_pipes(disable="mmib_rel"):
        nlp.rename_pipe("mmib_img2vec", "pictures")
    assert found(nlp) == found(shared)


def test_the_old_name_of_an_encoder_may_be_anothers(shared, nlp):
    nlp.rename_pipe("mmib_img2vec", "first")
    nlp.add_pipe("mmib_img2vec", first=True, config={"model": IMG2VEC})
    with nlp.select_pipes(disable=["tok2vec", "first", "mmib_ner", "mmib_rel"]):
        nlp.initialize(lambda: make_rel_examples(nlp))
    assert nlp.get_pipe("mmib_img2vec").listening_components == []
    assert found(nlp) == found(shared)


def test_an_encoder_sourced_under_another_name(shared, saved, tmp_path):
    other = spacy.load(saved)
    nlp = spacy.blank(other.lang, vocab=other.vocab)
    nlp.add_pipe("tok2vec", source=other)
    nlp.add_pipe("mmib_img2vec", name="pictures", source=other)
    for name in ("mmib_ner", "mmib_rel"):
        nlp.add_pipe(name, source=other)
    assert found(nlp) == found(shared)
    assert found(save_and_load(nlp, tmp_path)) == found(shared)


def test_two_components_with_one_encoder(shared, nlp, tmp_path):
    nlp.add_pipe("mmib_ner", name="second", source=spacy.load(tmp_path_of(nlp, tmp_path)))
    assert nlp.get_pipe("mmib_img2vec").listening_components == ["mmib_ner", "mmib_rel", "second"]
    nlp.update(make_rel_examples(nlp), sgd=nlp.resume_training(), losses={})
    with nlp.select_pipes(disable="mmib_ner"):
        second = found(nlp)
    assert any(ents for ents, _ in second)
    loaded = save_and_load(nlp, tmp_path / "two")
    with loaded.select_pipes(disable="mmib_ner"):
        assert found(loaded) == second


def tmp_path_of(nlp, tmp_path):
    nlp.to_disk(tmp_path / "one")
    return tmp_path / "one"


@pytest.mark.parametrize("upstream", ["*", "mmib_img2vec"])
def test_an_encoder_that_is_enabled_later(shared, saved, upstream):
    override = {f"components.{name}.model.img2vec.upstream": upstream for name in ("mmib_ner", "mmib_rel")}
    nlp = spacy.load(saved, disable=["mmib_img2vec"], config=override)
    with pytest.raises(ValueError, match="has not encoded the picture.* and enabled"):
        nlp(posts(nlp)[0])
    nlp.enable_pipe("mmib_img2vec")
    assert found(nlp) == found(shared)


def test_a_removed_encoder_is_missed(nlp):
    nlp.remove_pipe("mmib_img2vec")
    with pytest.raises(ValueError, match="'mmib_img2vec' has not encoded.*has to be in the pipeline"):
        nlp(posts(nlp)[0])


# Annotating and frozen components


@pytest.mark.parametrize(
    "annotates",
    [["tok2vec", "mmib_ner"], ["tok2vec", "mmib_img2vec", "mmib_ner"], ["mmib_rel", "mmib_ner", "tok2vec"]],
)
def test_components_that_annotate_in_training(nlp, annotates):
    """With the usual frozen network; relations are then learned on predicted entities."""
    seen = []
    relation_extractor = nlp.get_pipe("mmib_rel")
    learn = relation_extractor.update
    relation_extractor.update = lambda examples, **kwargs: (
        seen.extend([[e.text for e in eg.predicted.ents] for eg in examples]),
        learn(examples, **kwargs),
    )[1]
    expected = [[text for text, *_ in ents] for ents, _ in found(nlp)]
    nlp.update(make_rel_examples(nlp), sgd=False, losses={}, annotates=annotates)
    assert seen == expected


def test_an_encoder_that_learns_has_to_annotate_for_those_that_do():
    nlp = make_shared_nlp(trainable=True)
    nlp.initialize(lambda: make_rel_examples(nlp))
    annotates = ["tok2vec", "mmib_ner"]
    with pytest.raises(ValueError, match="'mmib_img2vec' has not.*in annotating_components"):
        nlp.update(make_rel_examples(nlp), annotates=annotates)
    nlp.update(make_rel_examples(nlp), annotates=[*annotates, "mmib_img2vec"])


def test_text_that_nobody_encoded_is_said(nlp):
    """spaCy's listener gives zeros."""
    with pytest.warns(MMIBWarning, match="mmib_ner: the shared tok2vec.*annotating_components"):
        nlp.update(make_rel_examples(nlp), sgd=False, annotates=["mmib_img2vec", "mmib_ner"])


def test_a_frozen_shared_encoder(shared, nlp):
    frozen = ["tok2vec", "mmib_img2vec", "mmib_ner"]
    before = {name: nlp.get_pipe(name).to_bytes() for name in frozen}
    optimizer = nlp.resume_training()
    losses = nlp.update(make_rel_examples(nlp), sgd=optimizer, losses={}, exclude=frozen, annotates=frozen)
    assert losses["mmib_rel"] > 0
    assert {name: nlp.get_pipe(name).to_bytes() for name in frozen} == before
    assert nlp.rehearse(make_rel_examples(nlp), sgd=optimizer) == {}
    assert nlp.evaluate(make_rel_examples(nlp))["ents_f"] > 0


# Schedules


WARMUP = {"@schedules": "spacy-mmib.warmup.v1", "initial": 0.0, "final": 1.0, "steps": 10}
COMPOUNDING = {"@schedules": "compounding.v1", "start": 1.0, "stop": 100.0, "compound": 2.0}


def weights(nlp):
    component = nlp.get_pipe("mmib_ner")
    return {term: w.at(component.cfg.get("updates", 0)) for term, w in component._weights.items()}


@pytest.mark.parametrize("way", ["disk", "bytes", "component", "source", "pickle", "deepcopy"])
def test_schedules_go_on_where_they_were(tmp_path, way):
    schedules = {"beta1": WARMUP, "beta2": COMPOUNDING, "alignment_weight": 0.5}
    nlp = make_nlp(**schedules)
    optimizer = nlp.initialize(lambda: make_examples(nlp))
    for _ in range(3):
        nlp.update(make_examples(nlp)[:1], sgd=optimizer)
    if way == "disk":
        again = save_and_load(nlp, tmp_path)
    elif way == "bytes":
        again = make_nlp(**schedules).from_bytes(nlp.to_bytes())
    elif way == "component":
        again = make_nlp(**schedules)
        again.get_pipe("mmib_ner").from_bytes(nlp.get_pipe("mmib_ner").to_bytes())
    elif way == "source":
        nlp.to_disk(tmp_path)
        again = source(tmp_path, {})
    else:
        again = copy.deepcopy(nlp) if way == "deepcopy" else pickle.loads(pickle.dumps(nlp))
    again.resume_training()
    copied = way in ("pickle", "deepcopy")
    if copied:
        with pytest.warns(MMIBWarning, match="beta2: its schedule can't be copied.*stays at 4"):
            found = weights(again)
    else:
        found = weights(again)
    assert found["kl_text"] == pytest.approx(0.3)
    assert found["kl_image"] == (4.0 if copied else 8.0)
    assert found["alignment"] == 0.5
    again.initialize(lambda: make_examples(again))  # starts over
    assert weights(again)["kl_text"] == 0.0
    assert save_and_load(again, tmp_path / "new").get_pipe("mmib_ner").cfg.get("updates", 0) == 0


def test_pipelines_saved_without_their_steps_load():
    nlp = make_nlp(beta1=WARMUP)
    nlp.initialize(lambda: make_examples(nlp))
    nlp.get_pipe("mmib_ner").cfg.pop("updates", None)  # as version 0.1 has it
    other = make_nlp(beta1=WARMUP)
    optimizer = other.initialize(lambda: make_examples(other))
    other.update(make_examples(other)[:1], sgd=optimizer)
    other.from_bytes(nlp.to_bytes())
    assert weights(other)["kl_text"] == 0.0


def test_the_value_of_a_step():
    weight = Weight(Warmup(0.0, 1.0, 4))
    assert [weight.at(step) for step in (3, 3, 1)] == [0.75, 0.75, 0.25]
    ended = Weight([0.1, 0.2])
    assert [ended.at(step) for step in (0, 1, 2, 5, 0)] == [0.1, 0.2, 0.2, 0.2, 0.1]
    generator = Weight(x for x in [0.1, 0.2, 0.3])
    assert [generator.at(step) for step in (0, 2)] == [0.1, 0.3]
    assert generator.at(0) == 0.3  # it can't go back


# spaCy's command line


@pytest.mark.parametrize("name", ["mmib_ner", "mmib_rel"])
def test_debug_model(tmp_path, name, capsys):
    """The way `spacy debug model` calls models: with docs, whatever they take otherwise."""
    nlp = spacy.blank(LANGUAGE)
    nlp.add_pipe(name, config={"model": MODEL if name == "mmib_ner" else REL_MODEL})
    references = [eg.reference for eg in make_rel_examples(nlp)]
    DocBin(docs=references, store_user_data=True).to_disk(tmp_path / "train.spacy")
    reader = {"@readers": "spacy-mmib.Corpus.v1", "path": str(tmp_path / "train.spacy")}
    nlp.config["corpora"] = {"train": reader, "dev": reader}
    config = nlp.config.interpolate()
    settings = registry.resolve(config["training"], schema=ConfigSchemaTraining)
    debug_model(config, settings, nlp, nlp.get_pipe(name))
    assert "model looks good" in capsys.readouterr().out
