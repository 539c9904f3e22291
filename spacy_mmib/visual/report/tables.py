"""Scores as rows of tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...evaluation.errors import PostChange, count_kinds

MINUS = "\N{MINUS SIGN}"
Row = tuple[str, list[str]]

MEASURES = (
    ("Entities", "ents_f", False),
    ("Relations, end to end", "rel_micro_f", False),
    ("Relations, end to end, with types", "rel_strict_f", False),
    ("Relations of given entities", "rel_micro_f", True),
)


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    title (str): Its caption.
    header (List[str]): Of each column, the first with names.
    rows (List[Tuple[str, List[str]]]): Name and numbers of each row.
    """

    title: str
    header: list[str]
    rows: list[Row]


def make_score_tables(metrics: dict[str, Any]) -> list[Table]:
    """RETURNS (List[Table]): P, R and F of everything that is scored, overall and by label."""
    given = metrics.get("given_entities") or {}
    tables = []
    for title, scores, name, per_type in (
        ("Entities", metrics, "ents", "ents_per_type"),
        ("Relations, end to end", metrics, "rel_micro", "rel_per_type"),
        ("Relations of given entities", given, "rel_micro", "rel_per_type"),
    ):
        if scores.get(f"{name}_f") is None:
            continue
        rows = [("all", [show(scores.get(f"{name}_{key}")) for key in "prf"])]
        if scores is metrics and name == "rel_micro":
            strict = [show(scores.get(f"rel_strict_{key}")) for key in "prf"]
            rows.append(("all, with types", strict))
        for label, prf in (scores.get(per_type) or {}).items():
            rows.append((label, [show(prf[key]) for key in "prf"]))
        tables.append(Table(title, ["Label", "P", "R", "F"], rows))
    return tables


def make_comparison(metrics: dict[str, dict[str, Any]]) -> Table:
    """RETURNS (Table): F with, without, and with shuffled pictures."""
    rows = []
    for title, key, given in MEASURES:
        scores = [_get(metrics[images], key, given) for images in ("own", "none", "shuffled")]
        own = scores[0]
        if own is None:
            continue
        lost = [None if score is None else score - own for score in scores[1:]]
        rows.append((title, [*map(show, scores), *(show(x, sign=True) for x in lost)]))
    header = [
        "F",
        "with pictures",
        "without",
        "shuffled",
        f"without {MINUS} with",
        f"shuffled {MINUS} with",
    ]
    return Table("Scores with pictures, without, and with those of other posts", header, rows)


def make_error_table(posts: Iterable[PostChange], *, compared: bool) -> Table:
    """RETURNS (Table): Errors of each kind, with and without pictures."""
    posts = list(posts)
    own = count_kinds([error for post in posts for error in post.errors])
    rows = [(kind, [str(count)]) for kind, count in own.items()]
    header = ["Kind of error", "with pictures" if compared else "errors"]
    if compared:
        without = count_kinds([error for post in posts for error in post.errors_without])
        header += ["without"]
        rows = [(kind, [*numbers, str(without[kind])]) for kind, numbers in rows]
    rows = [row for row in rows if any(number != "0" for number in row[1])]
    return Table("Errors by kind", header, rows)


def show(score: float | None, *, sign: bool = False) -> str:
    """RETURNS (str): A score, 0-1, in percent; a difference with its sign."""
    if score is None:
        return "-"
    text = f"{100 * score:+.2f}" if sign and round(score, 4) else f"{100 * abs(score):.2f}"
    return text.replace("-", MINUS)


def _get(metrics: dict[str, Any], key: str, given: bool) -> float | None:
    scores = (metrics.get("given_entities") or {}) if given else metrics
    score: float | None = scores.get(key)
    return score
