"""Train a converted dataset with its config, and choose the epoch on dev: `python -m project.train
twitter17`. The training is that of the row "MMIB" of the ablation with the same seed.

What was trained before, with the same config, seed, texts and pictures, is not trained again.
"""

import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from spacy.cli.train import train
from thinc.api import Config
from wasabi import msg

from project import planning
from project.config import parse_overrides

OFFLINE = (
    "The text encoder {name!r} is neither on this machine nor could it be downloaded. Where there is a "
    "network, run 'huggingface-cli download {name} --local-dir FOLDER' (it has config.json, "
    "model.safetensors, tokenizer.json and vocab.txt), and pass --vars.transformer FOLDER."
)


def main(
    dataset: Annotated[str, typer.Argument(help="A folder below --data with a converted corpus")],
    data: Path = planning.DATA,
    output: Path = planning.TRAINING,
    config: planning.ConfigName = "",
    transformer: planning.Transformer = "",
    epochs: planning.Epochs = 0,
    batch_size: planning.BatchSize = 0,
    learn_rate: planning.LearnRate = 0.0,
    overrides: planning.Overrides = "",
    gpu_id: int = -1,
    seed: int = 0,
    force: Annotated[int, typer.Option(help="1: train what has been trained before")] = 0,
) -> None:
    """Train a dataset, unless that has been done."""
    folder = data / dataset
    if dataset == "demo" and not (folder / "encoder.pth").exists():
        msg.info(f"Making the demo corpus in {folder} first")
        for module, path in (("data", folder), ("encoder", folder / "encoder.pth")):
            command = [sys.executable, "-m", f"project.demo.{module}", "--output", str(path)]
            subprocess.run(command, check=True)
    settings = parse_overrides(overrides)
    options = planning.Options(config, transformer, epochs, batch_size, learn_rate, 0, settings)
    check_transformer(transformer)
    try:
        corpus = planning.read_corpus(dataset, folder)
        full = planning.make_config(corpus, planning.Variant("MMIB"), seed, options)
    except (FileNotFoundError, ValueError) as err:
        msg.fail(str(err), exits=1)
    rate = full["training"]["optimizer"]["learn_rate"]
    if isinstance(rate, dict) and "total_steps" in rate:
        msg.info(
            f"{rate['total_steps']} steps, warm-up over {rate['warmup_steps']}, evaluation on dev every "
            f"{full['training']['eval_frequency']}"
        )
    if not corpus.pictures:
        msg.warn(f"Mind: {planning.TEXT_ONLY}")
        # Nothing is ever shown to it.
        warnings.filterwarnings("ignore", message=".*random weights and is frozen")
    run(full, folder, output / dataset, gpu_id, force=bool(force))


def check_transformer(transformer: str) -> None:
    """Say what is wrong with a text encoder that is no name, and no folder either. Raises `SystemExit`."""
    # On the hub a name has one slash at most; transformers says of a folder that isn't there that it is no
    # such name.
    name = Path(transformer)
    if not name.is_dir() and (name.is_absolute() or len(name.parts) > 2):
        msg.fail(
            f"There is no folder {name}. --vars.transformer is the name of a model on the Hugging Face hub, "
            "or a folder with config.json, model.safetensors, tokenizer.json and vocab.txt.",
            exits=1,
        )


def run(config: Config, folder: Path, output: Path, gpu_id: int, *, force: bool = False) -> None:
    """Train, unless the same has been trained.

    output (Path): For model-best and model-last, and the config in full.
    """
    record = output / "trained.json"
    key = {"config": hashlib.sha256(config.to_str(interpolate=False).encode()).hexdigest()[:12]}
    key |= {split: planning.hash_files(folder / f"{split}.spacy") for split in ("train", "dev")}
    known = json.loads(record.read_text(encoding="utf8")) if record.exists() else None
    if known == key and (output / "model-best").exists() and not force:
        msg.good(
            f"{output / 'model-best'} has been trained with this config, seed and data: nothing to do "
            "(--vars.force 1 trains it anew)."
        )
        return
    record.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "config.cfg"
    config.to_disk(path, interpolate=False)
    try:
        train(path, output, use_gpu=gpu_id)
    except OSError as err:
        names = [layer["name"] for layer in planning.list_transformers(config["components"])]
        found = [name for name in names if name in str(err)]
        if "huggingface" in str(err).lower():
            found += names
        # The picture encoder's own message names its file and where to put it.
        msg.fail(f"{OFFLINE.format(name=found[0])}\n({err})" if found else str(err), exits=1)
    record.write_text(json.dumps(key, indent=2) + "\n", encoding="utf8")


if __name__ == "__main__":
    typer.run(main)
