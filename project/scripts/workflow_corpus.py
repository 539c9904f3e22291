"""What the workflows have to know of a converted corpus."""

import hashlib
import json
from pathlib import Path
from typing import Any

DATA = Path("project/data")
TRAINING = Path("project/training")
METRICS = Path("project/metrics")

TEXT_ONLY = (
    "the corpus has NO PICTURES. It is trained and tested on its text only, and what comes out is no number "
    "of the paper's. Name the folder of the pictures (--vars.images) to run the model with them."
)


def read_meta(folder: Path) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What a converter has written beside a corpus; empty if nothing."""
    path = folder / "meta.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    return found


def count_pictures(folder: Path) -> int:
    """RETURNS (int): Docs of a converted corpus that have a picture."""
    splits = read_meta(folder).get("splits", {})
    return sum(split.get("with_picture", 0) for split in splits.values())


def hash_files(folder: Path) -> str:
    """Digest files.

    folder (Path): A folder, such as that of a trained pipeline, or a file.
    RETURNS (str): 12 hexadecimal digits of their names and content.
    """
    digest = hashlib.sha256()
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        digest.update(f"{path.relative_to(folder.parent).as_posix()}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:12]
