"""Train the joint pipeline on the demo corpus with several seeds and show what the pictures contribute.

Prints tables of test F1 of entities and of relations (with the pictures, without, with those of other posts;
beside them the same pipeline trained on the text alone, relations end to end, and, with one seed and for
entities only, spaCy's own ner on the text, and objects that are cut out of the feature map of the whole
picture instead of being encoded one by one), and of entities with the objects they are; writes them as JSON,
and shows a few posts with predictions. All of it is synthetic.
"""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple

import spacy
import torch
import typer
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import logger
from wasabi import msg

from project.config import dataset_paths, read_config
from project.report import print_table, save_scores
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
    "components.mmib_ner.model.img2vec.region_features": "roi",
    # Tried with one seed: 64, 96, 160 and 224 make no difference.
    "components.mmib_ner.model.img2vec.image_size": 96,
}
"""Settings of the pipeline for entities whose objects come from the feature map of the whole picture."""

TEXT = {"corpora.train.images": "none", "corpora.dev.images": "none"}
"""Settings of the pipeline that never sees a picture."""
NO_BOXES = {"components.mmib_ner.model.pointer": None}
"""Settings of the pipeline for entities that isn't told which objects they are."""


class Row(NamedTuple):
    """A row of the tables: its title, which training it is of, and with which pictures it is tested."""

    title: str
    kind: str
    images: str = "own"


ROWS = {
    "images": Row("with pictures", "joint"),
    "no_images": Row("pictures removed", "joint", "none"),
    "shuffled": Row("pictures shuffled", "joint", "shuffled"),
    "end_to_end": Row("end to end, with pictures", "joint"),
    "text_only": Row("trained without pictures", "text", "none"),
    "spacy_ner": Row("spaCy's ner, same text", "ner", "none"),
    "roi": Row("objects from the feature map (roi)", "roi"),
}
OBJECTS = {
    "pointer": Row("pointer, trained with boxes", "joint"),
    "occlusion": Row("occlusion, trained without boxes", "no_boxes"),
    "attention": Row("attention, trained without boxes", "no_boxes"),
    "random": Row("a random object", "no_boxes"),
}
END_TO_END = "end_to_end"
"""The row of other scores of the same predictions."""
TASKS = {
    "ner": "entities",
    "rel": "relations of given entities",
    "gmner": "which object is it: entities with their objects (GMNER)",
}
ONE_SEED = ("ner", "roi", "no_boxes")
"""Trainings that are a side issue."""
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
    entities: Annotated[str, typer.Option(help="Config of side issues, without relations")] = "demo",
    baseline: str = "demo_baseline",
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ...")] = 3,
    gpu_id: int = -1,
    jobs: Annotated[int, typer.Option(help="Trainings at a time; 0: 2, on a GPU 1")] = 0,
) -> None:
    """Train with several seeds, and print the tables."""
    torch.set_num_threads(1)  # see encoder.py
    paths = {f"paths.{split}": str(data / f"{split}.spacy") for split in ("train", "dev")}
    pictures = dataset_paths(data)  # the encoder, and the features if they have been computed
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "joint": (config, pictures),
        "text": (config, {**pictures, **TEXT}),
        "ner": (baseline, {}),
        "roi": (entities, {**pictures, **ROI}),
        "no_boxes": (entities, {**pictures, **NO_BOXES}),
    }
    models = [(kind, seed) for seed in range(seeds) for kind in kinds if not seed or kind not in ONE_SEED]
    trainings = [
        (kinds[kind][0], output / f"{kind}_{seed}", {**paths, **kinds[kind][1], "system.seed": seed})
        for kind, seed in models
    ]
    jobs = jobs or (1 if gpu_id >= 0 else min(2, os.cpu_count() or 1))
    # Each has a process and, as its networks are so small, one thread of its own.
    with ThreadPoolExecutor(jobs) as pool:
        for printed in pool.map(lambda training: run_training(*training, gpu_id), trainings):
            print(printed)
    msg.info("Testing ...")

    def list_tests(rows: dict[str, Row]) -> list[tuple[Any, ...]]:
        return [
            (key, output / f"{row.kind}_{seed}" / "model-best", data, row.images, seed)
            for kind, seed in models
            for key, row in rows.items()
            if row.kind == kind and key != END_TO_END
        ]

    results: dict[str, dict[str, list[float]]] = {"ner": {}, "rel": {}, "gmner": {}}
    with ProcessPoolExecutor(jobs, get_context("spawn")) as processes:
        scored = processes.map(score, *zip(*list_tests(ROWS)))
        for found in (*scored, *processes.map(score_objects, *zip(*list_tests(OBJECTS)))):
            for task, key, f in found:
                results[task].setdefault(key, []).append(f)
    save_scores(metrics, results, data=SYNTHETIC)
    titles = {key: row.title for key, row in {**ROWS, **OBJECTS}.items()}
    for task, what in TASKS.items():
        print_table(f"{what}, F1 on the synthetic test posts", results[task], titles)
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


def score(key: str, model: Path, data: Path, images: str, seed: int) -> list[tuple[str, str, float]]:
    """RETURNS (List[Tuple[str, str, float]]): Of entities ("ner") and of relations ("rel"), the row, and the
    test F1 of a model, 0-1. Relations are those of given entities, but for "end_to_end", which needs
    predicted entities and their types right, too.
    """
    logger.setLevel("ERROR")
    torch.set_num_threads(1)
    scores = evaluate(spacy.load(model), data / "test.spacy", images=images, seed=seed)
    found = [("ner", key, scores["ents_f"])]
    if "given_entities" in scores:
        found.append(("rel", key, scores["given_entities"]["rel_micro_f"]))
    if key == "images":
        found.append(("rel", END_TO_END, scores["rel_strict_f"]))
    return found


def score_objects(how: str, model: Path, data: Path, images: str, seed: int) -> list[tuple[str, str, float]]:
    """RETURNS (List[Tuple[str, str, float]]): As `score`, of entities with their objects ("gmner"), found in
    one of the ways of `OBJECTS`.
    """
    logger.setLevel("ERROR")
    torch.set_num_threads(1)
    nlp, rng = spacy.load(model), Random(seed)
    nlp.get_pipe("mmib_ner").locate = how if how in ("pointer", "occlusion") else None

    def see(stage: str, examples: list[Example]) -> None:
        for doc in (eg.predicted for eg in examples if how in ("attention", "random")):
            found = {}
            for ent in doc.ents:
                weights = [rng.random() for _ in doc._.regions]
                weights = (get_region_weights(ent) or [])[1:] if how == "attention" else weights
                best = max(range(len(weights)), key=weights.__getitem__, default=None)
                found[ent.start_char, ent.end_char] = EntityRegion(best, 1.0, how)
            set_entity_regions(doc, "mmib_ner", found)

    scores = evaluate(nlp, data / "test.spacy", images=images, see=see)
    return [("gmner", how, scores["gmner_f"])]


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
