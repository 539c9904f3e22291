"""Tables of many trainings: what is planned, what is run, and that stopping it loses nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import spacy
from forked import run_forked
from spacy.tokens import DocBin
from spacy.util import registry

from project.config import read_config
from project.demo.data import make_demo_data
from project.grid import BETAS, GRIDS, SERIES, TEXT, choose_variants
from project.planning import Options, Variant, describe_regions, hash_config, make_config, read_corpus
from spacy_mmib.encoders.picture_queue import find_encoder_layers, get_settings

ROOT = Path(__file__).parents[2]

# Small enough to be trained in a second.
TINY = {
    "components.mmib_ner.model.tok2vec.width": 24,
    "components.mmib_ner.model.tok2vec.depth": 1,
    "components.mmib_ner.model.tok2vec.embed_size": 200,
    "components.mmib_ner.model.fusion.heads": 4,
    "components.mmib_ner.model.img2vec.arch": "squeezenet1_1",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of two corpora, "tiny" and "text", which has no pictures."""
    folder = tmp_path_factory.mktemp("data")
    make_demo_data(folder / "tiny", {"train": 24, "dev": 8, "test": 12})
    vocab = spacy.blank("en").vocab
    (folder / "text").mkdir()
    for split in ("train", "dev", "test"):
        docs = list(DocBin().from_disk(folder / "tiny" / f"{split}.spacy").get_docs(vocab))
        for doc in docs:
            doc._.image = None
        DocBin(docs=docs, store_user_data=True).to_disk(folder / "text" / f"{split}.spacy")
    return folder


@pytest.fixture
def corpus(data):
    return read_corpus("tiny", data / "tiny")


def make_command(data, output, metrics, *extra, grid="ablation", dataset="tiny"):
    overrides = " ".join(f"{key} {value}" for key, value in TINY.items())
    command = ["-m", "project.grid", grid, dataset, *extra]
    command += ["--data", str(data), "--output", str(output), "--metrics", str(metrics)]
    return [*command, "--config", "demo", "--epochs", "1", "--overrides", overrides]


def run_grid(*args, **kwargs):
    command = [sys.executable, *make_command(*args, **kwargs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)  # fmt: skip


def finish(process):
    output, _ = process.communicate(timeout=300)
    return output


def read_files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_figure_4_has_every_point_once():
    points = GRIDS["beta-sweep"]
    assert len(points) == len({p.name for p in points}) == 19
    for series in SERIES:
        values = [p.settings for p in points if series in p.series]
        varied = "kl_text" if series != "beta2" else "kl_image"
        assert sorted(v[varied] for v in values) == sorted(BETAS)
        if series != "both":
            other = {"beta1": "kl_image", "beta2": "kl_text"}[series]
            assert {v[other] for v in values} == {1.0}
        else:
            assert all(v["kl_text"] == v["kl_image"] for v in values)


def test_an_unknown_grid():
    with pytest.raises(ValueError, match="ablation, beta-sweep, text, noise, pairs"):
        choose_variants("everything")


@pytest.mark.parametrize("name", ["demo", "joint_demo"])
@pytest.mark.parametrize("variant", GRIDS["ablation"], ids=lambda v: v.name)
def test_an_ablation_takes_its_terms_from_every_component(corpus, name, variant):
    before, config = read_config(name), make_config(corpus, variant, 7, Options(config=name))
    for component, old in before["components"].items():
        new = config["components"][component]
        if "loss_weights" in old:
            old = {**old, "loss_weights": {**old["loss_weights"], **variant.settings}}
        assert new == old
    assert config["system"]["seed"] == 7
    registry.fill(config, validate=False)


def test_without_the_core(corpus):
    for name in ("ner_trf", "rel_trf"):
        options = Options(config=name)
        config = make_config(corpus, Variant("no core", model=TEXT), 0, options)
        component = config["components"].get("mmib_ner") or config["components"]["mmib_rel"]
        assert component["model"]["fusion"] == {"@architectures": "spacy-mmib.NoFusion.v1"}
        assert "tok2vec" in component["model"]
        assert component["model"]["img2vec"] is None


def test_entity_vectors_of_given_pairs(corpus):
    for variant in GRIDS["pairs"]:
        model = make_config(corpus, variant, 0, Options(config="rel_trf"))["components"]["mmib_rel"]["model"]
        if not variant.floor:
            assert model["entity_repr"] in variant.name
            assert (model["img2vec"] is None) == ("without the core" in variant.name)


@pytest.mark.parametrize("name", ["demo", "joint_demo"])
def test_encoders_are_put_where_the_pictures_are_encoded(corpus, name):
    rows = GRIDS["encoders"]
    assert len({variant.name for variant in rows}) == len(rows)
    for variant in rows:
        config = make_config(corpus, variant, 0, Options(config=name))
        components = config["components"]
        shared = "mmib_img2vec" in components
        encoder = (
            components["mmib_img2vec"]["model"] if shared else components["mmib_ner"]["model"]["img2vec"]
        )
        if variant.images == "none":
            assert [config["corpora"][split]["images"] for split in ("train", "dev")] == ["none", "none"]
            assert describe_regions(config, corpus, "own") == "no pictures"
        else:
            assert encoder == variant.model["img2vec"]
            assert (describe_regions(config, corpus, "own") == "given.v1 (own)") == variant.objects
        if shared:
            listener = components["mmib_ner"]["model"]["img2vec"]
            assert listener["@architectures"] == "spacy-mmib.Img2VecListener.v1"
        registry.fill(config, validate=False)


@pytest.mark.parametrize("variant", [v for v in GRIDS["encoders"] if v.model], ids=lambda v: v.name)
def test_encoders_are_built_with_the_settings_of_their_rows(variant):
    block = dict(variant.model["img2vec"])
    network = {**block.get("img2vec", block), "weights": None, "cache": None}
    if "Timm" in network["@architectures"]:
        pytest.importorskip("timm")
    block = {**block, "img2vec": network} if "img2vec" in block else network
    (layer,) = find_encoder_layers(registry.resolve({"model": block})["model"])
    settings = get_settings(layer)
    assert settings.trainable == network["trainable"]
    # The whole feature map, or one encoding a picture and object.
    assert settings.mode == ("patches" if network["rows"] == "grid" else "crop")


@pytest.mark.parametrize("name", ["ner_trf", "demo", "joint_demo"])
def test_spacys_ner_has_the_same_text_encoder(corpus, name):
    before = read_config(name)
    config = make_config(corpus, Variant("spaCy's ner", spacy_ner=True), 0, Options(config=name))
    pipeline = [part.replace("mmib_ner", "ner") for part in before["nlp"]["pipeline"]]
    assert config["nlp"]["pipeline"] == pipeline
    tok2vec = config["components"]["ner"]["model"]["tok2vec"]
    assert tok2vec == before["components"]["mmib_ner"]["model"]["tok2vec"]
    registry.fill(config, validate=False)


def test_posts_with_objects_are_counted(corpus, data):
    assert corpus.with_objects == corpus.pictures > 0
    assert corpus.with_labels == 0
    assert corpus.tasks == ("ner", "rel")
    assert read_corpus("text", data / "text").with_objects == 0


def test_a_variant_that_changes_nothing_is_an_error(corpus):
    options = Options(config="baseline_trf")
    with pytest.raises(ValueError, match="changes nothing"):
        make_config(corpus, GRIDS["ablation"][1], 0, options)


def test_the_schedule_fits_the_data(corpus):
    options = Options(config="ner_trf", epochs=3, batch_size=5)
    training = make_config(corpus, Variant("MMIB"), 0, options)["training"]
    steps_an_epoch = -(-corpus.posts // 5)
    assert training["max_epochs"] == 3
    assert training["optimizer"]["learn_rate"]["total_steps"] == 3 * steps_an_epoch + 1
    evaluated = [step for step in range(3 * steps_an_epoch) if step % training["eval_frequency"] == 0]
    # spaCy counts from 0: the first update, and the last one of each epoch or nearly so.
    assert 3 <= len(evaluated) <= 5
    assert evaluated[-1] == 3 * training["eval_frequency"] <= 3 * steps_an_epoch - 1


def test_without_options_the_config_is_the_shipped_one(corpus):
    name = "ner_trf"
    shipped = read_config(name)["training"]
    # The number of posts that it was written for.
    config = make_config(replace(corpus, posts=3373), Variant("MMIB"), 0, Options(config=name))
    assert config["training"] == shipped
    # With others only what is counted in steps is another.
    other = make_config(corpus, Variant("MMIB"), 0, Options(config=name))["training"]
    assert other["optimizer"]["learn_rate"]["total_steps"] == 30 * 3 + 1
    assert {k for k in other if other[k] != shipped[k]} == {"eval_frequency", "optimizer"}
    # Whoever sets a schedule keeps it.
    mine = {"training.optimizer.learn_rate.total_steps": 5}
    options = Options(config=name, overrides=mine)
    training = make_config(corpus, Variant("MMIB"), 0, options)["training"]
    assert training["optimizer"]["learn_rate"]["total_steps"] == 5


def test_a_text_encoder_and_settings_of_ones_own(corpus):
    options = Options(config="joint_trf", transformer="some/model", overrides={"training.dropout": 0.3})
    config = make_config(corpus, Variant("MMIB"), 0, options)
    assert config["components"]["transformer"]["model"]["name"] == "some/model"
    assert config["training"]["dropout"] == 0.3
    # A picture encoder has a name, too.
    options = Options(config="products_transformer", transformer="some/model")
    model = make_config(corpus, Variant("MMIB"), 0, options)["components"]["mmib_ner"]["model"]
    assert (model["tok2vec"]["name"], model["img2vec"]["name"]) == ("some/model", "tf_efficientnet_lite0")
    with pytest.raises(ValueError, match="no transformer"):
        make_config(corpus, Variant("MMIB"), 0,
                    Options(config="demo", transformer="x"))  # fmt: skip


def test_the_hash_is_that_of_the_training(corpus, data, tmp_path):
    options = Options(config="ner_trf")

    full = Variant("MMIB")

    def get_hash(variant=full, seed=0, options=options, where=corpus, digest="d"):
        return hash_config(make_config(where, variant, seed, options), digest)

    base = get_hash()
    assert get_hash(seed=3) == base
    assert get_hash(where=read_corpus("elsewhere", data / "tiny")) == base
    # The paper's setting is a point of Fig. 4, too: trained once for both tables.
    assert get_hash(next(v for v in GRIDS["beta-sweep"] if v.name == "beta1=0.1 beta2=0.1")) == base
    others = [
        get_hash(GRIDS["ablation"][1]),
        get_hash(digest="e"),
        get_hash(options=Options(config=options.config, limit=5)),
        get_hash(options=Options(config=options.config, epochs=2)),
    ]
    assert len({base, *others}) == 5


def test_regions_are_named(corpus, data):
    config = read_config("joint_trf")
    assert describe_regions(config, corpus, "umgf") == "given.v1 (umgf)"
    text = read_corpus("text", data / "text")
    assert (text.posts, text.pictures) == (24, 0)
    assert describe_regions(config, text, "umgf") == "no pictures"


def test_a_missing_dataset(data, tmp_path):
    command = make_command(data, tmp_path / "g", tmp_path / "m", dataset="nowhere")
    result = run_forked(*command, cwd=ROOT)
    output = result.stdout + result.stderr
    assert result.returncode == 1
    assert "Convert the dataset first" in " ".join(output.split())
    assert "Traceback" not in output


ROWS = ("--only", "MMIB", "--only", "without both", "--seeds", "1")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Folders of a small grid that ran in one go."""
    folder = tmp_path_factory.mktemp("finished")
    output = finish(run_grid(data, folder / "grids", folder / "metrics", *ROWS))
    return folder, output


@pytest.mark.slow
def test_the_table(finished):
    folder, output = finished
    assert "2 trainings, 0 of them finished before" in output
    lines = [json.loads(line) for line in (folder / "metrics/grids.jsonl").read_text().splitlines()]
    assert [(x["variant"], x["seed"], x["task"]) for x in lines] == [
        ("MMIB", 0, "entities"),
        ("without both", 0, "entities"),
    ]
    assert all(x["test_posts"] == 12 and x["test_pictures"] == 12 for x in lines)
    assert (lines[0]["beta1"], lines[1]["alignment_weight"]) == ("", 0.0)
    assert lines[0]["config_hash"] != lines[1]["config_hash"]
    assert lines[0]["regions"] == "given.v1 (own)"
    assert {"version_spacy", "version_spacy-mmib", "version_torch", "dataset_digest"} <= set(lines[0])
    with (folder / "metrics/grids.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["variant"] for row in table] == ["MMIB", "without both"]
    assert [float(row["f"]) for row in table] == [x["f"] for x in lines]
    # Trained models are large, and can be made again.
    assert not list(folder.rglob("model-best"))


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(data, finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    output = finish(run_grid(data, folder / "grids", folder / "metrics", *ROWS))
    assert "2 trainings, 2 of them finished before" in output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_files(data, finished, tmp_path):
    grids, metrics = tmp_path / "grids", tmp_path / "metrics"
    process = run_grid(data, grids, metrics, *ROWS)
    deadline = time.monotonic() + 120
    # In the middle of the second training.
    while len(list(grids.rglob("training"))) + len(list(grids.rglob("result.json"))) < 2:
        assert time.monotonic() < deadline, "the grid doesn't get to its second training"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(list(grids.rglob("result.json"))) == 1
    output = finish(run_grid(data, grids, metrics, *ROWS))
    assert "2 trainings, 1 of them finished before" in output
    assert read_files(metrics) == read_files(finished[0] / "metrics")
    for path in (finished[0] / "grids").rglob("counts.json"):
        other = grids / path.relative_to(finished[0] / "grids")
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_training_that_fails_stops_no_other(data, tmp_path):
    # Without a label nothing can be trained; the other corpus is fine.
    bad = data / "bad"
    bad.mkdir(exist_ok=True)
    vocab = spacy.blank("en").vocab
    for split in ("train", "dev", "test"):
        docs = list(DocBin().from_disk(data / "text" / f"{split}.spacy").get_docs(vocab))
        for doc in docs:
            doc.set_ents([], default="outside")
        DocBin(docs=docs, store_user_data=True).to_disk(bad / f"{split}.spacy")
    process = run_grid(data, tmp_path / "g", tmp_path / "m", "text", "--only", "MMIB", "--seeds", "1",
                       dataset="bad")  # fmt: skip
    output = finish(process)
    assert process.returncode == 1
    assert "1 trainings failed and will be tried again" in output
    assert "no pictures" in output
    lines = [json.loads(line) for line in (tmp_path / "m/grids.jsonl").read_text().splitlines()]
    assert [(x["dataset"], x["regions"]) for x in lines] == [("text", "no pictures")]
    assert "has no labels" in next(tmp_path.rglob("bad/*/output.txt")).read_text()
