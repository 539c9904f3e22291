"""The steps of the workflows twitter15, twitter17 and mnre of project.yml, on tiny data with a tiny BERT."""

import json
import shlex
import warnings
from pathlib import Path

import PIL.Image
import pytest
import spacy
import srsly
import typer
from tiny_bert import save_tiny_bert

from project import convert, evaluate, features, train
from project.config import read_config
from project.planning import Options, Variant, fit_schedule, hash_files, make_config, read_corpus

ROOT = Path(__file__).parents[2]
STEPS = ("check", "convert", "features", "train", "evaluate")
DATASETS = ("twitter15", "twitter17", "mnre")
POST = "IMGID:{}\nrob\tB-PER\nmet\tO\nmia\tB-PER\nin\tO\noslo\tB-LOC\n\n"


def call(module, *args, **kwargs) -> int:
    """Call what a command calls; its exit code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.main(*args, **kwargs)
    except SystemExit as stop:
        return int(stop.code or 0)
    except typer.Exit as stop:
        return stop.exit_code
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


def run_convert(folder, output, **more) -> int:
    return call(convert, "twitter17", str(folder / "texts"), str(output / "twitter17"), **more)


def run_training(folder, output, **more) -> int:
    settings = {"transformer": str(folder / "bert"), "epochs": 1, **more}
    return call(train, "twitter17", data=output, output=output / "models", **settings)


def run_evaluation(output, **more) -> int:
    return call(
        evaluate, "twitter17", data=output, models=output / "models", metrics=output / "metrics", **more
    )


def test_text_only_from_the_texts_to_the_scores(folder, tmp_path, capsys):
    assert run_convert(folder, tmp_path) == 0
    # Nothing to encode, which is said and no failure.
    capsys.readouterr()
    assert call(features, "twitter17", data=tmp_path) == 0
    assert "NO PICTURES" in capsys.readouterr().out
    assert not (tmp_path / "twitter17" / "features.sqlite").exists()

    assert run_training(folder, tmp_path) == 0
    assert "NO PICTURES" in capsys.readouterr().out
    models = tmp_path / "models" / "twitter17"
    nlp = spacy.load(models / "model-best")
    assert nlp.pipe_names == ["transformer", "mmib_ner"]
    assert nlp.config["training"]["optimizer"]["learn_rate"]["total_steps"] == 2
    # What has been trained is not trained again, unless something is different.
    trained = (models / "model-best" / "meta.json").stat().st_mtime_ns
    assert run_training(folder, tmp_path) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (models / "model-best" / "meta.json").stat().st_mtime_ns == trained

    assert run_evaluation(tmp_path) == 0
    output = capsys.readouterr().out
    assert "Saved the scores" in output
    assert "87.60" in output
    assert "NO PICTURES" in output
    path = tmp_path / "metrics" / "test_twitter17.json"
    record = json.loads(path.read_text())
    assert record["of"]["model"] == hash_files(models / "model-best")
    assert record["of"]["dataset"]["version"] == "unknown"
    assert list(record["metrics"]) == ["own"]

    # The test posts are seen once: a second time shows what is stored, whatever that is.
    record["metrics"]["own"]["ents_f"] = 0.1234
    path.write_text(json.dumps(record))
    assert run_evaluation(tmp_path) == 0
    output = capsys.readouterr().out
    assert "has been evaluated" in output
    assert "12.34" in output
    assert json.loads(path.read_text()) == record
    # Unless that is asked for, or it is another model.
    assert run_evaluation(tmp_path, force=1) == 0
    assert json.loads(path.read_text())["metrics"]["own"]["ents_f"] != 0.1234
    capsys.readouterr()
    assert run_training(folder, tmp_path, seed=1) == 0
    assert run_evaluation(tmp_path) == 0
    assert "this has changed: model" in capsys.readouterr().out


def test_evaluating_needs_a_model(tmp_path, capsys):
    assert run_evaluation(tmp_path) == 1
    assert "model-best" in capsys.readouterr().out


def test_with_pictures(folder, tmp_path, monkeypatch, capsys):
    assert run_convert(folder, tmp_path, images=str(folder / "images")) == 0
    commands = []
    monkeypatch.setattr(features.sys, "exit", lambda code: None)
    monkeypatch.setattr(features.subprocess, "run", lambda command, **_: commands.append(command) or done)
    assert call(features, "twitter17", data=tmp_path) == 0
    assert commands[0][3:6] == ["mmib", "cache", "build"]
    assert commands[0][commands[0].index("--image-root") + 1] == str(folder / "images")
    capsys.readouterr()
    trained = "components.mmib_ner.model.img2vec.trainable true"
    for more, reason in (({"overrides": trained}, "trained"), ({"config": "baseline_trf"}, "no picture")):
        assert call(features, "twitter17", data=tmp_path, **more) == 0
        assert reason in " ".join(capsys.readouterr().out.split())
    assert len(commands) == 1
    # The paper's picture encoder stays; for texts only there is none to download.
    assert get_encoder(tmp_path) == ("resnet50", "IMAGENET1K_V1")
    assert run_convert(folder, tmp_path) == 0
    assert get_encoder(tmp_path)[1] is None


class done:
    returncode = 0


def get_encoder(data) -> tuple[str, str | None]:
    corpus = read_corpus("twitter17", data / "twitter17")
    config = make_config(corpus, Variant("MMIB"), 0, Options())
    layer = config["components"]["mmib_ner"]["model"]["img2vec"]
    return layer["arch"], layer["weights"]


def test_the_schedule_fits_the_corpus():
    config = read_config("ner_trf")
    shipped = config["training"]["optimizer"]["learn_rate"].copy()
    fit_schedule(config, 3373, Options())  # Twitter-2017, which it was written for
    assert config["training"]["optimizer"]["learn_rate"] == shipped
    epochs = config["training"]["max_epochs"]
    fit_schedule(config, 4000, Options())  # Twitter-2015
    rate = config["training"]["optimizer"]["learn_rate"]
    assert rate["total_steps"] == epochs * 500 + 1
    assert rate["initial_rate"] == shipped["initial_rate"]
    assert config["training"]["max_epochs"] == epochs
    # A rate of one's own stays.
    config = read_config("demo")
    before = config.to_str(interpolate=False)
    fit_schedule(config, 10, Options())
    assert config.to_str(interpolate=False) == before


def test_missing_weights_are_explained(folder, tmp_path, monkeypatch, capsys):
    assert run_convert(folder, tmp_path) == 0
    assert run_training(folder, tmp_path, transformer=str(tmp_path / "nowhere")) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert f"no folder {tmp_path / 'nowhere'}" in output
    assert "--vars.transformer" in output

    def fail(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(train, "train", fail)
    assert run_training(folder, tmp_path, transformer="") == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "'bert-base-uncased' is neither on this machine" in output
    assert "--vars.transformer FOLDER" in output
    assert not (tmp_path / "models" / "twitter17" / "trained.json").exists()


def test_a_split_that_is_missing(tmp_path, capsys):
    assert call(train, "twitter17", data=tmp_path) == 1
    assert "train.spacy" in capsys.readouterr().out
    assert call(convert, "twitter17", str(tmp_path / "no"), str(tmp_path)) == 1
    assert "Put train.txt" in " ".join(capsys.readouterr().err.split())


def test_a_format_that_is_not_known(tmp_path, capsys):
    assert call(convert, "mine", str(tmp_path)) == 1
    assert "--format" in capsys.readouterr().err


def test_the_workflows_have_all_steps_in_order():
    commands = {c["name"]: c["script"] for c in srsly.read_yaml(ROOT / "project.yml")["commands"]}
    for dataset in DATASETS:
        assert [shlex.split(line)[2:4] for line in commands[dataset]] == [
            [f"project.{step}", dataset] for step in STEPS
        ]
        for step, line in zip(STEPS, commands[dataset]):
            # What the step takes by itself it takes here.
            assert set(shlex.split(line.replace(dataset, "${vars.dataset}"))) <= set(
                shlex.split(commands[step][0])
            )


def test_the_projects_readme_is_in_step(tmp_path):
    """Remade by: python -m spacy project document --output project/README.md"""
    from weasel.cli.document import project_document

    project_document(ROOT, tmp_path / "README.md")
    documented = (tmp_path / "README.md").read_text(encoding="utf8").strip()
    assert documented in (ROOT / "project" / "README.md").read_text(encoding="utf8")
