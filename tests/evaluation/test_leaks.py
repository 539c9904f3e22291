"""What leaks the labels of the training data or of a corpus is said wherever scores are."""

import json
import pickle
import warnings

import pytest
import spacy
import spacy.cli.train
import srsly
from commands import run
from conftest import IMG2VEC, LISTENER, MODEL, REL_MODEL, make_nlp, make_rel_examples, make_rel_nlp, train
from spacy.tokens import DocBin

from spacy_mmib.evaluation.evaluate import evaluate
from spacy_mmib.post.extensions import REGIONS_NOTE_KEY, set_regions_note
from spacy_mmib.training.corpus import MultimodalCorpus

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

NOTE = "these crops LEAK THE LABEL: their number tells it"
OTHER_NOTE = "and these boxes do, too"
KINDS = {"ner": make_nlp, "rel": make_rel_nlp, "joint": lambda: make_rel_nlp(joint=True)}


def save(path, note=None, first_note=None):
    """A corpus whose docs with regions have a note."""
    docs = [example.reference for example in make_rel_examples(spacy.blank("en"))]
    noted = [doc for doc in docs if doc._.regions]
    assert len(noted) == 6
    for i, doc in enumerate(noted):
        set_regions_note(doc, first_note if first_note and not i else note)
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "clean": save(folder / "clean.spacy"),
        "leaking": save(folder / "leaking.spacy", NOTE),
        "other": save(folder / "other.spacy", OTHER_NOTE),
        "both": save(folder / "both.spacy", NOTE, OTHER_NOTE),
    }


def train_on(path, kind="joint", steps=1):
    nlp = KINDS[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(nlp, list(MultimodalCorpus(path)(nlp)), steps=steps)
    return nlp


def leaks(nlp):
    return nlp.meta.get("spacy_mmib", {}).get("leaks")


@pytest.fixture(scope="module")
def pipelines(corpora):
    """Barely trained: what they predict doesn't matter here."""
    return {name: train_on(corpora[name]) for name in ("clean", "leaking")}


@pytest.mark.parametrize("kind", KINDS)
def test_training_notes_it_in_the_meta(corpora, kind):
    nlp = train_on(corpora["leaking"], kind)
    assert nlp.meta["spacy_mmib"] == {"leaks": [NOTE]}
    assert "spacy_mmib" not in train_on(corpora["clean"], kind).meta


def test_several_notes(corpora):
    assert leaks(train_on(corpora["both"])) == sorted([NOTE, OTHER_NOTE])


def test_other_meta_of_the_pipeline_stays(corpora):
    nlp = make_rel_nlp()
    nlp.meta["author"] = "Ann"
    nlp.meta["spacy_mmib"] = {"of_others": 1}
    train(nlp, list(MultimodalCorpus(corpora["leaking"])(nlp)), steps=1)
    assert nlp.meta["author"] == "Ann"
    assert nlp.meta["spacy_mmib"] == {"of_others": 1, "leaks": [NOTE]}


def test_a_note_is_one_line_wherever_it_comes_from(corpora):
    nlp = make_rel_nlp(joint=True)
    examples = list(MultimodalCorpus(corpora["clean"])(nlp))
    for example in examples[:2]:
        example.predicted.user_data[REGIONS_NOTE_KEY] = "these crops\r\n  LEAK\n"
    train(nlp, examples, steps=1)
    assert leaks(nlp) == ["these crops LEAK"]
    examples = list(MultimodalCorpus(corpora["clean"])(nlp))
    for example in examples[:2]:
        set_regions_note(example.predicted, " \n ")
    nlp = make_rel_nlp()
    train(nlp, examples, steps=1)
    assert leaks(nlp) is None


def test_it_survives_storing(pipelines, tmp_path):
    nlp = pipelines["leaking"]
    nlp.to_disk(tmp_path / "model")
    meta = srsly.read_json(tmp_path / "model" / "meta.json")
    assert meta["spacy_mmib"] == {"leaks": [NOTE]}
    again = spacy.load(tmp_path / "model")
    copies = [
        again,
        make_rel_nlp(joint=True).from_disk(tmp_path / "model"),
        make_rel_nlp(joint=True).from_bytes(nlp.to_bytes()),
        pickle.loads(pickle.dumps(nlp)),
    ]
    assert [leaks(copy) for copy in copies] == [[NOTE]] * 4
    again.to_disk(tmp_path / "again")
    assert leaks(spacy.load(tmp_path / "again")) == [NOTE]
    pipelines["clean"].to_disk(tmp_path / "clean")
    assert "spacy_mmib" not in srsly.read_json(tmp_path / "clean" / "meta.json")


def test_training_goes_on_with_other_data(pipelines, corpora):
    """A pipeline that has seen the answers once has seen them."""
    nlp = make_rel_nlp(joint=True).from_bytes(pipelines["leaking"].to_bytes())
    train(nlp, list(MultimodalCorpus(corpora["clean"])(nlp)), steps=1)
    assert leaks(nlp) == [NOTE]
    train(nlp, list(MultimodalCorpus(corpora["other"])(nlp)), steps=1)
    assert leaks(nlp) == sorted([NOTE, OTHER_NOTE])


@pytest.mark.parametrize("name", ["mmib_ner", "mmib_rel"])
def test_resumed_training_notes_it(pipelines, corpora, tmp_path, name):
    """No component is initialized again, and only one of them learns."""
    nlp = make_rel_nlp(joint=True).from_bytes(pipelines["clean"].to_bytes())
    assert "leaks" not in evaluate(nlp, corpora["clean"])
    optimizer = nlp.resume_training()
    frozen = [other for other in nlp.pipe_names if other != name]
    annotates = ["mmib_img2vec"]
    examples = list(MultimodalCorpus(corpora["leaking"])(nlp))
    nlp.update(examples, sgd=optimizer, exclude=frozen, annotates=annotates)
    assert evaluate(nlp, corpora["clean"])["leaks"] == [NOTE]
    again = make_rel_nlp(joint=True).from_bytes(nlp.to_bytes())
    for other in ("mmib_ner", "mmib_rel"):  # in its own settings: it doesn't know the pipeline
        assert again.get_pipe(other).cfg.get("leaks") == ([NOTE] if other == name else None)
    nlp.to_disk(tmp_path)
    assert evaluate(spacy.load(tmp_path), corpora["clean"])["leaks"] == [NOTE]
    assert "leaks" not in evaluate(pipelines["clean"], corpora["clean"])


@pytest.mark.parametrize("name", ["mmib_ner", "mmib_rel"])
def test_it_goes_with_a_component_into_another_pipeline(pipelines, corpora, name):
    source = make_rel_nlp(joint=True).from_bytes(pipelines["leaking"].to_bytes())
    nlp = spacy.blank("en")
    for other in ("mmib_img2vec", name):
        nlp.add_pipe(other, source=source)
    assert evaluate(nlp, corpora["clean"])["leaks"] == [NOTE]
    copy = pickle.loads(pickle.dumps(nlp))
    assert evaluate(copy, corpora["clean"])["leaks"] == [NOTE]


def test_it_goes_with_the_weights(pipelines, corpora):
    """A component that is loaded has learned what the stored one has, and nothing else."""
    component = make_rel_nlp(joint=True).from_bytes(pipelines["leaking"].to_bytes()).get_pipe("mmib_rel")
    assert component.cfg["leaks"] == [NOTE]
    component.from_bytes(pipelines["clean"].get_pipe("mmib_rel").to_bytes())
    assert "leaks" not in component.cfg


@pytest.mark.parametrize(
    ("trained_on", "evaluated_on", "expected"),
    [
        ("clean", "clean", None),
        ("leaking", "clean", [NOTE]),
        ("clean", "leaking", [NOTE]),
        ("leaking", "leaking", [NOTE]),
        ("leaking", "other", sorted([NOTE, OTHER_NOTE])),
        ("clean", "both", sorted([NOTE, OTHER_NOTE])),
    ],
)
@pytest.mark.parametrize("images", ["own", "none", "shuffled"])
def test_metrics(pipelines, corpora, trained_on, evaluated_on, expected, images):
    metrics = evaluate(pipelines[trained_on], corpora[evaluated_on], images=images)
    assert metrics.get("leaks") == expected
    assert ("leaks" in metrics) == (expected is not None)
    assert all(len(note.splitlines()) == 1 for note in metrics.get("leaks", ()))
    # The evaluated corpus is no training data.
    assert leaks(pipelines[trained_on]) == (None if trained_on == "clean" else [NOTE])


@pytest.mark.parametrize("kind", ["ner", "rel"])
def test_metrics_of_single_components(corpora, kind):
    nlp = train_on(corpora["leaking"], kind)
    assert evaluate(nlp, corpora["clean"])["leaks"] == [NOTE]
    clean = train_on(corpora["clean"], kind)
    assert evaluate(clean, corpora["leaking"])["leaks"] == [NOTE]
    assert "leaks" not in evaluate(clean, corpora["clean"])


@pytest.mark.parametrize(
    ("trained_on", "evaluated_on"), [("clean", "clean"), ("leaking", "clean"), ("clean", "leaking")]
)
def test_command_line(pipelines, corpora, tmp_path, trained_on, evaluated_on):
    """It is in the file of the metrics, and said on the screen."""
    pipelines[trained_on].to_disk(tmp_path / "model")
    result = run("evaluate", tmp_path / "model", corpora[evaluated_on], "-o", tmp_path / "m.json")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "m.json").read_text())
    leaking = trained_on != evaluated_on
    assert metrics.get("leaks") == ([NOTE] if leaking else None)
    assert (NOTE in " ".join(result.output.split())) == leaking


def test_spacy_train(corpora, tmp_path):
    """The whole way: the note is in meta.json of what `spacy train` writes."""
    components = {
        "mmib_img2vec": {"factory": "mmib_img2vec", "model": IMG2VEC},
        "mmib_ner": {"factory": "mmib_ner", "model": {**MODEL, "img2vec": LISTENER}},
        "mmib_rel": {"factory": "mmib_rel", "model": {**REL_MODEL, "img2vec": LISTENER}},
    }
    reader = {"@readers": "spacy-mmib.Corpus.v1"}
    config = {
        "nlp": {"lang": "en", "pipeline": list(components)},
        "components": components,
        "corpora": {
            "train": {**reader, "path": str(corpora["leaking"])},
            "dev": {**reader, "path": str(corpora["clean"])},
        },
        "training": {"max_steps": 2, "eval_frequency": 1},
    }
    nlp = spacy.util.load_model_from_config(config, auto_fill=True)
    nlp.config.to_disk(tmp_path / "config.cfg")
    spacy.cli.train.train(tmp_path / "config.cfg", tmp_path / "out")
    for name in ("model-best", "model-last"):
        meta = srsly.read_json(tmp_path / "out" / name / "meta.json")
        assert meta["spacy_mmib"] == {"leaks": [NOTE]}
        assert "rel_micro_f" in meta["performance"]
    last = spacy.load(tmp_path / "out" / "model-last")
    assert evaluate(last, corpora["clean"])["leaks"] == [NOTE]
