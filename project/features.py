"""Encode the pictures of a converted dataset once for all trainings, if there are any: `python -m
project.features twitter17` calls `spacy mmib cache build`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from spacy.vocab import Vocab
from wasabi import msg

from project.config import dataset_paths, find_config, parse_overrides, read_config
from project.planning import DATA, TEXT_ONLY, ConfigName, Overrides
from spacy_mmib.post.extensions import get_stored_image
from spacy_mmib.training.corpus import read_docs

CACHE = "spacy-mmib.feature_cache.v1"


def main(
    dataset: Annotated[str, typer.Argument(help="A folder below --data with .spacy files")],
    data: Path = DATA,
    config: ConfigName = "",
    overrides: Overrides = "",
    gpu_id: int = -1,
) -> None:
    """Encode the pictures of a dataset into <data>/<dataset>/features.sqlite."""
    folder = data / dataset
    corpora = sorted(folder.glob("*.spacy"))
    if not corpora:
        msg.fail(f"There is no corpus in {folder}. Convert the dataset first.", exits=1)
    settings = {**dataset_paths(folder), "paths.features": str(folder / "features.sqlite")}
    settings |= parse_overrides(overrides)
    root = settings.pop("paths.image_root", None)
    try:
        name = find_config(dataset, config)
        full = read_config(name)
    except ValueError as err:
        msg.fail(str(err), exits=1)
    reason = None
    if all(get_stored_image(doc) is None for path in corpora for doc in read_docs(path, Vocab())):
        reason = TEXT_ONLY
    elif CACHE not in full.to_str(interpolate=False):
        reason = f"{name} has no picture encoder with a cache."
    elif any(key.endswith(".trainable") and on for key, on in settings.items()):
        reason = "the picture encoder is trained, so its vectors change."
    if reason:
        msg.warn(f"No features are computed: {reason}")
        return
    path = folder / "features.cfg"
    full.to_disk(path, interpolate=False)
    command = [sys.executable, "-m", "spacy", "mmib", "cache", "build", str(path), str(folder)]
    command += ["--gpu-id", str(gpu_id)] + (["--image-root", root] if root else [])
    for key, value in settings.items():
        command += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    typer.run(main)
