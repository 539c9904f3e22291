"""mmib_ner beside spaCy's own ner on the text of a corpus: same encoder, epochs, optimizer and seed.

No picture is used, so this is no number of the paper's: it shows what the model costs or gains where there
is nothing to see. Prints one table and writes it as JSON.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from spacy.cli._util import setup_gpu
from spacy.cli.train import train
from wasabi import msg

from spacy_mmib.corpus import create_corpus_v1

MODELS = Path("project/training/twitter_text")
METRICS = Path("project/metrics/twitter_text.json")
CONFIGS = {"mmib_ner": "configs/ner_trf.cfg", "ner": "configs/baseline_trf.cfg"}


def main(
    data: Annotated[Path, typer.Argument(help="Has train.spacy, dev.spacy and test.spacy")],
    transformer: Annotated[str, typer.Argument(help="Name or folder of a transformers model")],
    output: Annotated[Path, typer.Option(help="For the models")] = MODELS,
    metrics: Annotated[Path, typer.Option(help="For the table")] = METRICS,
    epochs: Annotated[int, typer.Option(help="Passes over the training data")] = 5,
    batch_size: Annotated[int, typer.Option(help="Posts in a batch")] = 16,
    learn_rate: Annotated[float, typer.Option(help="Peak of the warmup_linear schedule")] = 1e-4,
    seed: Annotated[int, typer.Option(help="For both trainings")] = 0,
    gpu_id: Annotated[int, typer.Option(help="GPU, or -1 for CPU")] = -1,
) -> None:
    """Train both, one after the other, and print the table."""
    reader = create_corpus_v1(data / "train.spacy")
    n_posts = sum(1 for _ in reader(spacy.blank("en")))
    steps_an_epoch = -(-n_posts // batch_size)
    steps = epochs * steps_an_epoch
    overrides = {
        "paths.train": str(data / "train.spacy"),
        "paths.dev": str(data / "dev.spacy"),
        "components.transformer.model.name": transformer,
        "training.max_epochs": epochs,
        # spaCy evaluates after updates 1, 1 + frequency, ...: the last time at the very end.
        "training.eval_frequency": max(1, (steps - 1) // epochs),
        "training.batcher.size": batch_size,
        "training.optimizer.learn_rate.initial_rate": learn_rate,
        "training.optimizer.learn_rate.warmup_steps": steps_an_epoch // 2,
        "training.optimizer.learn_rate.total_steps": steps + 1,
        "system.seed": seed,
    }
    # The picture encoder is part of the model but is never run: there is no picture.
    unused = {
        "components.mmib_ner.model.img2vec.arch": "resnet18",
        "components.mmib_ner.model.img2vec.weights": None,
    }
    setup_gpu(gpu_id)
    results: dict[str, Any] = {}
    for component, config in CONFIGS.items():
        msg.divider(f"{component} on {Path(transformer).name}")
        extra = unused if component == "mmib_ner" else {}
        train(config, output / component, use_gpu=gpu_id, overrides={**overrides, **extra})
        results[component] = evaluate(output / component / "model-best", data)
    print_table(results, epochs)
    metrics.parent.mkdir(parents=True, exist_ok=True)
    setting = {"epochs": epochs, "batch_size": batch_size, "learn_rate": learn_rate, "seed": seed}
    metrics.write_text(json.dumps({"pictures": "none", **setting, "results": results}, indent=2))


def evaluate(model: Path, data: Path) -> dict[str, dict[str, float]]:
    """RETURNS (Dict[str, Dict[str, float]]): Scores (0-1) of the best epoch on dev, by split."""
    nlp = spacy.load(model)
    scores = {}
    for split in ("dev", "test"):
        found = nlp.evaluate(list(create_corpus_v1(data / f"{split}.spacy")(nlp)), batch_size=64)
        scores[split] = {key: found[f"ents_{key}"] for key in "prf"}
    return scores


def print_table(results: dict[str, Any], epochs: int) -> None:
    """Print precision, recall and F of both components on dev and test."""
    msg.divider(f"text only, {epochs} epochs, epoch chosen on dev")
    rows = []
    for component, scores in results.items():
        numbers = [f"{100 * scores[s][k]:.2f}" for s in ("dev", "test") for k in "prf"]
        rows.append((component, *numbers))
    header = ("", "dev P", "dev R", "dev F", "test P", "test R", "test F")
    msg.table(rows, header=header, aligns=("l",) + ("r",) * 6, divider=True)


if __name__ == "__main__":
    typer.run(main)
