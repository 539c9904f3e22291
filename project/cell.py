"""One training of a grid, in a process of its own: train, choose on dev, evaluate on test once. Or what takes
its place in the row of a baseline: see `floors` and `late_fusion`.

A cell is a folder. Its result.json appears in one piece when everything is done, and is never made twice;
whatever an interrupted run left there is thrown away first.
"""

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import spacy
import torch
import typer
from filelock import FileLock
from spacy.cli._util import setup_gpu
from spacy.language import Language
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from thinc.api import Config

from project.floors import predict_floor
from project.late_fusion import PROBABILITIES, mix, write_probabilities
from spacy_mmib.evaluation.evaluate import evaluate, predict_examples, read_corpus
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
        cell = json.loads((folder / CELL).read_text(encoding="utf8"))
        if is_finished(folder, cell):
            return
        if cell["floor"]:
            write_untrained(folder, *predict_floor(cell, Config().from_disk(folder / CONFIG)))
        elif cell["parts"]:
            # Names of cells begin with their dataset's, which may be two folders: products/ner.
            cells = folder.parents[len(Path(cell["cell"]).parts) - 1]
            write_untrained(folder, *mix(cell, Config().from_disk(folder / CONFIG), cells))
        else:
            run_cell(folder, cell, gpu_id, keep_model)


def is_finished(folder: Path, cell: Mapping[str, Any]) -> bool:
    """RETURNS (bool): Whether there are results, and probabilities, if others are waiting for them."""
    return (folder / RESULT).exists() and (not cell["mixed"] or (folder / PROBABILITIES).exists())


def run_cell(folder: Path, cell: Mapping[str, Any], gpu_id: int, keep_model: bool) -> None:
    """Train, evaluate, and write what came out: of each post the counts, by task ("entities", "relations" of
    given entities, "relations end to end"; with pictures that aren't the posts' own, that is said), and their
    scores.
    """
    training = folder / "training"
    shutil.rmtree(training, ignore_errors=True)
    training.mkdir()
    setup_gpu(gpu_id, silent=False)
    config = Config().from_disk(folder / CONFIG, interpolate=False)
    started = init_nlp(config, use_gpu=gpu_id)
    start = perf_counter()
    train(started, training, use_gpu=gpu_id, stdout=sys.stdout, stderr=sys.stderr)
    seconds = perf_counter() - start
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

    corpus = {"image_root": cell["image_root"], "limit": cell["limit"]}
    metrics: dict[str, Any] = {}
    for images in cell["shown"].split():
        with_these = partial(see, SHOWN[images])
        found = evaluate(nlp, cell["test"], images=images, see=with_these, seed=cell["seed"], **corpus)
        metrics = metrics or found
    if cell["mixed"]:
        paths = {"dev": config["paths"]["dev"], "test": cell["test"]}
        write_probabilities(folder / PROBABILITIES, nlp, paths, **corpus)
    options = config["training"]
    # Whoever stops by other means doesn't say how many epochs there were.
    epochs = options["max_epochs"] if not (options["patience"] or options["max_steps"]) else 0
    result = {
        "dev": {k: v for k, v in nlp.meta["performance"].items() if isinstance(v, float)},
        "test_posts": metrics["pictures"]["posts"],
        "test_pictures": metrics["pictures"]["shown"],
        "leaks": metrics.get("leaks", []),
        "device": f"cpu, {torch.get_num_threads()} threads",
        **count_parameters(nlp),
        "seconds_an_epoch": seconds / epochs if epochs > 0 else None,
        "posts_a_second": measure_speed(nlp, cell["test"], **corpus),
    }
    if gpu_id >= 0:
        result["device"] = torch.cuda.get_device_name(gpu_id)
    if keep_model:
        shutil.rmtree(folder / "model-best", ignore_errors=True)
        os.replace(training / "model-best", folder / "model-best")
    shutil.rmtree(training)
    write_result(folder, counts, result)


def write_untrained(folder: Path, examples: list[Example], more: Mapping[str, Any]) -> None:
    """Write the results of what was not trained: its predictions on test, for a task, which `more` says."""
    count = count_document_entities if more["task"] == "entities" else count_document_relations
    counts = {more["task"]: [count(example) for example in examples]}
    result = {"dev": {}, "leaks": [], "device": "cpu", "test_posts": len(examples), "test_pictures": 0}
    write_result(folder, counts, {**result, **more})


def write_result(folder: Path, counts: dict[str, list[DocumentCounts]], result: dict[str, Any]) -> None:
    """Write counts of posts, and with their scores what else is known."""
    result["tasks"] = {task: dict(zip("prf", get_prf(sum_counts(c)))) for task, c in counts.items()}
    result["packages"] = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    write_json(folder / COUNTS, counts)
    write_json(folder / RESULT, result)


def count_parameters(nlp: Language) -> dict[str, int]:
    """RETURNS (Dict[str, int]): "parameters" of all models of a pipeline, and how many of them are
    "trainable": all but those of a frozen picture encoder.
    """
    models = [pipe.model for _, pipe in nlp.pipeline if hasattr(pipe, "model")]
    layers = {id(node): node for model in models for node in model.walk()}.values()
    sizes = [layer.get_param(x).size for layer in layers for x in layer.param_names if layer.has_param(x)]
    modules = [getattr(shim, "_model", None) for layer in layers for shim in layer.shims]
    tensors = {id(p): p for module in modules if module is not None for p in module.parameters()}.values()
    total, trainable = (sum(p.numel() for p in tensors if p.requires_grad >= only) for only in (False, True))
    return {"parameters": sum(sizes) + total, "trainable": sum(sizes) + trainable}


def measure_speed(nlp: Language, path: str, **corpus: Any) -> float:
    """RETURNS (float): Test posts a second, of up to 500, in a second pass: what can be cached is cached."""
    examples, *_ = read_corpus(nlp, path, **{**corpus, "limit": min(corpus["limit"] or 500, 500)})
    start = perf_counter()
    predict_examples(nlp, examples)
    return len(examples) / (perf_counter() - start)


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
