"""The table of the field: its rows, what they are made of, and how it is written."""

import csv
import json
import random
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run_python
from spacy.util import registry
from test_report_tables import make_plan, read_markdown
from tiny_bert import save_tiny_bert

from project import compare, compare_tables
from project.config import read_config
from project.demo.data import make_demo_data
from project.facts import PUBLISHED
from project.planning import Corpus, Options, Variant, make_config
from spacy_mmib.evaluation.scorers import get_prf, sum_counts
from spacy_mmib.evaluation.significance import compare_f1

ROWS = [row for row in compare.read_rows() if row.variant]
POSTS = 40


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


def make_corpus(name="mine", **changes):
    return replace(Corpus(name, Path("nowhere"), 100, 90, 80, 70, ("ner", "rel")), **changes)


# Rows


@pytest.mark.parametrize("config", ["joint_demo", "products", "products_rel", "ner_trf", "rel_trf"])
def test_all_rows_fit_configs(config, bert):
    components = read_config(config)["components"]
    for task in [task for task in ("ner", "rel") if f"mmib_{task}" in components]:
        options = Options(config, task=task, transformer=bert)
        rows, notes = compare.choose_rows(make_corpus("mnre-leaking"), task, options)
        assert not [note for note in notes if "Not in the table" in note]
        for row in [row for row in rows if row.variant]:
            made = make_config(make_corpus(), row.variant, 0, options)
            (name,) = made["nlp"]["pipeline"]
            assert name == ("ner" if row.variant.spacy_ner else f"mmib_{task}")
            assert list(made["components"]) == [name]
            registry.resolve({"model": made.interpolate()["components"][name]["model"]})


def test_rows_have_one_name_a_task():
    for task in ("ner", "rel"):
        names = [row.name for row in compare.read_rows() if row.task in ("", task)]
        assert len(set(names)) == len(names)
        parts = [part for row in ROWS if row.task in ("", task) for part in row.variant.parts]
        assert set(parts) <= set(names)
        assert compare_tables.FLOORS[task] in names


def test_every_published_system_is_built_or_quoted():
    for dataset in ("twitter15", "twitter17", "mnre"):
        rows = [row for row in compare.read_rows(dataset) if row.published is not None]
        task = "rel" if dataset == "mnre" else "ner"
        found = {row.name: row.published for row in rows if row.task in ("", task)}
        systems = {name: prf[2] for name, prf in PUBLISHED[dataset]["systems"].items()}
        assert systems.items() <= found.items()
        assert set(found) - set(systems) <= {"text alone"}
        assert all(row.setting for row in rows)


def make_model(name, row, task, bert=""):
    (variant,) = (r.variant for r in ROWS if r.name == row and r.task in ("", task))
    options = Options(name, task=task, transformer=bert)
    return make_config(make_corpus(), variant, 0, options)["components"][f"mmib_{task}"]["model"]


def test_a_pipeline_of_one_component_has_encoders_of_its_own():
    before = read_config("joint_demo")["components"]
    for task in ("ner", "rel"):
        model = make_model("joint_demo", "MMIB", task)
        assert model["tok2vec"] == before["tok2vec"]["model"]
        assert model["img2vec"] == before["mmib_img2vec"]["model"]
        assert model["fusion"] == before[f"mmib_{task}"]["model"]["fusion"]
    assert make_model("joint_demo", "MMIB", "ner")["pointer"] is None
    text = make_model("joint_trf", "MMIB", "ner")["tok2vec"]
    assert text["@architectures"] == "spacy-transformers.Tok2VecTransformer.v3"
    assert text["name"] == "bert-base-uncased"
    config = make_config(make_corpus(), Variant("MMIB"), 0, Options("joint_demo", task="rel"))
    assert config["corpora"]["dev"]["given"] == "pairs"
    assert config["training"]["score_weights"]["rel_micro_f"] == 1.0
    assert not [key for key in config["training"]["score_weights"] if key.startswith("ents")]
    with pytest.raises(ValueError, match="no component mmib_rel"):
        make_config(make_corpus(), Variant("MMIB"), 0, Options("products", task="rel"))


def test_rows_take_what_the_config_has(bert):
    own = make_model("products", "MMIB", "ner")
    noise = make_model("products", "MMIB, noise of the same norm in training too", "ner")
    assert noise["img2vec"]["img2vec"] == own["img2vec"]
    assert noise["fusion"] == own["fusion"]
    layer = make_model("products", "text alone, as many parameters as MMIB", "ner")
    assert layer["img2vec"] is None
    assert layer["fusion"]["like"] == own["fusion"]
    assert layer["fusion"]["image_width"] == 1280
    # Only a ResNet has four stages.
    for config, rows, size in (("ner_trf", "pyramid", 2), ("products", "regions", 1)):
        joint = make_model(config, "HVPNeT", "ner", bert)["tok2vec"]
        assert (joint["name"], joint["pyramid_size"]) == (bert, size)
        assert joint["img2vec"]["rows"] == rows


def test_fusions_have_loss_weights_of_their_own():
    for row in (row for row in ROWS if row.task in ("", "ner") and "fusion" in row.variant.model):
        config = make_config(make_corpus(), row.variant, 0, Options("ner_trf", "x", task="ner"))
        assert config["components"]["mmib_ner"]["loss_weights"] == {}


def test_rows_without_what_they_need_are_left_out_and_named():
    names, notes = choose(make_corpus(), "ner", "products")
    assert "HVPNeT" not in names
    assert "there is no transformer" in notes[0]
    assert "HVPNeT" in choose(make_corpus(), "ner", "ner_trf")[0]
    names, notes = choose(make_corpus(with_labels=0), "ner", "ner_trf")
    assert "labels of objects as text" not in names
    assert "no objects have labels" in notes[0]
    names, notes = choose(make_corpus(pictures=0, with_labels=0), "ner", "ner_trf")
    assert {"MMIB", "CNN-BiLSTM-CRF", "text alone, as many parameters as MMIB"} <= names
    assert not {"UMT", "whole picture concatenated", "VisualBERT"} & names
    # Quoted are systems with a figure on the dataset.
    assert "T-NER" not in names
    assert "T-NER" in choose(make_corpus("twitter15"), "ner", "ner_trf")[0]
    assert "T-NER" not in choose(make_corpus("twitter17"), "ner", "ner_trf")[0]


def test_transformers_beside_another_text_encoder(bert):
    for config, rate in (("products", compare.PRETRAINED), ("ner_trf", 3e-5)):
        options = Options(config, bert, task="ner")
        rows, notes = compare.choose_rows(make_corpus(), "ner", options)
        assert ("have another text encoder" in "".join(notes)) == (config == "products")
        (variant,) = (row.variant for row in rows if row.name == "VisualBERT")
        training = make_config(make_corpus(), variant, 0, options)["training"]
        assert training["optimizer"]["learn_rate"]["initial_rate"] == rate


def choose(corpus, task, config):
    rows, notes = compare.choose_rows(corpus, task, Options(config, task=task))
    return {row.name for row in rows}, notes


def test_mnre_with_the_crops_has_rows_of_their_number():
    label_free, _ = choose(make_corpus("mnre"), "rel", "rel_trf")
    leaking, _ = choose(make_corpus("mnre-leaking"), "rel", "rel_trf")
    counted = {row.name for row in ROWS if row.needs == "crops"}
    assert len(counted) == 2
    assert not counted & label_free
    assert counted < leaking
    assert {"PCNN", "MTB"} <= label_free - leaking
    assert "text alone" in leaking  # a part of the late fusion


def test_rows_are_chosen_by_name_and_group():
    rows, _ = compare.choose_rows(make_corpus(), "ner", Options("products", task="ner"))
    assert compare.choose_names(rows, ["MMIB", "UMT"]) == {"MMIB", "UMT"}
    assert compare.choose_names(rows, ["floors", ""]) == {row.name for row in rows if row.group == "floors"}
    late = next(row for row in rows if row.variant and row.variant.parts)
    assert compare.choose_names(rows, [late.name]) == {late.name, *late.variant.parts}
    with pytest.raises(ValueError, match=r"no row or group \['nobody'\]; there are \['floors'"):
        compare.choose_names(rows, ["nobody"])


# Tables

ACCURACY = {
    "dictionary of training entities": 0.3,
    "CNN-BiLSTM-CRF": 0.1,
    "UMT": 0.8,
    "MMIB": 0.85,
    "whole picture concatenated": 0.9,
    "gated residual, vector": 0.7,
    "MMIB, other posts' pictures in training too": 0.6,
}
DEV = {"whole picture concatenated": 0.5, "gated residual, vector": 0.9}
"""What looks best on dev isn't what is best on test."""


def make_cell(grids, row, seed, dataset="twitter17"):
    cell = f"{dataset}/{zlib.crc32(row.name.encode())}-{seed}"
    counts = {}
    for images in row.variant.shown:
        rng = random.Random(f"{row.name}/{seed}/{images}")
        accuracy = ACCURACY[row.name] - 0.1 * (images != row.variant.shown[0])
        rows = [[2, n, 2, n] for n in (sum(rng.random() < accuracy for _ in range(2)) for _ in range(POSTS))]
        counts["entities" + {"own": "", "none": ", pictures removed"}.get(images, ", pictures shuffled")] = (
            rows
        )
    result = {
        "tasks": {task: dict(zip("prf", get_prf(sum_counts(c)))) for task, c in counts.items()},
        "dev": {"ents_f": DEV.get(row.name, 0.1)},
        "test_posts": POSTS,
        "test_pictures": POSTS,
        "leaks": [],
        "packages": {"python": "3.11"},
        "device": "cpu",
    }
    if not row.variant.floor:
        result |= {"parameters": 1_500_000, "trainable": 250_000}
        result |= {"seconds_an_epoch": 2.0 + seed, "posts_a_second": 100.0}
    (grids / cell).mkdir(parents=True)
    (grids / cell / "result.json").write_text(json.dumps(result))
    (grids / cell / "counts.json").write_text(json.dumps(counts))
    about = {"dataset": dataset, "variant": row.name, "seed": seed, "cell": cell, "series": ""}
    about |= {"floor": row.variant.floor, "train_pictures": 1, "dataset_version": "own"}
    return about | {"dataset_digest": "abc"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of the cells, and that of the tables."""
    grids, metrics = (tmp_path_factory.mktemp(name) for name in ("grids", "metrics"))
    corpus = make_corpus("twitter17")
    rows, notes = compare.choose_rows(corpus, "ner", Options("ner_trf", task="ner"))
    cells = [
        make_cell(grids, row, seed)
        for row in rows
        if row.name in ACCURACY
        for seed in range(1 if row.variant.floor else 2)
    ]
    make_plan(grids, "compare-ner", "twitter17", cells)
    metrics.mkdir(exist_ok=True)
    path = compare_tables.write([compare.Block(corpus, "ner", rows, [], notes)], grids, metrics)
    return grids, path


def read_rows(path):
    with path.with_suffix(".csv").open(newline="", encoding="utf8") as file:
        return {row["row"]: row for row in csv.DictReader(file)}


def read_runs(grids, name):
    paths = sorted(grids.glob(f"twitter17/{zlib.crc32(name.encode())}-*/counts.json"))
    return [next(iter(json.loads(path.read_text()).values())) for path in paths]


def test_scores_and_measurements(written):
    grids, path = written
    rows = read_rows(path)
    scores = [100 * get_prf(sum_counts(counts))[2] for counts in read_runs(grids, "UMT")]
    assert float(rows["UMT"]["f"]) == pytest.approx(sum(scores) / 2, abs=1e-3)
    assert float(rows["UMT"]["f_std"]) == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5, abs=1e-3)
    assert (rows["UMT"]["group"], rows["UMT"]["published"]) == ("vanilla", "85.31")
    assert "ResNet-152" in rows["UMT"]["setting"]
    assert [rows["UMT"][key] for key in ("parameters", "trainable")] == ["1500000", "250000"]
    assert float(rows["UMT"]["seconds_an_epoch"]) == 2.5
    assert float(rows["UMT"]["none"]) < float(rows["UMT"]["f"])
    # Nothing of text rows is without pictures; what is trained with others' pictures is tested with those.
    assert rows["CNN-BiLSTM-CRF"]["none"] == ""
    assert rows["MMIB, other posts' pictures in training too"]["f"] != ""
    assert rows["MMIB, other posts' pictures in training too"]["shuffled"] == ""
    assert "unfinished" not in path.read_text(encoding="utf8")  # of what was planned
    # Not planned, and quoted.
    assert rows["GVATT"]["f"] == ""
    assert (rows["FMIT"]["f"], rows["FMIT"]["published"]) == ("", "85.42")


def test_significance(written):
    grids, path = written
    rows = read_rows(path)
    mmib, umt, gated = (read_runs(grids, name) for name in ("MMIB", "UMT", "gated residual, vector"))
    assert float(rows["UMT"]["p_mmib"]) == pytest.approx(compare_f1(umt, mmib).p)
    # The best control is that of dev.
    assert float(rows["UMT"]["p_control"]) == pytest.approx(compare_f1(umt, gated).p)
    assert rows["gated residual, vector"]["p_control"] == rows["MMIB"]["p_mmib"] == ""
    floor = read_runs(grids, "dictionary of training entities") * 2
    found = float(rows["dictionary of training entities"]["p_mmib"])
    assert found == pytest.approx(compare_f1(floor, mmib).p)
    # A run is below the dictionary.
    for key in ("p_mmib", "p_control"):
        assert rows["CNN-BiLSTM-CRF"][key] == compare_tables.NOTHING


def test_markdown(written):
    text = written[1].read_text(encoding="utf8")
    (table,) = read_markdown(text)
    assert len({len(row) for row in table}) == 1
    groups = [row[0] for row in table if row[0].startswith("**")]
    names = ["floors", "text", "vanilla", "gap", "noise", "MMIB", "controls"]
    assert groups == [f"**{name}**" for name in names]
    umt = next(row for row in table if row[0] == "UMT")
    assert " ± " in umt[3]
    assert "1.50" in umt
    assert "FMIT is quoted, not built" in text
    assert PUBLISHED["twitter17"]["caveat"] in text


def test_latex(written):
    lines = written[1].with_suffix(".tex").read_text(encoding="utf8").splitlines()
    assert lines[0].startswith(r"\begin{tabular}{lr")
    assert lines[1] == r"\toprule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    rows = [line for line in lines if line.startswith(("UMT &", "MMIB &", " &"))]
    assert {row.count(" & ") for row in rows} == {lines[0].split("{l")[1].count("r")}
    assert r"$\pm$" in rows[1]
    assert compare_tables.escape("a_b & 5 % {x} \\ < ~") == (
        r"a\_b \& 5 \% \{x\} \textbackslash{} $<$ \textasciitilde{}"
    )


def test_versions_of_a_dataset_are_blocks_of_a_table(tmp_path):
    blocks = []
    for dataset in ("mnre", "mnre-leaking"):
        corpus = make_corpus(dataset)
        rows, notes = compare.choose_rows(corpus, "ner", Options("ner_trf", task="ner"))
        cells = [make_cell(tmp_path, row, 0, dataset) for row in rows if row.name == "MMIB"]
        make_plan(tmp_path, "compare-ner", dataset, cells)
        blocks.append(compare.Block(corpus, "ner", rows, [], notes))
    (tmp_path / "metrics").mkdir()
    path = compare_tables.write(blocks, tmp_path, tmp_path / "metrics")
    assert path.name == "compare_mnre_ner.md"
    text = path.read_text(encoding="utf8")
    assert len(read_markdown(text)) == 2
    assert "## mnre, label-free" in text
    assert "## mnre-leaking, with the published crops" in text
    assert r"\emph{label-free: MMIB}" in path.with_suffix(".tex").read_text(encoding="utf8")
    with path.with_suffix(".csv").open(newline="", encoding="utf8") as file:
        groups = [row["group"] for row in csv.DictReader(file) if row["row"] == "MMIB"]
    assert groups[0] == "label-free: MMIB"
    assert groups[1].startswith("with the published crops")


@pytest.mark.slow
def test_from_the_posts_to_the_tables(tmp_path):
    make_demo_data(tmp_path / "own" / "tiny", {"train": 24, "dev": 8, "test": 12})
    small = "components.tok2vec.model.width 24 components.tok2vec.model.depth 1"
    small += " components.tok2vec.model.embed_size 200 components.mmib_img2vec.model.arch squeezenet1_1"
    small += " components.mmib_ner.model.fusion.heads 4 components.mmib_rel.model.fusion.heads 4"
    late = next(row.name for row in ROWS if row.variant.parts)
    command = ["-m", "project.compare", "own/tiny", "--data", tmp_path, "--seeds", "1"]
    command += ["--output", tmp_path / "grids", "--metrics", tmp_path / "metrics", "--jobs", "2"]
    command += ["--config", "joint_demo", "--epochs", "1", "--overrides", small]
    command += ["--only", "floors", "--only", "MMIB", "--only", late]
    for finished in (0, 12):
        run = run_python(*command)
        assert f"12 trainings, {finished} of them finished before" in run.stdout + run.stderr
    for task in ("ner", "rel"):
        rows = read_rows(tmp_path / "metrics" / f"compare_own_tiny_{task}.md")
        assert {rows[name]["seeds"] for name in ("MMIB", late, compare_tables.FLOORS[task])} == {"1"}
        assert int(rows["MMIB"]["parameters"]) > int(rows["MMIB"]["trainable"]) > 0
        assert float(rows["MMIB"]["seconds_an_epoch"]) > 0 < float(rows["MMIB"]["posts_a_second"])
        assert rows["UMT"]["f"] == ""
    assert not list(tmp_path.rglob("model-best"))
