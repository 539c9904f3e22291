"""The 15 real Twitter-2017 posts with pictures, through conversion, training and prediction. They are
other people's data and not in the repository: the folder comes from MMIB_DATA."""

import json

import pytest
import spacy
import srsly
from conftest import run_python


@pytest.mark.slow
def test_real_posts_from_files_to_predictions(mmib_data, tmp_path):
    sample = mmib_data / "sample" / "twitter_2017"
    converted = tmp_path / "converted"
    run_python(
        "-m", "project.convert", "sample", "--format", "jsonl", "--data", sample, "--output", converted
    )
    meta = srsly.read_json(converted / "meta.json")
    paths = ["--paths.train", converted / "train.spacy", "--paths.dev", converted / "dev.spacy"]
    paths += ["--paths.image_root", meta["image_root"]]
    config = tmp_path / "config.cfg"
    run_python("-m", "project.config", "demo", "--output", config)
    img2vec = "--components.mmib_ner.model.img2vec"
    paths += [f"{img2vec}.weights", "null", f"{img2vec}.image_size", 64, "--training.max_steps", 30]
    paths += ["--training.max_epochs", 0, "--training.eval_frequency", 15]
    run_python("-m", "spacy", "train", config, "--output", tmp_path / "model", *paths)
    model = tmp_path / "model" / "model-last"
    scores = tmp_path / "scores.json"
    corpus = converted / "train.spacy"
    command = ["evaluate", model, corpus, "--image-root", meta["image_root"], "-o", scores]
    run_python("-m", "spacy", "mmib", *command, cwd=tmp_path)
    assert srsly.read_json(scores)["pictures"]["with_picture"] == 5
    assert srsly.read_json(scores)["ents_f"] > 0.5  # it has seen these five posts 30 times

    posts = []
    for split in ("train", "dev", "test"):
        for line in (sample / "texts" / split / f"{split}.json").read_text(encoding="utf8").splitlines():
            post = json.loads(line)
            image = f"images/{split}/{post['image_id']}"
            posts.append({"id": f"{split}-{post['id']}", "tokens": post["tokens"], "image": image})
    assert len(posts) == 15
    srsly.write_jsonl(tmp_path / "posts.jsonl", posts)
    out = tmp_path / "out.jsonl"
    command = ["predict", model, tmp_path / "posts.jsonl", "-o", out, "--image-root", sample]
    run_python("-m", "spacy", "mmib", *command, cwd=tmp_path)
    results = list(srsly.read_jsonl(out))
    assert [r["id"] for r in results] == [p["id"] for p in posts]
    assert not [r for r in results if r.get("image_error")]
    for result in results:
        for entity in result["entities"]:
            assert result["text"][entity["start"] : entity["end"]] == entity["text"]
            assert 0 <= entity["confidence"] <= 1
    nlp = spacy.load(model)
    assert nlp.get_pipe("mmib_ner").labels
