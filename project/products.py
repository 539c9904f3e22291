"""One's own posts with photos, from the text files to tables of what the photos contribute: check, convert,
features, train, evaluate, report. `spacy project run products . --vars.data FOLDER`.

The folder has train.txt, valid.txt and test.txt in the format of Twitter-2017 (entities), or mnre_train.txt,
mnre_val.txt and mnre_test.txt in MNRE's (relations), or both, and the photos in images/. It is only read.
"""

import json
import os
import shlex
from pathlib import Path
from typing import Annotated, NamedTuple

import spacy
import typer
from wasabi import msg

from project import convert, features, grid, pictures, planning
from project.cell import RESULT, SHOWN
from project.check import check_data, print_pictures
from project.config import dataset_paths, find_config, parse_overrides, read_config
from project.report import print_table, save_scores
from project.train import check_transformer
from spacy_mmib.visual.report import make_report

NAME = "products"
ROWS = {
    "images": "with pictures",
    "no_images": "pictures removed",
    "shuffled": "pictures shuffled",
    "text_only": "trained without pictures",
}
KEYS = {"own": "images", "none": "no_images", "shuffled": "shuffled"}


class Task(NamedTuple):
    """What is trained, the format of its texts, and their files."""

    name: str
    data_format: str
    files: str


TASKS = {
    "ner": Task("entities", "twitter", "train.txt, valid.txt and test.txt"),
    "rel": Task("relations", "mnre", "mnre_train.txt, mnre_val.txt and mnre_test.txt"),
}


def main(
    data: pictures.Data = "",
    images: pictures.Images = "",
    output: Annotated[Path, typer.Option(help="For the converted posts")] = planning.DATA / NAME,
    models: Annotated[Path, typer.Option(help="For the trained pipelines")] = planning.TRAINING,
    metrics: Path = planning.METRICS,
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ...")] = 3,
    transformer: planning.Transformer = "",
    epochs: planning.Epochs = 0,
    batch_size: planning.BatchSize = 0,
    learn_rate: planning.LearnRate = 0.0,
    overrides: planning.Overrides = "",
    gpu_id: int = -1,
    jobs: Annotated[int, typer.Option(help="Trainings at a time; 0: 2, on a GPU 1")] = 0,
    force: Annotated[int, typer.Option(help="1: train what has been trained before")] = 0,
) -> None:
    """Do what hasn't been done."""
    check_transformer(transformer)
    folders = pictures.find_folders(NAME, data, images)
    cache = str(output / "features.sqlite")  # of the photos of both tasks, which are the same ones
    cells: dict[str, list[grid.Cell]] = {}
    for key in check(folders):
        task, folder = TASKS[key], output / key
        msg.divider(f"Convert: {task.name}")
        convert.main(
            NAME, str(folders.data), str(folder), data_format=task.data_format, images=str(folders.images)
        )
        name = f"{NAME}/{key}"
        config = find_config(name)
        settings = choose_settings(f"paths.features={shlex.quote(cache)} {overrides}", config)
        msg.divider(f"Features: {task.name}")
        try:
            features.main(key, output, config, settings, gpu_id)
        except SystemExit as stop:
            if stop.code:
                raise
        config += "_transformer" if transformer else ""
        # Said, so that the schedule fits the number of posts.
        n_epochs = epochs or read_config(config)["training"]["max_epochs"]
        given = parse_overrides(settings)
        options = planning.Options(config, transformer, n_epochs, batch_size, learn_rate, 0, given)
        corpus = planning.read_corpus(name, folder)
        cells[key] = list(grid.plan_cells(corpus, grid.GRIDS[NAME], range(seeds), options, models))
        grid.write_plan(models, NAME, cells[key])
    msg.divider("Train")
    every = [cell for planned in cells.values() for cell in planned]
    for cell in every if force else ():
        (cell.folder / RESULT).unlink(missing_ok=True)
    jobs = jobs or (1 if gpu_id >= 0 else min(2, os.cpu_count() or 1))
    grid.finish_cells(every, models, metrics / NAME, gpu_id, jobs, keep_models=True)
    results = {key: collect(TASKS[key], planned) for key, planned in cells.items()}
    save_scores(metrics / f"{NAME}.json", results, transformer=transformer or None)
    for key, planned in cells.items():
        print_table(f"{TASKS[key].name}, F1 on the test posts", results[key], ROWS)
        report(planned[0].folder / "model-best", output / key, metrics / NAME / f"{key}.html")
    msg.good(f"Saved the tables to {metrics / NAME}.json")


def check(folders: pictures.Folders) -> list[str]:
    """Look at what is there, and say what is missing.

    RETURNS (List[str]): The tasks that can be trained.
    RAISES (SystemExit): There is none, or something is wrong with its posts.
    """
    for folder, variable in ((folders.data, "data"), (folders.images or folders.data / "images", "images")):
        if not folder.is_dir():
            msg.fail(f"There is no folder {folder}: name yours with --vars.{variable}", exits=1)
    reports = {k: check_data(NAME, folders, "none", data_format=t.data_format) for k, t in TASKS.items()}
    missing = [f"{task.files} ({task.name})" for key, task in TASKS.items() if not reports[key].texts]
    if len(missing) == len(TASKS):
        msg.fail(f"{folders.data} has neither {' nor '.join(missing)}.", exits=1)
    for what in missing:
        msg.warn(f"There are no {what}")
    found = [key for key in TASKS if reports[key].texts]
    for key in found:
        msg.divider(f"Check: {TASKS[key].name}")
        print_pictures(reports[key])
        for problem in reports[key].problems:
            msg.fail(problem)
        if "pictures" not in reports[key].runs:
            msg.fail("It takes texts of all three splits, and photos of training and of test posts.", exits=1)
    return found


def choose_settings(overrides: str, config: str) -> str:
    """RETURNS (str): The overrides that aren't about a component of the other task."""
    known = read_config(config)["components"]
    settings = parse_overrides(overrides).items()
    mine = ((k, v) for k, v in settings if not k.startswith("components.") or k.split(".")[1] in known)
    return " ".join(shlex.quote(f"{key}={v if isinstance(v, str) else json.dumps(v)}") for key, v in mine)


def collect(task: Task, cells: list[grid.Cell]) -> dict[str, list[float]]:
    """RETURNS (Dict[str, List[float]]): F1, 0-1, by row and seed."""
    results: dict[str, list[float]] = {}
    for cell in cells:
        scores = json.loads((cell.folder / RESULT).read_text(encoding="utf8"))["tasks"]
        for shown in cell.about["shown"].split():
            key = "text_only" if cell.about["images"] == "none" else KEYS[shown]
            results.setdefault(key, []).append(scores[f"{task.name}{SHOWN[shown]}"]["f"])
    return results


def report(model: Path, corpus: Path, path: Path) -> None:
    """Write the page about a pipeline, unless that has been done since it was trained."""
    if not path.exists() or path.stat().st_mtime < (model / "meta.json").stat().st_mtime:
        root = dataset_paths(corpus)["paths.image_root"]
        html = make_report(spacy.load(model), corpus / "test.spacy", image_root=root)
        path.write_text(html, encoding="utf8")
    msg.good(f"The pipeline of the first seed: {model}; a page about it: {path}")


if __name__ == "__main__":
    typer.run(main)
