"""The rooms of the package: imports go one way, and the root holds little."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spacy_mmib"
ROOMS = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "house.md").read_text(encoding="utf8"), flags=re.M)


def find_imports(file: Path):
    """YIELDS (Tuple[int, str]): Line and room of each import of the package, inside functions too."""
    here = file.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("spacy_mmib."):
                    yield node.lineno, alias.name.split(".")[1]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level + 1]
                names = [".".join(filter(None, [*base, node.module]))] if base or node.module else []
            else:
                module = node.module or ""
                names = [module.removeprefix("spacy_mmib.")] if module.startswith("spacy_mmib.") else []
                if module == "spacy_mmib":
                    names = [alias.name for alias in node.names]
            for name in names or [alias.name for alias in node.names if node.level]:
                yield node.lineno, name.split(".")[0]


def test_imports_go_one_way():
    arrows_back = []
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).parts
        if len(parts) > 1:
            rank = ROOMS.index(parts[0])
            for line, room in find_imports(file):
                if room in ROOMS and ROOMS.index(room) > rank:
                    arrows_back.append(f"{file.relative_to(ROOT)}:{line} imports {room}")
    assert not arrows_back


def test_the_map_names_every_room():
    folders = [p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert sorted(folders) == sorted(ROOMS)
    files = {p.stem for p in PACKAGE.glob("*.py")}
    assert files == {"__init__", "about", "util"}
