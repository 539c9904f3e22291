"""Tables and figures of all grids, as Markdown and PNG, beside the published figures: 'spacy project run
report'. Runs on whatever is finished, and says what isn't.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from wasabi import msg

from project.cell import COUNTS, replace
from project.facts import PUBLISHED, find_dataset
from project.grid import BETAS, GRID_FOLDER, read_plans, write_results
from project.planning import METRICS
from spacy_mmib.evaluation.significance import compare_f1

# The paper's colours, which are also told apart by line and marker.
SERIES_STYLES = {
    "both": ("β1 = β2", "tab:blue", "o-"),
    "beta2": ("β2, with β1 = 1", "tab:orange", "s--"),
    "beta1": ("β1, with β2 = 1", "tab:green", "^:"),
}
STYLES = ("o-", "s--", "^:", "D-.", "v-", "P--")
TITLES = {
    "ablation": "Ablation (Table V)",
    "beta-sweep": "Weights of the KL terms (Fig. 4)",
    "text": "Text only",
    "noise": "Noise",
    "pairs": "Relations of given pairs",
    "noise-longer": "Noise, trained longer",
    "encoders": "Picture encoders",
    "products": "Own posts with photos",
}


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, its series of Fig. 4, and the lines of the results by seed."""

    variant: str
    series: tuple[str, ...]
    runs: dict[int, dict[str, Any]]

    def get(self, score: str) -> list[float]:
        """RETURNS (List[float]): A score of each run, in percent."""
        return [100 * run[score] for run in self.runs.values()]


@dataclass(frozen=True)
class Table:
    """The rows of a grid on a dataset with a finished run, for a task; how many trainings the grid has, and
    how many of them are finished, be it for this task or another.
    """

    grid: str
    dataset: str
    task: str
    rows: list[Row]
    planned: int
    finished: int


def main(
    grids: Annotated[Path, typer.Option(help="The folder of the cells")] = GRID_FOLDER,
    metrics: Path = METRICS,
    output: Annotated[Path, typer.Option(help="For the report [<metrics>/report]")] = METRICS / "report",
) -> None:
    """Write the report."""
    # compare has files of its own.
    tables = [table for table in read_tables(grids, metrics) if not table.grid.startswith("compare-")]
    if not tables:
        msg.fail(f"No training below {grids} is finished. Run one first: spacy project run ablation", exits=1)
    path = write_report(tables, grids, output)
    print(path.read_text(encoding="utf8"))
    msg.good(f"Saved to {path}, with its figures beside it")


def read_tables(grids: Path, metrics: Path) -> list[Table]:
    """RETURNS (List[Table]): All tables, in the order of the results. Those of `compare` are among them."""
    plans = [plan for plan in read_plans(grids) if plan["cells"]]
    planned = {(plan["grid"], plan["cells"][0]["dataset"]): len(plan["cells"]) for plan in plans}
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    finished: dict[tuple[str, str], set[str]] = {}
    for line in write_results(grids, metrics):
        finished.setdefault((line["grid"], line["dataset"]), set()).add(line["cell"])
        rows = groups.setdefault((line["grid"], line["dataset"], line["task"]), {})
        row = rows.setdefault(line["variant"], Row(line["variant"], tuple(line["series"].split()), {}))
        row.runs[line["seed"]] = line
    return [
        Table(*key, list(rows.values()), planned[key[:2]], len(finished[key[:2]]))
        for key, rows in groups.items()
    ]


def write_report(tables: Sequence[Table], grids: Path, output: Path) -> Path:
    """Write report.md and its figures.

    grids (Path): The folder of the cells, for the counts of each document.
    """
    output.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Results\n",
        "F1, precision and recall on test in percent, mean ± standard deviation over seeds; the model of "
        "each run was chosen on dev and tested once. *p*: approximate randomization over documents (9,999 "
        "resamples, two-sided, not corrected for the number of comparisons): whether a difference would "
        "hold on other documents, for these runs.\n",
    ]
    for table in tables:
        parts.append(describe_table(table, grids))
        if any(row.series for row in table.rows):
            name = f"{table.grid}_{table.dataset}_{table.task}.png".replace("/", "_").replace(" ", "_")
            draw_beta_sweep(table, output / name)
            parts.append(f"![F1 by beta1 and beta2]({name})\n")
    noisy = [table for table in tables if table.grid == "noise" and table.dataset.startswith("noise/")]
    for task in dict.fromkeys(table.task for table in noisy):
        name = f"noise_{task.replace(' ', '_')}.png"
        draw_noise([table for table in noisy if table.task == task], output / name)
        parts.append(f"## Noise: {task}\n\n![F1 by noise in text and picture]({name})\n")
    parts.append(describe_published(tables))
    path = output / "report.md"
    replace(path, "\n".join(part for part in parts if part))
    return path


def describe_table(table: Table, grids: Path) -> str:
    """RETURNS (str): A table as Markdown, with what has to be known about it."""
    title = TITLES.get(table.grid, table.grid)
    facts = PUBLISHED.get(find_dataset(table.dataset) or "", {})
    paper = facts["ablation"] if table.task == facts.get("task") and table.grid == "ablation" else {}
    header = ["", "P", "R", "F1", "seeds", "difference", "p"]
    header += ["paper F1", "paper difference"] * bool(paper)
    lines = []
    reference = table.rows[0]
    for row in table.rows:
        line = [row.variant, *(spread(row.get(score)) for score in "prf"), str(len(row.runs))]
        seeds = sorted(row.runs.keys() & reference.runs.keys())
        if row is reference or not seeds:
            line += ["", ""]
        else:
            difference = mean(row.runs[seed]["f"] - reference.runs[seed]["f"] for seed in seeds)
            p = compare_f1(*(read_counts(table, each, seeds, grids) for each in (reference, row))).p
            line += [f"{100 * difference:+.2f}", "< 0.001" if p < 0.001 else f"{p:.3f}"]
        if paper:
            published = paper.get(row.variant)
            line += ["", ""] if published is None else [f"{published[2]:.2f}", ""]
            if published and row is not reference:
                line[-1] = f"{published[2] - paper['MMIB'][2]:+.2f}"
        lines.append(line)
    heading = f"## {title}: {table.dataset}, {table.task}\n"
    return "\n".join([heading, make_markdown(header, lines), describe_setting(table)])


def read_counts(table: Table, row: Row, seeds: Sequence[int], grids: Path) -> list[Any]:
    """RETURNS (List[List[List[int]]]): The counts of each document in the runs of a row with these seeds."""
    paths = [grids / row.runs[seed]["cell"] / COUNTS for seed in seeds]
    return [json.loads(path.read_text(encoding="utf8"))[table.task] for path in paths]


def describe_setting(table: Table) -> str:
    """RETURNS (str): How the numbers came about."""
    runs = [run for row in table.rows for run in row.runs.values()]
    notes = []
    if table.finished < table.planned:
        notes.append(f"**{table.planned - table.finished} of {table.planned} trainings are unfinished.**\n")
    notes += [f"**{leak}**\n" for leak in dict.fromkeys(run["leaks"] for run in runs) if leak]
    if not any(run["train_pictures"] for run in runs):
        notes.append("No pictures were used: these are no figures of the paper's.\n")

    def values(key: str) -> str:
        return " / ".join(dict.fromkeys(str(run[key]) for run in runs if run.get(key)))

    facts = {
        "dataset": f"{table.dataset}, {values('dataset_version')} ({values('dataset_digest')})",
        "first posts of each split only": values("limit"),
        "regions": values("regions"),
        "epochs": values("epochs"),
        "batches of": values("batch_size"),
        "learning rate": values("learn_rate"),
        "text encoder": values("transformer"),
        "config": values("config"),
        "device": values("device"),
        "versions": ", ".join(f"{key[8:]} {values(key)}" for key in runs[0] if key.startswith("version_")),
    }
    return "\n".join([*notes, "; ".join(f"{k}: {v}" for k, v in facts.items() if v) + ".\n"])


def describe_published(tables: Sequence[Table]) -> str:
    """RETURNS (str): Tables III and IV of the paper for the datasets of the report, as Markdown."""
    parts = []
    datasets = [find_dataset(table.dataset) for table in tables]
    for name in dict.fromkeys(name for name in datasets if name and PUBLISHED[name]["systems"]):
        facts = PUBLISHED[name]
        lines = [[system, *(f"{score:.2f}" for score in prf)] for system, prf in facts["systems"].items()]
        parts.append(f"## Published: {name}, {facts['task']} (Tables III and IV of the paper)\n")
        parts += [make_markdown(["", "P", "R", "F1"], lines), f"{facts['caveat']}\n"]
    return "\n".join(parts)


def save_scores(path: Path, results: dict[str, dict[str, list[float]]], **more: Any) -> None:
    """Write scores by task ("ner", "rel"), row and seed, and their means, as JSON."""
    means = {task: {row: mean(f) for row, f in table.items()} for task, table in results.items()}
    seeds = max(len(f) for table in results.values() for f in table.values())
    record = {**means, "seeds": list(range(seeds)), "by_seed": results, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf8")


def print_table(title: str, results: dict[str, list[float]], names: Mapping[str, str]) -> None:
    """Print scores by row and seed, in percent.

    names (Mapping[str, str]): What the rows are called, in order. Some may have fewer seeds.
    """
    rows = []
    n = max(map(len, results.values()))
    for key in [key for key in names if key in results]:
        scores = results[key]
        std = f"{100 * stdev(scores):.1f}" if len(scores) > 1 else "-"
        cells = [f"{100 * score:.1f}" for score in scores] + ["-"] * (n - len(scores))
        rows.append((names[key], *cells, f"{100 * mean(scores):.1f}", std))
    msg.divider(title)
    header = ("", *(f"seed {seed}" for seed in range(n)), "mean", "std")
    msg.table(rows, header=header, aligns=("l",) + ("r",) * (n + 2), divider=True)


def spread(scores: Sequence[float]) -> str:
    """RETURNS (str): Mean and standard deviation, of one run its score."""
    return f"{mean(scores):.2f}" + (f" ± {stdev(scores):.2f}" if len(scores) > 1 else "")


def make_markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """RETURNS (str): A table, its first column to the left, the others to the right."""
    rows = [header, ["---", *("---:" for _ in header[1:])], *lines]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)


def make_axes(columns: int) -> tuple[Any, Any]:
    """RETURNS (Tuple[Figure, numpy.ndarray]): A figure that needs no display, and its axes side by side.
    RAISES (SystemExit): matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("Figures need matplotlib: pip install 'spacy-mmib[analysis]'.") from None
    figure = Figure(figsize=(5.2 * columns, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    axes[0].set_ylabel("F1 (test, %)")
    for one in axes:
        one.grid(alpha=0.3)
    return figure, axes


def draw_beta_sweep(table: Table, path: Path) -> None:
    """Draw Fig. 4: F1 by the value of one weight or both, a line a series."""
    figure, (axes,) = make_axes(1)
    for series, (label, colour, style) in SERIES_STYLES.items():
        key = "beta1" if series != "beta2" else "beta2"
        # The candidates are not evenly spaced; as places they can be told apart.
        rows = [row for row in table.rows if series in row.series]
        points = {BETAS.index(float(next(iter(row.runs.values()))[key])): row.get("f") for row in rows}
        draw_line(axes, dict(sorted(points.items())), label, style, colour)
    axes.set_xticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    axes.set_xlabel("value of β")
    axes.set_title(f"{table.dataset}, {table.task}")
    axes.legend()
    figure.savefig(path, metadata={"Software": None})


def draw_noise(tables: Sequence[Table], path: Path) -> None:
    """Draw F1 over the noise: text on the left, pictures on the right, a line a row of the tables.

    tables (Sequence[Table]): Of corpora called "noise/<modality>-<level>"; level 0 belongs to both.
    """
    figure, both = make_axes(2)
    for axes, modality, what in zip(
        both,
        ("text", "picture"),
        ("share of words misspelt, and in random case", "random boxes added to each picture"),
    ):
        found: dict[float, Table] = {}
        for table in tables:
            name, _, level = table.dataset.removeprefix("noise/").partition("-")
            if name in ("none", modality):
                found[float(level or 0)] = table
        known = sorted(found)
        variants = dict.fromkeys(row.variant for table in found.values() for row in table.rows)
        for i, variant in enumerate(variants):
            # A little aside, so that bars don't cover each other.
            aside = (i - 1.5) * (known[-1] - known[0]) * 0.008
            rows = [(level, row) for level in known for row in found[level].rows if row.variant == variant]
            draw_line(axes, {level + aside: row.get("f") for level, row in rows}, variant, STYLES[i % 6])
        axes.set_title(f"noise in the {modality}")
        axes.set_xlabel(what)
        axes.set_xticks(known)
    both[0].legend()
    figure.savefig(path, metadata={"Software": None})


def draw_line(
    axes: Any, points: dict[float, list[float]], label: str, style: str, colour: str | None = None
) -> None:
    """Draw means over seeds with a bar of one standard deviation up and down."""
    spreads = [stdev(s) if len(s) > 1 else 0.0 for s in points.values()]
    means = [mean(s) for s in points.values()]
    axes.errorbar(list(points), means, spreads, fmt=style, capsize=3, label=label, color=colour, markersize=4)


if __name__ == "__main__":
    typer.run(main)
