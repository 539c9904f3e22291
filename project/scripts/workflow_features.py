"""Encode the pictures of a published dataset, if it was converted with any: what `spacy project run
features-twitter17` calls.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from train import find_config, parse
from wasabi import msg
from workflow_corpus import DATA, TEXT_ONLY, count_pictures

CACHE = "spacy-mmib.feature_cache.v1"


def main() -> None:
    """Read the command line and call features.py, if there is anything to encode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a folder below --data with a converted corpus")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--config", default="", help="instead of the dataset's own")
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--overrides", default="", help="settings of the config")
    args = parser.parse_args()
    reason = find_nothing_to_do(args.data / args.dataset, args.dataset, args.config, args.overrides)
    if reason:
        msg.warn(f"No features are computed: {reason}")
        return
    command = [sys.executable, str(Path(__file__).with_name("features.py")), args.dataset]
    command += ["--data", str(args.data), "--config", args.config, "--gpu-id", str(args.gpu_id)]
    command.append(f"--overrides={args.overrides}")
    sys.exit(subprocess.run(command, check=False).returncode)


def find_nothing_to_do(folder: Path, dataset: str, config: str, overrides: str) -> str | None:
    """RETURNS (Optional[str]): Why there is nothing to encode ahead; `None` if there is."""
    if not count_pictures(folder):
        return TEXT_ONLY
    path = find_config(dataset, config)
    if CACHE not in path.read_text(encoding="utf8"):
        return f"{path} has no picture encoder with a cache."
    if any(name.endswith(".trainable") and on for name, on in parse(overrides).items()):
        return "the picture encoder is trained, so its vectors change."
    return None


if __name__ == "__main__":
    main()
