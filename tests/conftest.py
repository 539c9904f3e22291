"""Fixtures that many test files use. Small encoders with random weights: nothing is downloaded."""

import io
import os
import subprocess
import time
import warnings
from itertools import permutations
from pathlib import Path

# Before anything imports torch: the tensors here are tiny, and threads that wait for each other on a busy
# machine make the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy
import PIL.Image
import pytest
import spacy
from forked import run_forked
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab

from spacy_mmib.post.extensions import set_found_regions

ROOT = Path(__file__).parents[1]
VOCAB = Vocab()
LANGUAGE = "xx"
"""Made and loaded in a third of the time of English, whose tokenizer has more than a thousand special cases,
none of which is in the posts here."""
IMG2VEC = {
    "@architectures": "spacy-mmib.TorchvisionEncoder.v1",
    "arch": "squeezenet1_1",
    "weights": None,
    "image_size": 32,
}
TOK2VEC = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": 24,
    "depth": 2,
    "embed_size": 200,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": True,
}
FUSION = {"@architectures": "spacy-mmib.MMIB.v1", "heads": 4}
MODEL = {"@architectures": "spacy-mmib.NER.v1", "tok2vec": TOK2VEC, "img2vec": IMG2VEC, "fusion": FUSION}
REL_MODEL = {**MODEL, "@architectures": "spacy-mmib.REL.v1"}
LISTENER = {"@architectures": "spacy-mmib.Img2VecListener.v1"}
# For what is to be learned by heart in few updates.
LEARN_FAST = {"beta1": 0.01, "beta2": 0.01, "picture_dropout": 0.0}


def pytest_collection_modifyitems(items):
    """GPU tests are skipped where there is no GPU (or no CuPy, which training on GPU needs)."""
    if any("gpu" in item.keywords for item in items):
        from thinc.compat import has_cupy_gpu, has_torch_cuda_gpu

        if not (has_cupy_gpu and has_torch_cuda_gpu):
            for item in items:
                if "gpu" in item.keywords:
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device and CuPy"))


@pytest.fixture(scope="session")
def mmib_data() -> Path:
    """The folder of real data, from the environment variable MMIB_DATA."""
    folder = os.environ.get("MMIB_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the real data: set MMIB_DATA to its folder")
    return Path(folder)


def make_picture(colour: str, size: tuple[int, int] = (40, 30)) -> PIL.Image.Image:
    return PIL.Image.new("RGB", size, colour)


def save_picture(path: Path, colour: str = "black", size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_picture(colour, size).save(path)


def encoded(image: PIL.Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def make_encoder(initialize: bool = True, seed: int = 0, **settings):
    """A small picture encoder, a layer of Thinc's, with settings of one's own."""
    encoder = registry.resolve({"img2vec": {**IMG2VEC, **settings}})["img2vec"]
    if initialize:
        spacy.util.fix_random_seed(seed)
        encoder.initialize()
    return encoder


def normalize(pictures, preset):
    """What a network sees of prepared pictures: 0-1, less the mean of the preset, over its std."""
    mean, std = (pictures.new_tensor(preset[name], dtype=float)[:, None, None] for name in ("mean", "std"))
    return ((pictures / 255 - mean) / std).float()


def encode(encoder, docs):
    """Vectors by a picture encoder. What it found in pictures is attached to the docs, as components do."""
    vectors = encoder.predict(docs)
    for doc, found in zip(docs, vectors.found):
        set_found_regions(doc, found)
    return vectors


def make_doc(image=None, regions=(), words=("a", "post")) -> Doc:
    doc = Doc(VOCAB, words=list(words))
    doc._.image = image
    doc._.regions = regions
    return doc


def docbin(doc: Doc) -> Doc:
    """The doc, written and read again."""
    data = DocBin(docs=[doc], store_user_data=True).to_bytes()
    return next(iter(DocBin().from_bytes(data).get_docs(Vocab())))


def read_docs(path: Path) -> list[Doc]:
    return list(DocBin().from_disk(path).get_docs(spacy.blank(LANGUAGE).vocab))


def wait_until(condition) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def run_command(main, *args):
    """What typer makes of a function, called with these words."""
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(arg) for arg in args])


def run_python(*args, cwd=ROOT) -> subprocess.CompletedProcess:
    """In a process of its own, which has to end well."""
    result = run_forked(*args, cwd=cwd, timeout=600)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def make_nlp(**config) -> Language:
    nlp = spacy.blank(LANGUAGE)
    nlp.add_pipe("mmib_ner", config={"model": MODEL, "picture_dropout": 0.0, **config})
    return nlp


# The same text with different pictures: only the picture can tell the type.
POSTS = [
    ("Rob had dinner with us", [(0, 3, "PER")], "red"),
    ("Rob had dinner with us", [(0, 3, "ORG")], "blue"),
    ("we saw Mia in the city", [(7, 10, "PER")], "red"),
    ("we saw Mia in the city", [(7, 10, "ORG")], "blue"),
    ("New Mia Records is here", [(0, 15, "ORG")], None),
    ("nothing to see", [], "red"),
    ("", [], None),
    (" ", [], "blue"),
]


def make_examples(nlp: Language, posts=POSTS) -> list[Example]:
    examples = []
    for text, entities, colour in posts:
        doc = nlp.make_doc(text)
        if colour is not None:
            doc._.image = numpy.asarray(make_picture(colour))
            doc._.regions = [(0, 0, 20, 20)]
        examples.append(Example.from_dict(doc, {"entities": entities}))
    return examples


def train(nlp: Language, examples: list[Example], steps: int = 60, seed: int = 0) -> dict:
    spacy.util.fix_random_seed(seed)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.005
    losses: dict = {}
    for _ in range(steps):
        losses = nlp.update(examples, sgd=optimizer, losses={}, drop=0.0)
    return losses


@pytest.fixture(scope="session")
def trained() -> Language:
    """A pipeline that has overfitted `POSTS`. Shared: don't change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = make_nlp(beta1=0.01, beta2=0.01)
        train(nlp, make_examples(nlp), steps=80)
    return nlp


def entities(docs) -> list[list[tuple[str, str, float]]]:
    """What a pipeline said, with confidences rounded beyond float noise."""
    return [[(e.text, e.label_, round(e._.confidence, 4)) for e in doc.ents] for doc in docs]


def new_docs(nlp: Language) -> list[Doc]:
    return [eg.predicted for eg in make_examples(nlp)]


# Pairs of people whose relation only the picture tells, both ways round; and other pairs.
PAIRS = [
    ("Rob met Mia in Oslo", "red", "couple"),
    ("Rob met Mia in Oslo", "blue", "team"),
    ("Kim and Mia", "red", "couple"),
    ("Kim and Mia", "blue", "team"),
    ("Kim and Mia", "white", None),
    ("Mia sleeps", "red", None),
    ("nobody is here", None, None),
]
NAMES = ("Rob", "Mia", "Kim")


def make_rel_nlp(joint: bool = False, **config) -> Language:
    """joint: with mmib_ner and with shared picture vectors. Otherwise pairs have to be given."""
    nlp = spacy.blank(LANGUAGE)
    settings = {**LEARN_FAST, **config}
    model = {**REL_MODEL, **settings.pop("model", {})}
    if joint:
        nlp.add_pipe("mmib_img2vec", config={"model": IMG2VEC})
        ner = {**MODEL, "img2vec": LISTENER}
        nlp.add_pipe("mmib_ner", config={"model": ner, **LEARN_FAST})
        model["img2vec"] = LISTENER
    else:
        settings.setdefault("get_instances", {"@misc": "spacy-mmib.given_pairs.v1"})
    nlp.add_pipe("mmib_rel", config={"model": model, **settings})
    return nlp


def make_rel_examples(nlp: Language, posts=PAIRS, *, ask: bool = False) -> list[Example]:
    """ask: predicted docs have the pairs, without labels."""
    examples = []
    for text, colour, label in posts:
        doc = nlp.make_doc(text)
        if colour is not None:
            doc._.image = numpy.asarray(make_picture(colour))
            doc._.regions = [(0, 0, 20, 20)]
        gold = doc.copy()
        gold.ents = [Span(gold, t.i, t.i + 1, label="PER") for t in gold if t.text in NAMES]
        pairs = list(permutations(gold.ents, 2))
        gold._.relations = [(head, tail, label or "None") for head, tail in pairs]
        if ask:
            doc._.relations = [(rel.head, rel.tail, "") for rel in gold._.relations]
        examples.append(Example(doc, gold))
    return examples


def relations(docs, digits: int = 4) -> list[list[tuple]]:
    """What a pipeline said, with scores rounded beyond float noise."""
    return [
        [(r.head.text, r.tail.text, r.label, round(r.score, digits)) for r in doc._.relations] for doc in docs
    ]


@pytest.fixture(scope="session")
def trained_rel() -> Language:
    """A pipeline that has overfitted `PAIRS`, for pairs that are given. Shared: don't change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = make_rel_nlp()
        train(nlp, make_rel_examples(nlp), steps=80)
    return nlp


@pytest.fixture(scope="session")
def trained_joint() -> Language:
    """A pipeline for entities and relations that has overfitted `PAIRS`. Shared: don't change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = make_rel_nlp(joint=True)
        train(nlp, make_rel_examples(nlp), steps=120)
    return nlp
