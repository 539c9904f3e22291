"""One training of a grid, in a process of its own: train, choose on dev, evaluate on test once.

A cell is a folder. Its result.json appears in one piece when everything is done, and is never made twice;
whatever an interrupted run left there is thrown away first.
"""

import json
import os
import platform
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import spacy
import torch
import typer
from filelock import FileLock
from spacy.cli._util import setup_gpu
from spacy.cli.train import train
from spacy.training import Example

from spacy_mmib.evaluation.evaluate import evaluate
from spacy_mmib.evaluation.scorers import (
    DocumentCounts,
    count_document_entities,
    count_document_relations,
    get_prf,
    sum_counts,
)

PACKAGES = ("spacy-mmib", "spacy", "thinc", "torch", "torchvision", "transformers")
SHOWN = {"own": "", "none": ", pictures removed", "shuffled": ", pictures shuffled"}
"""What is added to a task's name for the pictures that the test posts were shown with."""
RESULT, COUNTS, CONFIG, CELL = "result.json", "counts.json", "config.cfg", "cell.json"


def main(
    folder: Annotated[Path, typer.Argument(help="With config.cfg and cell.json")],
    gpu_id: int = -1,
    keep_model: Annotated[bool, typer.Option("--keep-model", help="Don't delete the trained model")] = False,
) -> None:
    """Finish the cell."""
    # A killed grid leaves the process of its cell behind, which goes on: a second one waits for it.
    with FileLock(folder / "lock"):
        if not (folder / RESULT).exists():
            run_cell(folder, gpu_id, keep_model)


def run_cell(folder: Path, gpu_id: int, keep_model: bool) -> None:
    """Train, evaluate, and write what came out: of each post the counts, by task ("entities", "relations" of
    given entities, "relations end to end"; with pictures that aren't the posts' own, that is said), and their
    scores.
    """
    cell = json.loads((folder / CELL).read_text(encoding="utf8"))
    training = folder / "training"
    shutil.rmtree(training, ignore_errors=True)
    train(folder / CONFIG, training, use_gpu=gpu_id)
    setup_gpu(gpu_id, silent=True)
    nlp = spacy.load(training / "model-best")
    counts: dict[str, list[DocumentCounts]] = {}
    scores = {key for name in nlp.pipe_names for key in nlp.get_pipe_meta(name).scores}

    def see(shown: str, stage: str, examples: list[Example]) -> None:
        if stage != "end_to_end":
            counts[f"relations{shown}"] = [count_document_relations(example) for example in examples]
        elif "ents_f" in scores:
            counts[f"entities{shown}"] = [count_document_entities(example) for example in examples]
            # Where nothing finds entities, relations end to end would be relations of nothing.
            if "rel_micro_f" in scores:
                counts[f"relations end to end{shown}"] = [count_document_relations(e) for e in examples]

    settings = {"image_root": cell["image_root"], "limit": cell["limit"], "seed": cell["seed"]}
    metrics: dict[str, Any] = {}
    for images in cell["shown"].split():
        with_these = partial(see, SHOWN[images])
        found = evaluate(nlp, cell["test"], images=images, see=with_these, **settings)
        metrics = metrics or found
    result = {
        "tasks": {task: dict(zip("prf", get_prf(sum_counts(c)))) for task, c in counts.items()},
        "dev": {k: v for k, v in nlp.meta["performance"].items() if isinstance(v, float)},
        "test_posts": metrics["pictures"]["posts"],
        "test_pictures": metrics["pictures"]["shown"],
        "leaks": metrics.get("leaks", []),
        "packages": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": f"cpu, {torch.get_num_threads()} threads",
    }
    if gpu_id >= 0:
        result["device"] = torch.cuda.get_device_name(gpu_id)
    write_json(folder / COUNTS, counts)
    if keep_model:
        shutil.rmtree(folder / "model-best", ignore_errors=True)
        os.replace(training / "model-best", folder / "model-best")
    shutil.rmtree(training)
    write_json(folder / RESULT, result)


def write_json(path: Path, data: Any) -> None:
    """Write JSON, in full or not at all."""
    replace(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file that is there in full or not at all."""
    # Of this process: several grids may run at a time.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_text(text, encoding="utf8", newline="")
    os.replace(temporary, path)


if __name__ == "__main__":
    typer.run(main)
