"""Train a published dataset with its config, and choose the epoch on dev: what `spacy project run
train-twitter17` calls. The training is that of the row "MMIB" of the ablation with the same seed.

What was trained before, with the same config, seed, texts and pictures, is not trained again.
"""

import argparse
import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from grid_config import Options, make_config, read_corpus
from grid_plan import Variant
from spacy.cli.train import train
from thinc.api import Config
from train import parse
from wasabi import msg
from workflow_corpus import DATA, TEXT_ONLY, TRAINING, count_pictures, hash_files

OFFLINE = (
    "The text encoder {name!r} is neither on this machine nor could it be downloaded. Where there is a "
    "network, run 'huggingface-cli download {name} --local-dir FOLDER' (it has config.json, "
    "model.safetensors, tokenizer.json and vocab.txt), and pass --vars.transformer FOLDER."
)


def main() -> None:
    """Read the command line and train, unless that has been done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a folder below --data with a converted corpus")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=TRAINING)
    parser.add_argument("--config", default="", help="instead of the dataset's own")
    parser.add_argument("--transformer", default="", help="name or folder, instead of the config's")
    parser.add_argument("--epochs", type=int, default=0, help="instead of the config's")
    parser.add_argument("--batch-size", type=int, default=0, help="instead of the config's")
    parser.add_argument("--learn-rate", type=float, default=0.0, help="instead of the config's")
    parser.add_argument("--overrides", default="", help="settings: 'training.dropout 0.2 ...'")
    parser.add_argument("--gpu-id", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", type=int, nargs="?", const=1, default=0, help="train it anew")
    args = parser.parse_args()
    folder, output = args.data / args.dataset, args.output / args.dataset
    try:
        config = plan(args.dataset, folder, args)
    except (FileNotFoundError, ValueError) as err:
        msg.fail(str(err), exits=1)
    if not count_pictures(folder):
        msg.warn(f"Mind: {TEXT_ONLY}")
        # Nothing is ever shown to it.
        warnings.filterwarnings("ignore", message=".*random weights and is frozen")
    run(config, folder, output, args.gpu_id, force=bool(args.force))


def plan(dataset: str, folder: Path, args: argparse.Namespace) -> Config:
    """Make the config.

    dataset (str): Its name.
    folder (Path): Of the corpus.
    args (argparse.Namespace): The command line.
    RETURNS (Config): Not interpolated.
    RAISES (FileNotFoundError): A split is missing.
    RAISES (ValueError): What was asked for doesn't fit the config.
    """
    corpus = read_corpus(dataset, folder)
    name = Path(args.transformer)
    # On the hub a name has one slash at most; transformers says of a folder that isn't there that it is no
    # such name.
    if not name.is_dir() and (name.is_absolute() or len(name.parts) > 2):
        raise FileNotFoundError(
            f"There is no folder {name}. --vars.transformer is the name of a model on the Hugging Face hub, "
            "or a folder with config.json, model.safetensors, tokenizer.json and vocab.txt."
        )
    overrides = parse(args.overrides)
    options = Options(
        config=args.config,
        transformer=args.transformer,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learn_rate=args.learn_rate,
        overrides=overrides,
    )
    config = make_config(corpus, Variant("MMIB"), args.seed, options)
    rate = config["training"]["optimizer"]["learn_rate"]
    if isinstance(rate, dict) and "total_steps" in rate:
        msg.info(
            f"{rate['total_steps']} steps, warm-up over {rate['warmup_steps']}, evaluation on dev every "
            f"{config['training']['eval_frequency']}"
        )
    return config


def run(config: Config, folder: Path, output: Path, gpu_id: int, *, force: bool = False) -> None:
    """Train, unless the same has been trained.

    config (Config): Of the training.
    folder (Path): Of the corpus.
    output (Path): For model-best and model-last.
    gpu_id (int): GPU, or -1 for CPU.
    force (bool): Train in any case.
    """
    record = output / "trained.json"
    key = describe_training(config, folder)
    known = json.loads(record.read_text(encoding="utf8")) if record.exists() else None
    if not force and known == key and (output / "model-best").exists():
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
        msg.fail(explain_missing(config, err))
        sys.exit(1)
    record.write_text(json.dumps(key, indent=2) + "\n", encoding="utf8")


def describe_training(config: Config, folder: Path) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What a trained model depends on."""
    text = config.to_str(interpolate=False)
    return {
        "config": hashlib.sha256(text.encode()).hexdigest()[:12],
        "train": hash_files(folder / "train.spacy"),
        "dev": hash_files(folder / "dev.spacy"),
    }


def explain_missing(config: Config, err: OSError) -> str:
    """RETURNS (str): What to do about weights that are not there."""
    names = [
        str(layer["name"])
        for component in config["components"].values()
        for model in [component.get("model", {})]
        for layer in (model, model.get("tok2vec", {}))
        if "name" in layer
    ]
    name = next((name for name in names if f"'{name}'" in str(err) or name in str(err)), None)
    if name is None and "huggingface" in str(err).lower() and names:
        name = names[0]
    # The picture encoder's own message names its file and where to put it.
    return str(err) if name is None else f"{OFFLINE.format(name=name)}\n({err})"


if __name__ == "__main__":
    main()
