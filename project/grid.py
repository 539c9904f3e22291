"""Train and test every cell of a table: rows (of ablation, beta-sweep, ...) x seeds x datasets.

What is finished is never run again: stop it, kill it, run the same command again, and it goes on. Results go
to one table, project/metrics/grids.jsonl and .csv, a line a row, seed and task, made anew from the finished
cells; 'spacy project run report' makes it readable.
"""

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from thinc.api import Config
from tqdm import tqdm
from wasabi import msg

from project import planning
from project.cell import CELL, CONFIG, RESULT, is_finished, replace, write_json
from project.config import dataset_paths, parse_overrides
from project.facts import get_dataset_version
from project.planning import Variant

GRID_FOLDER, PLANS = planning.TRAINING / "grids", "plans"
BETAS = (0.0, 0.01, 0.1, 0.5, 1.0, 1.5, 2.0)
"""The candidates of section V-C, which lists 0 twice."""
SERIES = ("both", "beta2", "beta1")
"""Of Fig. 4, by what is tuned: both to the same value, or one while the other is 1."""
NO_RR = {"kl_text": 0.0, "kl_image": 0.0}
NO_AR = {"alignment": 0.0}
ABLATION = [
    Variant("MMIB"),
    Variant("without L_rr", NO_RR),
    Variant("without L_ar", NO_AR),
    Variant("without both", {**NO_RR, **NO_AR}),
]


def make_beta_sweep() -> list[Variant]:
    """RETURNS (List[Variant]): The points of Fig. 4; those that two series share, once."""
    points: dict[tuple[float, float], list[str]] = {}
    for series in SERIES:
        for beta in BETAS:
            pair = (1.0 if series == "beta2" else beta, 1.0 if series == "beta1" else beta)
            points.setdefault(pair, []).append(series)
    return [
        Variant(f"beta1={b1:g} beta2={b2:g}", {"kl_text": b1, "kl_image": b2}, series=tuple(series))
        for (b1, b2), series in points.items()
    ]


LITE0 = {
    "@architectures": "spacy-mmib.TimmEncoder.v1",
    "name": "tf_efficientnet_lite0",
    "weights": "package",
}
RANDOM = {"@architectures": "spacy-mmib.TorchvisionEncoder.v1", "arch": "resnet18", "weights": None}
DEMO = {**RANDOM, "weights": str(planning.DATA / "demo" / "encoder.pth")}
ENCODERS: dict[str, tuple[dict[str, Any], bool, int | None, int | None]] = {
    "EfficientNet-Lite0, frozen": (LITE0, False, None, 112),
    "EfficientNet-Lite0, trained": (LITE0, True, 96, 64),
    "ResNet-18, random, frozen": (RANDOM, False, 96, 32),
    "ResNet-18, random, trained": (RANDOM, True, 96, 32),
    "ResNet-18 of the demo, frozen": (DEMO, False, 96, 32),
    "ResNet-18 of the demo, trained": (DEMO, True, 96, 32),
}
"""A network, whether it is trained, and the size in pixels of pictures and of parts that are encoded."""
PARTS: dict[str, dict[str, Any]] = {
    "whole": {"rows": "regions", "get_regions": {"@region_getters": "spacy-mmib.none.v1"}},
    "grid": {"rows": "grid", "grid_size": 2, "get_regions": None},
    "quarters": {"rows": "regions", "get_regions": {"@region_getters": "spacy-mmib.grid.v1", "k": 2}},
    "objects": {"rows": "regions", "get_regions": {"@region_getters": "spacy-mmib.given.v1"}},
}
"""The whole picture only; and 2 x 2 parts of its feature map; and its quarters, or objects, each encoded."""


def make_encoders() -> list[Variant]:
    """RETURNS (List[Variant]): Encoders with rows of the whole picture and of parts, without pictures, and
    with noise of the same norm.
    """
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": "${paths.features}"}
    variants = [Variant("no pictures", images="none")]
    for name, (network, trained, size, part_size) in ENCODERS.items():
        for part, settings in PARTS.items():
            encoder = {**network, **settings, "trainable": trained, "max_regions": None}
            encoder["image_size"] = size if part in ("whole", "grid") else part_size
            encoder["cache"] = cache if network["weights"] and not trained else None
            more = {"objects": part == "objects", "shown": ("own", "none")}
            variants.append(Variant(f"{name}, {part}", model={"img2vec": encoder}, **more))
            if name == "EfficientNet-Lite0, frozen":
                noise = {"@architectures": "spacy-mmib.NoiseEncoder.v1", "seed": 0, "img2vec": encoder}
                variants.append(Variant(f"noise, {part}", model={"img2vec": noise}, **more))
    return variants


TEXT = {"fusion": {"@architectures": "spacy-mmib.NoFusion.v1"}, "img2vec": None}
"""Blocks of a model that sees the text only."""
GRIDS: dict[str, list[Variant]] = {
    # Table V; the first row is what the others are compared with.
    "ablation": ABLATION,
    "beta-sweep": make_beta_sweep(),
    # What the core does where there is nothing to see: the text's part of L_rr is all that is left.
    "text": [*ABLATION[:2], Variant("no core", model=TEXT), Variant("spaCy's ner", spacy_ner=True)],
    # With KLs that are means over dimensions, beta = 0.1 is next to nothing: see regularizer_gradients.py.
    "noise": [*ABLATION, Variant("100 x L_rr", {"kl_text": 10.0, "kl_image": 10.0})],
    # Relations of given pairs.
    "pairs": [
        Variant("mmib_rel, pool", model={"entity_repr": "pool"}),
        Variant("mmib_rel, marker", model={"entity_repr": "marker"}),
        Variant("without the core, pool", model={**TEXT, "entity_repr": "pool"}),
        Variant("without the core, marker", model={**TEXT, "entity_repr": "marker"}),
        Variant("bag of words", floor="bag of words"),
        Variant("bag of words, words between head and tail apart", floor="bags of words"),
    ],
    # What the picture encoder contributes.
    "encoders": make_encoders(),
    # What photos contribute: see products.py.
    "products": [
        Variant("with pictures", shown=("own", "none", "shuffled")),
        Variant("trained without pictures", images="none"),
    ],
}
"""The rows of each grid."""

UNTOLD = ("test", "image_root", "component", "parts", "mixed")
"""What of a cell isn't in the table of results: where things are on this machine, and what it takes."""


class Cell(NamedTuple):
    """One training: its folder, its config, and what cell.json and the table say of it."""

    folder: Path
    config: Config
    about: dict[str, Any]


def main(
    grid: Annotated[str, typer.Argument(help=f"{', '.join(GRIDS)}")],
    datasets: Annotated[list[str], typer.Argument(help="Folders below --data")],
    data: Path = planning.DATA,
    output: Annotated[Path, typer.Option(help="For the cells")] = GRID_FOLDER,
    metrics: Annotated[Path, typer.Option(help="For the table")] = planning.METRICS,
    name: Annotated[str, typer.Option(help="Of the table in the report [the grid]")] = "",
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ...")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="This row of the grid only; may be repeated")] = None,
    config: planning.ConfigName = "",
    transformer: planning.Transformer = "",
    epochs: planning.Epochs = 0,
    batch_size: planning.BatchSize = 0,
    learn_rate: planning.LearnRate = 0.0,
    limit: Annotated[int, typer.Option(help="Posts of each split; 0 for all")] = 0,
    overrides: planning.Overrides = "",
    gpu_id: int = -1,
    jobs: Annotated[int, typer.Option(help="Trainings at a time")] = 1,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Don't delete trained models")] = False,
) -> None:
    """Run what isn't finished."""
    settings = parse_overrides(overrides)
    options = planning.Options(config, transformer, epochs, batch_size, learn_rate, limit, settings)
    cells: list[Cell] = []
    try:
        variants = choose_variants(grid, only or [])
        for dataset in datasets:
            corpus = planning.read_corpus(dataset, data / dataset, limit)
            rows = [variant for variant in variants if corpus.with_objects or not variant.objects]
            planned = list(plan_cells(corpus, rows, range(seeds), options, output))
            write_plan(output, name or grid, planned)
            if not corpus.pictures:
                msg.warn(f"{dataset} has no pictures: everything is trained and tested on text only.")
            cells += planned
    except (FileNotFoundError, ValueError) as err:
        msg.fail(str(err), exits=1)
    finish_cells(cells, output, metrics, gpu_id, jobs, keep_models=keep_models)


def choose_variants(grid: str, only: Sequence[str] = ()) -> list[Variant]:
    """RETURNS (List[Variant]): The rows of a grid, or those of them that were named.
    RAISES (ValueError): There is no such grid or row.
    """
    if grid not in GRIDS:
        raise ValueError(f"There is no grid {grid!r}; choose one of {', '.join(GRIDS)}.")
    known = {variant.name: variant for variant in GRIDS[grid]}
    if unknown := set(only) - set(known):
        raise ValueError(f"{grid} has no rows {sorted(unknown)}; there are {', '.join(map(repr, known))}")
    return [variant for name, variant in known.items() if not only or name in only]


def plan_cells(
    corpus: planning.Corpus, variants: list[Variant], seeds: range, options: planning.Options, output: Path
) -> Iterator[Cell]:
    """YIELDS (Cell): Each training of a dataset, row by row; of a row that mixes others, these come first.
    RAISES (ValueError): A row doesn't fit the config.
    """
    dataset = get_dataset_version(corpus.folder)
    name = Path(options.transformer)
    mixed = {part for variant in variants for part in variant.parts}
    planned: dict[tuple[str, int], str] = {}
    for variant in variants:
        for seed in seeds[:1] if variant.floor else seeds:
            config = planning.make_config(corpus, variant, seed, options)
            parts = [planned[part, seed] for part in variant.parts]
            untrained = " ".join([variant.floor, *parts])
            digest = planning.hash_config(config, dataset["digest"] + untrained)
            planned[variant.name, seed] = f"{corpus.name}/{digest}-{seed}"
            training = config["training"]
            rate = training["optimizer"]["learn_rate"]
            about = {
                "dataset": corpus.name,
                "variant": variant.name,
                "seed": seed,
                # Empty where the config's own value holds.
                "beta1": variant.settings.get("kl_text", ""),
                "beta2": variant.settings.get("kl_image", ""),
                "alignment_weight": variant.settings.get("alignment", ""),
                "images": variant.images,
                "shown": "none" if variant.images == "none" else " ".join(variant.shown),
                "regions": planning.describe_regions(config, corpus, str(dataset.get("regions") or "own")),
                "epochs": training["max_epochs"],
                "batch_size": training["batcher"].get("size"),
                "learn_rate": rate.get("initial_rate") if isinstance(rate, dict) else rate,
                "limit": options.limit,
                # A folder is on this machine only: its last two parts say enough.
                "transformer": "/".join(name.parts[-2:]) if name.is_dir() else options.transformer,
                "config": options.config or "the dataset's",
                "config_hash": digest,
                "dataset_version": dataset["version"],
                "dataset_digest": dataset["digest"],
                "train_posts": corpus.posts,
                "train_pictures": corpus.pictures,
                "series": " ".join(variant.series),
                "cell": planned[variant.name, seed],
                "test": str((corpus.folder / "test.spacy").resolve()),
                "image_root": dataset_paths(corpus.folder).get("paths.image_root"),
                "component": options.task,
                "floor": variant.floor,
                "parts": parts,
                "mixed": variant.name in mixed,
            }
            yield Cell(output / about["cell"], config, about)


def write_plan(output: Path, name: str, cells: list[Cell]) -> None:
    """Write down which cells the table of a grid and a dataset consists of."""
    path = output / PLANS / f"{name}_{cells[0].about['dataset'].replace('/', '_')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"grid": name, "cells": [cell.about for cell in cells]})


def finish_cells(
    cells: list[Cell], output: Path, metrics: Path, gpu_id: int, jobs: int, *, keep_models: bool
) -> None:
    """Run what isn't finished, and write the table. Raises `SystemExit` if a training fails."""
    # Each row gets its first seed before any gets a second: an unfinished table is a table. Of rows that are
    # the same training, the one whose probabilities are wanted.
    cells = sorted(cells, key=lambda cell: (cell.about["seed"], cell.about["mixed"]))
    cells = list({cell.folder: cell for cell in cells}.values())
    failed = run_cells(cells, output, metrics, gpu_id, jobs, keep_models)
    write_results(output, metrics)
    msg.good(f"Results of all grids: {metrics / 'grids.jsonl'}, {metrics / 'grids.csv'}")
    if failed:
        names = "\n".join(f"  {cell.folder / 'output.txt'}" for cell in failed)
        msg.fail(f"{len(failed)} trainings failed and will be tried again next time:\n{names}", exits=1)


def run_cells(
    cells: list[Cell], output: Path, metrics: Path, gpu_id: int, jobs: int, keep_models: bool
) -> list[Cell]:
    """Run the cells that have no result yet, and write the table after each."""
    todo = [cell for cell in cells if not is_finished(cell.folder, cell.about)]
    msg.info(f"{len(cells)} trainings, {len(cells) - len(todo)} of them finished before")
    more = ["--gpu-id", str(gpu_id), *(["--keep-model"] if keep_models else [])]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}

    def run_one(cell: Cell) -> str | None:
        """A process of its own shares no state with others and can't take them down."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        cell.config.to_disk(cell.folder / CONFIG, interpolate=False)
        write_json(cell.folder / CELL, cell.about)
        command = [sys.executable, "-m", "project.cell", str(cell.folder), *more]
        with (cell.folder / "output.txt").open("w", encoding="utf8") as file:
            file.write(f"{shlex.join(command)}\n")
            file.flush()
            subprocess.run(command, env={**os.environ, **threads}, stdout=file, stderr=file, check=False)
        path = cell.folder / RESULT
        if not path.exists():
            return None
        tasks = json.loads(path.read_text(encoding="utf8"))["tasks"]
        return ", ".join(f"{task} {100 * scores['f']:.2f}" for task, scores in tasks.items())

    failed = []
    bar = tqdm(total=len(cells), initial=len(cells) - len(todo), unit="training")
    with bar, ThreadPoolExecutor(jobs) as pool:
        # What mixes others waits for them.
        for ready in [c for c in todo if not c.about["parts"]], [c for c in todo if c.about["parts"]]:
            for cell, scores in zip(ready, pool.map(run_one, ready)):
                a = cell.about
                bar.write(f"{a['dataset']}, {a['variant']}, seed {a['seed']}: {scores or 'FAILED'}")
                bar.update()
                if scores is None:
                    failed.append(cell)
                else:
                    write_results(output, metrics)
    return failed


def read_plans(output: Path) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): Which cells the table of each grid and dataset consists of, by name."""
    paths = sorted((output / PLANS).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf8")) for path in paths]


def write_results(output: Path, metrics: Path) -> list[dict[str, Any]]:
    """Write grids.jsonl and grids.csv: the rows of each plan in order, each with its seeds."""
    rows = []
    for plan in read_plans(output):
        for cell in plan["cells"]:
            path = output / cell["cell"] / RESULT
            if path.exists():
                result = json.loads(path.read_text(encoding="utf8"))
                keys = ("test_posts", "test_pictures", "device", "parameters", "trainable")
                more = {key: result.get(key, "") for key in keys}
                more |= {f"version_{name}": number for name, number in sorted(result["packages"].items())}
                more["leaks"] = " | ".join(result["leaks"])
                about = {key: value for key, value in cell.items() if key not in UNTOLD}
                for task, scores in result["tasks"].items():
                    scores = {key: round(score, 6) for key, score in scores.items()}
                    rows.append({"grid": plan["grid"], "task": task, **scores, **about, **more})
    metrics.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace(metrics / "grids.jsonl", lines)
    table = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace(metrics / "grids.csv", table.getvalue())
    return rows


if __name__ == "__main__":
    typer.run(main)
