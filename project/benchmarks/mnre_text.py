"""Relations of given pairs from the text of a corpus: mmib_rel with both forms of entity vectors, the same
without MMIB's core, and logistic regression on bags of words.

No picture is used, so this is no number of the paper's. All rows see the same pairs, choose on dev, and are
counted by the same scorer. A row that is finished is written at once and not run again.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import spacy
import typer
from spacy.cli._util import setup_gpu
from spacy.cli.train import train
from spacy.training import Example
from thinc.api import Config
from wasabi import msg

from project.benchmarks.bag_of_words import fit_bag_of_words
from project.config import read_config
from spacy_mmib.evaluation.relation_scorer import score_relations
from spacy_mmib.training.corpus import create_corpus_v1

MODELS = Path("project/training/mnre_text")
METRICS = Path("project/metrics/mnre_text.json")
SPLITS = ("train", "dev", "test")

Scores: TypeAlias = dict[str, dict[str, float]]

ROWS = {
    "bag of words": ("bow", {"between": False}),
    "bag of words, words between apart": ("bow", {"between": True}),
    "mmib_rel, pool": ("mmib", {"entity_repr": "pool"}),
    "mmib_rel, marker": ("mmib", {"entity_repr": "marker"}),
    "without the core, pool": ("text", {"entity_repr": "pool"}),
    "without the core, marker": ("text", {"entity_repr": "marker"}),
}


def main(
    data: Annotated[Path, typer.Argument(help="Has train.spacy, dev.spacy and test.spacy")],
    transformer: Annotated[str, typer.Argument(help="Name or folder of a transformers model")],
    output: Annotated[Path, typer.Option(help="For the models")] = MODELS,
    metrics: Annotated[Path, typer.Option(help="For the table")] = METRICS,
    epochs: Annotated[int, typer.Option(help="Passes over the training data")] = 2,
    batch_size: Annotated[int, typer.Option(help="Posts in a batch")] = 16,
    learn_rate: Annotated[float, typer.Option(help="Peak of the warmup_linear schedule")] = 2e-4,
    seed: Annotated[int, typer.Option(help="For all trainings")] = 0,
    limit: Annotated[int, typer.Option(help="Only so many posts of each split; 0 for all")] = 0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for CPU")] = -1,
    rows: Annotated[str, typer.Option(help="Names of rows, separated by ';'; all if empty")] = "",
) -> None:
    """Train what isn't trained yet, one row after the other, and print the table."""
    wanted = [name.strip() for name in rows.split(";") if name.strip()] or list(ROWS)
    unknown = [name for name in wanted if name not in ROWS]
    if unknown:
        raise typer.BadParameter(f"no rows {unknown}; there are: {'; '.join(ROWS)}")
    setup_gpu(gpu_id)
    # What variables of a project that aren't set come as.
    transformer, epochs = transformer or "bert-base-uncased", epochs or 2
    setting = {
        "corpus": str(data.resolve()),
        "transformer": transformer,
        "epochs": epochs,
        "batch_size": batch_size,
        "learn_rate": learn_rate,
        "seed": seed,
        "limit": limit,
    }
    results = read_results(metrics, setting)
    for name in wanted:
        kind, options = ROWS[name]
        if name in results:
            msg.info(f"{name}: finished before, not run again")
            continue
        msg.divider(name)
        start = time.time()
        if kind == "bow":
            scores = run_bag_of_words(data, limit, **options)
        else:
            config = make_config(kind, options, data, transformer, setting)
            scores = run_component(
                config, output / name.replace(",", "").replace(" ", "_"), data, limit, gpu_id
            )
        results[name] = {"scores": scores, "seconds": round(time.time() - start)}
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps({"pictures": "none", "setting": setting, "results": results}, indent=2))
    print_table(results, setting)


def read_results(path: Path, setting: dict[str, Any]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The rows that were finished with the same setting."""
    if not path.exists():
        return {}
    metrics = json.loads(path.read_text())
    if metrics["setting"] != setting:
        raise typer.BadParameter(
            f"{path} has rows of another setting, {metrics['setting']}, which would be lost. Give "
            "--metrics another file, or delete it."
        )
    found: dict[str, Any] = metrics["results"]
    return found


def read(data: Path, split: str, limit: int, nlp: spacy.Language | None = None) -> list[Example]:
    """RETURNS (List[Example]): A split, whose predicted docs have the pairs without their labels."""
    reader = create_corpus_v1(data / f"{split}.spacy", limit=limit, given="pairs")
    return list(reader(nlp or spacy.blank("en")))


def run_bag_of_words(data: Path, limit: int, *, between: bool) -> Scores:
    """RETURNS (Dict[str, Dict[str, float]]): Scores of the baseline, its strength chosen on dev."""
    examples = {split: read(data, split, limit) for split in SPLITS}
    annotate = fit_bag_of_words(examples["train"], examples["dev"], between=between)
    scores = {}
    for split in ("dev", "test"):
        annotate([eg.predicted for eg in examples[split]])
        scores[split] = get_scores(examples[split])
    return scores


def make_config(
    kind: str,
    options: dict[str, str],
    data: Path,
    transformer: str,
    setting: dict[str, Any],
) -> Config:
    """Fit the shipped config to the data and to a row of the table.

    kind (str): "mmib", or "text" for the model without the core.
    options (Dict[str, str]): Settings of the model.
    data (Path): The corpus.
    transformer (str): Name or folder of the text encoder.
    setting (Dict[str, Any]): Of the table.
    RETURNS (Config): What is trained.
    """
    config = read_config("rel_trf")
    component = config["components"]["mmib_rel"]
    component["model"]["tok2vec"]["name"] = transformer
    if kind == "text":
        component["model"] = {
            "@architectures": "spacy-mmib.Text_REL.v1",
            "tok2vec": component["model"]["tok2vec"],
        }
    else:
        # The picture encoder is part of the model but is never run: there is no picture.
        component["model"]["img2vec"].update({"arch": "resnet18", "weights": None})
    component["model"].update(options)
    reader = create_corpus_v1(data / "train.spacy", limit=setting["limit"])
    posts = sum(1 for _ in reader(spacy.blank("en")))
    steps_an_epoch = -(-posts // setting["batch_size"])
    steps = setting["epochs"] * steps_an_epoch
    config["paths"].update({f: str(data / f"{f}.spacy") for f in ("train", "dev")})
    config["system"]["seed"] = setting["seed"]
    for split in ("train", "dev"):
        config["corpora"][split]["limit"] = setting["limit"]
    training = config["training"]
    training["max_epochs"] = setting["epochs"]
    # spaCy evaluates after updates 1, 1 + frequency, ...: the last time at the very end.
    training["eval_frequency"] = max(1, (steps - 1) // setting["epochs"])
    training["batcher"]["size"] = setting["batch_size"]
    training["optimizer"]["learn_rate"] = {
        "@schedules": "warmup_linear.v1",
        "initial_rate": setting["learn_rate"],
        "warmup_steps": max(1, steps_an_epoch // 4),
        "total_steps": steps + 1,
    }
    return config


def run_component(config: Config, output: Path, data: Path, limit: int, gpu_id: int) -> Scores:
    """RETURNS (Dict[str, Dict[str, float]]): Scores (0-1) of the best epoch on dev, by split."""
    output.mkdir(parents=True, exist_ok=True)
    config.to_disk(output / "config.cfg")
    train(output / "config.cfg", output, use_gpu=gpu_id)
    nlp = spacy.load(output / "model-best")
    scores = {}
    for split in ("dev", "test"):
        examples = read(data, split, limit, nlp)
        for example in examples:
            example.predicted = nlp(example.predicted)
        scores[split] = get_scores(examples)
    return scores


def get_scores(examples: list[Example]) -> dict[str, float]:
    """RETURNS (Dict[str, float]): Micro precision, recall and F, and accuracy."""
    scores = score_relations(examples)
    found = {key: scores[f"rel_micro_{key}"] for key in "prf"}
    return {**found, "accuracy": scores["rel_accuracy"]}


def print_table(results: dict[str, Any], setting: dict[str, Any]) -> None:
    """Print precision, recall and F of all rows on dev and test."""
    msg.divider(
        f"given pairs, text only, {Path(setting['transformer']).name}, {setting['epochs']} epochs, "
        "chosen on dev"
    )
    rows = []
    for name, result in results.items():
        scores = result["scores"]
        numbers = [f"{100 * scores[s][k]:.2f}" for s in ("dev", "test") for k in "prf"]
        rows.append((name, *numbers))
    header = ("micro, relations but None", "dev P", "dev R", "dev F", "test P", "test R", "test F")
    msg.table(rows, header=header, aligns=("l",) + ("r",) * 6, divider=True)


if __name__ == "__main__":
    typer.run(main)
