"""One training of a grid, in a process of its own: train, choose on dev, evaluate on test once.

A cell is a folder. Its result.json appears in one piece when everything is done, and is never made twice;
whatever an interrupted run left there is thrown away first.
"""

import argparse
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import spacy
import torch
from filelock import FileLock
from grid_results import replace
from spacy.cli._util import setup_gpu
from spacy.cli.train import train
from spacy.training import Example

from spacy_mmib.cli.evaluate import evaluate
from spacy_mmib.evaluation.document_counts import (
    DocumentCounts,
    count_document_entities,
    count_document_relations,
    get_prf,
    sum_counts,
)

PACKAGES = ("spacy-mmib", "spacy", "thinc", "torch", "torchvision", "transformers")
RESULT, COUNTS, CONFIG, CELL, LOCK = (
    "result.json",
    "counts.json",
    "config.cfg",
    "cell.json",
    "lock",
)


def main() -> None:
    """Read the command line and finish the cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with config.cfg and cell.json")
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--keep-model", action="store_true", help="don't delete the trained model")
    args = parser.parse_args()
    # A killed grid leaves the process of its cell behind, which goes on: a second one waits for it.
    with FileLock(args.folder / LOCK):
        if not (args.folder / RESULT).exists():
            run_cell(args.folder, args.gpu_id, args.keep_model)


def run_cell(folder: Path, gpu_id: int, keep_model: bool) -> None:
    """Train, evaluate, and write what came out.

    folder (Path): Of the cell.
    gpu_id (int): GPU, or -1 for CPU.
    keep_model (bool): Keep the best model, beside the result.
    """
    cell = json.loads((folder / CELL).read_text(encoding="utf8"))
    training = folder / "training"
    shutil.rmtree(training, ignore_errors=True)
    train(folder / CONFIG, training, use_gpu=gpu_id)
    setup_gpu(gpu_id, silent=True)
    nlp = spacy.load(training / "model-best")
    counts: dict[str, list[DocumentCounts]] = {}

    def see(stage: str, examples: list[Example]) -> None:
        counts.update(count_stage(nlp, stage, examples))

    metrics = evaluate(nlp, cell["test"], image_root=cell["image_root"], limit=cell["limit"], see=see)
    result = {
        "tasks": {task: dict(zip("prf", get_prf(sum_counts(c)))) for task, c in counts.items()},
        "dev": {k: v for k, v in nlp.meta["performance"].items() if isinstance(v, float)},
        "test_posts": metrics["pictures"]["posts"],
        "test_pictures": metrics["pictures"]["shown"],
        "leaks": metrics.get("leaks", []),
        "packages": get_packages(),
        "device": describe_device(gpu_id),
    }
    write_json(folder / COUNTS, counts)
    if keep_model:
        shutil.rmtree(folder / "model-best", ignore_errors=True)
        os.replace(training / "model-best", folder / "model-best")
    shutil.rmtree(training)
    write_json(folder / RESULT, result)


def count_stage(nlp: spacy.Language, stage: str, examples: list[Example]) -> dict[str, list[DocumentCounts]]:
    """RETURNS (Dict[str, List[DocumentCounts]]): Counts of each post, by task: "entities", "relations" of
    given entities, "relations end to end".
    """
    scores = {key for name in nlp.pipe_names for key in nlp.get_pipe_meta(name).scores}
    counts = {}
    if stage == "end_to_end":
        if "ents_f" in scores:
            counts["entities"] = [count_document_entities(example) for example in examples]
        # Where nothing finds entities, relations end to end would be relations of nothing.
        if "rel_micro_f" in scores and "ents_f" in scores:
            counts["relations end to end"] = [count_document_relations(e) for e in examples]
    else:
        counts["relations"] = [count_document_relations(example) for example in examples]
    return counts


def get_packages() -> dict[str, str]:
    """RETURNS (Dict[str, str]): Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_device(gpu_id: int) -> str:
    """RETURNS (str): The GPU's name, or how many threads the CPU was used with."""
    if gpu_id >= 0:
        return torch.cuda.get_device_name(gpu_id)
    return f"cpu, {torch.get_num_threads()} threads"


def write_json(path: Path, data: Any) -> None:
    """Write a file that is there in full or not at all."""
    replace(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
