"""The workflows twitter15, twitter17 and mnre of project.yml, step by step, on tiny data with a tiny BERT."""

import json
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import PIL.Image
import pytest
import spacy
import srsly
from tiny_bert import save_tiny_bert

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "project" / "scripts"))

import workflow_convert  # noqa: E402
import workflow_evaluate  # noqa: E402
import workflow_features  # noqa: E402
import workflow_train  # noqa: E402
from grid_config import fit_to_corpus  # noqa: E402
from workflow_corpus import count_pictures, hash_files  # noqa: E402

STEPS = ("check", "convert", "features", "train", "evaluate")
DATASETS = ("twitter15", "twitter17", "mnre")
POST = "IMGID:{}\nrob\tB-PER\nmet\tO\nmia\tB-PER\nin\tO\noslo\tB-LOC\n\n"


def call(script, monkeypatch, *args) -> int:
    """Run a script as the project does; its exit code."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, args)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The text files of two posts a split, and pictures of some; a tiny BERT."""
    folder = tmp_path_factory.mktemp("workflow")
    for i, name in enumerate(("train", "valid", "test")):
        (folder / "texts").mkdir(exist_ok=True)
        (folder / "texts" / f"{name}.txt").write_text(POST.format(2 * i) + POST.format(2 * i + 1))
        (folder / "images").mkdir(exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(folder / "images" / f"{2 * i}.jpg")
    save_tiny_bert(folder / "bert")
    return folder


def convert(folder, output, monkeypatch, *more) -> int:
    args = ("twitter17", "--data", folder / "texts", "--output", output)
    return call(workflow_convert, monkeypatch, *args, *more)


def run_training(folder, output, monkeypatch, *more) -> int:
    args = ("--data", output, "--output", output / "models", "--transformer", folder / "bert")
    return call(workflow_train, monkeypatch, "twitter17", *args, "--epochs", "1", *more)


def run_evaluation(output, monkeypatch, *more) -> int:
    args = ("--data", output, "--models", output / "models", "--metrics", output / "metrics")
    return call(workflow_evaluate, monkeypatch, "twitter17", *args, *more)


def test_text_only_from_the_texts_to_the_scores(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert convert(folder, tmp_path, monkeypatch, "--images", "", "--crops", "") == 0
    assert count_pictures(tmp_path / "twitter17") == 0
    # Nothing to encode, which is said and no failure.
    capsys.readouterr()
    assert call(workflow_features, monkeypatch, "twitter17", "--data", tmp_path) == 0
    assert "NO PICTURES" in capsys.readouterr().out
    assert not (tmp_path / "twitter17" / "features.sqlite").exists()

    assert run_training(folder, tmp_path, monkeypatch) == 0
    assert "NO PICTURES" in capsys.readouterr().out
    models = tmp_path / "models" / "twitter17"
    nlp = spacy.load(models / "model-best")
    assert nlp.pipe_names == ["transformer", "mmib_ner"]
    assert nlp.config["training"]["optimizer"]["learn_rate"]["total_steps"] == 2
    # What has been trained is not trained again, unless something is different.
    trained = (models / "model-best" / "meta.json").stat().st_mtime_ns
    assert run_training(folder, tmp_path, monkeypatch) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (models / "model-best" / "meta.json").stat().st_mtime_ns == trained

    assert run_evaluation(tmp_path, monkeypatch) == 0
    output = capsys.readouterr().out
    assert "Saved the scores" in output
    assert "87.60" in output
    assert "NO PICTURES" in output
    path = tmp_path / "metrics" / "test_twitter17.json"
    record = json.loads(path.read_text())
    assert record["of"]["model"] == hash_files(models / "model-best")
    assert record["of"]["dataset"]["version"] == "unknown"

    # The test posts are seen once: a second time shows what is stored, whatever that is.
    record["metrics"]["ents_f"] = 0.1234
    path.write_text(json.dumps(record))
    assert run_evaluation(tmp_path, monkeypatch) == 0
    output = capsys.readouterr().out
    assert "has been evaluated" in output
    assert "12.34" in output
    assert json.loads(path.read_text()) == record
    # Unless that is asked for, or it is another model.
    assert run_evaluation(tmp_path, monkeypatch, "--force") == 0
    assert json.loads(path.read_text())["metrics"]["ents_f"] != 0.1234
    path.write_text(json.dumps(record))
    assert run_training(folder, tmp_path, monkeypatch, "--seed", "1") == 0
    assert run_evaluation(tmp_path, monkeypatch) == 0
    assert "this has changed: model" in " ".join(capsys.readouterr().out.split())
    assert json.loads(path.read_text())["of"]["model"] != record["of"]["model"]


def test_evaluating_needs_a_model(folder, tmp_path, monkeypatch, capsys):
    assert run_evaluation(tmp_path, monkeypatch) == 1
    assert "model-best" in capsys.readouterr().out


def test_with_pictures(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert convert(folder, tmp_path, monkeypatch, "--images", folder / "images") == 0
    corpus = tmp_path / "twitter17"
    assert count_pictures(corpus) == 3
    assert workflow_features.find_nothing_to_do(corpus, "twitter17", "", "") is None
    trained = "components.mmib_ner.model.img2vec.trainable true"
    assert "trained" in workflow_features.find_nothing_to_do(corpus, "twitter17", "", trained)
    baseline = "configs/baseline_trf.cfg"
    assert "no picture" in workflow_features.find_nothing_to_do(corpus, "twitter17", baseline, "")
    # The paper's picture encoder stays; for texts only there is none to download.
    args = Namespace(config="", transformer="", epochs=0, batch_size=0, learn_rate=0.0, overrides="", seed=0)
    assert encoder(workflow_train.plan("twitter17", corpus, args)) == ("resnet50", "IMAGENET1K_V1")
    assert convert(folder, tmp_path, monkeypatch) == 0
    assert encoder(workflow_train.plan("twitter17", corpus, args))[1] is None


def encoder(config) -> tuple[str, str | None]:
    layer = config["components"]["mmib_ner"]["model"]["img2vec"]
    return layer["arch"], layer["weights"]


def test_the_schedule_fits_the_corpus(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = spacy.util.load_config("configs/ner_trf.cfg")
    shipped = config["training"]["optimizer"]["learn_rate"].copy()
    fit_to_corpus(config, 3373)  # Twitter-2017, which it was written for
    assert config["training"]["optimizer"]["learn_rate"] == shipped
    epochs = config["training"]["max_epochs"]
    fit_to_corpus(config, 4000)  # Twitter-2015
    rate = config["training"]["optimizer"]["learn_rate"]
    assert rate["total_steps"] == epochs * 500 + 1
    assert rate["initial_rate"] == shipped["initial_rate"]
    assert config["training"]["max_epochs"] == epochs
    # A rate of one's own stays.
    config = spacy.util.load_config("configs/demo.cfg")
    before = config.to_str()
    fit_to_corpus(config, 10)
    assert config.to_str() == before


def test_missing_weights_are_explained(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert convert(folder, tmp_path, monkeypatch) == 0
    args = ("--data", tmp_path, "--output", tmp_path / "models", "--epochs", "1")
    missing = ("--transformer", tmp_path / "nowhere")
    assert call(workflow_train, monkeypatch, "twitter17", *args, *missing) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert f"no folder {tmp_path / 'nowhere'}" in output
    assert "--vars.transformer" in output

    def train(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(workflow_train, "train", train)
    assert call(workflow_train, monkeypatch, "twitter17", *args) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "'bert-base-uncased' is neither on this machine" in output
    assert "--vars.transformer FOLDER" in output
    assert not (tmp_path / "models" / "twitter17" / "trained.json").exists()


def test_a_split_that_is_missing(folder, tmp_path, monkeypatch, capsys):
    assert call(workflow_train, monkeypatch, "twitter17", "--data", tmp_path) == 1
    assert "train.spacy" in capsys.readouterr().out
    args = ("twitter17", "--data", tmp_path / "no", "--output", tmp_path)
    assert call(workflow_convert, monkeypatch, *args) == 1
    assert "Put train.txt" in " ".join(capsys.readouterr().out.split())


def test_the_workflows_have_all_steps_in_order():
    project = srsly.read_yaml(ROOT / "project.yml")
    commands = {command["name"]: command for command in project["commands"]}
    for dataset in DATASETS:
        assert project["workflows"][dataset] == [f"{step}-{dataset}" for step in STEPS]
        for step in STEPS:
            command = commands[f"{step}-{dataset}"]
            assert f".py {dataset} " in command["script"][0]
            # The scripts know themselves what has been done.
            assert command["no_skip"]


def test_the_projects_readme_is_in_step(tmp_path):
    """Remade by: python -m spacy project document --output project/README.md"""
    from weasel.cli.document import project_document

    project_document(ROOT, tmp_path / "README.md")
    documented = (tmp_path / "README.md").read_text(encoding="utf8").strip()
    assert documented in (ROOT / "project" / "README.md").read_text(encoding="utf8")
