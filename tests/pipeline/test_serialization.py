"""Every way to store a pipeline, and every way to run it, gives the same predictions."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import spacy
import srsly
from conftest import (
    LANGUAGE,
    entities,
    make_examples,
    make_nlp,
    make_rel_examples,
    make_rel_nlp,
    new_docs,
    relations,
    run_python,
    train,
)
from processes import pipe_in_processes
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_mmib.post.extensions import get_confidence

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

JOINT = ("mmib_img2vec", "mmib_ner", "mmib_rel")
LABELS = {"ner": ("ORG", "PER"), "rel": ("couple", "team"), "joint": ("couple", "team")}
OTHER_POSTS = [
    ("Rob is here", [(0, 3, "A")], "red"),
    ("so is Mia", [(6, 9, "B")], None),
    ("Jo and Ann", [(0, 2, "C"), (7, 10, "D")], "blue"),
]
OTHER_PAIRS = [
    ("Rob met Mia in Oslo", "red", "A"),
    ("Kim and Mia", None, "B"),
    ("Kim and Rob", "blue", "C"),
    ("Mia and Rob", "blue", "D"),
]


def said(docs) -> list[tuple]:
    """What a pipeline said, with numbers rounded beyond float noise."""
    docs = list(docs)
    ents = [
        [(e.text, e.label_, get_confidence(e) and round(get_confidence(e), 4)) for e in doc.ents]
        for doc in docs
    ]
    return list(zip(ents, relations(docs)))


class Case:
    """One of three pipelines.

    nlp (Language): Trained; not to be changed.
    kind (str): "ner", "rel" for one that answers questions, or "joint".
    last (str): Its last component.
    expected (list): What it says of `self.docs()`.
    """

    def __init__(self, nlp: Language, kind: str) -> None:
        self.nlp, self.kind, self.last = nlp, kind, nlp.pipe_names[-1]
        self.expected = self.say(nlp)
        assert sum(len(ents) for ents, _ in self.expected) >= (0 if kind == "rel" else 5)
        labels = {label for _, found in self.expected for *_, label, _ in found}
        assert labels == {"ner": set(), "rel": {"couple", "team", "None"}, "joint": {"couple", "team"}}[kind]

    def new(self) -> Language:
        return make_nlp() if self.kind == "ner" else make_rel_nlp(joint=self.kind == "joint")

    def new_with_other_labels(self) -> Language:
        nlp = self.new()
        train(
            nlp,
            make_examples(nlp, OTHER_POSTS) if self.kind == "ner" else make_rel_examples(nlp, OTHER_PAIRS),
            2,
        )
        assert nlp.get_pipe(self.last).labels == ("A", "B", "C", "D")
        return nlp

    def examples(self, nlp: Language) -> list[Example]:
        return make_examples(nlp) if self.kind == "ner" else make_rel_examples(nlp, ask=self.kind == "rel")

    def docs(self, nlp: Language) -> list[Doc]:
        return [eg.predicted for eg in self.examples(nlp)]

    def say(self, nlp: Language) -> list[tuple]:
        return said(nlp.pipe(self.docs(nlp)))

    def copy(self) -> Language:
        return self.new().from_bytes(self.nlp.to_bytes())


@pytest.fixture(scope="module", params=["ner", "rel", "joint"])
def case(request) -> Case:
    fixture = "trained" if request.param == "ner" else f"trained_{request.param}"
    return Case(request.getfixturevalue(fixture), request.param)


@pytest.fixture(scope="module")
def joint(trained_joint) -> Case:
    return Case(trained_joint, "joint")


@pytest.fixture(scope="module")
def folder(joint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("joint") / "model"
    joint.nlp.to_disk(path)
    return path


# --- storing --------------------------------------------------------------------------------------


def test_disk(case, tmp_path):
    case.nlp.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    assert case.say(nlp) == case.expected
    assert nlp.get_pipe(case.last).labels == LABELS[case.kind]
    nlp.to_disk(tmp_path / "again")
    assert case.say(spacy.load(tmp_path / "again")) == case.expected
    settings = nlp.config["components"][case.last]
    if case.kind != "ner":
        assert nlp.get_pipe(case.last).negative_label == "None"
        name = f"spacy-mmib.{'ordered' if case.kind == 'joint' else 'given'}_pairs.v1"
        assert settings["get_instances"]["@misc"] == name
    if case.kind != "joint":
        # The config that was saved is the whole pipeline: no weights are looked for.
        assert settings["model"]["img2vec"]["arch"] == "squeezenet1_1"


def test_bytes(case):
    assert case.say(case.copy()) == case.expected
    nlp = case.copy()
    component = case.new().get_pipe(case.last)
    component.from_bytes(nlp.get_pipe(case.last).to_bytes())
    assert component.labels == LABELS[case.kind]
    if case.kind != "joint":  # a listener needs its pipeline
        assert said(component.pipe(case.docs(nlp))) == case.expected


def test_pickle(case):
    nlp = pickle.loads(pickle.dumps(case.nlp))
    assert case.say(nlp) == case.expected
    assert case.say(pickle.loads(pickle.dumps(nlp))) == case.expected


def test_loading_into_a_pipeline_with_other_labels_and_weights(case, tmp_path):
    other = case.new_with_other_labels()
    foreign = other.to_bytes()
    other.from_bytes(case.nlp.to_bytes())
    assert other.get_pipe(case.last).labels == LABELS[case.kind]
    assert case.say(other) == case.expected
    other.from_bytes(foreign)
    assert other.get_pipe(case.last).labels == ("A", "B", "C", "D")
    case.nlp.to_disk(tmp_path)
    other.from_disk(tmp_path)
    assert case.say(other) == case.expected


def test_loading_without_the_model_leaves_it_working(case, tmp_path):
    nlp = case.copy()
    for name in nlp.pipe_names:
        component = nlp.get_pipe(name)
        component.from_bytes(component.to_bytes(), exclude=["model"])
        component.to_disk(tmp_path / name)
        component.from_disk(tmp_path / name, exclude=["model", "vocab"])
        assert case.say(nlp) == case.expected


@pytest.mark.parametrize("model", [None, b"", b"garbage", "cut"])
def test_loading_from_garbage_leaves_it_working(case, tmp_path, model):
    """Nothing of it is right, or all but the weights."""
    nlp = case.copy()
    for name in nlp.pipe_names:
        component = nlp.get_pipe(name)
        data = b"garbage"
        if model is not None:
            parts = srsly.msgpack_loads(component.to_bytes())
            parts["model"] = parts["model"][:-100] if model == "cut" else model
            data = srsly.msgpack_dumps(parts)
        with pytest.raises(Exception, match="."):
            component.from_bytes(data)
        assert case.say(nlp) == case.expected
        folder = tmp_path / name
        component.to_disk(folder)
        whole = (folder / "model").read_bytes()
        (folder / "model").write_bytes(
            whole[:-100] if model == "cut" else b"garbage" if model is None else model
        )
        with pytest.raises(Exception, match="."):
            component.from_disk(folder)
        assert case.say(nlp) == case.expected
        (folder / "model").write_bytes(whole)
        component.from_disk(folder)
        assert case.say(nlp) == case.expected


def test_a_load_that_fails_keeps_the_labels(case):
    """The weights are damaged, but what precedes them isn't: other labels."""
    other = case.new_with_other_labels()
    parts = srsly.msgpack_loads(other.get_pipe(case.last).to_bytes())
    parts["model"] = parts["model"][:-100]
    nlp = case.copy()
    with pytest.raises(Exception, match="."):
        nlp.get_pipe(case.last).from_bytes(srsly.msgpack_dumps(parts))
    assert nlp.get_pipe(case.last).labels == LABELS[case.kind]
    assert case.say(nlp) == case.expected


def test_uninitialized_pipelines_can_be_stored(case, tmp_path):
    nlp = case.new()
    first, _ = LABELS[case.kind]
    nlp.get_pipe(case.last).add_label(first)
    nlp.to_disk(tmp_path)
    copies = [spacy.load(tmp_path), case.new().from_bytes(nlp.to_bytes())]
    copies.append(pickle.loads(pickle.dumps(nlp)))
    for copy in copies:
        assert copy.get_pipe(case.last).labels == (first,)
    # and initialized after that
    train(copies[0], case.examples(copies[0]), steps=1)
    assert copies[0].get_pipe(case.last).labels == LABELS[case.kind]
    assert len(case.say(copies[0])) == len(case.expected)


@pytest.mark.parametrize("picture", [True, False])
def test_an_uninitialized_pipeline_says_what_to_do(case, tmp_path, picture):
    nlp = case.new()
    nlp.to_disk(tmp_path)
    for copy in (nlp, spacy.load(tmp_path)):
        doc = case.docs(copy)[0]
        if not picture:
            doc._.image = None
        with pytest.raises(ValueError, match=r"mmib_\w+ has no weights yet. Train the pipeline"):
            copy(doc)


def test_training_goes_on_after_loading(case, tmp_path):
    case.nlp.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    optimizer = nlp.resume_training()
    examples = case.examples(nlp)
    before = nlp.update(examples, losses={})[f"{case.last}_task"]
    for _ in range(3):
        nlp.update(examples, sgd=optimizer, losses={})
    assert before < 1
    assert nlp.get_pipe(case.last).model.to_bytes() != case.nlp.get_pipe(case.last).model.to_bytes()
    assert case.say(case.nlp) == case.expected


def test_docs_keep_predictions_in_a_docbin(case, tmp_path):
    docs = list(case.nlp.pipe(case.docs(case.nlp)))
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "posts.spacy")
    vocab = spacy.blank("en").vocab
    assert said(DocBin().from_disk(tmp_path / "posts.spacy").get_docs(vocab)) == case.expected
    loaded = list(DocBin().from_disk(tmp_path / "posts.spacy").get_docs(case.nlp.vocab))
    assert said(loaded) == case.expected
    if case.kind != "ner":
        first, found = docs[0]._.relations[0], loaded[0]._.relations[0]
        assert found.to_json() == first.to_json()
    # What the component predicted before is still known as its own, and replaced.
    assert said(case.nlp.pipe(loaded)) == case.expected
    assert said([Doc(vocab).from_bytes(doc.to_bytes()) for doc in docs]) == case.expected


# --- entities alone -------------------------------------------------------------------------------


NEW_SETTINGS = ("residual_dropout", "alignment_pooling")


def test_a_pipeline_from_before_these_settings(trained, tmp_path):
    """Neither its config nor its core has them, nor what the core's layer is told in training."""
    trained.to_disk(tmp_path)
    config = tmp_path / "config.cfg"
    lines = config.read_text().splitlines()
    kept = [line for line in lines if line.split(" = ")[0] not in NEW_SETTINGS]
    assert len(kept) == len(lines) - len(NEW_SETTINGS)
    config.write_text("\n".join(kept))
    path = tmp_path / "mmib_ner" / "model"
    model = srsly.msgpack_loads(path.read_bytes())
    assert sum(attrs.pop("watch", None) is not None for attrs in model["attrs"]) == 1
    changed = 0
    for shims in model["shims"]:
        for i, data in enumerate(shims):
            shim = srsly.msgpack_loads(data)
            module = srsly.msgpack_loads(shim["state"])
            if module["module"] == "MMIB":
                changed += sum(name in module["settings"] for name in NEW_SETTINGS)
                module["settings"] = {k: v for k, v in module["settings"].items() if k not in NEW_SETTINGS}
                shims[i] = srsly.msgpack_dumps({**shim, "state": srsly.msgpack_dumps(module)})
    assert changed == len(NEW_SETTINGS)
    path.write_bytes(srsly.msgpack_dumps(model))
    (tmp_path / "mmib_ner" / "digests").unlink()
    nlp = spacy.load(tmp_path)
    assert entities(nlp.pipe(new_docs(nlp))) == entities(trained.pipe(new_docs(trained)))
    core = nlp.get_pipe("mmib_ner").model.get_ref("fusion").shims[0]._model
    assert [core.settings[name] for name in NEW_SETTINGS] == [None, "mean"]
    nlp.update(make_examples(nlp))


def test_the_loading_config_changes_what_weights_dont_depend_on(trained, tmp_path):
    trained.to_disk(tmp_path)
    override = {
        "components.mmib_ner.model.fusion.dropout": 0.33,
        "components.mmib_ner.model.fusion.kl_reduction": "position",
        "components.mmib_ner.model.fusion.residual_dropout": 0.2,
        "components.mmib_ner.model.fusion.alignment_pooling": "first",
    }
    nlp = spacy.load(tmp_path, config=override)
    core = nlp.get_pipe("mmib_ner").model.get_ref("fusion").shims[0]._model
    assert core.settings["dropout"] == 0.33
    assert core.text_encoder.mu.dropout == 0.33
    assert core.text_encoder.mu.residual_dropout == 0.2
    assert core.kl_reduction == "position"
    assert core.alignment_pooling == "first"


def test_pickle_with_a_generator_schedule():
    nlp = make_nlp(beta1={"@schedules": "compounding.v1", "start": 0.1, "stop": 1.0, "compound": 1.1})
    train(nlp, make_examples(nlp), steps=2)
    copy = pickle.loads(pickle.dumps(nlp))
    assert entities(copy.pipe(new_docs(nlp))) == entities(nlp.pipe(new_docs(nlp)))


def test_foreign_modules_are_refused():
    data = srsly.msgpack_dumps({"module": "os.system", "settings": {"command": "true"}, "state": b""})
    layer = make_nlp().get_pipe("mmib_ner").model.get_ref("fusion")
    shim = srsly.msgpack_dumps({"config": {}, "state": data})
    with pytest.raises(ValueError, match="this layer is a 'MMIB', but what was saved is a 'os.system'"):
        layer.shims[0].from_bytes(shim)


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parent_first", "method"),
    [
        (True, None),
        pytest.param(False, None, marks=pytest.mark.slow),
        pytest.param(True, "spawn", marks=pytest.mark.slow),
    ],
)
def test_multiprocessing(trained, trained_rel, joint, tmp_path, parent_first, method):
    cases = [Case(trained, "ner"), Case(trained_rel, "rel"), joint]
    pipelines = [(case.nlp, 3 * case.docs(case.nlp)) for case in cases]
    found = pipe_in_processes(pipelines, tmp_path, parent_first=parent_first, method=method)
    for docs, case in zip(found, cases, strict=True):
        assert said(docs) == case.expected * 3, case.kind


@pytest.mark.slow
def test_spacy_package_and_pip_install(joint, tmp_path):
    """`spacy package`, pip install of the result into a folder, `spacy.load` from there by name."""
    nlp = joint.copy()
    nlp.meta["spacy_mmib"] = {"leaks": ["the regions of the training data leak"]}
    nlp.to_disk(tmp_path / "model")
    (tmp_path / "out").mkdir()
    DocBin(docs=joint.docs(nlp), store_user_data=True).to_disk(tmp_path / "posts.spacy")
    run_python(
        "-m", "spacy", "package", "model", "out", "--name", "mmib_joint", "--build", "sdist", cwd=tmp_path
    )
    built = next((tmp_path / "out").glob("**/dist/*.tar.gz"))
    meta = srsly.read_json(next((tmp_path / "out").glob("*/meta.json")))
    assert any(req.startswith("spacy-mmib>=0.") for req in meta["requirements"])
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", "site"]
    subprocess.run([*pip, built], check=True, capture_output=True, cwd=tmp_path)
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import spacy; from spacy.tokens import DocBin\n"
        "nlp = spacy.load('xx_mmib_joint')\n"
        "assert nlp.meta['spacy_mmib'] == {'leaks': ['the regions of the training data leak']}\n"
        "docs = list(nlp.pipe(DocBin().from_disk('posts.spacy').get_docs(nlp.vocab)))\n"
        "DocBin(docs=docs, store_user_data=True).to_disk('found.spacy')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    assert said(DocBin().from_disk(tmp_path / "found.spacy").get_docs(nlp.vocab)) == joint.expected


# --- listeners ------------------------------------------------------------------------------------


def test_listeners_work_after_loading(joint, folder):
    nlp = spacy.load(folder)
    encoder = nlp.get_pipe("mmib_img2vec")
    assert encoder.listening_components == ["mmib_ner", "mmib_rel"]
    assert [listener.get_dim("nO") for listener in encoder.listeners] == [512, 512]
    assert joint.say(nlp) == joint.expected
    # They are heard in training, too.
    losses = nlp.update(make_rel_examples(nlp), losses={}, sgd=False)
    assert 0 < losses["mmib_ner_task"] < 1
    assert 0 < losses["mmib_rel_task"] < 1


@pytest.mark.parametrize("how", ["exclude", "disable"])
def test_loading_parts_of_the_pipeline(joint, folder, how):
    only_ents = [(ents, []) for ents, _ in joint.expected]
    nlp = spacy.load(folder, **{how: ["mmib_rel"]})
    assert joint.say(nlp) == only_ents
    nlp = spacy.load(folder, **{how: ["mmib_ner"]})
    docs = [eg.predicted for eg in make_rel_examples(nlp)]
    for doc, example in zip(docs, make_rel_examples(nlp)):
        doc.ents = [doc.char_span(e.start_char, e.end_char, e.label_) for e in example.reference.ents]
    assert relations(nlp.pipe(docs)) == [found for _, found in joint.expected]
    if how == "disable":
        nlp.enable_pipe("mmib_ner")
        assert joint.say(nlp) == joint.expected


def test_select_pipes(joint):
    nlp = joint.copy()
    with nlp.select_pipes(disable="mmib_rel"):
        assert joint.say(nlp) == [(ents, []) for ents, _ in joint.expected]
    assert joint.say(nlp) == joint.expected
    with nlp.select_pipes(disable="mmib_ner"):
        assert joint.say(nlp) == [([], [])] * len(joint.expected)
        with nlp.select_pipes(enable=["mmib_img2vec", "mmib_rel"]):
            assert joint.say(nlp) == [([], [])] * len(joint.expected)
    assert joint.say(nlp) == joint.expected
    assert nlp.get_pipe("mmib_img2vec").listening_components == ["mmib_ner", "mmib_rel"]


@pytest.mark.parametrize("listeners_first", [False, True])
def test_sourcing_components_into_another_pipeline(joint, folder, tmp_path, listeners_first):
    source = spacy.load(folder)
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    for name in JOINT[1:] if listeners_first else JOINT:
        nlp.add_pipe(name, source=source)
    if listeners_first:
        nlp.add_pipe("mmib_img2vec", source=source, before="mmib_ner")
    assert nlp.get_pipe("mmib_img2vec").listening_components == ["mmib_ner", "mmib_rel"]
    assert joint.say(nlp) == joint.expected
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert again.pipe_names == ["sentencizer", *JOINT]
    assert joint.say(again) == joint.expected


def test_sourcing_in_a_config(joint, folder, tmp_path):
    """As `spacy train` does it; and with the encoder of one component taken apart."""
    blocks = {name: {"source": str(folder)} for name in JOINT}
    config = {"nlp": {"lang": LANGUAGE, "pipeline": list(JOINT)}, "components": blocks}
    nlp = spacy.blank(LANGUAGE).from_config(config)
    assert nlp.get_pipe("mmib_img2vec").listening_components == ["mmib_ner", "mmib_rel"]
    assert joint.say(nlp) == joint.expected
    alone = {"mmib_ner": {"source": str(folder), "replace_listeners": ["model.img2vec"]}}
    config = {"nlp": {"lang": LANGUAGE, "pipeline": ["mmib_ner"]}, "components": alone}
    nlp = spacy.blank(LANGUAGE).from_config(config)
    expected = [(ents, []) for ents, _ in joint.expected]
    assert joint.say(nlp) == expected
    assert nlp.config["components"]["mmib_ner"]["model"]["img2vec"]["arch"] == "squeezenet1_1"
    nlp.to_disk(tmp_path)
    assert joint.say(spacy.load(tmp_path)) == expected


def test_a_component_sourced_without_its_encoder_says_so(joint, folder):
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", source=spacy.load(folder))
    with pytest.raises(ValueError, match="'mmib_img2vec' has not encoded the picture of the post"):
        nlp(joint.docs(nlp)[0])


def test_mmib_rel_beside_a_recognizer_of_another_pipeline(trained_rel, trained):
    """Each with an encoder of its own."""
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", source=make_nlp().from_bytes(trained.to_bytes()))
    nlp.add_pipe("mmib_rel", source=make_rel_nlp().from_bytes(trained_rel.to_bytes()))
    docs = [eg.predicted for eg in make_rel_examples(nlp, ask=True)]
    docs = list(nlp.pipe(docs))
    expected = trained_rel.pipe([eg.predicted for eg in make_rel_examples(trained_rel, ask=True)])
    assert relations(docs) == relations(expected)
    assert any(doc.ents for doc in docs)
