"""Fixtures that many test files use. Small encoders with random weights: nothing is downloaded."""

import os
from pathlib import Path

# Before anything imports torch: the tensors here are tiny, and threads that wait for each other on a busy
# machine make the suite ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy
import PIL.Image
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

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
MODEL = {
    "@architectures": "spacy-mmib.MMIB_NER.v1",
    "heads": 4,
    "tok2vec": TOK2VEC,
    "img2vec": IMG2VEC,
}


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


def make_nlp(**config) -> Language:
    nlp = spacy.blank("en")
    nlp.add_pipe("mmib_ner", config={"model": MODEL, **config})
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
    import warnings

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
