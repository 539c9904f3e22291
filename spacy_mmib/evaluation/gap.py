"""How far the latents of texts and pictures are apart: the modality gap that the alignment term is there to
close (the paper's §V-D)."""

import random
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from ..post.extensions import get_image_key
from . import EvaluationError, require
from .contributions import find_component, inspect_docs

Array: TypeAlias = "numpy.ndarray[Any, Any]"

TIED = 1e-9  # cosines that differ by less are equal: pictures with the same content under two names
PERPLEXITY, ITERATIONS = 10, 500  # of the paper's t-SNE
FEWEST = 2  # pairs of a type that can be laid out
SIZE = 3.2  # inches of a panel


@dataclass(frozen=True)
class Gap:
    """Over the posts with a (readable) picture. Latents of a post are means over its tokens and over the rows
    of its picture.

    component (str): Whose latents they are.
    pictures (int): Different ones.
    paired (float): Mean cosine of a text and its own picture, -1 to 1.
    unpaired (Optional[float]): Mean cosine of a text and each other picture; `None` with a single picture.
    recall_at_1 (float): How often the own picture is the nearest to a text of all different pictures, 0-1. Of
        equally near pictures each is as likely to be the nearest.
    recall_at_5 (float): How often it is among the nearest five.
    chance_at_1, chance_at_5 (float): The same for guessing.
    """

    component: str
    posts: int
    pictures: int
    paired: float
    unpaired: float | None
    recall_at_1: float
    recall_at_5: float
    chance_at_1: float
    chance_at_5: float


def measure_gap(nlp: Language, docs: Iterable[Doc], component: str | None = None) -> Gap:
    """Measure how near texts are to their own pictures, compared with other pictures. Posts with the same
    (first) picture count as having one, with the objects of the first of them.

    RAISES (EvaluationError): No post has a picture that can be read, or no component can be looked into.
    """
    name = find_component(nlp, component)
    docs = list(docs)
    texts: list[Array] = []
    pictures: list[Array] = []
    columns: dict[str | None, int] = {}
    own: list[int] = []
    for doc, found in zip(docs, inspect_docs(nlp, docs, name)):
        if found is not None and len(found.z_image):
            texts.append(found.z_text.mean(axis=0, dtype="float64"))
            own.append(columns.setdefault(get_image_key(doc), len(columns)))
            if own[-1] == len(pictures):
                pictures.append(found.z_image.mean(axis=0, dtype="float64"))
    if not texts:
        raise EvaluationError(
            f"None of these {len(docs)} posts has a picture that can be read, so there is no gap to measure."
        )
    return _summarize(name, _to_unit(texts) @ _to_unit(pictures).T, numpy.asarray(own))


def _summarize(name: str, cosines: Array, own: Array) -> Gap:
    """cosines: A row a text, a column a different picture. own: The column of the text's own picture."""
    n, m = cosines.shape
    right = cosines[numpy.arange(n), own]
    nearer = (cosines > right[:, None] + TIED).sum(axis=1)
    tied = (abs(cosines - right[:, None]) <= TIED).sum(axis=1)  # the own one among them
    recall = [float(numpy.clip((k - nearer) / tied, 0, 1).mean()) for k in (1, 5)]
    unpaired = float((cosines.sum() - right.sum()) / (n * (m - 1))) if m > 1 else None
    return Gap(name, n, m, float(right.mean()), unpaired, recall[0], recall[1], 1 / m, min(1.0, 5 / m))


def _to_unit(vectors: Sequence[Array]) -> Array:
    rows = numpy.stack(vectors)
    lengths = numpy.linalg.norm(rows, axis=1, keepdims=True)  # zeros stay zeros
    return numpy.divide(rows, lengths, out=rows, where=lengths > 0)


@dataclass(frozen=True)
class EntityRegionPairs:
    """Gold entities of one type, and what of the picture they attend to most.

    found (int): Entities of this type in posts with a picture, of which these are a sample.
    entities (numpy.ndarray): Means of Z^T over the tokens of each, (k, d).
    regions (numpy.ndarray): Z^V of the object to which each attends most, or of the whole picture where
        there are no objects, (k, d).
    """

    label: str
    found: int
    entities: Array
    regions: Array


def entity_region_vectors(
    nlp: Language,
    examples: Iterable[Example],
    labels: Sequence[str] | None = None,
    limit: int = 150,
    seed: int = 0,
    *,
    component: str | None = None,
) -> list[EntityRegionPairs]:
    """Take a sample of entities and objects, as in §V-D, which shows 150 of each type. With the same posts
    and seed it is of the same entities, whatever the pipeline.

    labels (Optional[Sequence[str]]): The types wanted; by default all, the most frequent first.
    limit (int): At most so many pairs a type.
    RETURNS (List[EntityRegionPairs]): One a type, those without any entity included if they were asked for.
    """
    name = find_component(nlp, component)
    examples = list(examples)
    found: defaultdict[str, list[tuple[Array, Array]]] = defaultdict(list)
    width = 0
    for example, post in zip(examples, inspect_docs(nlp, [eg.predicted for eg in examples], name)):
        if post is None or not len(post.z_image):
            continue
        width = post.z_text.shape[1]
        for ent in example.get_aligned_spans_y2x(example.reference.ents):
            tokens = slice(ent.start, ent.end)
            rows = post.rows or range(len(post.z_image))
            objects = [row for row, region in enumerate(rows) if region > 0]
            weights = post.weights[tokens].mean(axis=0, dtype="float64")
            row = max(objects, key=lambda i: weights[i]) if objects else 0
            pair = post.z_text[tokens].mean(axis=0, dtype="float64"), post.z_image[row]
            found[ent.label_].append(pair)
    if labels is None:
        labels = sorted(found, key=lambda label: (-len(found[label]), label))
    result = []
    for label in labels:
        pairs = found[label]
        # A generator a label: which other labels are wanted changes nothing.
        places = random.Random(f"{seed} {label}").sample(range(len(pairs)), min(limit, len(pairs)))
        sample = [pairs[i] for i in sorted(places)]
        entities, regions = (numpy.asarray([p[k] for p in sample]).reshape(-1, width) for k in (0, 1))
        result.append(EntityRegionPairs(label, len(pairs), entities, regions))
    return result


def require_extra() -> None:
    """RAISES (MissingExtraError): What a figure is made with can't be imported."""
    modules = ("sklearn.manifold", "matplotlib.figure")
    require("The figure", "scikit-learn and matplotlib", "analysis", *modules)


def lay_out(pairs: EntityRegionPairs, seed: int = 0) -> Array:
    """RETURNS (numpy.ndarray): x and y of entities, then of objects, by t-SNE, (2 k, 2)."""
    require_extra()
    from sklearn.manifold import TSNE

    points = numpy.concatenate([pairs.entities, pairs.regions]).astype("float32")
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, max_iter=ITERATIONS, init="random", random_state=seed)
    return numpy.asarray(tsne.fit_transform(points))


def plot_gap(
    models: Sequence[tuple[str, Sequence[EntityRegionPairs]]], path: str | Path, seed: int = 0
) -> None:
    """Draw a panel for each type (a row) and model (a column).

    models: Names of models and their pairs, of the same types.
    path (Union[str, Path]): An image file; its ending says of what kind (.png, .svg, .pdf).
    """
    require_extra()
    from matplotlib.figure import Figure

    n_rows = max(len(pairs) for _, pairs in models)
    figure = Figure(figsize=(SIZE * len(models), SIZE * n_rows + 0.5), layout="constrained")
    handles: list[Any] = []
    axes = figure.subplots(n_rows, len(models), squeeze=False)
    for column, (name, every) in enumerate(models):
        axes[0][column].set_title(_plain(name), fontsize=10)
        for row, pairs in enumerate(every):
            panel = axes[row][column]
            panel.set(xticks=[], yticks=[], ylabel="" if column else _plain(pairs.label))
            k = len(pairs.entities)
            if k < FEWEST:
                panel.text(0.5, 0.5, f"{k} entities", ha="center", transform=panel.transAxes)
                continue
            points = lay_out(pairs, seed)
            handles = [
                panel.scatter(*points[:k].T, s=9, c="#0072b2", marker="o"),
                panel.scatter(*points[k:].T, s=11, c="#d55e00", marker="^"),
            ]
    if handles:
        figure.legend(handles, ["entity", "object"], loc="outside lower center", ncols=2, frameon=False)
    # Without the date the same figure is the same file.
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=150, metadata=undated.get(Path(path).suffix.lower()))


def _plain(text: str) -> str:
    """RETURNS (str): In lines that fit a panel, without what matplotlib would take for a formula."""
    return textwrap.fill(text, 36).replace("$", r"\$")
