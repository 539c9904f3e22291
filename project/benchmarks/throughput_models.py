"""Encoders and pipelines with random weights, as files that all rows of the benchmark load."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import spacy
import torch
import torchvision
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed, load_model_from_config
from transformers import BertConfig, BertModel, BertTokenizerFast

from project.benchmarks.generated_posts import ENTITIES_A_POST, Post, make_word_pieces
from project.config import read_config
from spacy_mmib.bridge.data import NERInput
from spacy_mmib.post.extensions import set_image, set_regions

CONFIGS = {"mmib_ner": "ner_trf", "ner": "baseline_trf"}


@dataclass(frozen=True)
class Sizes:
    """How large the models are.

    bert (Dict[str, int]): What differs from BERT-base.
    arch (str): The picture encoder.
    heads (int): Of MMIB.
    """

    bert: dict[str, int]
    arch: str
    heads: int


PAPER = Sizes({}, "resnet50", 12)
TINY_BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = Sizes({**TINY_BERT, "intermediate_size": 96}, "resnet18", 4)


@dataclass(frozen=True)
class Files:
    """Where things are.

    folder (Path): For all of them.
    """

    folder: Path

    @property
    def bert(self) -> Path:
        """RETURNS (Path): Folder of the text encoder."""
        return self.folder / "bert"

    @property
    def weights(self) -> Path:
        """RETURNS (Path): State dict of the picture encoder."""
        return self.folder / "picture_encoder.pth"

    @property
    def pictures(self) -> Path:
        """RETURNS (Path): Folder of the pictures."""
        return self.folder / "pictures"

    @property
    def cache(self) -> Path:
        """RETURNS (Path): The cache of picture vectors."""
        return self.folder / "cache"

    def get_pipeline(self, name: str) -> Path:
        """RETURNS (Path): Folder of a pipeline."""
        return self.folder / f"pipeline_{name}"


def make_encoders(files: Files, sizes: Sizes) -> None:
    """Write both encoders.

    files (Files): Where to.
    sizes (Sizes): How large.
    """
    fix_random_seed(0)
    files.bert.mkdir(parents=True, exist_ok=True)
    config = BertConfig(**sizes.bert)
    vocabulary = files.bert / "vocab.txt"
    vocabulary.write_text("\n".join(make_word_pieces(config.vocab_size)), encoding="utf8")
    BertTokenizerFast(str(vocabulary), model_max_length=512).save_pretrained(files.bert)
    BertModel(config).save_pretrained(files.bert)
    torch.save(torchvision.models.get_model(sizes.arch).state_dict(), files.weights)


def make_pipelines(files: Files, sizes: Sizes, posts: list[Post]) -> None:
    """Write a pipeline with mmib_ner and one with spaCy's ner, as the shipped configs have them, with new
    weights on the same text encoder.

    files (Files): With the encoders.
    sizes (Sizes): How large.
    posts (List[Post]): A sample.
    """
    for name, config_name in CONFIGS.items():
        config = read_config(config_name)
        config["components"]["transformer"]["model"]["name"] = str(files.bert)
        if name == "mmib_ner":
            model = config["components"][name]["model"]
            # The released code has one linear layer there: so both sides do the same arithmetic.
            model.update({"feed_forward": "linear", "heads": sizes.heads})
            model["img2vec"].update({"arch": sizes.arch, "weights": str(files.weights)})
        fix_random_seed(0)
        nlp = load_model_from_config(config, auto_fill=True)
        nlp.initialize(partial(make_examples, nlp, posts, pictures=name == "mmib_ner"))
        if name == "mmib_ner":
            settle_tags(nlp, posts)
        nlp.to_disk(files.get_pipeline(name))


@torch.no_grad()
def settle_tags(nlp: Language, posts: list[Post]) -> None:
    """Set the bias of the tag O such that posts get about as many entities as real ones. With random weights
    nearly every token would be in one, and reading them off would cost what it never does.

    nlp (Language): The pipeline.
    posts (List[Post]): A sample.
    """
    docs = [nlp.get_pipe("transformer")(make_doc(nlp, post)) for post in posts]
    model: Any = nlp.get_pipe("mmib_ner").model
    head = model.get_ref("head")
    bias = head.shims[0]._model.emission.bias
    context = model.predict(docs).context
    low, high = -20.0, 20.0
    for _ in range(20):
        bias[0] = (low + high) / 2
        found = sum(len(entities.starts) for entities in head.predict(NERInput(context)))
        if found > ENTITIES_A_POST * len(posts):
            low = float(bias[0])
        else:
            high = float(bias[0])


def load(files: Files, name: str, settings: dict[str, Any] | None = None) -> Language:
    """Load a pipeline that `make_pipelines` wrote.

    files (Files): Where it is.
    name (str): "mmib_ner" or "ner".
    settings (Optional[Dict[str, Any]]): Of its picture encoder.
    RETURNS (Language): The pipeline.
    """
    prefix = "components.mmib_ner.model.img2vec"
    overrides = {f"{prefix}.{key}": value for key, value in (settings or {}).items()}
    return spacy.load(files.get_pipeline(name), config=overrides)


def make_doc(nlp: Language, post: Post, *, picture: bool = True) -> Doc:
    """RETURNS (Doc): The post, without its entities."""
    doc = Doc(nlp.vocab, words=list(post.words))
    if picture:
        set_image(doc, post.picture)
        set_regions(doc, post.boxes)
    return doc


def make_examples(nlp: Language, posts: list[Post], *, pictures: bool = True) -> list[Example]:
    """RETURNS (List[Example]): The posts with their entities."""
    examples = []
    for post in posts:
        doc = make_doc(nlp, post, picture=pictures)
        reference = Doc(nlp.vocab, words=list(post.words), ents=post.get_tags())
        examples.append(Example(doc, reference))
    return examples
