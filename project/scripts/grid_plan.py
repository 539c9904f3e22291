"""Which trainings a table is made of: the rows of Table V, the points of Fig. 4, rows without pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Core = Literal["mmib", "none", "spacy"]

BETAS = (0.0, 0.01, 0.1, 0.5, 1.0, 1.5, 2.0)
"""The candidates of section V-C, which lists 0 twice."""

SERIES = ("both", "beta2", "beta1")
"""Of Fig. 4, by what is tuned: both to the same value, or one while the other is 1."""


@dataclass(frozen=True)
class Variant:
    """A row of a table, trained with as many seeds as one likes.

    name (str): In tables and files.
    settings (Mapping[str, float]): Of every component with an MMIB core, such as {"beta1": 0}.
    core (str): "mmib"; "none" for the same without the core and without pictures; "spacy" for spaCy's own
        component on the same text encoder.
    series (Tuple[str, ...]): Of Fig. 4, see `SERIES`.
    """

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)
    core: Core = "mmib"
    series: tuple[str, ...] = ()


NO_RR = {"beta1": 0.0, "beta2": 0.0}
NO_AR = {"alignment_weight": 0.0}


def make_ablation() -> list[Variant]:
    """RETURNS (List[Variant]): The rows of Table V; the first is what the others are compared with."""
    return [
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
        Variant(
            f"beta1={beta1:g} beta2={beta2:g}",
            {"beta1": beta1, "beta2": beta2},
            series=tuple(series),
        )
        for (beta1, beta2), series in points.items()
    ]


def make_text() -> list[Variant]:
    """RETURNS (List[Variant]): What the core does where there is nothing to see: the text's part of L_rr is
    all that is left of the regularizers, and spaCy's own component is the baseline.
    """
    return [
        Variant("MMIB"),
        Variant("without L_rr", NO_RR),
        Variant("no core", core="none"),
        Variant("spaCy's ner", core="spacy"),
    ]


def make_noise() -> list[Variant]:
    """RETURNS (List[Variant]): The ablation, and a bottleneck a hundred times as strong: with KLs that are
    means over dimensions, beta = 0.1 is next to nothing (see benchmarks/regularizer_gradients.py).
    """
    return [*make_ablation(), Variant("100 x L_rr", {"beta1": 10.0, "beta2": 10.0})]


GRIDS = {
    "ablation": make_ablation,
    "beta-sweep": make_beta_sweep,
    "text": make_text,
    "noise": make_noise,
}
"""By name, what makes the variants of a grid."""


def read_grid(name: str) -> list[Variant]:
    """RETURNS (List[Variant]): The variants of a grid.
    RAISES (ValueError): No such grid.
    """
    if name not in GRIDS:
        raise ValueError(f"There is no grid {name!r}; choose one of {', '.join(GRIDS)}.")
    return GRIDS[name]()


def describe(variant: Variant) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The variant as it stands in files."""
    return {
        "variant": variant.name,
        "settings": dict(variant.settings),
        "core": variant.core,
        "series": list(variant.series),
    }
