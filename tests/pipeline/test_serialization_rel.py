"""Every way to store and to run a pipeline for relations, alone or joint, gives the same predictions."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import spacy
import srsly
from conftest import make_nlp, make_rel_examples, make_rel_nlp, relations, train
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from spacy_mmib.post.extensions import get_confidence

JOINT = ("mmib_img2vec", "mmib_ner", "mmib_rel")
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
    """One of the two pipelines.

    nlp (Language): Trained; not to be changed.
    joint (bool): Predicts from the bare post; the other one answers questions.
    expected (list): What it says of `self.docs()`.
    """

    def __init__(self, nlp: Language, joint: bool) -> None:
        self.nlp, self.joint = nlp, joint
        self.expected = self.say(nlp)
        labels = {label for _, found in self.expected for *_, label, _ in found}
        assert labels == ({"couple", "team"} if joint else {"couple", "team", "None"})
        assert [len(found) for _, found in self.expected] == [2, 2, 2, 2, 2 - 2 * joint, 0, 0]
        assert any(ents for ents, _ in self.expected) == joint

    def new(self) -> Language:
        return make_rel_nlp(joint=self.joint)

    def docs(self, nlp: Language) -> list[Doc]:
        return [eg.predicted for eg in make_rel_examples(nlp, ask=not self.joint)]

    def say(self, nlp: Language) -> list[tuple]:
        return said(nlp.pipe(self.docs(nlp)))

    def copy(self) -> Language:
        return self.new().from_bytes(self.nlp.to_bytes())


@pytest.fixture(scope="module", params=["rel", "joint"])
def case(request) -> Case:
    nlp = request.getfixturevalue(f"trained_{request.param}")
    return Case(nlp, request.param == "joint")


@pytest.fixture(scope="module")
def joint(trained_joint) -> Case:
    return Case(trained_joint, True)


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
    component, before = nlp.get_pipe("mmib_rel"), case.nlp.get_pipe("mmib_rel")
    assert component.labels == before.labels == ("couple", "team")
    assert component.negative_label == before.negative_label
    nlp.to_disk(tmp_path / "again")
    assert case.say(spacy.load(tmp_path / "again")) == case.expected
    block = nlp.config["components"]["mmib_rel"]["get_instances"]
    assert block["@misc"] == f"spacy-mmib.{'ordered' if case.joint else 'given'}_pairs.v1"


def test_bytes(case):
    assert case.say(case.copy()) == case.expected
    nlp = case.copy()
    component = case.new().get_pipe("mmib_rel")
    component.from_bytes(nlp.get_pipe("mmib_rel").to_bytes())
    assert component.labels == ("couple", "team")
    if not case.joint:  # a listener needs its pipeline
        assert said(component.pipe(case.docs(nlp))) == case.expected


def test_pickle(case):
    nlp = pickle.loads(pickle.dumps(case.nlp))
    assert case.say(nlp) == case.expected
    assert case.say(pickle.loads(pickle.dumps(nlp))) == case.expected


@pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
def test_loading_into_a_pipeline_with_other_labels_and_weights(case, tmp_path):
    other = case.new()
    train(other, make_rel_examples(other, OTHER_PAIRS), steps=2)
    assert other.get_pipe("mmib_rel").labels == ("A", "B", "C", "D")
    foreign = other.to_bytes()
    other.from_bytes(case.nlp.to_bytes())
    assert other.get_pipe("mmib_rel").labels == ("couple", "team")
    assert case.say(other) == case.expected
    other.from_bytes(foreign)
    assert other.get_pipe("mmib_rel").labels == ("A", "B", "C", "D")
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


@pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
def test_a_load_that_fails_keeps_the_labels(case):
    """The weights are damaged, but what precedes them isn't: other labels."""
    other = case.new()
    train(other, make_rel_examples(other, OTHER_PAIRS), steps=1)
    parts = srsly.msgpack_loads(other.get_pipe("mmib_rel").to_bytes())
    parts["model"] = parts["model"][:-100]
    nlp = case.copy()
    with pytest.raises(Exception, match="."):
        nlp.get_pipe("mmib_rel").from_bytes(srsly.msgpack_dumps(parts))
    assert nlp.get_pipe("mmib_rel").labels == ("couple", "team")
    assert case.say(nlp) == case.expected


@pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")
def test_uninitialized_pipelines_can_be_stored(case, tmp_path):
    nlp = case.new()
    nlp.get_pipe("mmib_rel").add_label("couple")
    nlp.to_disk(tmp_path)
    copies = [spacy.load(tmp_path), case.new().from_bytes(nlp.to_bytes())]
    copies.append(pickle.loads(pickle.dumps(nlp)))
    for copy in copies:
        assert copy.get_pipe("mmib_rel").labels == ("couple",)
    # and initialized after that
    train(copies[0], make_rel_examples(copies[0]), steps=1)
    assert copies[0].get_pipe("mmib_rel").labels == ("couple", "team")
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
    examples = make_rel_examples(nlp)
    before = nlp.update(examples, losses={})["mmib_rel_task"]
    for _ in range(3):
        nlp.update(examples, sgd=optimizer, losses={})
    assert before < 0.5
    assert nlp.get_pipe("mmib_rel").model.to_bytes() != case.nlp.get_pipe("mmib_rel").model.to_bytes()
    assert case.say(case.nlp) == case.expected


def test_docs_keep_relations_in_a_docbin(case, tmp_path):
    docs = list(case.nlp.pipe(case.docs(case.nlp)))
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "posts.spacy")
    vocab = spacy.blank("en").vocab
    assert said(DocBin().from_disk(tmp_path / "posts.spacy").get_docs(vocab)) == case.expected
    loaded = list(DocBin().from_disk(tmp_path / "posts.spacy").get_docs(case.nlp.vocab))
    assert said(loaded) == case.expected
    first, found = docs[0]._.relations[0], loaded[0]._.relations[0]
    assert found.to_json() == first.to_json()
    # What the component predicted before is still known as its own, and replaced.
    assert said(case.nlp.pipe(loaded)) == case.expected
    assert said([Doc(vocab).from_bytes(doc.to_bytes()) for doc in docs]) == case.expected


# --- processes ------------------------------------------------------------------------------------

SAY = """
def say(docs):
    docs = list(docs)
    number = lambda x: x and round(x, 4)
    ents = [[(e.text, e.label_, number(e._.confidence)) for e in doc.ents] for doc in docs]
    rels = [
        [(r.head.text, r.tail.text, r.label, number(r.score)) for r in doc._.relations]
        for doc in docs
    ]
    return list(zip(ents, rels))
"""
PARALLEL = f"""
import sys
import spacy
from spacy.tokens import DocBin
{SAY}
if __name__ == "__main__":
    folder, first, method = sys.argv[1:]
    if method != "default":
        import multiprocessing
        multiprocessing.set_start_method(method)
    nlp = spacy.load(folder + "/model")
    read = lambda: list(DocBin().from_disk(folder + "/posts.spacy").get_docs(nlp.vocab))
    if first == "parent-first":
        import torch
        torch.set_num_threads(2)
        torch.randn(500, 500) @ torch.randn(500, 500)  # starts torch's own threads
        list(nlp.pipe(read()))
    docs = list(nlp.pipe(read() * 3, n_process=2, batch_size=3))
    assert all(doc._.image is not None for doc in docs[:4])
    print(say(docs))
"""


@pytest.mark.parametrize(
    ("first", "method"),
    [
        ("child-only", "default"),
        ("parent-first", "default"),
        pytest.param("parent-first", "spawn", marks=pytest.mark.slow),
    ],
)
def test_multiprocessing(case, tmp_path, first, method):
    """In a process of its own: a hang must fail the test, not stop the suite."""
    case.nlp.to_disk(tmp_path / "model")
    docs = case.docs(case.nlp)
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "posts.spacy")
    (tmp_path / "parallel.py").write_text(PARALLEL)
    result = subprocess.run(
        [sys.executable, str(tmp_path / "parallel.py"), str(tmp_path), first, method],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == repr(case.expected * 3)


@pytest.mark.slow
def test_spacy_package_and_pip_install(joint, tmp_path):
    """`spacy package`, pip install of the result into a folder, `spacy.load` from there by name."""
    nlp = joint.copy()
    nlp.meta["spacy_mmib"] = {"leaks": ["the regions of the training data leak"]}
    nlp.to_disk(tmp_path / "model")
    (tmp_path / "out").mkdir()
    DocBin(docs=joint.docs(nlp), store_user_data=True).to_disk(tmp_path / "posts.spacy")
    run = lambda *args: subprocess.run(
        [sys.executable, "-m", *map(str, args)], check=True, capture_output=True, text=True
    )
    run("spacy", "package", tmp_path / "model", tmp_path / "out", "--name", "mmib_joint",
        "--build", "sdist")  # fmt: skip
    built = next((tmp_path / "out").glob("**/dist/*.tar.gz"))
    meta = srsly.read_json(next((tmp_path / "out").glob("*/meta.json")))
    assert any(req.startswith("spacy-mmib>=0.") for req in meta["requirements"])
    target = tmp_path / "site"
    run("pip", "install", "--no-deps", "--no-build-isolation", "--target", target, built)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        f"import spacy; from spacy.tokens import DocBin\n{SAY}\n"
        "nlp = spacy.load('en_mmib_joint')\n"
        "assert nlp.meta['spacy_mmib'] == {'leaks': ['the regions of the training data leak']}\n"
        "print(say(nlp.pipe(DocBin().from_disk(sys.argv[2]).get_docs(nlp.vocab))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(target), str(tmp_path / "posts.spacy")],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.stdout.strip() == repr(joint.expected)


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
    config = {"nlp": {"lang": "en", "pipeline": list(JOINT)}, "components": blocks}
    nlp = spacy.blank("en").from_config(config)
    assert nlp.get_pipe("mmib_img2vec").listening_components == ["mmib_ner", "mmib_rel"]
    assert joint.say(nlp) == joint.expected
    alone = {"mmib_ner": {"source": str(folder), "replace_listeners": ["model.img2vec"]}}
    config = {"nlp": {"lang": "en", "pipeline": ["mmib_ner"]}, "components": alone}
    nlp = spacy.blank("en").from_config(config)
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
