"""What the benchmark measures: models with random weights as files, and rows, each of which loads its model,
makes new input, and is timed processing that.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import spacy
import torch
import torchvision
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed, load_model_from_config, registry
from spacy_transformers.util import batch_by_length
from thinc.util import get_torch_default_device
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizerFast

from project.benchmarks.generated_posts import ENTITIES_A_POST, N_OBJECTS, Post, make_word_pieces
from project.benchmarks.released_procedure import BATCH_SIZE, LEARN_RATE, WEIGHT_DECAY, ReleasedModel
from project.compare import choose_names, read_rows
from project.config import read_config
from project.planning import Corpus, Options, Variant, make_config
from spacy_mmib.bridge.data import NERInput
from spacy_mmib.bridge.shim import pad
from spacy_mmib.post.extensions import set_image, set_regions

CONFIGS = {"mmib_ner": "ner_trf", "ner": "baseline_trf"}
TINY_BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


class Setting(NamedTuple):
    """What all rows have in common: the folder with "bert", "weights", "pictures", "cache" and the pipelines,
    how many posts `nlp.pipe` takes at a time, and sizes of the models (of BERT what differs from BERT-base).
    """

    folder: Path
    batch_size: int = 64
    bert: Mapping[str, int] | None = None
    arch: str = "resnet50"
    heads: int = 12


def make_models(setting: Setting, posts: list[Post]) -> None:
    """Write both encoders; and a pipeline with mmib_ner and one with spaCy's ner, as the shipped configs have
    them, with new weights on the same text encoder.
    """
    fix_random_seed(0)
    bert = setting.folder / "bert"
    bert.mkdir(parents=True, exist_ok=True)
    sizes = BertConfig(**(setting.bert or {}))
    (bert / "vocab.txt").write_text("\n".join(make_word_pieces(sizes.vocab_size)), encoding="utf8")
    BertTokenizerFast(str(bert / "vocab.txt"), model_max_length=512).save_pretrained(bert)
    BertModel(sizes).save_pretrained(bert)
    torch.save(torchvision.models.get_model(setting.arch).state_dict(), setting.folder / "weights")
    for name, config_name in CONFIGS.items():
        config = read_config(config_name)
        config["components"]["transformer"]["model"]["name"] = str(bert)
        if name == "mmib_ner":
            model = config["components"][name]["model"]
            # The released code has one linear layer there: so both sides do the same arithmetic.
            model["fusion"].update({"feed_forward": "linear", "heads": setting.heads})
            model["img2vec"].update({"arch": setting.arch, "weights": str(setting.folder / "weights")})
        fix_random_seed(0)
        nlp = load_model_from_config(config, auto_fill=True)
        nlp.initialize(partial(make_examples, nlp, posts, pictures=name == "mmib_ner"))
        if name == "mmib_ner":
            settle_tags(nlp, posts)
        nlp.to_disk(setting.folder / name)


@torch.no_grad()
def settle_tags(nlp: Language, posts: list[Post]) -> None:
    """Set the bias of the tag O such that posts get about as many entities as real ones. With random weights
    nearly every token would be in one, and reading them off would cost what it never does.
    """
    docs = [make_doc(nlp, post) for post in posts]
    for _, pipe in nlp.pipeline[:-1]:
        docs = list(pipe.pipe(docs, batch_size=len(docs)))
    model: Any = nlp.get_pipe("mmib_ner").model
    head = model.get_ref("head")
    module = head.shims[0]._model
    bias = getattr(module, "borders", module).emission.bias
    found_in = model.predict(docs)
    inputs = NERInput(found_in.context, found_in.borders)
    low, high = -20.0, 20.0
    for _ in range(20):
        bias[0] = (low + high) / 2
        found = sum(len(entities.starts) for entities in head.predict(inputs))
        if found > ENTITIES_A_POST * len(posts):
            low = float(bias[0])
        else:
            high = float(bias[0])


def make_doc(nlp: Language, post: Post, *, picture: bool = True) -> Doc:
    """RETURNS (Doc): The post, without its entities."""
    doc = Doc(nlp.vocab, words=list(post.words))
    if picture:
        set_image(doc, post.picture)
        set_regions(doc, post.boxes)
    return doc


def make_examples(nlp: Language, posts: Sequence[Post], *, pictures: bool = True) -> list[Example]:
    """RETURNS (List[Example]): The posts with their entities."""
    references = [Doc(nlp.vocab, words=list(post.words), ents=post.get_tags()) for post in posts]
    docs = [make_doc(nlp, post, picture=pictures) for post in posts]
    return [Example(doc, reference) for doc, reference in zip(docs, references)]


class Released:
    """The released procedure: `make_input` makes new input, which nothing has been computed for, `run` is
    what is timed and returns what it found for each post, and `parts` are the torch modules whose share of
    the time is of interest.
    """

    encoder: Mapping[str, Any] = {}

    def __init__(self, setting: Setting, autocast: str | None = None, *, trains: bool = False) -> None:
        self.trains = trains
        self.autocast = None if autocast is None else getattr(torch, autocast)
        torch.manual_seed(0)
        paths = setting.folder / "bert", setting.folder / "weights"
        self.device = get_torch_default_device()
        self.model = ReleasedModel(paths[0], setting.arch, paths[1], setting.heads).to(self.device)
        self.optimizer = self.model.make_optimizer()
        self.parts = {"bert": self.model.bert, "resnet": self.model.resnet, "core": self.model.core}

    def make_input(self, posts: Sequence[Post]) -> Any:
        """RETURNS (Sequence[Post]): The posts."""
        return posts

    def run(self, data: Any) -> Any:
        """Predict, or train."""
        if self.trains:
            for start in range(0, len(data), BATCH_SIZE):
                self.model.train_step(data[start : start + BATCH_SIZE], self.optimizer)
            return None
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            return list(self.model.predict(data))


class Ours:
    """mmib_ner, or spaCy's ner; see `Released`. A pipeline that is given is not loaded."""

    def __init__(
        self,
        setting: Setting,
        encoder: dict[str, Any] | None = None,
        *,
        component: str = "mmib_ner",
        pictures: bool = True,
        trains: bool = False,
        nlp: Language | None = None,
    ) -> None:
        self.encoder, self.pictures, self.trains = encoder or {}, pictures, trains
        self.batch_size = setting.batch_size
        overrides = {f"components.mmib_ner.model.img2vec.{k}": v for k, v in self.encoder.items()}
        self.nlp = nlp or spacy.load(setting.folder / component, config=overrides)
        self.model: Any = self.nlp.get_pipe(component).model
        # The shipped config's: Adam with weight decay, like the released code's, and batches of as many
        # posts, but of similar length.
        training = self.nlp.config.interpolate()["training"]
        found = registry.resolve({name: training[name] for name in ("optimizer", "batcher")})
        self.optimizer, self.batcher = found["optimizer"], found["batcher"]
        assert training["batcher"]["size"] == BATCH_SIZE
        layers = {} if nlp else {"bert": self.nlp.get_pipe("transformer").model.layers[0]}
        if layers and component == "mmib_ner":
            layers["resnet"] = self.model.get_ref("img2vec").layers[0]
            layers |= {"core": self.model.get_ref("fusion"), "head": self.model.get_ref("head")}
        self.parts: dict[str, nn.Module] = {name: layer.shims[0]._model for name, layer in layers.items()}

    def fill_cache(self, posts: Sequence[Post]) -> None:
        """Encode the pictures, of which the cache then has the vectors; nothing else is run."""
        img2vec = self.model.maybe_get_ref("img2vec") if self.encoder.get("cache") else None
        if img2vec is not None:
            img2vec.predict([make_doc(self.nlp, post) for post in posts])

    def make_input(self, posts: Sequence[Post]) -> Any:
        """RETURNS (Any): New docs or examples."""
        if self.trains:
            return make_examples(self.nlp, posts, pictures=self.pictures)
        return [make_doc(self.nlp, post, picture=self.pictures) for post in posts]

    def run(self, data: Any) -> Any:
        """Predict, or train."""
        if self.trains:
            for batch in self.batcher(data):
                self.nlp.update(batch, sgd=self.optimizer, drop=0.1, losses={})
            return None
        return [
            [(ent.start, ent.end, ent.label_) for ent in doc.ents]
            for doc in self.nlp.pipe(data, batch_size=self.batch_size)
        ]


class PlainBatch(NamedTuple):
    """What a plain loop gets, on the device: word pieces (b, n) and their mask, what makes means of them, a
    row a token (b, t, n), the mask of the tokens, picture vectors and their mask, and gold tags; and at
    prediction which posts these are.
    """

    ids: torch.Tensor
    pieces: torch.Tensor
    means: torch.Tensor
    tokens: torch.Tensor
    image: torch.Tensor
    image_mask: torch.Tensor
    tags: torch.Tensor
    numbers: Sequence[int]


class Plain(Ours):
    """The modules of mmib_ner, with the same weights, in a loop of torch without spaCy or Thinc: the limit.
    Its input is tensors, which are made outside the timing: of the same posts, in the same batches. Each post
    has its picture; ours goes without some in training (picture_dropout). torch's fused AdamW stands for the
    optimizer. See `Released`.
    """

    def __init__(
        self, setting: Setting, encoder: dict[str, Any], autocast: str | None = None, *, trains: bool = False
    ) -> None:
        super().__init__(setting, encoder, trains=trains)
        self.autocast = None if autocast is None else getattr(torch, autocast)
        self.tokenizer = BertTokenizerFast.from_pretrained(setting.folder / "bert")
        self.labels = self.nlp.get_pipe("mmib_ner").labels
        self.device = get_torch_default_device()
        del self.parts["resnet"]
        self.weights = [p for part in self.parts.values() for p in part.parameters()]
        settings = {"lr": LEARN_RATE, "weight_decay": WEIGHT_DECAY, "fused": True}
        self.adam = torch.optim.AdamW(self.weights, **settings) if trains else None

    def make_input(self, posts: Sequence[Post]) -> list[PlainBatch]:
        """RETURNS (List[PlainBatch]): Of new docs."""
        examples = make_examples(self.nlp, posts)
        if self.trains:
            return [self._make_batch(batch, ()) for batch in self.batcher(examples)]
        # As the transformer does: within what nlp.pipe takes at a time, by length, and not too much at once.
        size = self.nlp.get_pipe("transformer").cfg["max_batch_items"]
        starts = range(0, len(examples), self.batch_size)
        groups = [range(i, min(i + self.batch_size, len(examples))) for i in starts]
        batches = [
            [group[i] for i in chosen]
            for group in groups
            for chosen in batch_by_length([examples[i].predicted for i in group], size)
        ]
        return [self._make_batch([examples[i] for i in chosen], chosen) for chosen in batches]

    def _make_batch(self, examples: Sequence[Example], numbers: Sequence[int]) -> PlainBatch:
        words = [[token.text for token in eg.predicted] for eg in examples]
        pieces = self.tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        means = torch.zeros(len(words), max(map(len, words)), pieces["input_ids"].shape[1])
        tags = torch.zeros(means.shape[:2], dtype=torch.long)
        for i, eg in enumerate(examples):
            for j, word in enumerate(pieces.word_ids(i)):
                if word is not None:
                    means[i, word, j] = 1
            for ent in eg.reference.ents:
                tag = 2 * self.labels.index(ent.label_) + 1
                tags[i, ent.start : ent.end] = tag + 1
                tags[i, ent.start] = tag
        means /= means.sum(-1, keepdim=True).clamp(min=1)
        image = pad(self.model.get_ref("img2vec").predict([eg.predicted for eg in examples]))
        found = pieces["input_ids"], pieces["attention_mask"], means, means.any(-1), *image, tags
        return PlainBatch(*(tensor.to(self.device) for tensor in found), numbers=numbers)

    def run(self, data: Any) -> Any:
        """Predict, or train."""
        self.parts["bert"].train(self.trains)
        found = {}
        for batch in data:
            if self.adam is None:
                with torch.inference_mode():
                    for number, x in zip(batch.numbers, self._forward(batch)):
                        found[number] = [*zip(x.starts, x.ends, (self.labels[k] for k in x.labels))]
            else:
                self._forward(batch).backward()
                nn.utils.clip_grad_norm_(self.weights, 1.0)
                self.adam.step()
                self.adam.zero_grad()
                self.parts["head"].constrain()
        return [found[number] for number in sorted(found)] or None

    def _forward(self, X: PlainBatch) -> Any:
        bert, core, head = self.parts.values()
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            text = X.means @ bert(input_ids=X.ids, attention_mask=X.pieces).last_hidden_state
            image_ids = torch.arange(len(text), device=self.device)
            output = core(text, X.tokens, X.image, X.image_mask, image_ids, training=self.trains)
        context = output.context.float()
        if not self.trains:
            return head(context, X.tokens, training=False)
        loss = head(context, X.tokens, X.tags, training=True)
        return (loss + sum(core.losses[name] * value for name, value in output.losses.items())).sum()


Row = Released | Ours


def choose_models(names: str) -> dict[str, Variant]:
    """RETURNS (Dict[str, Variant]): The trained systems of systems.yml that find entities, by name: "all", or
        names of systems or groups separated by commas. Not those that differ in their training pictures only,
        or that want labels of objects, which the generated posts are without.
    RAISES (ValueError): There is no such system or group.
    """
    if not names:
        return {}
    rows = [row for row in read_rows() if row.task in ("", "ner") and row.needs not in ("objects", "crops")]
    rows = [row for row in rows if row.variant and not (row.variant.floor or row.variant.parts)]
    rows = [row for row in rows if row.variant and row.variant.images == "own"]
    wanted = [] if names == "all" else [name.strip() for name in names.split(",")]
    chosen = choose_names(rows, wanted)
    return {row.name: row.variant for row in rows if row.variant and row.name in chosen}


def make_model(setting: Setting, variant: Variant, posts: list[Post]) -> Ours:
    """RETURNS (Ours): A system of the comparison as it is trained there, with random weights: text encoder
    and pictures are the benchmark's, and so are the sizes.
    """
    path = str(setting.folder / "cache")
    overrides = {"components.mmib_ner.model.img2vec.cache.path": path}
    saved, bert = setting.folder / "mmib_ner" / "config.cfg", setting.folder / "bert"
    options = Options(config=str(saved), transformer=str(bert), overrides=overrides, task="ner")
    config = make_config(Corpus("benchmark", setting.folder, len(posts), len(posts)), variant, 0, options)
    fix_random_seed(0)
    nlp = load_model_from_config(config, auto_fill=True)
    pictures = not variant.spacy_ner
    nlp.initialize(partial(make_examples, nlp, posts, pictures=pictures))
    if pictures:
        settle_tags(nlp, posts)
    (component,) = nlp.pipe_names
    return Ours(setting, {"cache": path}, component=component, pictures=pictures, nlp=nlp)


def get_encoders(setting: Setting) -> dict[str, dict[str, Any]]:
    """RETURNS (Dict[str, Dict[str, Any]]): Settings of the picture encoder, by the name of the row."""
    given = {"get_regions": {"@region_getters": "spacy-mmib.given.v1"}, "max_regions": N_OBJECTS}
    cache = {"@misc": "spacy-mmib.feature_cache.v1", "path": str(setting.folder / "cache")}
    return {
        "exact": {**given, "region_features": "crop"},
        "roi": {**given, "region_features": "roi"},
        "cached": {**given, "region_features": "crop", "cache": cache},
    }


def make_rows(setting: Setting, *, gpu: bool) -> dict[str, Callable[[], Row]]:
    """RETURNS (Dict[str, Callable[[], Row]]): How to load each row. On a GPU those in half precision too."""
    encoders = get_encoders(setting)
    rows: dict[str, Callable[[], Row]] = {
        "released": lambda: Released(setting),
        "ours_exact": lambda: Ours(setting, encoders["exact"]),
        "ours_roi": lambda: Ours(setting, encoders["roi"]),
        "ours_cached": lambda: Ours(setting, encoders["cached"]),
        "train_released": lambda: Released(setting, trains=True),
        "predict_plain": lambda: Plain(setting, encoders["cached"]),
        "train_cached": lambda: Ours(setting, encoders["cached"], trains=True),
        "train_plain": lambda: Plain(setting, encoders["cached"], trains=True),
        "text_ours": lambda: Ours(setting, pictures=False),
        "text_ner": lambda: Ours(setting, component="ner", pictures=False),
    }
    if gpu:
        half = {"autocast": "bfloat16"}
        rows["released_bf16"] = lambda: Released(setting, "bfloat16")
        rows["ours_exact_bf16"] = lambda: Ours(setting, {**encoders["exact"], **half})
        rows["ours_roi_bf16"] = lambda: Ours(setting, {**encoders["roi"], **half})
        rows["predict_plain_bf16"] = lambda: Plain(setting, encoders["cached"], "bfloat16")
        rows["train_plain_bf16"] = lambda: Plain(setting, encoders["cached"], "bfloat16", trains=True)
    return rows
