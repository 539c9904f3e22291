"""Train the joint pipeline on the demo corpus with several seeds and show what the pictures contribute.

Prints tables of test F1 of entities and of relations (with the pictures, without, with those of other posts;
beside them spaCy's own ner on the same text, relations end to end, and a pipeline whose objects are cut
out of the feature map of the whole picture instead of being encoded one by one), writes them as JSON, and
shows a few posts with their predictions. All of it is synthetic.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeAlias

import spacy
import torch
from spacy.tokens import Doc
from spacy.util import logger
from wasabi import msg

from spacy_mmib.cli.evaluate import evaluate
from spacy_mmib.post.extensions import get_confidence, get_image, set_image
from spacy_mmib.post.relations import get_relations
from spacy_mmib.training.corpus import create_corpus_v1

ROI = {
    "components.mmib_img2vec.model.region_features": "roi",
    # Tried with one seed: 64, 96, 160 and 224 make no difference.
    "components.mmib_img2vec.model.image_size": 96,
}
"""Settings of the pipeline whose objects come from the feature map of the whole picture."""

Results: TypeAlias = dict[str, dict[str, list[float]]]
"""By task, "ner" or "rel", and condition: F1 of each seed."""

SYNTHETIC = (
    "Synthetic data: posts from templates, pictures drawn by a program, and an encoder trained on such "
    "drawings. These numbers show that the model uses what only the picture tells; they say nothing about "
    "real posts."
)


def main() -> None:
    """Read the command line, train, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("project/data/demo"))
    parser.add_argument("--output", type=Path, default=Path("project/training/demo"))
    parser.add_argument("--metrics", type=Path, default=Path("project/metrics/demo.json"))
    parser.add_argument("--config", type=Path, default=Path("configs/joint_demo.cfg"))
    parser.add_argument("--baseline", type=Path, default=Path("configs/demo_baseline.cfg"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--jobs", type=int, help="trainings at a time [default: 2, on a GPU 1]")
    args = parser.parse_args()
    torch.set_num_threads(1)  # see train_picture_encoder.py
    paths = {f"paths.{split}": str(args.data / f"{split}.spacy") for split in ("train", "dev")}
    encoder = {"paths.encoder": str(args.data / "encoder.pth")}
    features = args.data / "features.sqlite"
    if features.exists():  # made by demo-features: nothing is encoded in training
        encoder["paths.features"] = str(features)
    trainings = []
    for seed in args.seeds:
        for name, config, extra in (
            ("joint", args.config, encoder),
            ("roi", args.config, {**encoder, **ROI}),
            ("ner", args.baseline, {}),
        ):
            settings = {**paths, **extra, "system.seed": seed}
            trainings.append((config, args.output / f"{name}_{seed}", settings))
    jobs = args.jobs or (1 if args.gpu_id >= 0 else min(2, os.cpu_count() or 1))
    # Each has a process and, as its networks are so small, one thread of its own.
    with ThreadPoolExecutor(jobs) as pool:
        for output in pool.map(lambda training: run_training(*training, args.gpu_id), trainings):
            print(output)
    results: Results = {"ner": {}, "rel": {}}
    for seed in args.seeds:
        for kind, scores in score_seed(args.output, args.data, seed).items():
            for key, score in scores.items():
                results[kind].setdefault(key, []).append(score)
    write_metrics(args.metrics, args.seeds, results)
    print_table("entities", args.seeds, results["ner"])
    print_table("relations", args.seeds, results["rel"])
    show_posts(args.output / f"joint_{args.seeds[0]}" / "model-best", args.data)
    msg.info(SYNTHETIC)
    msg.good(f"Saved the tables to {args.metrics}")


def run_training(config: Path, output: Path, settings: dict[str, Any], gpu_id: int) -> str:
    """Train in a process of its own.

    config (Path): The config.
    output (Path): The folder for the models.
    settings (Dict[str, Any]): Overrides of the config.
    gpu_id (int): GPU, or -1 for CPU.
    RETURNS (str): What `spacy train` printed.
    RAISES (SystemExit): It failed.
    """
    msg.info(f"Training {output.name} ...")
    command = [sys.executable, "-m", "spacy", "train", str(config), "--output", str(output)]
    command += ["--gpu-id", str(gpu_id)]
    command += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{result.stdout}\n{result.stderr}")
    return f"\n=== {output.name}\n{result.stdout}"


def score_seed(models: Path, data: Path, seed: int) -> dict[str, dict[str, float]]:
    """RETURNS (Dict[str, Dict[str, float]]): Test F1 of the models of one seed, 0-1. Relations are those of
    given entities, but for "end_to_end", which has predicted entities and their types right, too.
    """
    logger.setLevel("ERROR")
    test = data / "test.spacy"
    nlp = spacy.load(models / f"joint_{seed}" / "model-best")
    entities, relations = {}, {}
    for key, images in (("images", "own"), ("no_images", "none"), ("shuffled", "shuffled")):
        scores = evaluate(nlp, test, images=images, seed=seed)
        entities[key] = scores["ents_f"]
        relations[key] = scores["given_entities"]["rel_micro_f"]
        if images == "own":
            relations["end_to_end"] = scores["rel_strict_f"]
    roi = evaluate(spacy.load(models / f"roi_{seed}" / "model-best"), test)
    entities["roi"], relations["roi"] = roi["ents_f"], roi["given_entities"]["rel_micro_f"]
    baseline = spacy.load(models / f"ner_{seed}" / "model-best")
    entities["spacy_ner"] = evaluate(baseline, test, images="none")["ents_f"]
    return {"ner": entities, "rel": relations}


def write_metrics(path: Path, seeds: list[int], results: Results) -> None:
    """Write the means over seeds (0-1), and each seed's score."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {
        kind: {key: mean(scores) for key, scores in table.items()} for kind, table in results.items()
    }
    metrics |= {"seeds": seeds, "by_seed": results, "data": SYNTHETIC}
    path.write_text(json.dumps(metrics, indent=2) + "\n")


def print_table(title: str, seeds: list[int], results: dict[str, list[float]]) -> None:
    """Print test F1 by condition and seed."""
    names = {
        "images": "with pictures",
        "no_images": "pictures removed",
        "shuffled": "pictures shuffled",
        "spacy_ner": "spaCy's ner, same text",
        "end_to_end": "end to end, with pictures",
        "roi": "objects from the feature map (roi)",
    }
    if title == "relations":
        names |= {key: f"{names[key]}, given entities" for key in list(names)[:3]}
    rows = []
    for key, scores in results.items():
        spread = f"{100 * stdev(scores):.1f}" if len(scores) > 1 else "-"
        rows.append((names[key], *(f"{100 * s:.1f}" for s in (*scores, mean(scores))), spread))
    msg.divider(f"{title}, F1 on the synthetic test posts")
    header = ("", *(f"seed {seed}" for seed in seeds), "mean", "std")
    msg.table(rows, header=header, aligns=("l",) + ("r",) * (len(seeds) + 2), divider=True)


def show_posts(model: Path, data: Path, n: int = 2) -> None:
    """Show some posts of the test split as a user would process them, with and without the picture: `n`
    with one name, and `n` with a relation.
    """
    nlp = spacy.load(model)
    examples = list(create_corpus_v1(data / "test.spacy")(nlp))
    single = [eg for eg in examples if len(eg.reference.ents) == 1]
    related = [eg for eg in examples if describe_relations(eg.reference)]
    msg.divider("some test posts")
    for example in (*single[:n], *related[:n]):
        gold = ", ".join(f"{ent.text} = {ent.label_}" for ent in example.reference.ents)
        blind = example.predicted.copy()
        set_image(blind, None)
        print(f"{example.text}\n  picture          {get_image(example.predicted)}")
        print(f"  gold             {gold}{describe_relations(example.reference)}")
        print(f"  with picture     {describe(nlp(example.predicted))}")
        print(f"  without picture  {describe(nlp(blind))}\n")


def describe(doc: Doc) -> str:
    """RETURNS (str): The entities of a doc with their confidences, and its relations with their scores."""
    found = ", ".join(f"{e.text} = {e.label_} ({get_confidence(e):.2f})" for e in doc.ents)
    return (found or "nothing") + describe_relations(doc)


def describe_relations(doc: Doc) -> str:
    """RETURNS (str): The relations of a doc, none that are negative."""
    return "".join(
        f"; {r.head.text} - {r.label} - {r.tail.text}" + ("" if r.score is None else f" ({r.score:.2f})")
        for r in get_relations(doc)
        if r.label != "None"
    )


if __name__ == "__main__":
    main()
