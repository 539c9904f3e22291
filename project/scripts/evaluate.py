"""Evaluate a trained dataset with its pictures, without, and with those of other posts."""

import argparse
import json
from pathlib import Path

import spacy
from spacy.cli._util import setup_gpu
from train import dataset_paths
from wasabi import msg

from spacy_mmib.cli.evaluate import evaluate, print_metrics


def main() -> None:
    """Read the command line, evaluate three times, and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a folder below --data with test.spacy")
    parser.add_argument("--data", type=Path, default=Path("project/data"))
    parser.add_argument("--models", type=Path, default=Path("project/training"))
    parser.add_argument("--metrics", type=Path, default=Path("project/metrics"))
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled pictures")
    args = parser.parse_args()
    setup_gpu(args.gpu_id)
    model = args.models / args.dataset / "model-best"
    folder = args.data / args.dataset
    if not model.exists():
        msg.fail(f"There is no {model}: train first, 'spacy project run train'", exits=1)
    root = dataset_paths(folder).get("paths.image_root")
    nlp = spacy.load(model)
    results = {}
    for images in ("own", "none", "shuffled"):
        scores = evaluate(nlp, folder / "test.spacy", images=images, seed=args.seed, image_root=root)
        print_metrics(scores)
        results[images] = scores
    args.metrics.mkdir(parents=True, exist_ok=True)
    path = args.metrics / f"evaluate_{args.dataset}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    msg.good(f"Saved the scores to {path}")


if __name__ == "__main__":
    main()
