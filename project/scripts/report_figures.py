"""The report's figures: Fig. 4 of the paper, and F1 over the noise in either modality."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from grid_plan import BETAS

if TYPE_CHECKING:
    from report_tables import Row, Table

# The paper's colours, which are also told apart by line and marker.
SERIES_STYLES = {
    "both": ("β1 = β2", "tab:blue", "o-"),
    "beta2": ("β2, with β1 = 1", "tab:orange", "s--"),
    "beta1": ("β1, with β2 = 1", "tab:green", "^:"),
}
STYLES = ("o-", "s--", "^:", "D-.", "v-", "P--")
NO_MATPLOTLIB = (
    "Figures need matplotlib: install spacy-mmib with its extra 'analysis' (pip install "
    "'spacy-mmib[analysis]')."
)


def make_axes(columns: int, height: float = 3.6) -> tuple[Any, Any]:
    """RETURNS (Tuple[Figure, numpy.ndarray]): A figure that needs no display, and its axes side by side.
    RAISES (SystemExit): matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit(NO_MATPLOTLIB) from None
    figure = Figure(figsize=(5.2 * columns, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False, sharey=True)[0]


def draw_beta_sweep(table: "Table", path: Path) -> None:
    """Draw Fig. 4: F1 by the value of one weight or both, a line a series.

    table (Table): Of the grid "beta-sweep".
    path (Path): For the PNG.
    """
    figure, (axes,) = make_axes(1)
    for series, (label, colour, style) in SERIES_STYLES.items():
        key = "beta1" if series != "beta2" else "beta2"
        points: dict[float, list[float]] = {}
        for row in table.rows:
            if series in row.series:
                run = next(iter(row.runs.values()))
                points[float(run[key])] = row.get("f")
        known = [beta for beta in BETAS if beta in points]
        draw_line(axes, [BETAS.index(b) for b in known], [points[b] for b in known], label, style,
                  colour)  # fmt: skip
    # The candidates are not evenly spaced; as places they can be told apart.
    axes.set_xticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    axes.set_xlabel("value of β")
    axes.set_ylabel("F1 (test, %)")
    axes.set_title(f"{table.dataset}, {table.task}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Software": None})


def draw_noise(tables: Sequence["Table"], path: Path) -> None:
    """Draw F1 over the noise: text on the left, pictures on the right, a line a row of the tables.

    tables (Sequence[Table]): Of corpora called "noise/<modality>-<level>"; level 0 belongs to both.
    path (Path): For the PNG.
    """
    levels: dict[str, dict[float, Table]] = {"text": {}, "picture": {}}
    for table in tables:
        modality, _, level = table.dataset.removeprefix("noise/").partition("-")
        for name in levels if modality == "none" else [modality]:
            levels[name][float(level or 0)] = table
    figure, both = make_axes(2)
    titles = {
        "text": ("noise in the text", "share of words misspelt, and in random case"),
        "picture": ("noise in the pictures", "random boxes added to each picture"),
    }
    for axes, (name, found) in zip(both, levels.items()):
        known = sorted(found)
        for i, variant in enumerate(names_of(found.values())):
            rows = {level: find_row(found[level], variant) for level in known}
            at = [level for level in known if rows[level] is not None]
            scores = [row.get("f") for level in at if (row := rows[level]) is not None]
            # A little aside, so that bars don't cover each other.
            step = (known[-1] - known[0]) * 0.008 if len(known) > 1 else 0
            draw_line(axes, [x + (i - 1.5) * step for x in at], scores, variant, STYLES[i % 6])
        axes.set_title(titles[name][0])
        axes.set_xlabel(titles[name][1])
        axes.set_xticks(known)
        axes.grid(alpha=0.3)
    both[0].set_ylabel("F1 (test, %)")
    both[0].legend()
    figure.savefig(path, metadata={"Software": None})


def draw_line(
    axes: Any,
    x: Sequence[float],
    scores: Sequence[Sequence[float]],
    label: str,
    style: str,
    colour: str | None = None,
) -> None:
    """Draw means over seeds with a bar of one standard deviation up and down."""
    spreads = [stdev(s) if len(s) > 1 else 0.0 for s in scores]
    means = [mean(s) for s in scores]
    axes.errorbar(x, means, spreads, fmt=style, capsize=3, label=label, color=colour, markersize=4)


def names_of(tables: Any) -> list[str]:
    """RETURNS (List[str]): The rows of tables, without repetition."""
    return list(dict.fromkeys(row.variant for table in tables for row in table.rows))


def find_row(table: "Table", variant: str) -> "Row | None":
    """RETURNS (Optional[Row]): A row by its name."""
    return next((row for row in table.rows if row.variant == variant), None)
