"""The tables of `compare`, as Markdown, CSV and LaTeX."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from project.cell import COUNTS, RESULT, SHOWN, replace
from project.facts import PUBLISHED, find_dataset
from project.report import Row as Runs
from project.report import Table, describe_setting, make_markdown, read_tables, spread
from spacy_mmib.evaluation.significance import compare_f1

if TYPE_CHECKING:
    from project.compare import Block, Row

TASKS = {"ner": "entities", "rel": "relations"}
SCORES = {"ner": "ents_f", "rel": "rel_micro_f"}
"""What the epoch is chosen by."""
FLOORS = {"ner": "dictionary of training entities", "rel": "most frequent relation"}
"""A run with a lower F1 than this row's has learned nothing."""
NOTHING = "nothing learned"
"""Stands where a p would."""
TITLES = {
    "mnre": "label-free",
    "mnre-leaking": "with the published crops, whose number tells whether a pair is related (they leak)",
}
INTRODUCTION = """\
P, R and F1 on test in percent, mean ± standard deviation over seeds; the model of each run was chosen on dev
and tested once. All rows have the same reader, picture encoder, text encoder (unless they are one), batches
and learning rate (but for text encoders without pretrained weights). *p*: approximate randomization over
posts (9,999 resamples, two-sided, all seeds together, not corrected for the number of comparisons): whether a
difference would hold on other posts, for these runs. The best control is the one with the highest F1 on dev.
"nothing learned" in the place of a *p*: a run of either row is below the floor ({floor}).

Parameters are in millions, with those of a frozen picture encoder. Seconds an epoch include choosing on dev;
posts a second are of a second pass over up to 500 test posts, where pictures may come from a cache. Both are
noisy, and comparable only within a run on one machine. Published figures have encoders and settings of their
own, which are named.
"""


def describe_p(p: float | str) -> str:
    """RETURNS (str): A p, or what stands in its place."""
    return p if isinstance(p, str) else "< 0.001" if p < 0.001 else f"{p:.3f}"


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "p": ("P", spread),
    "r": ("R", spread),
    "f": ("F1", spread),
    "none": ("F1 without pictures", spread),
    "shuffled": ("F1 with others' pictures", spread),
    "seeds": ("seeds", str),
    "difference": ("to MMIB", "{:+.2f}".format),
    "p_mmib": ("p, MMIB", describe_p),
    "p_control": ("p, best control", describe_p),
    "parameters": ("parameters", lambda n: f"{n / 1e6:.2f}"),
    "trainable": ("trained", lambda n: f"{n / 1e6:.2f}"),
    "seconds_an_epoch": ("s an epoch", lambda found: f"{mean(found):.1f}"),
    "posts_a_second": ("posts/s", lambda found: f"{mean(found):.0f}"),
    "published": ("published F1", "{:.2f}".format),
    "setting": ("published with", str),
}
"""By their names in CSV: their titles, and how a value is written. A list has a number a seed."""


@dataclass
class Line:
    """A row with what is known of it: by column, scores and differences in percent; and F1 on dev."""

    row: "Row"
    values: dict[str, Any] = field(default_factory=dict)
    runs: Runs | None = None
    dev: float = -1.0

    def describe(self) -> list[str]:
        """RETURNS (List[str]): Its cells, the name first."""
        cells = [write(self.values[key]) if key in self.values else "" for key, (_, write) in COLUMNS.items()]
        return [self.row.name, *cells]


def write(blocks: "Sequence[Block]", output: Path, metrics: Path) -> Path:
    """Write the table of a task on a dataset.

    blocks (Sequence[Block]): Of the dataset, and of versions of it.
    output (Path): The folder of the cells.
    RETURNS (Path): Of the table as Markdown.
    """
    task, dataset = blocks[0].task, blocks[0].corpus.name
    tables = [table for table in read_tables(output, metrics) if table.grid == f"compare-{task}"]
    parts = [f"# {dataset}: {TASKS[task]}\n", INTRODUCTION.format(floor=FLOORS[task])]
    groups: list[tuple[str, list[Line]]] = []
    for block in blocks:
        of_block = {table.task: table for table in tables if table.dataset == block.corpus.name}
        lines = make_lines(block, of_block, output)
        title = TITLES.get(block.corpus.name, "")
        parts += [f"## {block.corpus.name}, {title}\n"] if title else []
        shown = [key for key in COLUMNS if any(key in line.values for line in lines)]
        header = ["", *(COLUMNS[key][0] for key in shown)]
        rows = []
        for group, found in group_lines(lines):
            groups.append((f"{title}: {group}" if title else group, found))
            rows.append([f"**{group}**", *("" for _ in shown)])
            keep = [0, *(1 + list(COLUMNS).index(key) for key in shown)]
            rows += [[line.describe()[i] for i in keep] for line in found]
        parts += [make_markdown(header, rows), *describe_block(block, of_block)]
    stem = f"compare_{dataset.replace('/', '_')}_{task}"
    path = metrics / f"{stem}.md"
    replace(path, "\n".join(parts))
    replace(metrics / f"{stem}.csv", make_csv(groups))
    replace(metrics / f"{stem}.tex", make_latex(groups))
    return path


def make_lines(block: "Block", tables: Mapping[str, Table], output: Path) -> list[Line]:
    """RETURNS (List[Line]): The rows of a block; what isn't finished yet has no scores.

    tables (Mapping[str, Table]): By task, with what is said of the pictures ("entities, pictures removed").
    """
    found: dict[str, dict[str, Runs]] = {}
    for task, table in tables.items():
        for runs in table.rows:
            found.setdefault(runs.variant, {})[task] = runs
    lines = []
    for row in block.rows:
        line = Line(row)
        if row.published is not None:
            line.values = {"published": row.published, "setting": row.setting}
        if row.variant is not None:
            tasks = {images: TASKS[block.task] + what for images, what in SHOWN.items()}
            of_row = found.get(row.name, {})
            fill(
                line, {images: of_row.get(tasks[images]) for images in row.variant.shown}, block.task, output
            )
        lines.append(line)
    compare_lines(lines, block.task, output)
    return lines


def fill(line: Line, of_images: Mapping[str, Runs | None], task: str, output: Path) -> None:
    """Fill in the scores of a row, and what its trainings have measured.

    of_images (Mapping[str, Optional[Runs]]): By the pictures that test posts were shown with, the first of
        which count.
    """
    main, *others = of_images
    line.runs = runs = of_images[main]
    if runs is None:
        return
    values: dict[str, Any] = {score: runs.get(score) for score in "prf"}
    values["seeds"] = len(runs.runs)
    for images in others:
        shown = of_images[images]
        if shown is not None:
            values[images] = shown.get("f")
    results = [json.loads((output / run["cell"] / RESULT).read_text("utf8")) for run in runs.runs.values()]
    for key in ("parameters", "trainable"):
        if key in results[0]:
            values[key] = results[0][key]
    for key in ("seconds_an_epoch", "posts_a_second"):
        if measured := [result[key] for result in results if result.get(key)]:
            values[key] = measured
    if dev := [result["dev"][SCORES[task]] for result in results if SCORES[task] in result["dev"]]:
        line.dev = mean(dev)
    line.values = {**values, **line.values}


def compare_lines(lines: Sequence[Line], task: str, output: Path) -> None:
    """Compare each row with MMIB and with the best control, unless one of them has learned nothing."""
    finished = [line for line in lines if line.runs is not None]
    floor = next((min(line.values["f"]) for line in finished if line.row.name == FLOORS[task]), 0.0)
    mmib = next((line for line in finished if line.row.name == "MMIB"), None)
    controls = [line for line in finished if line.row.group == "controls"]
    best = max(controls, key=lambda line: line.dev, default=None)
    for line in finished:
        for key, reference in (("p_mmib", mmib), ("p_control", best)):
            if reference is None or line is reference:
                continue
            pairs = pair_runs(line, reference)
            if pairs and min(*line.values["f"], *reference.values["f"]) < floor:
                line.values[key] = NOTHING
            elif pairs:
                counts = ([read_counts(run, output) for run in runs] for runs in zip(*pairs))
                line.values[key] = compare_f1(*counts).p
            if pairs and reference is mmib:
                line.values["difference"] = mean(100 * (a["f"] - b["f"]) for a, b in pairs)


def pair_runs(first: Line, second: Line) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """RETURNS (List[Tuple[Dict[str, Any], Dict[str, Any]]]): The runs of two rows with the same seed. What is
    not trained has one run, which stands for all.
    """
    runs = [line.runs.runs if line.runs is not None else {} for line in (first, second)]
    seeds = {*runs[0], *runs[1]}
    for i, of_row in enumerate(runs):
        if of_row and next(iter(of_row.values()))["floor"]:
            runs[i] = dict.fromkeys(seeds, next(iter(of_row.values())))
    return [(runs[0][seed], runs[1][seed]) for seed in sorted(seeds) if seed in runs[0] and seed in runs[1]]


def read_counts(run: Mapping[str, Any], output: Path) -> Any:
    """RETURNS (List[List[int]]): The counts of each test post in a run."""
    return json.loads((output / run["cell"] / COUNTS).read_text(encoding="utf8"))[run["task"]]


def group_lines(lines: Sequence[Line]) -> Iterator[tuple[str, list[Line]]]:
    """YIELDS (Tuple[str, List[Line]]): The groups of a table, in order, with their rows."""
    for group, found in groupby(lines, key=lambda line: line.row.group):
        yield group, list(found)


def describe_block(block: "Block", tables: Mapping[str, Table]) -> list[str]:
    """RETURNS (List[str]): What has to be known of a block, in paragraphs."""
    notes = [f"{row.name} is quoted, not built: {row.why}." for row in block.rows if row.why]
    facts = PUBLISHED.get(find_dataset(block.corpus.name) or "", {})
    if caveat := facts.get("caveat"):
        notes.append(f"Of published figures: {caveat}")
    table = tables.get(TASKS[block.task])
    more = [] if table is None else [describe_setting(table)]
    return [*(f"{note}\n" for note in [*block.notes, *notes]), *more]


def make_csv(groups: Sequence[tuple[str, list[Line]]]) -> str:
    """RETURNS (str): All columns, of lists their mean and, in one of their own, their standard deviation."""
    rows = []
    for group, lines in groups:
        for line in lines:
            row: dict[str, Any] = {"group": group, "row": line.row.name}
            for key in COLUMNS:
                value = line.values.get(key, "")
                row[key] = round(mean(value), 4) if isinstance(value, list) else value
                if COLUMNS[key][1] is spread:
                    many = isinstance(value, list) and len(value) > 1
                    row[f"{key}_std"] = round(stdev(value), 4) if many else ""
            rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def make_latex(groups: Sequence[tuple[str, list[Line]]]) -> str:
    """RETURNS (str): A tabular, which needs \\usepackage{booktabs}, with the columns that have values."""
    shown = [key for key in COLUMNS if any(key in line.values for _, lines in groups for line in lines)]
    shown = [key for key in shown if key != "setting"]
    rules = [r"\toprule", r"\midrule"]
    rows = [rules[0], to_row(["", *(COLUMNS[key][0] for key in shown)])]
    for group, lines in groups:
        rows += [rules[1], rf"\multicolumn{{{len(shown) + 1}}}{{l}}{{\emph{{{escape(group)}}}}} \\"]
        for line in lines:
            cells = dict(zip(COLUMNS, line.describe()[1:]))
            rows.append(to_row([line.row.name, *(cells[key] for key in shown)]))
    head, tail = rf"\begin{{tabular}}{{l{'r' * len(shown)}}}", [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([head, *rows, *tail]) + "\n"


def to_row(cells: Sequence[str]) -> str:
    """RETURNS (str): A row of a LaTeX table."""
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def escape(text: str) -> str:
    """RETURNS (str): The text as LaTeX reads it."""
    names = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    names |= {"±": r"$\pm$", "<": "$<$", ">": "$>$", **{c: f"\\{c}" for c in "&%$#_{}"}}
    return "".join(names.get(character, character) for character in text)
