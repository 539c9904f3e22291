"""The config of one training: the dataset's own, with a row of a table and the options of the run put in."""

import copy
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from spacy.util import registry
from spacy.vocab import Vocab
from thinc.api import Config

from project.config import dataset_paths, find_config, read_config
from project.facts import SPLITS
from project.mnre import ENTITY
from spacy_mmib.post.extensions import get_regions, get_stored_image
from spacy_mmib.post.relations import has_relations
from spacy_mmib.training.corpus import read_docs

DATA, TRAINING, METRICS = (Path("project") / name for name in ("data", "training", "metrics"))
FACTORIES = {"ner": "mmib_ner", "rel": "mmib_rel"}
"""Of the component of each task."""
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

    settings (Mapping[str, float]): Loss weights of every component with a fusion, such as {"kl_text": 0}. A
        fusion that isn't the config's has its own weights, and these.
    model (Mapping[str, Any]): Blocks and settings of the models of these components by name, such as
        {"fusion": {"@architectures": ...}, "img2vec": None}, instead of the config's. A picture encoder that
        components share is replaced where it is. {"own": "img2vec", ...} in them is the config's own block
        ("tok2vec", "img2vec", "fusion") with some settings changed; other names are those in `list_own`.
    spacy_ner (bool): spaCy's own component instead of `mmib_ner`, on the same text encoder.
    learn_rate (float): Instead of the config's and of the options', for text encoders without pretrained
        weights.
    images (str): "own"; "none": trained and tested without pictures; "shuffled": trained with another post's.
    objects (bool): For datasets with objects in the pictures only.
    shown (Tuple[str, ...]): Which pictures the test posts are shown with: "own", "none", "shuffled". The
        first is what counts.
    series (Tuple[str, ...]): Of Fig. 4, by what is tuned: "both", "beta2", "beta1".
    floor (str): Nothing is trained: the name of a baseline in `project.floors`.
    parts (Tuple[str, ...]): Nothing is trained: the names of two rows, whose probabilities are mixed.
    """

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    spacy_ner: bool = False
    learn_rate: float = 0.0
    images: Literal["own", "none", "shuffled"] = "own"
    objects: bool = False
    shown: tuple[str, ...] = ("own",)
    series: tuple[str, ...] = ()
    floor: str = ""
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What is the same in all trainings of a run, as the options of the commands. Overrides that a config
    doesn't have are an error.

    task (str): "ner" or "rel": only the component of this task is trained, with encoders of its own. Empty
        for the config's pipeline.
    """

    config: str = ""
    transformer: str = ""
    epochs: int = 0
    batch_size: int = 0
    learn_rate: float = 0.0
    limit: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    task: Literal["", "ner", "rel"] = ""


@dataclass(frozen=True)
class Corpus:
    """A converted dataset, with the number of its training posts within the limit, of their pictures, of
    those with objects, and of those with an object that has a label; and the tasks ("ner", "rel") that they
    are annotated for.
    """

    name: str
    folder: Path
    posts: int
    pictures: int
    with_objects: int = 0
    with_labels: int = 0
    tasks: tuple[str, ...] = ()


def read_corpus(name: str, folder: Path, limit: int = 0) -> Corpus:
    """RETURNS (Corpus): The corpus in a folder. Raises `FileNotFoundError` if a split is missing."""
    for split in SPLITS:
        if not (folder / f"{split}.spacy").exists():
            raise FileNotFoundError(
                f"There is no {folder / split}.spacy. Convert the dataset first, for example with 'spacy "
                "project run convert . --vars.dataset twitter17 --vars.data FOLDER'."
            )
    docs = list(read_docs(folder / "train.spacy", Vocab()))[: limit or None]
    shown = [get_regions(doc) for doc in docs if get_stored_image(doc) is not None]
    labelled = sum(any(isinstance(x, Mapping) and x.get("label") for x in regions) for regions in shown)
    # Heads and tails of given pairs have no types, and are nothing to be found.
    typed = any(ent.label_ != ENTITY for doc in docs for ent in doc.ents)
    tasks = (*(["ner"] if typed else []), *(["rel"] if any(map(has_relations, docs)) else []))
    return Corpus(name, folder, len(docs), len(shown), sum(map(bool, shown)), labelled, tasks)


def make_config(corpus: Corpus, variant: Variant, seed: int, options: Options) -> Config:
    """Make the config of a training.

    RETURNS (Config): Not interpolated; ready for `spacy train`.
    RAISES (ValueError): There is no such config, or the variant doesn't fit it.
    """
    name = find_config(corpus.name, options.config)
    config = read_config(name, options.overrides)
    if options.task:
        keep_task(config, options.task)
    components = config["components"]
    transformers = list_transformers(components)
    for layer in transformers if options.transformer else ():
        layer["name"] = options.transformer
    if options.transformer and not (transformers or options.task):
        raise ValueError("This config has no transformer whose name could be set.")
    transformer = options.transformer or next((layer["name"] for layer in transformers), "")
    fused = [c for c in components.values() if "fusion" in c.get("model", {})]
    if (variant.settings or variant.model) and not fused:
        raise ValueError(f"No component of {name} has a fusion: {variant.name} changes nothing.")
    for component in fused:
        put_blocks(component, variant, components, transformer)
    if variant.spacy_ner:
        use_spacy_ner(config, bool(transformers))
    for split in ("train", "dev") if variant.images != "own" else ():
        config["corpora"][split]["images"] = variant.images
    if not corpus.pictures:
        # The encoder is never run: its weights need not be there.
        for layer in list_blocks(components):
            if layer.get("@architectures") == "spacy-mmib.TorchvisionEncoder.v1":
                layer.update({"arch": "resnet18", "weights": None})
    config["paths"].update({split: str(corpus.folder / f"{split}.spacy") for split in ("train", "dev")})
    for path, value in dataset_paths(corpus.folder).items():
        if path.removeprefix("paths.") in config["paths"] and path not in options.overrides:
            config["paths"][path.removeprefix("paths.")] = value
    config["system"]["seed"] = seed
    for split in ("train", "dev") if options.limit else ():
        config["corpora"][split]["limit"] = options.limit
    optimizer, learn_rate = config["training"]["optimizer"], variant.learn_rate or options.learn_rate
    if learn_rate and isinstance(optimizer["learn_rate"], dict):
        optimizer["learn_rate"]["initial_rate"] = learn_rate
    elif learn_rate:
        optimizer["learn_rate"] = learn_rate
    counted = options.epochs or options.batch_size or options.limit
    if counted or not any(key.startswith(FIXED) for key in options.overrides):
        fit_schedule(config, corpus.posts, options)
    return config


def keep_task(config: Config, task: str) -> None:
    """Leave only the component of a task in a pipeline, with encoders of its own in the place of those that
    it shares with others, and without a pointer at objects, which would be a further task. Relations are then
    those of given pairs.

    RAISES (ValueError): There is no such component.
    """
    components = config["components"]
    names = [name for name, part in components.items() if part.get("factory") == FACTORIES[task]]
    if not names:
        raise ValueError(f"The config has no component {FACTORIES[task]}: name one that has (--vars.config).")
    component = components[names[0]]
    model = component["model"]
    for layer in ("tok2vec", "img2vec"):
        own = _find_shared(components, model.get(layer))
        if own is not None:
            if "TransformerModel" in own["@architectures"]:
                more = {key: model[layer][key] for key in ("pooling", "grad_factor")}
                own |= {"@architectures": "spacy-transformers.Tok2VecTransformer.v3", **more}
            model[layer] = own
    if "pointer" in model:
        model["pointer"] = None
    config["components"] = {names[0]: component}
    config["nlp"]["pipeline"] = names[:1]
    prefix, best = ("rel_", "rel_micro_f") if task == "rel" else ("ents_", "ents_f")
    weights = {k: v for k, v in config["training"]["score_weights"].items() if k.startswith(prefix)}
    config["training"]["score_weights"] = {**weights, best: 1.0}
    config["training"].update(frozen_components=[], annotating_components=[])
    if task == "rel":
        config["corpora"]["dev"]["given"] = "pairs"


def put_blocks(
    component: dict[str, Any], variant: Variant, components: Mapping[str, Any], transformer: str
) -> None:
    """Put a variant's blocks and loss weights into a component with a fusion.

    transformer (str): The name of that of the config.
    """
    model = component["model"]
    own = list_own(model, _find_shared(components, model.get("img2vec")), transformer)
    if "fusion" in variant.model:
        component["loss_weights"] = {}
    if variant.settings:
        component.setdefault("loss_weights", {}).update(variant.settings)
    for name, block in _fill_in(variant.model, own).items():
        shared = _find_shared(components, model.get(name), copied=False) if name == "img2vec" else None
        if shared is not None and block is not None:
            shared.clear()
            shared.update(block)
        elif name != "entity_repr" or name in model:
            model[name] = block


def list_own(model: Mapping[str, Any], shared: Mapping[str, Any] | None, transformer: str) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): What blocks of a variant can take from a config, by name: blocks of the
        model; its picture encoder with a "pyramid" of rows if it has one, and the "pyramid_size" of this (1:
        none); the name of a "transformer"; the number of "heads" of its fusion; and the "image_width" of its
        picture encoder, in a function.

    shared (Optional[Mapping[str, Any]]): The picture encoder that the model's listens to, if it does.
    """
    img2vec, fusion = shared or model.get("img2vec") or {}, model.get("fusion") or {}
    has_stages = img2vec.get("arch", "").startswith(("resnet", "resnext", "wide_resnet"))
    pyramid = {**img2vec, "rows": "pyramid" if has_stages else "regions"}
    return {
        "tok2vec": model["tok2vec"],
        "img2vec": img2vec,
        "fusion": fusion,
        "pyramid": pyramid,
        "pyramid_size": img2vec.get("pyramid_size", 2) if has_stages else 1,
        "transformer": transformer,
        "heads": fusion.get("heads", 12),
        "image_width": lambda: measure_width(img2vec),
    }


def measure_width(img2vec: Mapping[str, Any]) -> int:
    """RETURNS (int): The width of the vectors of a picture encoder, which is built with random weights."""
    changes = {key: None for key in ("weights", "cache", "get_regions") if key in img2vec}
    layer = registry.resolve({"layer": {**img2vec, **changes}})["layer"]
    with warnings.catch_warnings():  # that its weights are random
        warnings.simplefilter("ignore")
        layer.initialize()
    width: int = layer.get_dim("nO")
    return width


def _find_shared(
    components: Mapping[str, Any], layer: Mapping[str, Any] | None, *, copied: bool = True
) -> dict[str, Any] | None:
    """RETURNS (Optional[Dict[str, Any]]): The model of the component that a layer listens to, if it does."""
    if "Listener" not in (layer or {}).get("@architectures", ""):
        return None
    kinds = {"mmib_img2vec"} if "Img2Vec" in (layer or {})["@architectures"] else {"tok2vec", "transformer"}
    found: dict[str, Any] = next(c["model"] for c in components.values() if c.get("factory") in kinds)
    return copy.deepcopy(found) if copied else found


def _fill_in(block: Any, own: Mapping[str, Any]) -> Any:
    if not isinstance(block, Mapping):
        return block
    filled = {key: _fill_in(value, own) for key, value in block.items() if key != "own"}
    if "own" not in block:
        return filled
    found = own[block["own"]]
    found = found() if callable(found) else copy.deepcopy(found)
    return {**found, **filled} if isinstance(found, Mapping) else found


def use_spacy_ner(config: Config, transformer: bool) -> None:
    """Put spaCy's own `ner` in the place of `mmib_ner`, on the same text encoder."""
    components, pipeline = config["components"], config["nlp"]["pipeline"]
    (name,) = (name for name, part in components.items() if part.get("factory") == "mmib_ner")
    parser = {"@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner", "nO": None}
    parser |= {"extra_state_tokens": False, "hidden_width": 64, "maxout_pieces": 2}
    parser |= {"use_upper": not transformer, "tok2vec": components.pop(name)["model"]["tok2vec"]}
    components["ner"] = {"factory": "ner", "model": parser}
    pipeline[pipeline.index(name)] = "ner"


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
    blocks = list_blocks(config["components"]) if corpus.pictures else []
    getters = {block["@region_getters"] for block in blocks if "@region_getters" in block}
    names = [getter.removeprefix("spacy-mmib.") for getter in sorted(getters)]
    return ", ".join(f"{n} ({converted})" if n == "given.v1" else n for n in names) or "no pictures"


def find_transformer(corpus: Corpus, options: Options) -> str:
    """RETURNS (str): The text encoder that was named, or else the config's; empty if it has none.
    RAISES (ValueError): There is no such config.
    """
    components = read_config(find_config(corpus.name, options.config), options.overrides)["components"]
    return options.transformer or next((layer["name"] for layer in list_transformers(components)), "")


def list_transformers(components: Mapping[str, Any]) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): The layers that are text encoders, with their "name" on the hub."""
    models = [
        part["model"]
        for part in components.values()
        if part.get("factory") != "mmib_img2vec" and "model" in part
    ]
    layers = [layer for model in models for layer in (model, model.get("tok2vec") or {})]
    return [layer for layer in layers if "name" in layer]


def list_blocks(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): All sections below a section of a config."""
    own = [value for value in section.values() if isinstance(value, dict)]
    return [block for value in own for block in (value, *list_blocks(value))]
