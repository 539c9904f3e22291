"""Every way to store a pipeline, and every way to run it, gives the same predictions."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import spacy
import srsly
from conftest import entities, make_examples, make_nlp, new_docs, train
from spacy.tokens import DocBin


@pytest.fixture(scope="module")
def expected(trained):
    found = entities(trained.pipe(new_docs(trained)))
    assert sum(map(len, found)) == 5
    return found


def test_disk(trained, expected, tmp_path):
    trained.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    assert entities(nlp.pipe(new_docs(nlp))) == expected
    assert nlp.get_pipe("mmib_ner").labels == trained.get_pipe("mmib_ner").labels
    nlp.to_disk(tmp_path / "again")
    assert entities(spacy.load(tmp_path / "again").pipe(new_docs(nlp))) == expected
    # the config that was saved is the whole pipeline: no weights are looked for
    assert nlp.config["components"]["mmib_ner"]["model"]["img2vec"]["arch"] == "squeezenet1_1"


def test_bytes(trained, expected):
    data = trained.to_bytes()
    assert entities(make_nlp().from_bytes(data).pipe(new_docs(trained))) == expected
    component = make_nlp().get_pipe("mmib_ner")
    component.from_bytes(trained.get_pipe("mmib_ner").to_bytes())
    assert entities(component.pipe(new_docs(trained))) == expected


def test_loading_into_a_pipeline_with_other_weights(trained, expected):
    other = make_nlp()
    posts = [
        ("Rob is here", [(0, 3, "A")], "red"),
        ("so is Mia", [(6, 9, "B")], None),
        ("Jo", [(0, 2, "C")], None),
    ]
    train(other, make_examples(other, posts), steps=2)
    other.from_bytes(trained.to_bytes())
    assert other.get_pipe("mmib_ner").labels == ("ORG", "PER")
    assert entities(other.pipe(new_docs(other))) == expected


def test_loading_without_the_model_or_from_garbage_leaves_it_working(trained, expected, tmp_path):
    nlp = pickle.loads(pickle.dumps(trained))
    component = nlp.get_pipe("mmib_ner")
    component.from_bytes(component.to_bytes(), exclude=["model"])
    assert entities(nlp.pipe(new_docs(nlp))) == expected
    component.to_disk(tmp_path / "component")
    component.from_disk(tmp_path / "component", exclude=["model", "vocab"])
    assert entities(nlp.pipe(new_docs(nlp))) == expected
    with pytest.raises(Exception, match="."):
        component.from_bytes(b"garbage")
    assert entities(nlp.pipe(new_docs(nlp))) == expected


NEW_SETTINGS = ("residual_dropout", "alignment_pooling")


def test_a_pipeline_from_before_these_settings(trained, expected, tmp_path):
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
    assert entities(nlp.pipe(new_docs(nlp))) == expected
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


def test_pickle(trained, expected):
    nlp = pickle.loads(pickle.dumps(trained))
    assert entities(nlp.pipe(new_docs(nlp))) == expected


def test_pickle_with_a_generator_schedule():
    nlp = make_nlp(beta1={"@schedules": "compounding.v1", "start": 0.1, "stop": 1.0, "compound": 1.1})
    train(nlp, make_examples(nlp), steps=2)
    copy = pickle.loads(pickle.dumps(nlp))
    assert entities(copy.pipe(new_docs(nlp))) == entities(nlp.pipe(new_docs(nlp)))


def test_uninitialized_pipelines_can_be_stored(tmp_path):
    nlp = make_nlp()
    nlp.to_disk(tmp_path)
    with pytest.raises(ValueError, match="has no weights yet"):
        spacy.load(tmp_path)("Rob")


def test_training_goes_on_after_loading(trained, tmp_path):
    trained.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    optimizer = nlp.resume_training()
    before = nlp.update(make_examples(nlp), losses={})["mmib_ner_task"]
    for _ in range(3):
        nlp.update(make_examples(nlp), sgd=optimizer, losses={})
    assert nlp.get_pipe("mmib_ner").model.to_bytes() != trained.get_pipe("mmib_ner").model.to_bytes()
    assert before < 1


def test_docs_keep_pictures_and_predictions_in_a_docbin(trained, expected, tmp_path):
    docs = list(trained.pipe(new_docs(trained)))
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "posts.spacy")
    loaded = list(DocBin().from_disk(tmp_path / "posts.spacy").get_docs(trained.vocab))
    assert entities(loaded) == expected
    for doc in loaded:  # and pictures are still there to predict from
        doc.ents = []
    assert entities(trained.pipe(loaded)) == expected


def test_foreign_modules_are_refused():
    data = srsly.msgpack_dumps({"module": "os.system", "settings": {"command": "true"}, "state": b""})
    layer = make_nlp().get_pipe("mmib_ner").model.get_ref("fusion")
    shim = srsly.msgpack_dumps({"config": {}, "state": data})
    with pytest.raises(ValueError, match="this layer is a 'MMIB', but what was saved is a 'os.system'"):
        layer.shims[0].from_bytes(shim)


PARALLEL = """
import sys
import spacy
from spacy.tokens import DocBin

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
    docs = list(nlp.pipe(read() * 4, n_process=2, batch_size=3))
    assert all(doc._.image is not None for doc in docs[:4])
    print([[(e.text, e.label_, round(e._.confidence, 4)) for e in doc.ents] for doc in docs])
"""


@pytest.mark.parametrize(
    ("first", "method"),
    [("child-only", "default"), ("parent-first", "default"), ("parent-first", "spawn")],
)
def test_multiprocessing(trained, expected, tmp_path, first, method):
    """In a process of its own: a hang must fail the test, not stop the suite."""
    trained.to_disk(tmp_path / "model")
    DocBin(docs=new_docs(trained), store_user_data=True).to_disk(tmp_path / "posts.spacy")
    (tmp_path / "parallel.py").write_text(PARALLEL)
    env = {**__import__("os").environ, "OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, str(tmp_path / "parallel.py"), str(tmp_path), first, method],
        capture_output=True, text=True, timeout=240, env=env, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == repr(expected * 4)


@pytest.mark.slow
def test_spacy_package_and_pip_install(trained, expected, tmp_path):
    """`spacy package`, pip install of the result into a folder, `spacy.load` from there by name."""
    trained.to_disk(tmp_path / "model")
    (tmp_path / "out").mkdir()
    DocBin(docs=new_docs(trained), store_user_data=True).to_disk(tmp_path / "posts.spacy")
    run = lambda *args: subprocess.run(
        [sys.executable, "-m", *args], check=True, capture_output=True, text=True
    )
    run(
        "spacy",
        "package",
        str(tmp_path / "model"),
        str(tmp_path / "out"),
        "--name",
        "mmib_demo",
        "--build",
        "sdist",
    )
    built = next((tmp_path / "out").glob("**/dist/*.tar.gz"))
    meta = srsly.read_json(next((tmp_path / "out").glob("*/meta.json")))
    assert any(req.startswith("spacy-mmib>=0.") for req in meta["requirements"])
    target = tmp_path / "site"
    run("pip", "install", "--no-deps", "--no-build-isolation", "--target", str(target), str(built))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import spacy; from spacy.tokens import DocBin\n"
        "nlp = spacy.load('en_mmib_demo')\n"
        "docs = DocBin().from_disk(sys.argv[2]).get_docs(nlp.vocab)\n"
        "print([[(e.text, e.label_, round(e._.confidence, 4)) for e in d.ents] for d in nlp.pipe(docs)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(target), str(tmp_path / "posts.spacy")],
        capture_output=True, text=True, check=True, cwd=Path(tmp_path),
    )  # fmt: skip
    assert result.stdout.strip() == repr(expected)
