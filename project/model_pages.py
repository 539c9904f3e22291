"""Write docs/models: a page a model. A page is made of what the model's file says of it (the paper, the
equations, the lines that compute them, its settings and what differs from code that was released), of the
configs that use it, and of its rows in the tables in docs/compare. A test fails where pages are out of step:
`python -m project.model_pages` writes them anew.
"""

import ast
import csv
import inspect
import re
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import srsly
import typer

from project.config import read_config
from project.report import make_markdown

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ROOMS = {
    "fusion": "Fusions: text and picture vectors to picture-aware text vectors",
    "joint": "Text encoders, some of which look at pictures themselves",
    "heads": "Heads: picture-aware text vectors to entities and relations",
}
FIGURES = {
    "p": "P",
    "r": "R",
    "f": "F1",
    "none": "F1 without pictures",
    "shuffled": "F1 with others' pictures",
}
"""Columns of the tables in docs/compare that a page shows."""
GENERATED = "<!-- Made by project/model_pages.py from spacy_mmib/{file}. Change that, and run it again. -->\n"


def main() -> None:
    """Write all pages, and remove those of models that are gone."""
    pages = make_pages()
    folder = DOCS / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for path in set(folder.glob("*.md")) - {folder / name for name in pages}:
        path.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf8", newline="")


def make_pages() -> dict[str, str]:
    """RETURNS (Dict[str, str]): The pages by the names of their files, with one that lists them."""
    pages, lists = {}, []
    for room, title in ROOMS.items():
        rows = []
        for module, builders in find_models(room):
            stem = module.__name__.rpartition(".")[2]
            pages[f"{stem}.md"] = make_page(module, builders)
            names = ", ".join(f"`{name}`" for name in builders)
            rows.append([f"[{stem}]({stem}.md)", names, first_paragraph(module)])
        lists.append(f"## {title}\n\n{make_table(['', 'architecture', ''], rows)}")
    head = (
        "# Models\n\nA page a model, made from its file. [Compared with each other](../compare/README.md); "
    )
    pages["README.md"] = f"{head}[how to add one](../add_a_model.md).\n\n" + "\n".join(lists)
    return pages


def find_models(room: str) -> Iterator[tuple[ModuleType, dict[str, Any]]]:
    """YIELDS (Tuple[ModuleType, Dict[str, Callable]]): A file of a room, and its builders by their names."""
    found: dict[str, dict[str, Any]] = {}
    for point in sorted(entry_points(group="spacy_architectures"), key=lambda point: point.name):
        if point.module.startswith(f"spacy_mmib.{room}."):
            found.setdefault(point.module, {})[point.name] = point.load()
    for name in sorted(found):
        yield sys.modules[name], found[name]


def make_page(module: ModuleType, builders: dict[str, Any]) -> str:
    """RETURNS (str): The page of a file."""
    file = "/".join(module.__name__.split(".")[1:]) + ".py"
    parts = [GENERATED.format(file=file), f"# {', '.join(builders)}\n", f"{inspect.getdoc(module)}\n"]
    for network in find_networks(module):
        parts += [
            f"## {network.__name__}\n",
            f"```text\n{describe(network)}\n```\n",
            *show_methods(network),
        ]
    parts += ["## Settings\n"]
    for name, builder in builders.items():
        parts += [f"`{name}`: {format_settings(inspect.getdoc(builder) or '')}\n"]
    configs = [path for path in sorted((ROOT / "configs").glob("*.cfg")) if uses(read_text(path), builders)]
    if configs:
        lines = [f"- [{path.name}](../../configs/{path.name}): {read_header(path)}\n" for path in configs]
        parts += ["## Configs\n", "".join(lines)]
    rows = list(find_figures(builders))
    if rows:
        head = ["row", "corpus and task", *FIGURES.values()]
        parts += ["## Figures\n", "From [the comparison](../compare/README.md).\n", make_markdown(head, rows)]
    return "\n".join(parts)


def find_networks(module: ModuleType) -> list[Any]:
    """RETURNS (List[type]): The torch modules that a file defines, in its order."""
    own = [x for x in vars(module).values() if inspect.isclass(x) and x.__module__ == module.__name__]
    networks = [x for x in own if hasattr(x, "forward")]
    if module.__name__.endswith("heads.entities"):  # the builder has a file of its own
        networks = [x for x in vars(module).values() if inspect.isclass(x) and hasattr(x, "forward")]
    return sorted(networks, key=lambda x: (x.__module__, inspect.getsourcelines(x)[1]))


def describe(network: Any) -> str:
    """RETURNS (str): The docstring of a class, without its parameters, which the settings repeat."""
    text = inspect.getdoc(network) or ""
    return re.split(r"\n\n(?=[\w, ]+(?: \([^)]*\))?: )", text)[0]


def show_methods(network: Any) -> Iterator[str]:
    """YIELDS (str): The lines of a class that compute the equations, and where they are."""
    file = "/".join(network.__module__.split(".")) + ".py"
    source = (ROOT / file).read_text("utf8")
    lines = source.splitlines(keepends=True)
    (tree,) = (x for x in ast.parse(source).body if getattr(x, "name", "") == network.__name__)
    for method in tree.body if isinstance(tree, ast.ClassDef) else ():
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("__"):
            body = method.body[ast.get_docstring(method) is not None :] or method.body
            begin, end = body[0].lineno, body[-1].end_lineno or 0
            code = inspect.cleandoc("\n" + "".join(lines[begin - 1 : end]))
            link = f"[{file}, lines {begin}-{end}](../../{file}#L{begin}-L{end})"
            yield f"`{method.name}`, {link}:\n"
            yield f"```python\n{code}\n```\n"


def format_settings(text: str) -> str:
    """RETURNS (str): A builder's docstring, its parameters as a list."""
    text = text.split("\nRETURNS ")[0].rstrip()
    lines = []
    for line in text.splitlines():
        setting = re.match(r"([\w, ]+)( \([^)]*(?:\[[^)]*\])?\)): (.*)", line)
        lines.append(
            f"- `{setting[1]}`{setting[2]}: {setting[3]}" if setting else re.sub(r"^    ", "  ", line)
        )
    return "\n".join(lines)


def uses(config: str, builders: dict[str, Any]) -> bool:
    """RETURNS (bool): Whether a config names one of the architectures."""
    return any(f'"{name}"' in config for name in builders)


def read_text(path: Path) -> str:
    """RETURNS (str): A config with all that it takes from others."""
    return read_config(str(path)).to_str(interpolate=False)


def read_header(path: Path) -> str:
    """RETURNS (str): The first paragraph of the comment that a config begins with."""
    lines = takewhile(lambda line: line.strip("# "), path.read_text("utf8").splitlines())
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def make_table(header: list[str], rows: list[list[str]]) -> str:
    """RETURNS (str): A table of texts, all to the left."""
    return make_markdown(header, rows).replace("---:", "---")


def first_paragraph(module: ModuleType) -> str:
    """RETURNS (str): Of the docstring of a file."""
    return (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")


def find_figures(builders: dict[str, Any]) -> Iterator[list[str]]:
    """YIELDS (List[str]): Rows of the tables in docs/compare that are of these architectures."""
    systems = srsly.read_yaml(ROOT / "project" / "systems.yml")
    names = {row["name"] for row in systems if uses(srsly.json_dumps(row.get("model", {})), builders)}
    names |= {"MMIB"} if "spacy-mmib.MMIB.v1" in builders else set()
    for path in sorted((DOCS / "compare").glob("*.csv")):
        with path.open(encoding="utf8", newline="") as file:
            for row in csv.DictReader(file):
                if row["row"] in names and row.get("f"):
                    figures = [f"{float(row[key]):.1f}" if row.get(key) else "" for key in FIGURES]
                    yield [row["row"], path.stem.removeprefix("compare_"), *figures]


if __name__ == "__main__":
    typer.run(main)
