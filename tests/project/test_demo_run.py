"""The demo's tables: which pipelines are trained, and which is tested with which pictures."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from project.config import read_config
from project.demo import run

ROOT = Path(__file__).parents[2]
PROMISED = {"images": 0.99, "no_images": 0.40, "text_only": 0.41, "shuffled": 0.2}


def test_tables(tmp_path, monkeypatch, capsys):
    trained, tested, found = [], [], []

    def train(config, output, settings, gpu_id):
        trained.append((output.name, read_config(config, settings)["corpora"]["train"]["images"]))
        return ""

    def score(key, model, data, images, seed):
        tested.append((key, model.parent.name, images, seed))
        f = PROMISED.get(key, 0.3)
        return [("ner", key, f), ("rel", key, f), *([("rel", "end_to_end", f)] if key == "images" else [])]

    def score_objects(how, model, data, images, seed):
        found.append((how, model.parent.name, images, seed))
        return [("gmner", how, {"pointer": 0.99}.get(how, 0.3))]

    monkeypatch.setattr(run, "run_training", train)
    monkeypatch.setattr(run, "score", score)
    monkeypatch.setattr(run, "score_objects", score_objects)
    monkeypatch.setattr(run, "show_posts", lambda model, data: None)
    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda jobs, context: ThreadPoolExecutor(1))
    metrics = tmp_path / "demo.json"
    run.main(tmp_path, tmp_path, metrics, seeds=2, gpu_id=-1, jobs=1)
    names = {f"{kind}_{seed}": "own" for kind, seed in (("joint", 0), ("joint", 1), ("ner", 0))}
    assert dict(trained) == {**names, "roi_0": "own", "no_boxes_0": "own", "text_0": "none", "text_1": "none"}
    assert ("text_only", "text_1", "none", 1) in tested
    assert ("shuffled", "joint_1", "shuffled", 1) in tested
    assert len(tested) == 10
    ways = [(how, "no_boxes_0", "own", 0) for how in ("attention", "occlusion", "random")]
    assert sorted(found) == sorted([*ways, *(("pointer", f"joint_{seed}", "own", seed) for seed in (0, 1))])
    record = json.loads(metrics.read_text())
    assert set(record["ner"]) == set(run.ROWS) - {run.END_TO_END}
    assert set(record["rel"]) >= set(run.ROWS) - {"roi"}
    assert record["by_seed"]["ner"] == {
        key: [PROMISED.get(key, 0.3)] * (1 if key in ("roi", "spacy_ner") else 2) for key in record["ner"]
    }
    assert set(record["gmner"]) == set(run.OBJECTS)
    printed = capsys.readouterr().out
    assert "trained without pictures" in printed
    assert "occlusion, trained without boxes" in printed
    # What CI asks of them.
    check = [sys.executable, ROOT / ".ci" / "check_demo.py", metrics]
    assert subprocess.run(check, check=False).returncode == 0
    record["ner"]["no_images"] = 0.35
    metrics.write_text(json.dumps(record))
    result = subprocess.run(check, check=False, capture_output=True, text=True)
    assert "entities without pictures >= those of the text alone - 0.05" in result.stderr
