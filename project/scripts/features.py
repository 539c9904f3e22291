"""Encode the pictures of a dataset into its feature cache: what `spacy project run features` calls."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from train import dataset_paths, find_config, parse
from wasabi import msg


def main() -> None:
    """Read the command line and call `spacy mmib cache build`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a folder below --data with .spacy files")
    parser.add_argument("--data", type=Path, default=Path("project/data"))
    parser.add_argument("--config", default="", help="instead of the dataset's own")
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--overrides", default="", help="settings of the config")
    args = parser.parse_args()
    folder = args.data / args.dataset
    if not any(folder.glob("*.spacy")):
        msg.fail(f"There is no corpus in {folder}. Convert the dataset first.", exits=1)
    settings = {
        **dataset_paths(folder),
        "paths.features": str(folder / "features.sqlite"),
        **parse(args.overrides),
    }
    command = [sys.executable, "-m", "spacy", "mmib", "cache", "build"]
    command += [str(find_config(args.dataset, args.config)), str(folder)]
    if "paths.image_root" in settings:
        command += ["--image-root", settings["paths.image_root"]]
    command += ["--gpu-id", str(args.gpu_id)]
    command += [
        word
        for key, value in settings.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
