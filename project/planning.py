"""The config of one training: the dataset's own, with a row of a table and the options of the run put in."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from spacy.vocab import Vocab
from thinc.api import Config

from project.config import dataset_paths, find_config, read_config
from project.facts import SPLITS
from spacy_mmib.post.extensions import get_regions, get_stored_image
from spacy_mmib.training.corpus import read_docs

DATA, TRAINING, METRICS = (Path("project") / name for name in ("data", "training", "metrics"))
BASELINE = "baseline_trf"
FIXED = ("training.optimizer.learn_rate", "training.eval_frequency")
"""Who sets any of these has a schedule in mind."""
TEXT_ONLY = (
    "the corpus has NO PICTURES. It is trained and tested on its text only, and what comes out is no number "
    "of the paper's. Name the folder of the pictures (--vars.images) to run the model with them."
)

ConfigName = Annotated[
    str, typer.Option(help="Instead of the dataset's own: a name in configs/, base+overlay, or a file")
]
Transformer = Annotated[str, typer.Option(help="Name or folder, instead of the config's")]
Epochs = Annotated[int, typer.Option(help="Instead of the config's")]
BatchSize = Annotated[int, typer.Option(help="Posts in a batch, instead of the config's")]
LearnRate = Annotated[float, typer.Option(help="Instead of the config's")]
Overrides = Annotated[str, typer.Option(help="Settings of the config: 'training.dropout 0.2 ...'")]


@dataclass(frozen=True)
class Variant:
    """A row of a table, trained with as many seeds as one likes.

    settings (Mapping[str, float]): Loss weights of every component with MMIB, such as {"kl_text": 0}.
    entity_repr (str): How models of relations represent entities, instead of the config's: "pool", "marker".
    core (str): "mmib"; "none" for the same without the core and without pictures; "spacy" for spaCy's own
        component on the same text encoder.
    series (Tuple[str, ...]): Of Fig. 4, by what is tuned: "both", "beta2", "beta1".
    encoder (Mapping[str, Any]): The block of the picture encoder, instead of the config's.
    images (str): "own", or "none": trained and tested without pictures.
    objects (bool): For datasets with objects in the pictures only.
    shown (Tuple[str, ...]): Which pictures the test posts are shown with: "own", "none", "shuffled".
    """

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)
    core: Literal["mmib", "none", "spacy"] = "mmib"
    series: tuple[str, ...] = ()
    entity_repr: str = ""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    images: Literal["own", "none"] = "own"
    objects: bool = False
    shown: tuple[str, ...] = ("own",)


@dataclass(frozen=True)
class Options:
    """What is the same in all trainings of a run, as the options of the commands. Overrides that a config
    doesn't have are an error.
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
    """A converted dataset, with the number of its training posts within the limit, of their pictures, and of
    those with objects.
    """

    name: str
    folder: Path
    posts: int
    pictures: int
    with_objects: int = 0


def read_corpus(name: str, folder: Path, limit: int = 0) -> Corpus:
    """RETURNS (Corpus): The corpus in a folder. Raises `FileNotFoundError` if a split is missing."""
    for split in SPLITS:
        if not (folder / f"{split}.spacy").exists():
            raise FileNotFoundError(
                f"There is no {folder / split}.spacy. Convert the dataset first, for example with 'spacy "
                "project run convert . --vars.dataset twitter17 --vars.data FOLDER'."
            )
    docs = list(read_docs(folder / "train.spacy", Vocab()))[: limit or None]
    shown = [doc for doc in docs if get_stored_image(doc) is not None]
    return Corpus(name, folder, len(docs), len(shown), sum(bool(get_regions(doc)) for doc in shown))


def make_config(corpus: Corpus, variant: Variant, seed: int, options: Options) -> Config:
    """Make the config of a training.

    RETURNS (Config): Not interpolated; ready for `spacy train`.
    RAISES (ValueError): There is no such config, or the variant doesn't fit it.
    """
    name = BASELINE if variant.core == "spacy" else find_config(corpus.name, options.config)
    config = read_config(name, {} if variant.core == "spacy" else options.overrides)
    components = config["components"]
    if options.transformer:
        if not list_transformers(components):
            raise ValueError("This config has no transformer whose name could be set.")
        for layer in list_transformers(components):
            layer["name"] = options.transformer
    fused = [c for c in components.values() if "fusion" in c.get("model", {})]
    for component in fused if variant.core == "none" else ():
        component["model"].update(fusion={"@architectures": "spacy-mmib.NoFusion.v1"}, img2vec=None)
        component["loss_weights"] = {}
    if variant.settings and not fused:
        raise ValueError(f"No component of {name} has a fusion: {variant.name} changes nothing.")
    for component in fused if variant.settings else ():
        component.setdefault("loss_weights", {}).update(variant.settings)
    for model in (component.get("model", {}) for component in components.values()):
        if variant.entity_repr and "entity_repr" in model:
            model["entity_repr"] = variant.entity_repr
    for component in components.values() if variant.encoder else ():
        if component.get("factory") == "mmib_img2vec":
            component["model"] = dict(variant.encoder)
        elif "Listener" not in (component["model"].get("img2vec") or {}).get("@architectures", "Listener"):
            component["model"]["img2vec"] = dict(variant.encoder)
    for split in ("train", "dev") if variant.images == "none" else ():
        config["corpora"][split]["images"] = "none"
    if not corpus.pictures:
        # The encoder is never run: its weights need not be there.
        for layer in _list_layers(components, "img2vec"):
            if layer.get("@architectures") == "spacy-mmib.TorchvisionEncoder.v1":
                layer.update({"arch": "resnet18", "weights": None})
    config["paths"].update({split: str(corpus.folder / f"{split}.spacy") for split in ("train", "dev")})
    for path, value in dataset_paths(corpus.folder).items():
        if path.removeprefix("paths.") in config["paths"] and path not in options.overrides:
            config["paths"][path.removeprefix("paths.")] = value
    config["system"]["seed"] = seed
    for split in ("train", "dev") if options.limit else ():
        config["corpora"][split]["limit"] = options.limit
    optimizer = config["training"]["optimizer"]
    if options.learn_rate and isinstance(optimizer["learn_rate"], dict):
        optimizer["learn_rate"]["initial_rate"] = options.learn_rate
    elif options.learn_rate:
        optimizer["learn_rate"] = options.learn_rate
    counted = options.epochs or options.batch_size or options.limit
    if counted or not any(key.startswith(FIXED) for key in options.overrides):
        fit_schedule(config, corpus.posts, options)
    return config


def fit_schedule(config: Config, posts: int, options: Options) -> None:
    """Fit what is counted in steps to the size of the data and the number of epochs: evaluation once an
    epoch, warm-up over half an epoch, decay to the end. Without options of one's own that is done only if the
    config has a schedule, and it was written for another number of posts.
    """
    training = config["training"]
    rate, size = training["optimizer"]["learn_rate"], training["batcher"].get("size")
    epochs = options.epochs or training["max_epochs"]
    scheduled = isinstance(rate, dict) and bool(rate.get("total_steps"))
    if not (options.epochs or options.batch_size or options.limit):
        if not (scheduled and epochs and size):
            return
        steps = epochs * -(-posts // size)
        if abs(steps - rate["total_steps"]) <= max(1, 0.02 * steps):
            return
    size = training["batcher"]["size"] = options.batch_size or size
    steps_an_epoch = max(1, -(-posts // size))
    training["max_epochs"] = epochs
    # spaCy evaluates after updates 1, 1 + frequency, ...: the last time at the very end.
    training["eval_frequency"] = max(1, (epochs * steps_an_epoch - 1) // epochs)
    if scheduled:
        rate["warmup_steps"] = max(1, steps_an_epoch // 2)
        rate["total_steps"] = epochs * steps_an_epoch + 1


def hash_config(config: Config, dataset_digest: str) -> str:
    """RETURNS (str): 12 hexadecimal digits that are the same for the same training, but for its seed, on
    data of the same content, wherever that is.
    """
    known = Config(config.copy())
    known["paths"] = {}
    known["system"]["seed"] = 0
    return hashlib.sha256(f"{dataset_digest}\n{known.to_str(interpolate=False)}".encode()).hexdigest()[:12]


def hash_files(folder: Path) -> str:
    """RETURNS (str): 12 hexadecimal digits of a file's name and content, or of those in a folder."""
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(filter(Path.is_file, folder.rglob("*"))):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder.parent).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:12]


def describe_regions(config: Config, corpus: Corpus, converted: str) -> str:
    """RETURNS (str): Where the objects in the pictures come from, for tables."""
    if config["corpora"]["train"].get("images") == "none":
        return "no pictures"
    layers = _list_layers(config["components"], "img2vec") if corpus.pictures else []
    layers += [layer["img2vec"] for layer in layers if layer.get("img2vec")]  # of a NoiseEncoder
    getters = {layer["get_regions"]["@region_getters"] for layer in layers if layer.get("get_regions")}
    names = [getter.removeprefix("spacy-mmib.") for getter in sorted(getters)]
    return ", ".join(f"{n} ({converted})" if n == "given.v1" else n for n in names) or "no pictures"


def list_transformers(components: Mapping[str, Any]) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): The layers that are text encoders, with their "name" on the hub."""
    texts = {name: part for name, part in components.items() if part.get("factory") != "mmib_img2vec"}
    return [layer for layer in _list_layers(texts, "tok2vec") if "name" in layer]


def _list_layers(components: Mapping[str, Any], *parts: str) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): The models, and these layers below them, of all components."""
    models = [component.get("model", {}) for component in components.values()]
    return [*models, *(model.get(name) or {} for model in models for name in parts)]
