"""Train and test every cell of a table: rows (ablation, beta-sweep, text) x seeds x datasets.

What is finished is never run again: stop it, kill it, run the same command again, and it goes on. Results go
to one table, project/metrics/grids.jsonl and .csv; 'spacy project run report' makes it readable.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_facts import get_dataset_version
from grid_cell import CELL, CONFIG, RESULT, write_json
from grid_config import (
    Corpus,
    Options,
    describe_regions,
    hash_config,
    make_config,
    read_corpus,
)
from grid_plan import GRIDS, Variant, describe, read_grid
from grid_results import plan_path, write_results
from thinc.api import Config
from tqdm import tqdm
from train import dataset_paths, parse
from wasabi import msg

GRID_FOLDER = Path("project/training/grids")
METRICS = Path("project/metrics")


@dataclass(frozen=True)
class Cell:
    """One training.

    folder (Path): Of the cell.
    config (Config): What is trained.
    about (Dict[str, Any]): What cell.json and the table say of it.
    """

    folder: Path
    config: Config
    about: dict[str, Any]


def main() -> None:
    """Read the command line and run what isn't finished."""
    args = read_arguments()
    options = Options(
        config=args.config,
        transformer=args.transformer,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learn_rate=args.learn_rate,
        limit=args.limit,
        overrides=parse(args.overrides),
    )
    variants = choose_variants(args.grid, args.only)
    cells = []
    for name in args.datasets:
        try:
            corpus = read_corpus(name, args.data / name, args.limit)
            planned = list(plan_cells(corpus, variants, range(args.seeds), options, args.output))
        except (FileNotFoundError, ValueError) as err:
            msg.fail(str(err), exits=1)
        write_plan(args.output, args.name or args.grid, corpus, planned)
        if not corpus.pictures:
            msg.warn(f"{name} has no pictures: everything is trained and tested on text only.")
        cells += planned
    # Each row gets its first seed before any gets a second: an unfinished table is a table.
    cells.sort(key=lambda cell: cell.about["seed"])
    unique = {cell.folder: cell for cell in cells}
    failed = run_cells(list(unique.values()), args)
    write_results(args.output, args.metrics)
    msg.good(f"Results of all grids: {args.metrics / 'grids.jsonl'}, {args.metrics / 'grids.csv'}")
    if failed:
        names = "\n".join(f"  {cell.folder / 'output.txt'}" for cell in failed)
        msg.fail(f"{len(failed)} trainings failed and will be tried again next time:\n{names}")
        sys.exit(1)


def read_arguments() -> argparse.Namespace:
    """RETURNS (argparse.Namespace): The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", choices=list(GRIDS))
    parser.add_argument("datasets", nargs="+", help="folders below --data")
    parser.add_argument("--data", type=Path, default=Path("project/data"))
    parser.add_argument("--output", type=Path, default=GRID_FOLDER, help="for the cells")
    parser.add_argument("--metrics", type=Path, default=METRICS, help="for the table")
    parser.add_argument("--name", default="", help="of the table in the report [default: the grid]")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--only", nargs="*", default=[], help="these rows of the grid only")
    parser.add_argument("--config", default="", help="instead of the dataset's own")
    parser.add_argument("--transformer", default="", help="instead of the config's")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the config's")
    parser.add_argument("--batch-size", type=int, default=0, help="instead of the config's")
    parser.add_argument("--learn-rate", type=float, default=0.0, help="instead of the config's")
    parser.add_argument("--limit", type=int, default=0, help="posts of each split; 0 for all")
    parser.add_argument("--overrides", default="", help="settings: 'training.dropout 0.2 ...'")
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--keep-models", action="store_true", help="don't delete trained models")
    return parser.parse_args()


def choose_variants(grid: str, only: list[str]) -> list[Variant]:
    """RETURNS (List[Variant]): The rows of a grid, or those of them that were named.
    RAISES (SystemExit): It has no such row.
    """
    variants = read_grid(grid)
    unknown = set(only) - {variant.name for variant in variants}
    if unknown:
        names = ", ".join(repr(variant.name) for variant in variants)
        msg.fail(f"{grid} has no rows {sorted(unknown)}; there are {names}", exits=1)
    return [v for v in variants if not only or v.name in only]


def plan_cells(
    corpus: Corpus,
    variants: list[Variant],
    seeds: range,
    options: Options,
    output: Path,
) -> Iterator[Cell]:
    """YIELDS (Cell): Each training of a dataset, row by row.
    RAISES (ValueError): A row doesn't fit the config.
    """
    dataset = get_dataset_version(corpus.folder)
    image_root = dataset_paths(corpus.folder).get("paths.image_root")
    for variant in variants:
        for seed in seeds:
            config = make_config(corpus, variant, seed, options)
            digest = hash_config(config, dataset["digest"])
            about = {
                **describe(variant),
                "seed": seed,
                "cell": f"{corpus.name}/{digest}-{seed}",
                "config": options.config or "the dataset's",
                "config_hash": digest,
                "transformer": name_transformer(options.transformer),
                "dataset": corpus.name,
                "dataset_version": dataset["version"],
                "dataset_digest": dataset["digest"],
                "regions": describe_regions(config, corpus, str(dataset.get("regions") or "own")),
                "epochs": config["training"]["max_epochs"],
                "batch_size": config["training"]["batcher"].get("size"),
                "learn_rate": get_learn_rate(config),
                "train_posts": corpus.posts,
                "train_pictures": corpus.pictures,
                "limit": options.limit,
                "test": str((corpus.folder / "test.spacy").resolve()),
                "image_root": image_root,
            }
            yield Cell(output / about["cell"], config, about)


def get_learn_rate(config: Config) -> float | None:
    """RETURNS (Optional[float]): The peak of the learning rate, as far as a config says it in one number."""
    rate = config["training"]["optimizer"]["learn_rate"]
    found: float | None = rate.get("initial_rate") if isinstance(rate, dict) else rate
    return found


def name_transformer(name: str) -> str:
    """RETURNS (str): A model's name; of a folder, which is on this machine only, its last two parts."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.is_dir() else name


def write_plan(output: Path, name: str, corpus: Corpus, cells: list[Cell]) -> None:
    """Write which cells a table consists of."""
    path = plan_path(output, name, corpus.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"grid": name, "cells": [cell.about for cell in cells]})


def run_cells(cells: list[Cell], args: argparse.Namespace) -> list[Cell]:
    """Run the cells that have no result yet, and write the table after each.

    cells (List[Cell]): All of them.
    args (argparse.Namespace): The command line.
    RETURNS (List[Cell]): Those that failed.
    """
    todo = [cell for cell in cells if not (cell.folder / RESULT).exists()]
    msg.info(f"{len(cells)} trainings, {len(cells) - len(todo)} of them finished before")
    failed = []
    bar = tqdm(total=len(cells), initial=len(cells) - len(todo), unit="training")
    with bar, ThreadPoolExecutor(args.jobs) as pool:
        for cell, is_done in zip(todo, pool.map(lambda cell: run_one(cell, args), todo)):
            about = cell.about
            name = f"{about['dataset']}, {about['variant']}, seed {about['seed']}"
            bar.write(f"{name}: {describe_result(cell) if is_done else 'FAILED'}")
            bar.update()
            if is_done:
                write_results(args.output, args.metrics)
            else:
                failed.append(cell)
    return failed


def run_one(cell: Cell, args: argparse.Namespace) -> bool:
    """Run a cell in a process of its own, so that it shares no state with others and can't take them down.

    cell (Cell): The cell.
    args (argparse.Namespace): The command line.
    RETURNS (bool): Whether it has a result.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    cell.config.to_disk(cell.folder / CONFIG, interpolate=False)
    write_json(cell.folder / CELL, cell.about)
    script = Path(__file__).with_name("grid_cell.py")
    command = [sys.executable, str(script), str(cell.folder), "--gpu-id", str(args.gpu_id)]
    command += ["--keep-model"] if args.keep_models else []
    env = dict(os.environ)
    if args.jobs > 1:
        env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
    with (cell.folder / "output.txt").open("w", encoding="utf8") as file:
        file.write(f"{shlex.join(command)}\n")
        file.flush()
        subprocess.run(command, env=env, stdout=file, stderr=subprocess.STDOUT, check=False)
    return (cell.folder / RESULT).exists()


def describe_result(cell: Cell) -> str:
    """RETURNS (str): Test F1 by task."""
    tasks = json.loads((cell.folder / RESULT).read_text(encoding="utf8"))["tasks"]
    return ", ".join(f"{task} {100 * scores['f']:.2f}" for task, scores in tasks.items())


if __name__ == "__main__":
    main()
