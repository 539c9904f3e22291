"""Pipelines that version 0.1 saved load and predict the same."""

import json
import subprocess
import warnings

import old_pipeline
import pytest
import spacy


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    known = ["git", "cat-file", "-e", f"{old_pipeline.COMMIT}^{{commit}}"]
    try:
        subprocess.run(known, cwd=old_pipeline.ROOT, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"needs git and the repository's history, with {old_pipeline.COMMIT}")
    old_pipeline.make_with_old_code(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ner", "joint"])
@pytest.mark.parametrize("saved_again", [False, True])
def test_old_pipelines(old, kind, saved_again, tmp_path):
    assert b"MMIBCore" in (old / kind / "mmib_ner" / "model").read_bytes()  # as that version called it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = spacy.load(old / kind)
    if saved_again:
        nlp.to_disk(tmp_path)
        nlp = spacy.load(tmp_path)
    expected = json.loads((old / "predicted.json").read_text())[kind]
    assert any(entities for entities, _ in expected)
    assert kind == "ner" or any(relations for _, relations in expected)
    for found, before in zip(old_pipeline.predict(nlp), expected, strict=True):
        for values, values_before in zip(found, before, strict=True):
            assert [value[:3] for value in values] == [tuple(value[:3]) for value in values_before]
            confidences = [value[3] for value in values_before]
            assert [value[3] for value in values] == pytest.approx(confidences, abs=1e-5)
    examples = old_pipeline.make_examples(nlp)
    losses = nlp.update(examples, sgd=nlp.resume_training(), losses={})
    assert {"mmib_ner", "mmib_ner_task", "mmib_ner_kl_text", "mmib_ner_kl_image", "mmib_ner_alignment"} <= {
        *losses
    }
