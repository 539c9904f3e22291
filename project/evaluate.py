"""Evaluate the model that was chosen on dev on the test posts, once, beside the paper's figures: `python -m
project.evaluate twitter17`. The same model is not evaluated again: the scores of the first time are shown.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.cli._util import setup_gpu
from wasabi import msg

from project.config import dataset_paths
from project.facts import PUBLISHED, find_dataset, get_dataset_version
from project.planning import DATA, METRICS, TEXT_ONLY, TRAINING, hash_files, read_corpus
from spacy_mmib.cli.evaluate import print_metrics
from spacy_mmib.evaluation.evaluate import evaluate


def main(
    dataset: Annotated[str, typer.Argument(help="A folder below --data with test.spacy")],
    data: Path = DATA,
    models: Path = TRAINING,
    metrics: Path = METRICS,
    gpu_id: int = -1,
    seed: Annotated[int, typer.Option(help="Of the shuffled pictures")] = 0,
    force: Annotated[int, typer.Option(help="1: evaluate what has been evaluated before")] = 0,
) -> None:
    """Evaluate with the test posts' pictures and, where there are any, without and with those of other
    posts.
    """
    folder, model = data / dataset, models / dataset / "model-best"
    for path in (model, folder / "test.spacy"):
        if not path.exists():
            msg.fail(f"There is no {path}: run 'spacy project run train . --vars.dataset {dataset}'", exits=1)
    path = metrics / f"test_{dataset}.json"
    of = {
        "model": hash_files(model),
        "test": hash_files(folder / "test.spacy"),
        "dataset": get_dataset_version(folder),
        "pictures": read_corpus(dataset, folder).pictures,
        "seed": seed,
    }
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    if not force and record.get("of") == of:
        msg.info(
            f"This model ({of['model']}) has been evaluated on test: these are its scores from {path} "
            "(--vars.force 1 evaluates anew)."
        )
    else:
        if record and not force:
            changed = [what for what in of if record.get("of", {}).get(what) != of[what]]
            msg.info(f"Evaluated on test anew, as this has changed: {', '.join(changed)}")
        setup_gpu(gpu_id)
        nlp = spacy.load(model)
        settings = {"seed": seed, "image_root": dataset_paths(folder).get("paths.image_root")}
        shown = ("own", "none", "shuffled") if of["pictures"] else ("own",)
        scores = {images: evaluate(nlp, folder / "test.spacy", images=images, **settings) for images in shown}
        record = {"of": of, "metrics": scores}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf8")
        msg.good(f"Saved the scores to {path}")
    for images, scores in record["metrics"].items():
        msg.divider(f"Test posts, pictures: {images}")
        print_metrics(scores)
    print_beside_paper(dataset, record)


def print_beside_paper(dataset: str, record: dict[str, Any]) -> None:
    """Print the scores with the posts' own pictures beside those of the paper, if it is a dataset of its."""
    known = find_dataset(dataset)
    if known is None:
        return
    facts = PUBLISHED[known]
    if facts["ablation"]:
        metrics, name = record["metrics"]["own"], "ents"
        if facts["task"] == "relations":
            metrics, name = metrics.get("given_entities", {}), "rel_micro"
        ours = [metrics.get(f"{name}_{x}") for x in "prf"]
        lines = [
            ("this model", *("-" if x is None else f"{100 * x:.2f}" for x in ours)),
            ("MMIB in the paper", *(f"{x:.2f}" for x in facts["ablation"]["MMIB"])),
        ]
        msg.table(lines, header=(f"Test, {facts['task']}", "P", "R", "F1"), aligns=("l", "r", "r", "r"))
    version = record["of"]["dataset"]
    msg.text(f"Dataset: {version['version']} ({version['details']}); content {version['digest']}")
    if not record["of"]["pictures"]:
        msg.warn(f"Mind: {TEXT_ONLY}")
    if facts["caveat"]:
        msg.text(f"Of the paper's: {facts['caveat']}")


if __name__ == "__main__":
    typer.run(main)
