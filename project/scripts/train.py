"""Train a dataset's configuration on its converted posts: what `spacy project run train` calls."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from spacy.cli._util import parse_config_overrides
from spacy.cli.train import train
from wasabi import msg

CONFIGS = {
    "demo": Path("configs/joint_demo.cfg"),
    "mnre": Path("configs/rel_trf.cfg"),
    "mnre-leaking": Path("configs/rel_trf.cfg"),
    "twitter15": Path("configs/ner_trf.cfg"),
    "twitter17": Path("configs/ner_trf.cfg"),
}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a folder below --data with train.spacy and dev.spacy")
    parser.add_argument("--data", type=Path, default=Path("project/data"))
    parser.add_argument("--output", type=Path, default=Path("project/training"))
    parser.add_argument("--config", default="", help="instead of the dataset's own")
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overrides", default="", help="settings of the config: 'training.max_epochs 3 ...'")
    args = parser.parse_args()
    folder = args.data / args.dataset
    if args.dataset == "demo" and not (folder / "encoder.pth").exists():
        make_demo(folder)
    if not (folder / "train.spacy").exists():
        msg.fail(
            f"There is no {folder / 'train.spacy'}. Convert the dataset first, for example with "
            "'spacy project run convert-twitter17 . --vars.data FOLDER'.",
            exits=1,
        )
    config = find_config(args.dataset, args.config)
    overrides = {
        "paths.train": str(folder / "train.spacy"),
        "paths.dev": str(folder / "dev.spacy"),
        "system.seed": args.seed,
        **dataset_paths(folder),
        **parse(args.overrides),
    }
    train(config, args.output / args.dataset, use_gpu=args.gpu_id, overrides=overrides)


def find_config(dataset: str, config: str) -> Path:
    """RETURNS (Path): The config that was named, or the dataset's own.
    RAISES (SystemExit): None is known.
    """
    found = Path(config) if config else CONFIGS.get(dataset)
    if found is None:
        msg.fail(f"No config is known for {dataset!r}: name one with --vars.config", exits=1)
        raise SystemExit(1)
    return found


def make_demo(folder: Path) -> None:
    """Make the demo corpus and its picture encoder."""
    scripts = Path(__file__).parent
    msg.info(f"Making the demo corpus in {folder} first")
    for script, output in (
        ("make_demo_data.py", folder),
        ("train_picture_encoder.py", folder / "encoder.pth"),
    ):
        subprocess.run([sys.executable, scripts / script, "--output", output], check=True)


def dataset_paths(folder: Path) -> dict[str, str]:
    """RETURNS (Dict[str, str]): Settings that belong to the data: where pictures, their encoder, and the
    features that `spacy project run features` has made are.
    """
    settings = {}
    if (folder / "features.sqlite").exists():
        settings["paths.features"] = str(folder / "features.sqlite")
    if (folder / "encoder.pth").exists():
        settings["paths.encoder"] = str(folder / "encoder.pth")
    meta = folder / "meta.json"
    if meta.exists():
        root = json.loads(meta.read_text()).get("image_root")
        if root:
            settings["paths.image_root"] = root
    return settings


def parse(overrides: str) -> dict[str, Any]:
    """Read settings as `spacy train` reads its own, but for the dashes before their names, which
    `spacy project run` doesn't hand through.

    overrides (str): Such as "training.max_epochs 3 training.dropout=0.2".
    RETURNS (Dict[str, Any]): Values by name.
    """
    words = iter(shlex.split(overrides))
    settings = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        settings.append(f"--{name}={value if equals else next(words, '')}")
    return parse_config_overrides(settings, env_var=None)


if __name__ == "__main__":
    main()
