"""The config of one training: the dataset's own, with a row of a table and the options of the run put in."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import spacy
from grid_plan import Variant
from spacy.util import load_config
from thinc.api import Config
from train import dataset_paths, find_config

from spacy_mmib.post.extensions import get_stored_image
from spacy_mmib.training.corpus import create_corpus_v1

BASELINE = Path("configs/baseline_trf.cfg")
FIXED = ("training.optimizer.learn_rate", "training.eval_frequency")
"""Who sets any of these has a schedule in mind."""

WITHOUT_CORE = {
    "spacy-mmib.MMIB_NER.v1": ("spacy-mmib.Text_NER.v1", ("tok2vec",)),
    "spacy-mmib.MMIB_REL.v1": ("spacy-mmib.Text_REL.v1", ("tok2vec", "entity_repr", "markers")),
}
"""By architecture: what is the same without the MMIB core, and which settings it takes over."""


@dataclass(frozen=True)
class Options:
    """What is the same in all trainings of a grid.

    config (str): A path, instead of the dataset's own config.
    transformer (str): Name or folder of the text encoder, instead of the config's.
    epochs (int): Passes over the training data; 0 for the config's.
    batch_size (int): Posts in a batch; 0 for the config's.
    learn_rate (float): Peak of the learning rate; 0 for the config's.
    limit (int): Read only so many posts of each split; 0 for all.
    overrides (Dict[str, Any]): Settings of the config by dotted name; those that a config doesn't have are
        an error.
    """

    config: str = ""
    transformer: str = ""
    epochs: int = 0
    batch_size: int = 0
    learn_rate: float = 0.0
    limit: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """What has to be known of a dataset.

    name (str): Of the folder below project/data.
    folder (Path): Where it is.
    posts (int): In the training data, within the limit.
    pictures (int): How many of them have one.
    """

    name: str
    folder: Path
    posts: int
    pictures: int


def read_corpus(name: str, folder: Path, limit: int = 0) -> Corpus:
    """Count the training posts of a dataset.

    name (str): Its name.
    folder (Path): With train.spacy, dev.spacy and test.spacy.
    limit (int): Read so many posts only; 0 for all.
    RETURNS (Corpus): The dataset.
    RAISES (FileNotFoundError): A split is missing.
    """
    for split in ("train", "dev", "test"):
        if not (folder / f"{split}.spacy").exists():
            raise FileNotFoundError(
                f"There is no {folder / split}.spacy. Convert the dataset first, for example with 'spacy "
                "project run convert-twitter17 . --vars.data FOLDER'."
            )
    root = dataset_paths(folder).get("paths.image_root")
    reader = create_corpus_v1(folder / "train.spacy", image_root=root, limit=limit, check_images="none")
    docs = [example.predicted for example in reader(spacy.blank("en"))]
    return Corpus(name, folder, len(docs), sum(get_stored_image(doc) is not None for doc in docs))


def make_config(corpus: Corpus, variant: Variant, seed: int, options: Options) -> Config:
    """Make the config that a cell is trained with.

    corpus (Corpus): The dataset.
    variant (Variant): The row.
    seed (int): The seed.
    options (Options): Of the run.
    RETURNS (Config): Not interpolated; ready for `spacy train`.
    RAISES (ValueError): The variant doesn't fit the config.
    """
    path = BASELINE if variant.core == "spacy" else find_config(corpus.name, options.config)
    overrides = {} if variant.core == "spacy" else options.overrides
    config = load_config(path, overrides=overrides)
    components = config["components"]
    if options.transformer:
        _set_transformer(components, options.transformer)
    if variant.core == "none":
        _take_out_core(components)
    cores = [c for c in components.values() if "beta1" in c]
    if variant.settings and not cores:
        raise ValueError(f"No component of {path} has an MMIB core: {variant.name} changes nothing.")
    for component in cores:
        component.update(variant.settings)
    if not corpus.pictures:
        _drop_picture_encoders(components)
    config["paths"].update({split: str(corpus.folder / f"{split}.spacy") for split in ("train", "dev")})
    for name, value in dataset_paths(corpus.folder).items():
        key = name.removeprefix("paths.")
        if key in config["paths"]:
            config["paths"][key] = value
    config["system"]["seed"] = seed
    if options.limit:
        for split in ("train", "dev"):
            config["corpora"][split]["limit"] = options.limit
    if options.learn_rate:
        _set_learn_rate(config["training"]["optimizer"], options.learn_rate)
    if options.epochs or options.batch_size or options.limit:
        fit_schedule(config, corpus.posts, options)
    elif not any(key.startswith(FIXED) for key in options.overrides):
        fit_to_corpus(config, corpus.posts)
    return config


def fit_to_corpus(config: Config, posts: int) -> None:
    """Let the learning rate decay until the end of the training, not before or behind it, if the config was
    written for another number of posts or epochs.

    config (Config): Changed in place.
    posts (int): Training posts.
    """
    training = config["training"]
    rate, epochs = training["optimizer"]["learn_rate"], training["max_epochs"]
    size = training["batcher"].get("size")
    if not isinstance(rate, dict) or not rate.get("total_steps") or not epochs or not size:
        return
    steps = epochs * -(-posts // size)
    if abs(steps - rate["total_steps"]) > max(1, 0.02 * steps):
        fit_schedule(config, posts, Options())


def fit_schedule(config: Config, posts: int, options: Options) -> None:
    """Fit what is counted in steps to the size of the data and the number of epochs: evaluation once an
    epoch, warm-up over half an epoch, decay to the end.

    config (Config): Changed in place.
    posts (int): Training posts.
    options (Options): See there.
    """
    training = config["training"]
    if options.batch_size:
        training["batcher"]["size"] = options.batch_size
    epochs = options.epochs or training["max_epochs"]
    steps_an_epoch = max(1, -(-posts // training["batcher"]["size"]))
    steps = epochs * steps_an_epoch
    training["max_epochs"] = epochs
    # spaCy evaluates after updates 1, 1 + frequency, ...: the last time at the very end.
    training["eval_frequency"] = max(1, (steps - 1) // epochs)
    rate = training["optimizer"]["learn_rate"]
    if isinstance(rate, dict) and "total_steps" in rate:
        rate["warmup_steps"] = max(1, steps_an_epoch // 2)
        rate["total_steps"] = steps + 1


def hash_config(config: Config, dataset_digest: str) -> str:
    """RETURNS (str): 12 hexadecimal digits that are the same for the same training, but for its seed, on
    data of the same content, wherever that is.
    """
    known = config.copy()
    known["paths"] = {}
    known["system"]["seed"] = 0
    text = Config(known).to_str(interpolate=False)
    return hashlib.sha256(f"{dataset_digest}\n{text}".encode()).hexdigest()[:12]


def describe_regions(config: Config, corpus: Corpus, converted: str) -> str:
    """Say where the objects in the pictures come from, in a word or two.

    config (Config): Of the training.
    corpus (Corpus): The dataset.
    converted (str): Which regions the converter attached.
    RETURNS (str): For tables.
    """
    if not corpus.pictures:
        return "no pictures"
    getters = set()
    for component in config["components"].values():
        for layer in (component.get("model", {}), component.get("model", {}).get("img2vec", {})):
            getter = layer.get("get_regions")
            if getter is not None:
                getters.add(getter["@region_getters"].removeprefix("spacy-mmib."))
    named = {f"given.v1 ({converted})" if g == "given.v1" else g for g in getters}
    return ", ".join(sorted(named)) or "no pictures"


def _set_learn_rate(optimizer: dict[str, Any], rate: float) -> None:
    if isinstance(optimizer["learn_rate"], dict):
        optimizer["learn_rate"]["initial_rate"] = rate
    else:
        optimizer["learn_rate"] = rate


def _set_transformer(components: dict[str, Any], name: str) -> None:
    places = [components.get("transformer", {}).get("model")]
    places += [c.get("model", {}).get("tok2vec") for c in components.values()]
    found = [place for place in places if place and "name" in place]
    if not found:
        raise ValueError("This config has no transformer whose name could be set.")
    for place in found:
        place["name"] = name


def _take_out_core(components: dict[str, Any]) -> None:
    for component in components.values():
        model = component.get("model", {})
        if model.get("@architectures") in WITHOUT_CORE:
            architecture, kept = WITHOUT_CORE[model["@architectures"]]
            component["model"] = {"@architectures": architecture}
            component["model"] |= {name: model[name] for name in kept if name in model}


def _drop_picture_encoders(components: dict[str, Any]) -> None:
    """Without any picture the encoder is never run: its weights need not be there."""
    for component in components.values():
        model = component.get("model", {})
        for layer in (model, model.get("img2vec", {})):
            if layer.get("@architectures") == "spacy-mmib.TorchvisionEncoder.v1":
                layer.update({"arch": "resnet18", "weights": None})
