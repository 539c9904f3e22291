"""The paper's Fig. 5: entities and objects in the plane."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from . import MissingExtraError
from .gap import EntityRegionPairs

PERPLEXITY = 10
ITERATIONS = 500
FEWEST = 2
"""Pairs of a type that can be laid out."""
SIZE = 3.2
"""Inches of a panel."""


def require_extra(*, plot: bool = True) -> None:
    """RAISES (MissingExtraError): What a figure is made with can't be imported."""
    try:
        import sklearn.manifold  # noqa: F401

        if plot:
            import matplotlib.figure  # noqa: F401
    except ImportError as err:
        raise MissingExtraError("The figure", "scikit-learn and matplotlib", "analysis", err) from err


def lay_out(pairs: EntityRegionPairs, seed: int = 0) -> "numpy.ndarray[Any, Any]":
    """Bring entities and objects into the plane, together, with t-SNE (perplexity 10, or less where there are
    few; 500 iterations).

    pairs (EntityRegionPairs): At least `FEWEST`.
    seed (int): The same seed, the same plane, on one machine.
    RETURNS (numpy.ndarray): x and y of the entities, then of the objects, (2 k, 2).
    RAISES (MissingExtraError): scikit-learn can't be imported.
    """
    require_extra(plot=False)
    from sklearn.manifold import TSNE

    points = numpy.concatenate([pairs.entities, pairs.regions]).astype("float32")
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, max_iter=ITERATIONS, init="random", random_state=seed)
    result: numpy.ndarray[Any, Any] = tsne.fit_transform(points)
    return result


def plot_gap(
    models: Sequence[tuple[str, Sequence[EntityRegionPairs]]], path: str | Path, seed: int = 0
) -> None:
    """Draw a panel for each type (a row) and model (a column).

    models (Sequence[Tuple[str, Sequence[EntityRegionPairs]]]): Names of models and their pairs, of the same
        types.
    path (Union[str, Path]): An image file; its ending says of what kind (.png, .svg, .pdf).
    seed (int): See `lay_out`.
    RAISES (MissingExtraError): scikit-learn or matplotlib can't be imported.
    """
    require_extra()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_rows = max(len(pairs) for _, pairs in models)
    figure = Figure(figsize=(SIZE * len(models), SIZE * n_rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, len(models), squeeze=False)
    for column, (name, every) in enumerate(models):
        axes[0][column].set_title(_plain(name), fontsize=10)
        for row, pairs in enumerate(every):
            panel = axes[row][column]
            panel.set(xticks=[], yticks=[], ylabel="" if column else _plain(pairs.label))
            k = len(pairs.entities)
            if k < FEWEST:
                panel.text(0.5, 0.5, f"{k} entities", ha="center", transform=panel.transAxes)
                continue
            points = lay_out(pairs, seed)
            panel.scatter(*points[:k].T, s=9, c="#0072b2", marker="o", label="entity")
            panel.scatter(*points[k:].T, s=11, c="#d55e00", marker="^", label="object")
    legends = [panel.get_legend_handles_labels() for panel in axes.flat]
    if any(handles for handles, _ in legends):
        figure.legend(
            *max(legends, key=lambda found: len(found[0])), loc="outside lower center", ncols=2, frameon=False
        )
    # Without the date the same figure is the same file.
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=150, metadata=undated.get(Path(path).suffix.lower()))


def _plain(text: str) -> str:
    """RETURNS (str): In lines that fit a panel, without what matplotlib would take for a formula."""
    return textwrap.fill(text, 36).replace("$", r"\$")
