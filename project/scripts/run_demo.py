"""Train on the demo corpus with several seeds and show what the pictures contribute.

Prints a table of test F1 (with the pictures, without, with those of other posts, and of spaCy's own ner on
the same text), writes it as JSON, and shows a few posts with their predictions. All of it is synthetic.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import spacy
import torch
from spacy.cli.train import train
from spacy.tokens import Doc
from spacy.util import logger
from wasabi import msg

from spacy_mmib.cli.evaluate import evaluate
from spacy_mmib.corpus import create_corpus_v1

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
    parser.add_argument("--config", type=Path, default=Path("configs/demo.cfg"))
    parser.add_argument("--baseline", type=Path, default=Path("configs/demo_baseline.cfg"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gpu-id", type=int, default=-1)
    args = parser.parse_args()
    torch.set_num_threads(1)  # see train_picture_encoder.py
    paths = {f"paths.{split}": str(args.data / f"{split}.spacy") for split in ("train", "dev")}
    encoder = {"paths.encoder": str(args.data / "encoder.pth")}
    results: dict[str, list[float]] = {}
    for seed in args.seeds:
        for name, config, extra in (("mmib_ner", args.config, encoder), ("ner", args.baseline, {})):
            msg.divider(f"{name}, seed {seed}")
            overrides = {**paths, **extra, "system.seed": seed}
            train(config, args.output / f"{name}_{seed}", use_gpu=args.gpu_id, overrides=overrides)
        for key, score in score_seed(args.output, args.data, seed).items():
            results.setdefault(key, []).append(score)
    write_metrics(args.metrics, args.seeds, results)
    print_table(args.seeds, results)
    show_posts(args.output / f"mmib_ner_{args.seeds[0]}" / "model-best", args.data)
    msg.info(SYNTHETIC)
    msg.good(f"Saved the table to {args.metrics}")


def score_seed(models: Path, data: Path, seed: int) -> dict[str, float]:
    """RETURNS (Dict[str, float]): Test F1 of the models of one seed, 0-1."""
    logger.setLevel("ERROR")
    test = data / "test.spacy"
    nlp = spacy.load(models / f"mmib_ner_{seed}" / "model-best")
    scores = {
        key: evaluate(nlp, test, images=images, seed=seed)["ents_f"]
        for key, images in (("images", "own"), ("no_images", "none"), ("shuffled", "shuffled"))
    }
    baseline = spacy.load(models / f"ner_{seed}" / "model-best")
    scores["spacy_ner"] = evaluate(baseline, test, images="none")["ents_f"]
    return scores


def write_metrics(path: Path, seeds: list[int], results: dict[str, list[float]]) -> None:
    """Write the means over seeds (0-1), and each seed's score."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {
        "ner": {key: mean(scores) for key, scores in results.items()},
        "seeds": seeds,
        "by_seed": {"ner": results},
        "data": SYNTHETIC,
    }
    path.write_text(json.dumps(metrics, indent=2) + "\n")


def print_table(seeds: list[int], results: dict[str, list[float]]) -> None:
    """Print test F1 by condition and seed."""
    names = {
        "images": "mmib_ner, with pictures",
        "no_images": "mmib_ner, pictures removed",
        "shuffled": "mmib_ner, pictures shuffled",
        "spacy_ner": "spaCy's ner, same text",
    }
    rows = []
    for key, scores in results.items():
        spread = f"{100 * stdev(scores):.1f}" if len(scores) > 1 else "-"
        rows.append((names[key], *(f"{100 * s:.1f}" for s in (*scores, mean(scores))), spread))
    msg.divider("entities, F1 on the synthetic test posts")
    header = ("", *(f"seed {seed}" for seed in seeds), "mean", "std")
    msg.table(rows, header=header, aligns=("l",) + ("r",) * (len(seeds) + 2), divider=True)


def show_posts(model: Path, data: Path, n: int = 3) -> None:
    """Show some posts of the test split as a user would process them, with and without the picture."""
    nlp = spacy.load(model)
    examples = [eg for eg in create_corpus_v1(data / "test.spacy")(nlp) if eg.reference.ents]
    msg.divider("some test posts")
    for example in examples[:n]:
        gold = ", ".join(f"{ent.text} = {ent.label_}" for ent in example.reference.ents)
        blind = example.predicted.copy()
        blind._.image = None
        print(f"{example.text}\n  picture          {example.predicted._.image}")
        print(f"  gold             {gold}")
        print(f"  with picture     {describe(nlp(example.predicted))}")
        print(f"  without picture  {describe(nlp(blind))}\n")


def describe(doc: Doc) -> str:
    """RETURNS (str): The entities of a doc with their confidences."""
    return ", ".join(f"{e.text} = {e.label_} ({e._.confidence:.2f})" for e in doc.ents) or "nothing"


if __name__ == "__main__":
    main()
