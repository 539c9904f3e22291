"""The field in one harness: every system of the paper's Tables III and IV that can be built, and controls,
with the same reader, encoders, batches, seeds and scorer, chosen on dev and tested once: `spacy project run
compare . --vars.dataset twitter17`. The rows are in systems.yml.

Trainings are cells of a grid: what is finished is never run again. A table a task as Markdown, CSV and LaTeX
(with booktabs), project/metrics/compare_<dataset>_<task>.*, is made of what is finished.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import srsly
import typer
from wasabi import msg

from project import compare_tables, grid, planning
from project.config import parse_overrides
from project.facts import PUBLISHED, find_dataset
from project.train import check_transformer

LEAKING = "mnre-leaking"
"""MNRE with the published crops, a second block of MNRE's table."""
PRETRAINED = 0.0001
"""The learning rate of transformers in the table of a config without one."""


@dataclass(frozen=True)
class Row:
    """A row of the table; systems.yml says what its settings mean.

    variant (Optional[planning.Variant]): What is trained; `None` for what is quoted only.
    published (Optional[float]): F1, in percent.
    """

    name: str
    group: str
    task: Literal["", "ner", "rel"] = ""
    sees: bool = True
    needs: Literal["", "transformer", "objects", "crops"] = ""
    variant: planning.Variant | None = None
    published: float | None = None
    setting: str = ""
    why: str = ""


@dataclass(frozen=True)
class Block:
    """The rows of a task on a dataset, the cells of those that are trained, and why others are left out."""

    corpus: planning.Corpus
    task: Literal["ner", "rel"]
    rows: list[Row]
    cells: list[grid.Cell]
    notes: list[str]


def read_rows(dataset: str = "") -> list[Row]:
    """RETURNS (List[Row]): All rows, with the figures that are published for a dataset."""
    known = find_dataset(dataset) or ""
    figures = {name: prf[2] for name, prf in PUBLISHED[known]["systems"].items()} if known else {}
    rows = []
    for entry in srsly.read_yaml(Path(__file__).with_name("systems.yml")):
        name, model, sees = entry["name"], entry.get("model"), entry.get("sees", True)
        parts = tuple(entry.get("parts", ()))
        settings: dict[str, Any] = {"parts": parts, "shown": ("own", "none", "shuffled")}
        settings |= {
            key: entry[key] for key in ("learn_rate", "floor", "spacy_ner", "images") if key in entry
        }
        if "images" in entry or parts or not sees:
            settings["shown"] = (entry.get("images", "own"),)
        if model is not None:
            # Text encoders that look at pictures themselves have no fusion either.
            settings["model"] = {**(grid.TEXT if "tok2vec" in model or not sees else {}), **model}
        published = entry.get("f1", {}).get(known, figures.get(entry.get("published", name)))
        row = {key: entry[key] for key in ("group", "task", "needs", "why", "setting") if key in entry}
        variant = None if "why" in entry else planning.Variant(name, **settings)
        rows.append(Row(name, sees=sees, variant=variant, published=published, **row))
    return rows


def choose_rows(corpus: planning.Corpus, task: str, options: planning.Options) -> tuple[list[Row], list[str]]:
    """RETURNS (Tuple[List[Row], List[str]]): The rows that make sense on a dataset, and why others don't."""
    rows = [row for row in read_rows(corpus.name) if row.task in ("", task)]
    if corpus.name == LEAKING:
        # What sees no crops is the same as without them.
        parts = {part for row in rows if row.variant for part in row.variant.parts}
        rows = [row for row in rows if row.sees or row.group == "floors" or row.name in parts]
    hidden = [row for row in rows if row.needs == "crops" and corpus.name != LEAKING]
    hidden += [row for row in rows if row.why and row.published is None]
    rows = [row for row in rows if row not in hidden]
    own = planning.find_transformer(corpus, replace(options, transformer=""))
    transformer, notes = options.transformer or own, []
    without: dict[str, Callable[[Row], bool]] = {
        "there is no transformer (name one with --vars.transformer)": (
            lambda row: row.needs == "transformer" and not transformer
        ),
        "there are no pictures": lambda row: (
            not corpus.pictures and row.sees and row.variant is not None and row.name != "MMIB"
        ),
        "no objects have labels": lambda row: row.needs == "objects" and not corpus.with_labels,
    }
    for reason, applies in without.items():
        if names := [row.name for row in rows if applies(row)]:
            notes.append(f"Not in the table of {corpus.name}, as {reason}: {'; '.join(names)}.")
            rows = [row for row in rows if row.name not in names]
    if transformer and not own:
        rate = options.learn_rate or PRETRAINED
        for i, row in enumerate(rows):
            if row.needs == "transformer" and row.variant:
                rows[i] = replace(row, variant=replace(row.variant, learn_rate=rate))
        notes.append(
            "The rows that are made of a transformer have another text encoder than the others, "
            f"{transformer}, and a learning rate of {rate}."
        )
    return rows, notes


def choose_names(rows: Sequence[Row], only: Sequence[str]) -> set[str]:
    """RETURNS (Set[str]): The names of the rows to run: all, or some and those of some groups, and those
    that they are mixed of.
    RAISES (ValueError): There is no such row or group.
    """
    only = [name for name in only if name]  # an unset variable of a project is an empty string
    known = [name for row in rows if row.variant for name in (row.group, row.name)]
    if unknown := set(only) - set(known):
        raise ValueError(
            f"There is no row or group {sorted(unknown)}; there are {list(dict.fromkeys(known))}."
        )
    chosen = [row for row in rows if not only or row.group in only or row.name in only]
    return {name for row in chosen if row.variant for name in (row.name, *row.variant.parts)}


def plan_block(
    corpus: planning.Corpus, task: Any, options: planning.Options, seeds: int, output: Path
) -> Block:
    """Plan all rows of a task on a dataset, and write down which cells they are.

    RAISES (ValueError): The config has no component for the task, or no settings that are overridden.
    """
    options = replace(options, task=task)
    rows, notes = choose_rows(corpus, task, options)
    # What mixes others comes after them.
    variants = sorted((row.variant for row in rows if row.variant), key=lambda variant: bool(variant.parts))
    cells = list(grid.plan_cells(corpus, variants, range(seeds), options, output))
    grid.write_plan(output, f"compare-{task}", cells)
    return Block(corpus, task, rows, cells, notes)


def main(
    dataset: Annotated[str, typer.Argument(help="A folder below --data with a converted corpus")],
    data: Path = planning.DATA,
    output: Annotated[Path, typer.Option(help="For the cells")] = grid.GRID_FOLDER,
    metrics: Annotated[Path, typer.Option(help="For the tables")] = planning.METRICS,
    task: Annotated[str, typer.Option(help="ner or rel [what the posts are annotated for]")] = "",
    seeds: Annotated[int, typer.Option(help="How many: 0, 1, ...")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this row, or group of rows; may be repeated")
    ] = None,
    config: planning.ConfigName = "",
    transformer: planning.Transformer = "",
    epochs: planning.Epochs = 0,
    batch_size: planning.BatchSize = 0,
    learn_rate: planning.LearnRate = 0.0,
    limit: Annotated[int, typer.Option(help="Posts of each split; 0 for all")] = 0,
    overrides: planning.Overrides = "",
    gpu_id: int = -1,
    jobs: Annotated[int, typer.Option(help="Trainings at a time")] = 1,
) -> None:
    """Run what isn't finished, and write the tables of what is."""
    check_transformer(transformer)
    given = parse_overrides(overrides)
    options = planning.Options(config, transformer, epochs, batch_size, learn_rate, limit, given)
    datasets = [dataset]
    if dataset == "mnre" and (data / LEAKING / "train.spacy").exists():
        datasets.append(LEAKING)
    elif dataset == "mnre":
        msg.warn(f"There is no {data / LEAKING} (convert-mnre-leaking makes it): label-free rows only.")
    blocks: list[Block] = []
    try:
        for corpus in [planning.read_corpus(name, data / name, limit) for name in datasets]:
            for one in [task] if task else corpus.tasks:
                blocks.append(plan_block(corpus, one, options, seeds, output))
        if not blocks:
            raise ValueError(f"The posts of {dataset} have neither entities with types nor relations.")
        names = choose_names([row for block in blocks for row in block.rows], only or [])
    except (FileNotFoundError, ValueError) as err:
        msg.fail(str(err), exits=1)
    for note in (note for block in blocks for note in block.notes):
        msg.warn(note)
    cells = [cell for block in blocks for cell in block.cells if cell.about["variant"] in names]
    try:
        grid.finish_cells(cells, output, metrics, gpu_id, jobs, keep_models=False)
    finally:
        for one in dict.fromkeys(block.task for block in blocks):
            path = compare_tables.write([block for block in blocks if block.task == one], output, metrics)
            msg.good(f"{path}, and the same as .csv and .tex")


if __name__ == "__main__":
    typer.run(main)
