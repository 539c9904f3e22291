"""The one tidy table of all grids: a line for each row, seed and task, made anew from the finished cells."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLANS = "plans"
SETTINGS = ("beta1", "beta2", "alignment_weight")


def plan_path(output: Path, grid: str, dataset: str) -> Path:
    """RETURNS (Path): The file that says which cells the table of a grid and a dataset consists of."""
    return output / PLANS / f"{grid}_{dataset.replace('/', '_')}.json"


def read_plans(output: Path) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): All plans, by name."""
    paths = sorted((output / PLANS).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf8")) for path in paths]


def read_rows(output: Path) -> Iterator[dict[str, Any]]:
    """YIELDS (Dict[str, Any]): The lines of the table: rows of each plan in order, each with its seeds."""
    for plan in read_plans(output):
        for cell in plan["cells"]:
            path = output / cell["cell"] / "result.json"
            if not path.exists():
                continue
            result = json.loads(path.read_text(encoding="utf8"))
            for task, scores in result["tasks"].items():
                yield make_row(plan["grid"], cell, result, task, scores)


def make_row(
    grid: str,
    cell: dict[str, Any],
    result: dict[str, Any],
    task: str,
    scores: dict[str, float],
) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A line of the table, flat. Scores are those on test, 0-1."""
    row = {"grid": grid, "dataset": cell["dataset"], "task": task}
    row |= {key: cell[key] for key in ("variant", "seed")}
    row |= {key: round(scores[key], 6) for key in "prf"}
    # Empty where the config's own value holds.
    row |= {key: cell["settings"].get(key, "") for key in SETTINGS}
    row |= {key: cell[key] for key in ("core", "regions", "epochs")}
    row |= {key: cell.get(key, "") for key in ("batch_size", "learn_rate")}
    row |= {key: cell[key] for key in ("limit", "transformer")}
    row["series"] = " ".join(cell["series"])
    row |= {key: cell[key] for key in ("config", "config_hash", "dataset_version")}
    row |= {key: cell[key] for key in ("dataset_digest", "train_posts", "train_pictures")}
    row |= {key: result[key] for key in ("test_posts", "test_pictures", "device")}
    row["leaks"] = " | ".join(result["leaks"])
    row |= {f"version_{name}": number for name, number in sorted(result["packages"].items())}
    return row | {"cell": cell["cell"]}


def write_results(output: Path, metrics: Path) -> list[dict[str, Any]]:
    """Write grids.jsonl and grids.csv.

    output (Path): The folder of the cells.
    metrics (Path): The folder of the table.
    RETURNS (List[Dict[str, Any]]): Its lines.
    """
    rows = list(read_rows(output))
    metrics.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace(metrics / "grids.jsonl", lines)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace(metrics / "grids.csv", table.getvalue())
    return rows


def replace(path: Path, text: str) -> None:
    """Write a file that is there in full or not at all."""
    # Of this process: several grids may run at a time.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_text(text, encoding="utf8", newline="")
    os.replace(temporary, path)
