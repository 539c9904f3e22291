"""Evaluate the model that was chosen on dev on the test posts, once: what `spacy project run
evaluate-twitter17` calls. The same model is not evaluated again: the scores of the first time are shown.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dataset_facts import get_dataset_version
from published import ABLATION, CAVEATS, TASKS, find_dataset
from train import dataset_paths
from wasabi import msg
from workflow_corpus import DATA, METRICS, TEXT_ONLY, TRAINING, count_pictures, hash_files


def main() -> None:
    """Read the command line, evaluate if need be, and show the scores beside the paper's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a folder below --data with test.spacy")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, default=TRAINING)
    parser.add_argument("--metrics", type=Path, default=METRICS)
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--force", type=int, nargs="?", const=1, default=0, help="evaluate anew")
    args = parser.parse_args()
    folder, model = args.data / args.dataset, args.models / args.dataset / "model-best"
    for path in (model, folder / "test.spacy"):
        if not path.exists():
            msg.fail(f"There is no {path}: run the workflow, 'spacy project run {args.dataset} .'")
            sys.exit(1)
    path = args.metrics / f"test_{args.dataset}.json"
    record = evaluate_once(model, folder, path, args.gpu_id, force=bool(args.force))
    print_beside_paper(args.dataset, record)


def evaluate_once(
    model: Path, folder: Path, path: Path, gpu_id: int = -1, *, force: bool = False
) -> dict[str, Any]:
    """Evaluate a model, or look up what it scored.

    model (Path): The trained pipeline.
    folder (Path): With test.spacy.
    path (Path): Where the scores are kept.
    gpu_id (int): GPU, or -1 for CPU.
    force (bool): Evaluate in any case.
    RETURNS (Dict[str, Any]): "of", the model and corpus, and "metrics", its scores.
    """
    from spacy_mmib.cli.evaluate import evaluate, print_metrics

    of = describe(model, folder)
    known = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    if not force and known.get("of") == of:
        msg.info(
            f"This model ({of['model']}) has been evaluated on test: these are its scores from {path} "
            "(--vars.force 1 evaluates anew)."
        )
        print_metrics(known["metrics"])
        found: dict[str, Any] = known
        return found
    if known and not force:
        changed = [what for what in of if known.get("of", {}).get(what) != of[what]]
        msg.info(f"Evaluated on test anew, as this has changed: {', '.join(changed)}")
    import spacy
    from spacy.cli._util import setup_gpu

    setup_gpu(gpu_id)
    root = dataset_paths(folder).get("paths.image_root")
    metrics = evaluate(spacy.load(model), folder / "test.spacy", image_root=root)
    record = {"of": of, "metrics": metrics}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf8")
    print_metrics(metrics)
    msg.good(f"Saved the scores to {path}")
    return record


def describe(model: Path, folder: Path) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What scores belong to: the model's digest, the version of the dataset, and
    the digest of the test posts, their pictures' paths included.
    """
    return {
        "model": hash_files(model),
        "test": hash_files(folder / "test.spacy"),
        "dataset": get_dataset_version(folder),
        "pictures": count_pictures(folder),
    }


def print_beside_paper(dataset: str, record: dict[str, Any]) -> None:
    """Print precision, recall and F1 beside those of the paper's Tables III to V.

    dataset (str): Its name.
    record (Dict[str, Any]): See `evaluate_once`.
    """
    known = find_dataset(dataset)
    if known is None:
        return
    metrics, name = record["metrics"], "ents"
    if TASKS[known] == "relations":
        metrics, name = metrics.get("given_entities", {}), "rel_micro"
    ours = [metrics.get(f"{name}_{x}") for x in "prf"]
    lines = [
        ("this model", *("-" if x is None else f"{100 * x:.2f}" for x in ours)),
        ("MMIB in the paper", *(f"{x:.2f}" for x in ABLATION[known]["MMIB"])),
    ]
    msg.table(lines, header=(f"Test, {TASKS[known]}", "P", "R", "F1"), aligns=("l", "r", "r", "r"))
    version = record["of"]["dataset"]
    msg.text(f"Dataset: {version['version']} ({version['details']}); content {version['digest']}")
    if not record["of"]["pictures"]:
        msg.warn(f"Mind: {TEXT_ONLY}")
    msg.text(f"Of the paper's: {CAVEATS[known]}")


if __name__ == "__main__":
    main()
