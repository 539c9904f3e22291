"""The demo's tables: which pipelines are trained, and which is tested with which pictures."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from thinc.api import Config

from project.demo import run

ROOT = Path(__file__).parents[2]


class Processes(ThreadPoolExecutor):
    """In the place of those that train."""

    def __init__(self, jobs, context, initializer):
        super().__init__(1)


def test_tables(tmp_path, monkeypatch, capsys):
    trained, tested = [], []

    def train(path, output, use_gpu):
        print("the table of the training")
        trained.append((output.name, Config().from_disk(path)["corpora"]["train"]["images"]))

    def evaluate(nlp, corpus, images="own", seed=None, see=None):
        locate = nlp.get_pipe("mmib_ner").locate
        tested.append((nlp.name, images, seed, locate))
        f = {"none": 0.40, "shuffled": 0.2}.get(images, 0.99 if nlp.name.startswith("joint") else 0.3)
        f = 0.41 if nlp.name.startswith("text") else f
        return {"ents_f": f, "given_entities": {"rel_micro_f": f}, "rel_strict_f": f, "gmner_f": f}

    def load(path):
        component = SimpleNamespace(locate="pointer")
        return SimpleNamespace(name=path.parent.name, get_pipe=lambda name: component)

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "evaluate", evaluate)
    monkeypatch.setattr(run, "spacy", SimpleNamespace(load=load))
    monkeypatch.setattr(run, "show_posts", lambda model, data: None)
    monkeypatch.setattr(run, "ProcessPoolExecutor", Processes)
    metrics = tmp_path / "demo.json"
    run.main(tmp_path, tmp_path, metrics, seeds=2, gpu_id=-1, jobs=1)
    names = {f"{kind}_{seed}": "own" for kind, seed in (("joint", 0), ("joint", 1), ("ner", 0))}
    assert dict(trained) == {**names, "roi_0": "own", "no_boxes_0": "own", "text_0": "none", "text_1": "none"}
    assert sorted(tested, key=str) == sorted(
        [
            *((f"joint_{n}", images, n, "pointer") for n in (0, 1) for images in ("own", "none", "shuffled")),
            *((f"text_{n}", "none", n, "pointer") for n in (0, 1)),
            ("ner_0", "none", 0, "pointer"),
            ("roi_0", "own", 0, "pointer"),
            *(("no_boxes_0", "own", None, locate) for locate in (None, None, "occlusion")),
        ],
        key=str,
    )
    record = json.loads(metrics.read_text())
    assert record["by_seed"]["ner"] == {
        "images": [0.99] * 2,
        "no_images": [0.40] * 2,
        "shuffled": [0.2] * 2,
        "text_only": [0.41] * 2,
        "spacy_ner": [0.40],
        "roi": [0.3],
    }
    assert set(record["rel"]) == set(run.ROWS)
    assert set(record["gmner"]) == set(run.OBJECTS)
    printed = capsys.readouterr().out
    assert "trained without pictures" in printed
    assert printed.count("the table of the training") == len(trained)
    assert "occlusion, trained without boxes" in printed
    # What CI asks of them.
    check = [sys.executable, ROOT / ".ci" / "check_demo.py", metrics]
    assert subprocess.run(check, check=False).returncode == 0
    record["ner"]["no_images"] = 0.37
    record["rel"]["no_images"] = 0.37
    metrics.write_text(json.dumps(record))
    result = subprocess.run(check, check=False, capture_output=True, text=True)
    for what in ("entities", "relations"):
        assert f"{what} without pictures >= those of the text alone" in result.stderr


def test_a_training_that_fails(tmp_path):
    config = Config({"nlp": {"lang": "en"}})
    with pytest.raises(RuntimeError, match=r"The training of .*joint_0.config\.cfg failed"):
        run.finish(tmp_path, -1, "joint", 0, config, tmp_path / "joint_0")
