"""The 15 real instances of MNRE with pictures, through conversion, training, prediction and evaluation. They
are other people's data and not in the repository: the folder comes from MMIB_DATA."""

import ast
import json
from pathlib import Path

import pytest
import spacy
import srsly
from conftest import make_rel_nlp, run_python, train

from spacy_mmib.evaluation.evaluate import evaluate
from spacy_mmib.regions.crops import LEAKING_MNRE_NOTE
from spacy_mmib.training.corpus import MultimodalCorpus

pytestmark = pytest.mark.filterwarnings("ignore::spacy_mmib.util.MMIBWarning")

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def sample(mmib_data) -> Path:
    return mmib_data / "sample" / "mnre"


@pytest.fixture(scope="module")
def converted(sample, tmp_path_factory) -> dict[str, Path]:
    """The folders of the corpus without and with the published crops."""
    top = tmp_path_factory.mktemp("mnre")
    command = ("-m", "project.convert", "mnre", "--data", sample, "--output")
    run_python(*command, top / "clean")
    run_python(*command, top / "leaking", "--leaking-crops", sample / "img_vg")
    return {name: top / name for name in ("clean", "leaking")}


def meta_of(folder):
    return srsly.read_json(folder / "meta.json")


def read(folder, split, nlp, **settings):
    root = meta_of(folder)["image_root"]
    path = folder / f"{split}.spacy"
    return list(MultimodalCorpus(path, image_root=root, check_images="decode", **settings)(nlp))


def rows_of(sample) -> dict[str, list[dict]]:
    """The instances as published, read by other means than the converter's."""
    found = {}
    for split, name in zip(SPLITS, ("train", "val", "test")):
        lines = (sample / "txt" / f"ours_{name}.txt").read_text(encoding="utf8").splitlines()
        found[split] = [ast.literal_eval(line) for line in lines if line.strip()]
    return found


def lines_of(sample, *, ask: bool) -> list[dict]:
    """A line an instance, for `spacy mmib predict`."""
    lines = []
    for split, folder in zip(SPLITS, ("train", "val", "test")):
        for i, row in enumerate(rows_of(sample)[split]):
            line = {
                "id": f"{split}-{i}",
                "tokens": row["token"],
                "image": f"img_org/{folder}/{row['img_id']}",
            }
            if ask:
                line["relations"] = [[row["h"]["pos"], row["t"]["pos"], ""]]
            lines.append(line)
    assert len(lines) == 15
    return lines


@pytest.mark.parametrize("kind", ["clean", "leaking"])
def test_conversion(sample, converted, kind):
    meta = meta_of(converted[kind])
    leaking = kind == "leaking"
    assert meta["docs_are"] == ("instances" if leaking else "posts")
    assert meta["regions"]["protocol"] == ("leaking_mnre_crops" if leaking else "none")
    assert meta["regions"]["note"] == (LEAKING_MNRE_NOTE if leaking else None)
    nlp = spacy.blank("en")
    for split, rows in rows_of(sample).items():
        counts = meta["splits"][split]
        assert counts["instances"] == len(rows) == 5
        assert counts["missing_pictures"] == counts["missing_crops"] == counts["refused_crops"] == 0
        examples = read(converted[kind], split, nlp, given="pairs", gold_preproc=True)
        found = [
            (tuple(t.text for t in eg.reference), r.head.text, r.tail.text, r.label)
            for eg in examples
            for r in eg.reference._.relations
        ]
        span = lambda row, key: " ".join(row["token"][slice(*row[key]["pos"])])
        expected = [(tuple(row["token"]), span(row, "h"), span(row, "t"), row["relation"]) for row in rows]
        assert sorted(found) == sorted(expected)
        for example in examples:
            assert Path(example.predicted._.image).is_file()
            assert bool(example.predicted._.regions) == leaking
            assert {r.label for r in example.predicted._.relations} == {""}
            assert not example.predicted._.image_error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clean", "leaking"])
def test_given_pairs_with_tiny_encoders(sample, converted, tmp_path, kind):
    """Trained on five, it knows these five, and answers all 15; the metrics say what leaks."""
    nlp = make_rel_nlp()
    train(nlp, read(converted[kind], "train", nlp, gold_preproc=True), steps=40)
    labels = {row["relation"] for row in rows_of(sample)["train"]} - {"None"}
    assert set(nlp.get_pipe("mmib_rel").labels) == labels
    nlp.to_disk(tmp_path / "model")
    meta = srsly.read_json(tmp_path / "model" / "meta.json")
    note = {"leaks": [LEAKING_MNRE_NOTE]} if kind == "leaking" else None
    assert meta.get("spacy_mmib") == note

    loaded = spacy.load(tmp_path / "model")
    metrics = {
        other: evaluate(
            loaded, folder / "train.spacy", image_root=meta_of(folder)["image_root"], gold_preproc=True
        )
        for other, folder in converted.items()
    }
    own = metrics[kind]
    assert own["given_entities"]["rel_accuracy"] == 1
    assert "rel_micro_f" not in own
    assert metrics["clean"].get("leaks") == (note and note["leaks"])
    assert metrics["leaking"]["leaks"] == [LEAKING_MNRE_NOTE]

    lines = lines_of(sample, ask=True)
    srsly.write_jsonl(tmp_path / "posts.jsonl", lines)
    out = tmp_path / "out.jsonl"
    run_python("-m", "spacy", "mmib", "predict", tmp_path / "model", tmp_path / "posts.jsonl",
        "-o", out, "--image-root", sample, cwd=tmp_path)  # fmt: skip
    results = list(srsly.read_jsonl(out))
    assert [result["id"] for result in results] == [line["id"] for line in lines]
    rows = [row for split in SPLITS for row in rows_of(sample)[split]]
    for result, row in zip(results, rows):
        assert "image_error" not in result
        assert result["tokens"] == row["token"]
        (answer,) = result["relations"]
        assert answer["label"] in {*labels, "None"}
        for part, key in (("head", "h"), ("tail", "t")):
            span = answer[part]
            assert [span["start_token"], span["end_token"]] == row[key]["pos"]
            assert result["text"][span["start"] : span["end"]] == span["text"]
    if kind == "clean":  # the lines have no crops
        known = [row["relation"] for row in rows[:5]]
        assert [result["relations"][0]["label"] for result in results[:5]] == known


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clean", "leaking"])
def test_joint_pipeline_end_to_end(sample, converted, tmp_path, kind):
    """`spacy train`, `spacy mmib evaluate` and `spacy mmib predict` on a config of the repository."""
    corpus = converted[kind]
    root = meta_of(corpus)["image_root"]
    img2vec = "--components.mmib_img2vec.model"
    config = tmp_path / "config.cfg"
    run_python("-m", "project.config", "joint_demo", "--output", config)
    run_python(
        "-m", "spacy", "train", config, "--output", tmp_path / "out",
        "--paths.train", corpus / "train.spacy", "--paths.dev", corpus / "dev.spacy",
        "--paths.image_root", root, f"{img2vec}.weights", "null",
        f"{img2vec}.arch", "squeezenet1_1", f"{img2vec}.image_size", "64",
        "--training.max_steps", "60", "--training.max_epochs", "0",
        "--training.eval_frequency", "30",
    )  # fmt: skip
    model = tmp_path / "out" / "model-last"
    meta = srsly.read_json(model / "meta.json")
    note = {"leaks": [LEAKING_MNRE_NOTE]} if kind == "leaking" else None
    assert meta.get("spacy_mmib") == note
    assert {"ents_f", "rel_micro_f", "rel_strict_f"} <= set(meta["performance"])

    metrics = {}
    for split in ("train", "test"):
        scores = tmp_path / f"{split}.json"
        printed = run_python("-m", "spacy", "mmib", "evaluate", model, corpus / f"{split}.spacy",
                      "--image-root", root, "-o", scores, cwd=tmp_path)  # fmt: skip
        metrics[split] = srsly.read_json(scores)
        assert metrics[split].get("leaks") == (note and note["leaks"])
        assert ("LEAK THE LABEL" in printed.stdout) == (kind == "leaking")
        assert "Relations of given entities" in printed.stdout
    # It has seen these five 60 times.
    assert metrics["train"]["ents_f"] > 0.5
    assert metrics["train"]["given_entities"]["rel_accuracy"] > 0.5
    assert metrics["test"]["pictures"]["with_picture"] == metrics["test"]["pictures"]["posts"]
    for scores in (metrics["test"], metrics["test"]["given_entities"]):
        for key in ("rel_micro_f", "rel_macro_f", "rel_strict_f", "rel_accuracy"):
            assert 0 <= scores[key] <= 1

    srsly.write_jsonl(tmp_path / "posts.jsonl", lines_of(sample, ask=False))
    out = tmp_path / "out.jsonl"
    printed = run_python("-m", "spacy", "mmib", "predict", model, tmp_path / "posts.jsonl",
                  "-o", out, "--image-root", sample, cwd=tmp_path)  # fmt: skip
    assert "15 posts predicted (15 with a picture, 0 with one" in printed.stderr
    results = [json.loads(line) for line in out.read_text(encoding="utf8").splitlines()]
    assert len(results) == 15
    for result in results:
        spans = {(ent["start"], ent["end"]) for ent in result["entities"]}
        for relation in result["relations"]:
            assert relation["label"] not in ("", "None")
            assert 0 < relation["score"] <= 1
            for span in (relation["head"], relation["tail"]):
                assert (span["start"], span["end"]) in spans
                assert result["text"][span["start"] : span["end"]] == span["text"]


def test_the_clean_corpus_shows_nothing_of_the_crops(converted):
    nlp = spacy.blank("en")
    for split in SPLITS:
        for example in read(converted["clean"], split, nlp):
            assert example.predicted._.image
            assert "crop" not in str(example.predicted.user_data)
            assert "crop" not in str(example.reference.user_data)
