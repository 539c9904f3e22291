"""The shipped configs: one in full, and overlays of a few lines over it or over each other.

`python -m project.config joint_trf > joint_trf.cfg` writes one in full, for `spacy train`.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from spacy.cli._util import parse_config_overrides
from thinc.api import Config

CONFIGS = Path(__file__).parents[1] / "configs"
DATASETS = {
    "demo": "joint_demo",
    "gmner": "gmner",
    "mnre": "rel_trf",
    "mnre-leaking": "rel_trf",
    "products/ner": "products",
    "products/rel": "products_rel",
    "twitter15": "ner_trf",
    "twitter17": "ner_trf",
    "wikidiverse": "ner_trf",
}
"""The config of each dataset."""


def read_config(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config, and merge it with what it is an overlay of.

    An overlay begins with a section `[overlay]`: `base`, the config that it changes, and optionally `drop`,
    sections and settings of the base to leave out, by dotted name. A block that names another function than
    the base's block replaces it; everything else is merged.

    name (Union[str, Path]): Of a file in configs/, without its ending; or a path. With "a+b" the overlay b
        changes a instead of its own base.
    RAISES (ValueError): There is no such config.
    """
    config = Config()
    for part in [str(name)] if Path(name).is_file() else str(name).split("+"):
        path = Path(part) if part.endswith(".cfg") else CONFIGS / f"{part}.cfg"
        if not path.is_file():
            known = ", ".join(sorted(found.stem for found in CONFIGS.glob("*.cfg")))
            raise ValueError(f"There is no config {path}. Name a file, or one of {known}.")
        changes = Config().from_disk(path, interpolate=False)
        overlay = changes.pop("overlay", {})
        if not config and "base" in overlay:
            config = read_config(overlay["base"])
        for place in overlay.get("drop", []):
            *parents, name = place.split(".")
            section = config
            for parent in parents:
                section = section[parent]
            del section[name]
        _merge(config, changes)
    return Config().from_str(config.to_str(interpolate=False), interpolate=False, overrides=overrides or {})


def find_config(dataset: str, config: str = "") -> str:
    """RETURNS (str): The config that was named, or else the dataset's own.
    RAISES (ValueError): None is known.
    """
    if not config and dataset not in DATASETS:
        raise ValueError(f"No config is known for {dataset!r}: name one with --vars.config")
    return config or DATASETS[dataset]


def dataset_paths(folder: Path) -> dict[str, str]:
    """RETURNS (Dict[str, str]): Settings that belong to a converted dataset: where its pictures, their
    encoder and their features are. Datasets side by side may share the last two, in the folder above.
    """
    settings = {}
    for name, file in (("features", "features.sqlite"), ("encoder", "encoder.pth")):
        if found := [path for path in (folder / file, folder.parent / file) if path.exists()]:
            settings[f"paths.{name}"] = str(found[0])
    if root := read_meta(folder).get("image_root"):
        settings["paths.image_root"] = root
    return settings


def read_meta(folder: Path) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What a converter has written beside a corpus; empty if nothing."""
    path = folder / "meta.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    return found


def parse_overrides(overrides: str) -> dict[str, Any]:
    """Read settings as `spacy train` reads its own, with or without the dashes before their names, which
    `spacy project run` doesn't hand through.

    overrides (str): Such as "training.max_epochs 3 training.dropout=0.2".
    """
    words = iter(shlex.split(overrides))
    settings = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        settings.append(f"--{name}={value if equals else next(words, '')}")
    return parse_config_overrides(settings, env_var=None)


def _merge(config: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        old = config.get(key)
        mergeable = isinstance(value, dict) and isinstance(old, dict)
        if mergeable and all(old.get(name) == value[name] for name in value if name.startswith("@")):
            _merge(old, value)
        else:
            config[key] = value


def main(name: str, dataset: str = "", overrides: str = "", output: Path | None = None) -> None:
    """Write a config in full: by name, such as ner_trf_released, or ner_trf with the overlay b: ner_trf+b;
    or if the name is empty a dataset's.
    """
    config = read_config(find_config(dataset, name), parse_overrides(overrides))
    if output is None:
        print(config.to_str(interpolate=False))
    else:
        config.to_disk(output, interpolate=False)


if __name__ == "__main__":
    typer.run(main)
