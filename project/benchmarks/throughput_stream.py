"""Memory over a long stream of posts, whose pictures have vectors in the cache."""

import gc
import random
from collections.abc import Iterator, Sequence
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import fix_random_seed

from project.benchmarks.generated_posts import LABELS, Post, make_posts
from project.benchmarks.throughput_measure import get_rss
from project.benchmarks.throughput_models import make_doc, make_examples
from project.benchmarks.throughput_rows import Setting, get_encoders

DEFAULT_STEPS = (1_000, 5_000, 10_000, 20_000)
"""Memory is read after so many posts."""

MOST_GROWTH = 1.05
N_TEXTS = 2_000
WIDTH = 96


def measure_stream(
    setting: Setting, posts: list[Post], steps: Sequence[int] = DEFAULT_STEPS
) -> dict[str, Any]:
    """Stream posts through `nlp.pipe`, forgetting each, and read how much memory the process has.

    setting (Setting): Of the benchmark; the pictures of the posts are in its cache.
    posts (List[Post]): Their pictures are used over and over.
    steps (Sequence[int]): When to read it. The last is where the stream ends.
    RETURNS (Dict[str, Any]): Memory at each step in MB, the largest as a multiple of the first, and whether
        that is flat.
    """
    nlp = _make_pipeline(setting, posts)
    texts = make_posts(N_TEXTS, [(post.picture, post.boxes) for post in posts], seed=1)
    found: list[float | None] = []
    stream = nlp.pipe(_make_docs(nlp, texts, steps[-1]), batch_size=setting.batch_size)
    for number, _ in enumerate(stream, start=1):
        if number in steps:
            gc.collect()
            found.append(get_rss())
    read = [rss for rss in found if rss is not None]
    growth = max(read) / read[0] if read else float("nan")
    return {
        "model": f"HashEmbedCNN of width {WIDTH}, {setting.sizes.arch} with all vectors in the cache",
        "texts": f"words drawn anew from {N_TEXTS} texts",
        "posts": list(steps),
        "rss_mb": [round(rss, 1) for rss in read],
        "growth": round(growth, 4),
        "flat": growth <= MOST_GROWTH,
    }


def _make_pipeline(setting: Setting, posts: list[Post]) -> Language:
    nlp = spacy.blank("en")
    encoder = get_encoders(setting)["cached"]
    encoder["@architectures"] = "spacy-mmib.TorchvisionEncoder.v1"
    encoder.update({"arch": setting.sizes.arch, "weights": str(setting.files.weights)})
    fix_random_seed(0)
    nlp.add_pipe("mmib_ner", config={"model": {"img2vec": encoder}})
    for label in LABELS:
        nlp.get_pipe("mmib_ner").add_label(label)
    nlp.initialize(lambda: make_examples(nlp, posts[:8]))
    return nlp


def _make_docs(nlp: Language, texts: list[Post], number: int) -> Iterator[Doc]:
    # Other texts each time, of words that spaCy's vocabulary gets to know within the first posts.
    rng = random.Random(2)
    for i in range(number):
        post = texts[i % len(texts)]
        words = list(post.words)
        rng.shuffle(words)
        yield make_doc(nlp, Post(tuple(words), (), post.picture, post.boxes))
