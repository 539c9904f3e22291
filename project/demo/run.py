"""Train the joint pipeline on the demo corpus with several seeds and show what the pictures contribute.

Prints tables of test F1 of entities and of relations (with the pictures, without, with those of other posts;
beside them the same pipeline trained on the text alone, relations end to end, and, with one seed and for
entities only, spaCy's own ner on the text, and objects that are cut out of the feature map of the whole
picture instead of being encoded one by one), and of entities with the objects they are; writes them as JSON,
and shows a few posts with predictions. All of it is synthetic.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple, TypeAlias

import spacy
import torch
import typer
from spacy.cli.train import train
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import logger
from thinc.api import Config
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
NO_BOXES = {
    "components.mmib_ner.model.pointer": None,
    "training.max_epochs": 3,
    "training.eval_frequency": 94,
}
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
OF_OTHERS = ("end_to_end", "pointer")
"""The rows of other scores of the predictions with pictures."""
TASKS = {
    "ner": "entities",
    "rel": "relations of given entities",
    "gmner": "which object is it: entities with their objects (GMNER)",
}
Found: TypeAlias = tuple[str, str, float]
"""A task, a row, and F1, 0-1."""
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
        "no_boxes": (entities, {**pictures, **NO_BOXES}),
        "roi": (entities, {**pictures, **ROI}),
        "ner": (baseline, {}),
    }
    # In this order, the longest first, so that no process is left with one at the end.
    models = [(kind, seed) for kind in kinds for seed in range(seeds) if not seed or kind not in ONE_SEED]
    configs = [
        read_config(kinds[kind][0], {**paths, **kinds[kind][1], "system.seed": seed}) for kind, seed in models
    ]
    jobs = jobs or (1 if gpu_id >= 0 else min(2, os.cpu_count() or 1))
    results: dict[str, dict[str, list[float]]] = {task: {} for task in TASKS}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=prepare_process) as processes:
        folders = [output / f"{kind}_{seed}" for kind, seed in models]
        finished = processes.map(partial(finish, data, gpu_id), *zip(*models), configs, folders)
        for printed, found in finished:
            print(printed)
            for task, key, f in found:
                results[task].setdefault(key, []).append(f)
    save_scores(metrics, results, data=SYNTHETIC)
    titles = {key: row.title for key, row in {**ROWS, **OBJECTS}.items()}
    for task, what in TASKS.items():
        print_table(f"{what}, F1 on the synthetic test posts", results[task], titles)
    show_posts(output / "joint_0" / "model-best", data)
    msg.info(SYNTHETIC)
    msg.good(f"Saved the tables to {metrics}")


def prepare_process() -> None:
    """As the networks are so small, a process has one thread. It trains one model after the other."""
    torch.set_num_threads(1)
    logger.setLevel("ERROR")


def finish(
    data: Path, gpu_id: int, kind: str, seed: int, config: Config, output: Path
) -> tuple[str, list[Found]]:
    """Train a model, and test it in all rows that are of it.

    RETURNS (Tuple[str, List[Found]]): What the training printed, and the scores.
    RAISES (RuntimeError): The training failed; the message has what it printed.
    """
    msg.info(f"Training {output.name} ...")
    output.mkdir(parents=True, exist_ok=True)
    config.to_disk(output / "config.cfg", interpolate=False)
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            train(output / "config.cfg", output, use_gpu=gpu_id)
    except (Exception, SystemExit) as err:
        raise RuntimeError(f"The training of {output / 'config.cfg'} failed:\n{printed.getvalue()}") from err
    nlp = spacy.load(output / "model-best")
    found = [
        one
        for key, row in {**ROWS, **OBJECTS}.items()
        if row.kind == kind and key not in OF_OTHERS
        for one in (score if key in ROWS else score_objects)(nlp, key, data, row.images, seed)
    ]
    return f"\n=== {output.name}\n{printed.getvalue()}", found


def score(nlp: Language, key: str, data: Path, images: str, seed: int) -> list[Found]:
    """RETURNS (List[Found]): Scores of a row: of entities ("ner") and of relations ("rel"), which are those
    of given entities; with it those of `OF_OTHERS`. "end_to_end" needs predicted entities and their types
    right, too.
    """
    scores = evaluate(nlp, data / "test.spacy", images=images, seed=seed)
    found = [("ner", key, scores["ents_f"])]
    if "given_entities" in scores:
        found.append(("rel", key, scores["given_entities"]["rel_micro_f"]))
    if key == "images":
        found += [("rel", "end_to_end", scores["rel_strict_f"]), ("gmner", "pointer", scores["gmner_f"])]
    return found


def score_objects(nlp: Language, how: str, data: Path, images: str, seed: int) -> list[Found]:
    """RETURNS (List[Found]): The score of entities with their objects ("gmner"), found in one of the ways of
    `OBJECTS`.
    """
    rng = Random(seed)
    nlp.get_pipe("mmib_ner").locate = how if how == "occlusion" else None

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
