"""`spacy mmib cache build`, and what it is for: training without opening pictures."""

import os
import signal
import subprocess
import sys

import numpy
import PIL.Image
import pytest
import spacy
import torch
import torchvision.models
from conftest import IMG2VEC, LISTENER, MODEL, TOK2VEC
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from typer.testing import CliRunner

from spacy_mmib.cache.store import FeatureStore
from spacy_mmib.cli import mmib_cli
from spacy_mmib.evaluation.evaluate import evaluate
from spacy_mmib.images.reader import PictureReader

N_POSTS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus with pictures, the weights of an encoder, and a config."""
    folder = tmp_path_factory.mktemp("features")
    rng = numpy.random.RandomState(0)
    nlp = spacy.blank("en")
    docs = DocBin(store_user_data=True)
    import spacy_mmib.post.extensions  # noqa: F401

    for i in range(N_POSTS):
        doc = nlp.make_doc(f"Rob saw number {i} again")
        doc.ents = [doc.char_span(0, 3, label="PER")]
        if i % 10 != 9:
            picture = rng.randint(0, 255, (40, 50, 3)).astype("uint8")
            PIL.Image.fromarray(picture).save(folder / f"{i}.png")
            doc._.image = f"{i}.png"
        docs.add(doc)
    docs.to_disk(folder / "train.spacy")
    torch.manual_seed(0)
    network = torchvision.models.get_model("squeezenet1_1", weights=None)
    torch.save(network.state_dict(), folder / "encoder.pth")
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": None}
    encoder = {
        **IMG2VEC,
        "weights": str(folder / "encoder.pth"),
        "get_regions": {"@region_getters": "spacy-mmib.grid.v1", "k": 2},
        "cache": cache,
    }
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    nlp.add_pipe("mmib_img2vec", config={"model": encoder})
    text = {"@architectures": "spacy.Tok2VecListener.v1", "width": 24}
    nlp.add_pipe("mmib_ner", config={"model": {**MODEL, "tok2vec": text, "img2vec": LISTENER}})
    config = nlp.config
    config["paths"]["features"] = None
    config["components"]["mmib_img2vec"]["model"]["cache"]["path"] = "${paths.features}"
    for name in ("train", "dev"):
        config["corpora"][name] = {"@readers": "spacy-mmib.Corpus.v1", "path": str(folder / "train.spacy")}
    config["training"]["max_steps"] = 4
    config["training"]["eval_frequency"] = 2
    config["training"]["batcher"] = {"@batchers": "spacy-mmib.batch_by_sequence.v1", "size": 8}
    config.to_disk(folder / "config.cfg")
    return folder


def build(folder, path, *more):
    args = ["cache", "build", str(folder / "config.cfg"), str(folder / "train.spacy")]
    return CliRunner().invoke(mmib_cli, [*args, *more, "--paths.features", str(path)])


def content(path):
    store = FeatureStore(path, read_only=True)
    assert store.verify()[1:] == (0, None)
    return store.stats()["content_digest"]


@pytest.fixture(scope="module")
def built(folder):
    path = folder / "built.sqlite"
    result = build(folder, path, "--chunk-size", "8")
    assert result.exit_code == 0, result.output
    assert f"{N_POSTS} posts, 27 with a picture, 0 with something that can't be used" in result.output
    return path


def count_reads(monkeypatch):
    read = []
    original = PictureReader.read
    monkeypatch.setattr(
        PictureReader, "read", lambda self, value: read.append(value) or original(self, value)
    )
    return read


def test_what_is_there_is_passed_over(folder, built, monkeypatch):
    before = content(built)
    read = count_reads(monkeypatch)
    result = build(folder, built)
    assert result.exit_code == 0
    assert not read
    assert content(built) == before


def test_training_and_evaluation_on_features_open_no_picture(folder, built, monkeypatch):
    config = spacy.util.load_config(
        folder / "config.cfg", overrides={"paths.features": str(built)}, interpolate=True
    )
    opened = []
    original = PIL.Image.Image.load
    # The reader looks at headers once; nothing is decoded.
    monkeypatch.setattr(PIL.Image.Image, "load", lambda self: opened.append(1) or original(self))
    nlp = init_nlp(config)
    (folder / "model").mkdir()
    with open(os.devnull, "w") as nowhere:
        train(nlp, folder / "model", stdout=nowhere, stderr=nowhere)
    loaded = spacy.load(folder / "model" / "model-last")
    metrics = evaluate(loaded, folder / "train.spacy")
    assert metrics["pictures"]["with_picture"] == 27
    assert not opened


KILLED = """
import sys, time
from spacy_mmib.encoders.picture_queue import PictureQueue
put = PictureQueue.put_in_cache
def slow(self, requests, to_numpy):  # of those that the cache didn't have
    put(self, requests, to_numpy)
    print("kept", flush=True)
    time.sleep(0.5)
PictureQueue.put_in_cache = slow
from spacy.cli import setup_cli
setup_cli()
"""


@pytest.mark.slow
def test_a_build_that_is_killed_goes_on_to_the_same_content(folder, built, tmp_path):
    path = tmp_path / "killed.sqlite"
    args = ["mmib", "cache", "build", str(folder / "config.cfg"), str(folder / "train.spacy")]
    args += ["--chunk-size", "4", "--paths.features", str(path)]
    numbers = []
    for chunks in (2, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(chunks):
            while b"kept" not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.wait()
        numbers.append(FeatureStore(path, read_only=True).stats()["entries"]["vectors"])
    assert 0 < numbers[0] < numbers[1] < 27
    resumed = build(folder, path, "--chunk-size", "4")
    assert resumed.exit_code == 0
    whole = tmp_path / "whole.sqlite"
    assert build(folder, whole, "--chunk-size", "4").exit_code == 0
    assert content(path) == content(whole)


def test_unusable_pictures_are_counted(folder, tmp_path):
    docs = DocBin(store_user_data=True).from_disk(folder / "train.spacy")
    docs.to_disk(tmp_path / "train.spacy")
    for i in range(N_POSTS):
        (tmp_path / f"{i}.png").write_bytes((folder / f"{i % 9}.png").read_bytes()[: 9000 if i else 200])
    args = ["cache", "build", str(folder / "config.cfg"), str(tmp_path)]
    result = CliRunner().invoke(mmib_cli, [*args, "--paths.features", str(tmp_path / "f.sqlite")])
    assert result.exit_code == 0
    assert "1 with something that can't be used (1 damaged)" in result.output


FEATURES = "CONFIG TRAIN --paths.features TMP/f.sqlite"
FAILURES = [
    ("CONFIG TRAIN", "No picture encoder of this pipeline has a cache", False),
    ("TMP/blank TRAIN", "No component of this pipeline has a picture encoder", False),
    ("nothing TRAIN", "Can't load the pipeline 'nothing'", False),
    (f"{FEATURES} --components.mmib_img2vec.model.weights null", "Random ones are others in each", False),
    (f"{FEATURES} --components.mmib_img2vec.model.cache.read_only true", "read_only = true", False),
    ("CONFIG TRAIN --paths.features TMP/no/f.sqlite", "there is no folder", False),
    ("CONFIG TRAIN --paths.features TMP/notes", "is not a feature cache", False),
    ("CONFIG TRAIN --paths.features TMP/notes/f.sqlite", "there is no folder", False),
    ("CONFIG TRAIN --paths.features TMP", "is not a feature cache", False),
    ("CONFIG TMP --paths.features TMP/f.sqlite", "none of the 30 posts has a picture that can be", False),
    (f"{FEATURES} --components.mmib_img2vec.model.cache.max_gb 1e-9", "max_gb = 1e-09 is too small", True),
]


@pytest.mark.parametrize(("args", "message", "works"), FAILURES)
def test_what_cannot_be_kept_is_said_before_the_work(folder, tmp_path, monkeypatch, args, message, works):
    read = count_reads(monkeypatch)
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "train.spacy").write_bytes((folder / "train.spacy").read_bytes())
    spacy.blank("en").to_disk(tmp_path / "blank")
    for name, path in (
        ("CONFIG", folder / "config.cfg"),
        ("TRAIN", folder / "train.spacy"),
        ("TMP", tmp_path),
    ):
        args = args.replace(name, str(path))
    result = CliRunner().invoke(mmib_cli, ["cache", "build", *args.split()])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "posts a second" not in result.output
    assert (tmp_path / "notes").read_text() == "mine"
    assert bool(read) == works


def test_a_trained_pipeline_builds_for_what_comes(folder, built, tmp_path):
    model = folder / "model" / "model-last"
    if not model.exists():
        pytest.skip("made by another test of this file")
    args = ["cache", "build", str(model), str(folder / "train.spacy")]
    path = tmp_path / "f.sqlite"
    setting = ["--components.mmib_img2vec.model.cache.path", str(path)]
    result = CliRunner().invoke(mmib_cli, [*args, "--chunk-size", "8", *setting])
    assert result.exit_code == 0, result.output
    assert content(path) == content(built)


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from spacy.cli import setup_cli
setup_cli()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
def test_a_disk_that_is_full_is_said_at_once(folder, tmp_path):
    args = ["mmib", "cache", "build", str(folder / "config.cfg"), str(folder / "train.spacy")]
    args += ["--chunk-size", "1", "--paths.features", str(tmp_path / "f.sqlite")]
    result = subprocess.run(
        [sys.executable, "-c", FULL, "90000", *args], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("✘")]
    assert len(said) == 1
    assert "can't be" in said[0]
    assert "Traceback" not in result.stderr
    assert "MMIBWarning" not in result.stderr
    assert "posts a second" not in result.stdout


def test_an_overlay_is_no_full_config(folder, tmp_path):
    (tmp_path / "overlay.cfg").write_text('[overlay]\nbase = "ner_trf"\n[nlp]\nbatch_size = 4\n')
    args = ["cache", "build", str(tmp_path / "overlay.cfg"), str(folder / "train.spacy")]
    result = CliRunner().invoke(mmib_cli, args)
    assert result.exit_code == 1
    assert "is no full config" in result.stderr
    assert "python -m project.config NAME" in result.stderr
