"""Train the joint pipeline on the demo corpus with several seeds and show what the pictures contribute.

Prints tables of test F1 of entities and of relations (with the pictures, without, with those of other posts;
beside them spaCy's own ner on the same text, relations end to end, and a pipeline whose objects are cut
out of the feature map of the whole picture instead of being encoded one by one), writes them as JSON, and
shows a few posts with their predictions. All of it is synthetic.
"""

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Annotated, Any

import spacy
import torch
import typer
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import logger
from wasabi import msg

from project.config import dataset_paths, read_config
from spacy_mmib.evaluation.evaluate import evaluate
from spacy_mmib.post.boxes import EntityRegion, set_entity_regions
from spacy_mmib.post.extensions import (
    get_confidence,
    get_image,
    get_region_weights,
    set_image,
    set_regions,
)
from spacy_mmib.post.relations import get_relations
from spacy_mmib.training.corpus import read_docs

ROI = {
    "components.mmib_img2vec.model.region_features": "roi",
    # Tried with one seed: 64, 96, 160 and 224 make no difference.
    "components.mmib_img2vec.model.image_size": 96,
    # It shows besides how objects are found without boxes to learn from.
    "components.mmib_ner.model.pointer": None,
}
"""Settings of the pipeline whose objects come from the feature map of the whole picture."""

OBJECTS = {
    "pointer": "pointer, trained with boxes",
    "occlusion": "occlusion, no boxes",
    "attention": "attention, no boxes",
    "random": "a random object",
}
ROWS = {
    **OBJECTS,
    "images": "with pictures",
    "no_images": "pictures removed",
    "shuffled": "pictures shuffled",
    "end_to_end": "end to end, with pictures",
    "roi": "objects from the feature map (roi)",
    "spacy_ner": "spaCy's ner, same text",
}
SYNTHETIC = (
    "Synthetic data: posts from templates, pictures drawn by a program, and an encoder trained on such "
    "drawings. These numbers show that the model uses what only the picture tells; they say nothing about "
    "real posts."
)


def main(
    data: Path = Path("project/data/demo"),
    output: Path = Path("project/training/demo"),
    metrics: Path = Path("project/metrics/demo.json"),
    config: str = "joint_demo",
    baseline: str = "demo_baseline",
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ...")] = 3,
    gpu_id: int = -1,
    jobs: Annotated[int, typer.Option(help="Trainings at a time; 0: 2, on a GPU 1")] = 0,
) -> None:
    """Train with several seeds, and print the tables."""
    torch.set_num_threads(1)  # see encoder.py
    paths = {f"paths.{split}": str(data / f"{split}.spacy") for split in ("train", "dev")}
    pictures = dataset_paths(data)  # the encoder, and the features if they have been computed
    trainings = [
        (name, output / f"{kind}_{seed}", {**paths, **settings, "system.seed": seed})
        for seed in range(seeds)
        for kind, name, settings in (
            ("joint", config, pictures),
            ("roi", config, {**pictures, **ROI}),
            ("ner", baseline, {}),
        )
    ]
    # Each has a process and, as its networks are so small, one thread of its own.
    with ThreadPoolExecutor(jobs or (1 if gpu_id >= 0 else min(2, os.cpu_count() or 1))) as pool:
        for printed in pool.map(lambda training: run_training(*training, gpu_id), trainings):
            print(printed)
    results: dict[str, dict[str, list[float]]] = {"ner": {}, "rel": {}, "gmner": {}}
    for seed in range(seeds):
        found = score_seed(output, data, seed) | {"gmner": score_objects(output, data, seed)}
        for kind, scores in found.items():
            for key, score in scores.items():
                results[kind].setdefault(key, []).append(score)
    means = {kind: {key: mean(f) for key, f in table.items()} for kind, table in results.items()}
    record = {**means, "seeds": list(range(seeds)), "by_seed": results, "data": SYNTHETIC}
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text(json.dumps(record, indent=2) + "\n")
    print_table("entities", results["ner"])
    print_table("relations of given entities", results["rel"])
    print_table("which object is it: entities with their objects (GMNER)", results["gmner"])
    show_posts(output / "joint_0" / "model-best", data)
    msg.info(SYNTHETIC)
    msg.good(f"Saved the tables to {metrics}")


def run_training(config: str, output: Path, settings: dict[str, Any], gpu_id: int) -> str:
    """Train in a process of its own. Raises `SystemExit` if that fails."""
    msg.info(f"Training {output.name} ...")
    output.mkdir(parents=True, exist_ok=True)
    read_config(config, settings).to_disk(output / "config.cfg", interpolate=False)
    command = [sys.executable, "-m", "spacy", "train", str(output / "config.cfg")]
    command += ["--output", str(output), "--gpu-id", str(gpu_id)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{result.stdout}\n{result.stderr}")
    return f"\n=== {output.name}\n{result.stdout}"


def score_seed(models: Path, data: Path, seed: int) -> dict[str, dict[str, float]]:
    """RETURNS (Dict[str, Dict[str, float]]): Test F1 of the models of one seed, 0-1. Relations are those of
    given entities, but for "end_to_end", which needs predicted entities and their types right, too.
    """
    logger.setLevel("ERROR")
    entities, relations = {}, {}
    for key, kind, images in (
        ("images", "joint", "own"),
        ("no_images", "joint", "none"),
        ("shuffled", "joint", "shuffled"),
        ("roi", "roi", "own"),
        ("spacy_ner", "ner", "none"),
    ):
        nlp = spacy.load(models / f"{kind}_{seed}" / "model-best")
        scores = evaluate(nlp, data / "test.spacy", images=images, seed=seed)
        entities[key] = scores["ents_f"]
        if kind != "ner":
            relations[key] = scores["given_entities"]["rel_micro_f"]
        if key == "images":
            relations["end_to_end"] = scores["rel_strict_f"]
    return {"ner": entities, "rel": relations}


def score_objects(models: Path, data: Path, seed: int) -> dict[str, float]:
    """RETURNS (Dict[str, float]): Test F1 of entities with their objects, 0-1: as the pointer says, and as
    occlusion, attention and chance do in the pipeline without one (its objects are from a feature map).
    """
    scores, rng = {}, Random(seed)
    for how in OBJECTS:
        nlp = spacy.load(models / f"{'joint' if how == 'pointer' else 'roi'}_{seed}" / "model-best")
        nlp.get_pipe("mmib_ner").locate = how if how in ("pointer", "occlusion") else None

        def see(stage: str, examples: list[Example], how: str = how) -> None:
            for doc in (eg.predicted for eg in examples if how in ("attention", "random")):
                found = {}
                for ent in doc.ents:
                    weights = [rng.random() for _ in doc._.regions]
                    weights = (get_region_weights(ent) or [])[1:] if how == "attention" else weights
                    best = max(range(len(weights)), key=weights.__getitem__, default=None)
                    found[ent.start_char, ent.end_char] = EntityRegion(best, 1.0, how)
                set_entity_regions(doc, "mmib_ner", found)

        scores[how] = evaluate(nlp, data / "test.spacy", see=see)["gmner_f"]
    return scores


def print_table(title: str, results: dict[str, list[float]]) -> None:
    """Print test F1 by condition and seed."""
    rows = []
    for key, scores in results.items():
        spread = f"{100 * stdev(scores):.1f}" if len(scores) > 1 else "-"
        rows.append((ROWS[key], *(f"{100 * s:.1f}" for s in (*scores, mean(scores))), spread))
    n = len(rows[0]) - 3
    msg.divider(f"{title}, F1 on the synthetic test posts")
    header = ("", *(f"seed {seed}" for seed in range(n)), "mean", "std")
    msg.table(rows, header=header, aligns=("l",) + ("r",) * (n + 2), divider=True)


def show_posts(model: Path, data: Path, n: int = 2) -> None:
    """Show posts of the test split, with and without picture: `n` with one name, and `n` with a relation."""
    nlp = spacy.load(model)
    golds = list(read_docs(data / "test.spacy", nlp.vocab))
    single = [doc for doc in golds if len(doc.ents) == 1]
    related = [doc for doc in golds if {r.label for r in get_relations(doc)} - {"None"}]
    msg.divider("some test posts")
    for gold in (*single[:n], *related[:n]):
        doc = nlp.make_doc(gold.text)
        set_image(doc, str(data / str(get_image(gold))))
        set_regions(doc, gold._.regions)
        print(f"{gold.text}\n  picture          {get_image(doc)}\n  gold             {describe(gold)}")
        print(f"  with picture     {describe(nlp(doc))}\n  without picture  {describe(nlp(gold.text))}\n")


def describe(doc: Doc) -> str:
    """RETURNS (str): The entities of a doc and its relations but the negative ones, with confidences."""
    found = [(f"{ent.text} = {ent.label_}", get_confidence(ent)) for ent in doc.ents]
    relations = [r for r in get_relations(doc) if r.label != "None"]
    found += [(f"{r.head.text} - {r.label} - {r.tail.text}", r.score) for r in relations]
    shown = [what if score is None else f"{what} ({score:.2f})" for what, score in found]
    return "; ".join(shown) or "nothing"


if __name__ == "__main__":
    typer.run(main)
