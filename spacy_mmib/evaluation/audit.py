"""How far do things that are not content predict the labels of a corpus?

The number of objects, whether there is a picture, its size, the length of the text and the order in which
head and tail of a pair are named say little about what a post is about. Where a small decision tree tells
labels from them, on posts it has not seen, better than by always saying the most frequent label, a model can
do so too: the corpus may leak its answers.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy
from spacy.tokens import Doc
from spacy.training.corpus import FILE_TYPE, walk_corpus
from spacy.vocab import Vocab

from ..images.errors import ImageError
from ..images.files import bind
from ..images.values import image_key
from ..post.extensions import get_regions, get_regions_note, get_stored_images
from ..post.relations import ASKED, Relation, get_relations
from ..training.corpus import check_path, read_docs
from . import EvaluationError, require

Array: TypeAlias = "numpy.ndarray[Any, Any]"
Size: TypeAlias = tuple[float, float]

COLUMNS = REGIONS, PRESENCE, WIDTH, HEIGHT, LENGTH, ORDER = range(6)
"""The last is of pairs only, the others are of their post."""
FEATURES: dict[str, tuple[str, tuple[int, ...]]] = {
    "region_count": ("region count", (REGIONS,)),
    "picture_presence": ("picture or not", (PRESENCE,)),
    "picture_size": ("picture size", (WIDTH, HEIGHT)),
    "text_length": ("text length", (LENGTH,)),
    "pair_order": ("order of head and tail", (ORDER,)),
    "all_together": ("all together", tuple(COLUMNS)),
}
"""What each feature is called, and its columns."""
TASKS = {
    "relation": "Relation of a pair",
    "related": "Related or not",
    "entity_type": "Type of an entity",
    "has_entity": "Any entity in a post",
}
QUESTIONS = {
    REGIONS: "region count < {}",
    PRESENCE: "no picture",
    WIDTH: "picture width < {} pixels",
    HEIGHT: "picture height < {} pixels",
    LENGTH: "text length < {} tokens",
}
HEAD_FIRST, OVERLAPPING, TAIL_FIRST = 0.0, 1.0, 2.0
ABSENT, UNREADABLE = -2.0, -1.0  # width and height of a picture that isn't there, or can't be opened

MAX_DEPTH = 3
MIN_LEAF = 5
MIN_POSTS = 20  # with fewer, an interval from a bootstrap is too narrow to be believed
CONFIDENCE = 0.95
RESAMPLES = 10_000
SMOOTHING = 10  # frequencies of a leaf are mixed with the corpus's, as if that had so many more instances
MEASURES = 2  # each feature is tested for accuracy and for information
PLACEHOLDER_SHARE = 0.1


def audit(
    corpus: str | Path,
    *,
    image_root: str | Path | None = None,
    negative_label: str = "None",
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how well surface features predict the labels of a corpus.

    Posts with the same text or the same picture are taken as one post: folds never part them, and the
    bootstrap weighs them together. A feature is `flagged` if the gain in accuracy over always saying the
    most frequent label is above 0 with 95 % confidence, all features of a task taken together. A
    `shift` is the same for the information that the feature gives about the label (the share of the
    labels' entropy that it takes away), which also tells where the most frequent label stays the best
    guess throughout.

    corpus (Union[str, Path]): A `.spacy` file, or a folder of them. Counted is what it states, whether or not
        the files of its crops are there.
    image_root (Optional[Union[str, Path]]): See `MultimodalCorpus`.
    negative_label (str): The label of pairs that are not related.
    folds (int): Of the cross-validation, at least 2; fewer are used where there are too few posts.
    RETURNS (Dict[str, Any]): Plain values: `corpus`, `posts`, `different_posts`, `pictures`, `leaks`
        (what is noted on regions), `problems`, `tasks` (by name; each with `features`), `left_out`
        (names of tasks that can't be measured, and why), `settings`.
    RAISES (EvaluationError): The corpus can't be read, or has no posts.
    RAISES (MissingExtraError): There is no scikit-learn.
    RAISES (ValueError): A setting is out of its range.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}, but a cross-validation has at least 2.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, but it has to be between 0 and {2**32 - 1}.")
    require("The audit", "scikit-learn", "audit", "sklearn.model_selection", "sklearn.tree")
    posts, notes, problems = _read_corpus(Path(corpus), Path(image_root) if image_root else None)
    features = numpy.asarray([post.features for post in posts], dtype="float64")
    groups = _group(posts)
    with warnings.catch_warnings():
        # scikit-learn's, of rare labels: they are few, and nothing can be done about it.
        warnings.simplefilter("ignore")
        found = {
            name: _measure(task, features, groups, folds, seed)
            for name, task in _make_tasks(posts, negative_label).items()
        }
    unreadable = int((features[:, WIDTH] == UNREADABLE).sum())
    return {
        "corpus": str(corpus),
        "posts": len(posts),
        "different_posts": int(groups.max()) + 1,
        "pictures": {"stated": int(features[:, PRESENCE].sum()), "unreadable": unreadable},
        "leaks": [{"note": note, "posts": n} for note, n in sorted(notes.items())],
        "problems": dict(sorted(problems.items())),
        "tasks": {name: task for name, task in found.items() if not isinstance(task, str)},
        "left_out": {name: reason for name, reason in found.items() if isinstance(reason, str)},
        "settings": {
            "image_root": None if not image_root else str(image_root),
            "negative_label": negative_label,
            "folds": folds,
            "seed": seed,
            "confidence": CONFIDENCE,
            "max_depth": MAX_DEPTH,
            "resamples": RESAMPLES,
        },
    }


class _Post(NamedTuple):
    """What tells a post from others, and what is annotated."""

    text: str  # whatever the case and the spaces
    pictures: Sequence[str]  # the same for the same picture
    features: tuple[float, ...]  # all columns of `FEATURES` but the last
    pairs: list[tuple[str, float]]  # labels, and the order of head and tail
    entities: list[str] | None  # types, if it is annotated for them


def _read_corpus(path: Path, image_root: Path | None) -> tuple[list[_Post], Counter[str], Counter[str]]:
    """RETURNS (Tuple): Posts, notes on regions, and problems."""
    posts: list[_Post] = []
    notes: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    sizes: dict[str | None, Size] = {}
    try:
        check_path(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a folder without files; said by the caller
            locs = walk_corpus(path, FILE_TYPE)
        for loc in locs:
            for doc in read_docs(loc, Vocab()):
                if len(doc):  # as the reader does: nothing can be asked about a post without text
                    posts.append(_read_post(doc, image_root or loc.parent, sizes, problems))
                    if note := get_regions_note(doc):
                        notes[note] += 1
    except ValueError as err:
        raise EvaluationError(str(err)) from err
    if not posts:
        raise EvaluationError(f"There are no posts in {path}.")
    return posts, notes, problems


def _read_post(doc: Doc, root: Path, sizes: dict[str | None, Size], problems: Counter[str]) -> _Post:
    regions, pairs = 0, []
    try:
        regions = len(get_regions(doc))
    except TypeError:  # written past the setter, by hand or by a foreign program
        problems["regions that can't be read"] += 1
    try:
        pairs = [(rel.label, _get_order(rel)) for rel in get_relations(doc) if rel.label != ASKED]
    except ValueError:
        problems["relations that can't be read"] += 1
    entities = [ent.label_ for ent in doc.ents] if doc.has_annotation("ENT_IOB") else None
    found = [look_up_picture(stored, root, sizes) for stored in get_stored_images(doc)]
    size = found[0][1] if found else (ABSENT, ABSENT)
    features = (float(regions), float(size[0] != ABSENT), *size, float(len(doc)))
    pictures = [key for key, _ in found if key is not None]
    return _Post(" ".join(doc.text.split()).casefold(), pictures, features, pairs, entities)


def _get_order(relation: Relation) -> float:
    head_start, head_end, tail_start, tail_end = relation.pair
    return HEAD_FIRST if head_end <= tail_start else TAIL_FIRST if tail_end <= head_start else OVERLAPPING


def look_up_picture(stored: Any, root: Path, sizes: dict[str | None, Size]) -> tuple[str | None, Size]:
    """RETURNS (Tuple[Optional[str], Tuple[float, float]]): What tells a picture of a post from others, and
    its width and height, which are kept in `sizes`: a picture is opened once.
    """
    from ..images.reading import probe_image  # imports Pillow

    key = f"{root}: {stored}" if isinstance(stored, str) else image_key(stored)
    try:
        if isinstance(stored, str):
            key = stored = bind(stored, root)
        if key not in sizes:
            width, height = probe_image(stored)
            sizes[key] = float(width), float(height)
    except ImageError:
        sizes[key] = UNREADABLE, UNREADABLE
    return key, sizes[key]


def _group(posts: Sequence[_Post]) -> Array:
    """Number posts such that those with the same text, or the same picture, have the same number."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    placeholder = _find_placeholder(posts)
    nodes: dict[tuple[str, str], int] = {}
    edges = []
    for i, post in enumerate(posts):
        keys = [("text", post.text)]
        keys += [("picture", picture) for picture in post.pictures if picture != placeholder]
        edges += [(i, nodes.setdefault(key, len(posts) + len(nodes))) for key in keys]
    n = len(posts) + len(nodes)
    graph = coo_matrix((numpy.ones(len(edges)), tuple(zip(*edges))), shape=(n, n))
    numbers: Array = connected_components(graph, directed=False)[1][: len(posts)]
    return numbers


def _find_placeholder(posts: Sequence[_Post]) -> str | None:
    """The picture that stands in where there is none: its posts have nothing else in common."""
    pairs = {(picture, post.text) for post in posts for picture in post.pictures}
    common = Counter(picture for picture, _ in pairs).most_common(2)
    (picture, n), (_, n_next) = (*common, (None, 0), (None, 0))[:2]
    texts = len({post.text for post in posts})
    return picture if n > max(PLACEHOLDER_SHARE * texts, 5 * n_next) else None


class _Task(NamedTuple):
    """Labels to predict."""

    unit: str  # what is labelled, in the plural
    labels: list[str]
    posts: list[int]  # of each label
    order: list[float] | None = None  # of head and tail, if pairs are labelled
    negative: str | None = None  # a label there has to be


def _make_tasks(posts: Sequence[_Post], negative_label: str) -> dict[str, _Task]:
    pairs = [(label, i, order) for i, post in enumerate(posts) for label, order in post.pairs]
    labels, of = [label for label, _, _ in pairs], [i for _, i, _ in pairs]
    order = [order for _, _, order in pairs]
    positive = "related" if negative_label != "related" else "not related"
    binary = [label if label == negative_label else positive for label in labels]
    types = [(label, i) for i, post in enumerate(posts) for label in post.entities or () if label]
    asked = [i for i, post in enumerate(posts) if post.entities is not None]
    has = ["with entities" if posts[i].entities else "without entities" for i in asked]
    return {
        "relation": _Task("pairs", labels, of, order),
        "related": _Task("pairs", binary, of, order, negative_label),
        "entity_type": _Task("entities", [label for label, _ in types], [i for _, i in types]),
        "has_entity": _Task("posts", has, asked),
    }


def _measure(task: _Task, features: Array, groups: Array, folds: int, seed: int) -> dict[str, Any] | str:
    """RETURNS (Union[Dict[str, Any], str]): What was measured, or why nothing was."""
    from sklearn.model_selection import StratifiedGroupKFold

    if not task.labels:
        return f"no {task.unit} are annotated"
    if task.negative is not None and task.negative not in task.labels:
        return f"no pairs are annotated as unrelated ({task.negative!r})"
    names, y = numpy.unique(numpy.asarray(task.labels), return_inverse=True)
    x = numpy.column_stack([features[task.posts], task.order or numpy.zeros(len(y))])
    group = groups[task.posts]
    if why_not := _why_too_few(y, group, names, task.unit):
        return why_not
    n_folds = min(folds, *_count_groups(y, group))
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold = numpy.zeros(len(y), dtype=int)
    for k, (_, test) in enumerate(splitter.split(x, y, group)):
        fold[test] = k
    found: dict[str, dict[str, Any]] = {}
    sums: dict[str, Array] = {}
    for name, (_, columns) in FEATURES.items():
        if name == "pair_order" and task.order is None:
            continue
        # A size is only had by a picture: whether there is one is another feature's matter.
        rows = x[:, PRESENCE] == 1 if name == "picture_size" else numpy.ones(len(y), dtype=bool)
        values, labels, of = x[rows][:, columns], y[rows], group[rows]
        if not len(values):
            reason: str | None = "no post has a picture"
        elif name == "picture_size" and (values == UNREADABLE).all():
            reason = "no picture can be read; if they are in another folder, say so with --image-root"
        elif (values == values[:1]).all():
            reason = "the same for all"
        elif name == "all_together" and len(sums) < 2:
            reason = "no more than one of the features differs between posts"
        else:
            reason = None if rows.all() else _why_too_few(labels, of, names, f"{task.unit} with a picture")
        if reason is not None:
            found[name] = {"measured": False, "why": reason}
            continue
        gains = _cross_validate(values, labels, fold[rows], seed)
        weights = (*gains, numpy.ones(len(labels)))
        sums[name] = numpy.stack([numpy.bincount(of, w, groups.max() + 1) for w in weights], axis=1)
        gain, information = (float(g.mean()) for g in gains)
        majority = float((labels == _majority(labels)).mean())
        scores = {"accuracy": majority + gain, "majority": majority, "gain": gain, "information": information}
        found[name] = {
            "measured": True,
            "instances": len(labels),
            **{key: round(score, 6) for key, score in scores.items()},
            "rule": _best_rule(values, labels, columns, names, task.unit),
        }
    for name, intervals in _bootstrap(sums, seed).items():
        flagged, shift = (low > 0 for low, _ in intervals)
        found[name].update(flagged=flagged, shift=shift)
        found[name].update(gain_interval=intervals[0], information_interval=intervals[1])
        found[name]["rule"] = found[name]["rule"] if flagged or shift else None
    return {
        "unit": task.unit,
        "instances": len(y),
        "posts": len(numpy.unique(group)),
        "labels": len(names),
        "majority": str(names[_majority(y)]),
        "majority_share": round(float((y == _majority(y)).mean()), 6),
        "folds": n_folds,
        "features": found,
    }


def _majority(y: Array) -> int:
    return int(numpy.bincount(y).argmax())


def _count_groups(y: Array, group: Array) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): Posts that have the most frequent label, and posts that have another."""
    most = y == _majority(y)
    return len(numpy.unique(group[most])), len(numpy.unique(group[~most]))


def _why_too_few(y: Array, group: Array, names: Array, unit: str) -> str | None:
    n_posts = len(numpy.unique(group))
    if n_posts < MIN_POSTS:
        return f"{len(y)} {unit} of {n_posts} different posts are too few: at least {MIN_POSTS} are needed"
    if min(_count_groups(y, group)) < 2:
        rest = "" if (y == _majority(y)).all() else " but those of a single post"
        return f"all {len(y)} {unit}{rest} are {str(names[_majority(y)])!r}"
    return None


def _cross_validate(x: Array, y: Array, fold: Array, seed: int) -> tuple[Array, Array]:
    """Predict each instance with a tree made of other posts.

    Both measures are against constants that know the frequencies in the whole corpus: those of the
    training folds are a little off, and always to the wrong side, which would look like a gain.

    RETURNS (Tuple): For each instance how much more right the tree is than the most frequent label (-1 to 1),
        and how many bits it tells of the label, as a share of the entropy.
    """
    from sklearn.tree import DecisionTreeClassifier

    prior = numpy.bincount(y) / len(y)
    prior_bits = -numpy.log2(prior[y])
    by_majority = (y == _majority(y)).astype(float)
    right, bits = by_majority.copy(), numpy.zeros(len(y))
    for k in numpy.unique(fold):
        train, test = (numpy.flatnonzero(side) for side in (fold != k, fold == k))
        if not len(train):
            continue
        leaf = max(MIN_LEAF, len(train) // 200)
        tree = DecisionTreeClassifier(max_depth=MAX_DEPTH, min_samples_leaf=leaf, random_state=seed)
        tree.fit(x[train], y[train])
        right[test] = tree.predict(x[test]) == y[test]
        proba = numpy.zeros((len(test), len(prior)))
        proba[:, tree.classes_] = tree.predict_proba(x[test])
        n = tree.tree_.n_node_samples[tree.apply(x[test])][:, None]
        proba = (n * proba + SMOOTHING * prior) / (n + SMOOTHING)
        bits[test] = numpy.log2(proba[numpy.arange(len(test)), y[test]]) + prior_bits[test]
    return right - by_majority, bits / prior_bits.mean()


def _bootstrap(sums: dict[str, Array], seed: int) -> dict[str, list[list[float]]]:
    """The Bayesian bootstrap (Rubin 1981): posts get random weights again and again.

    sums: For each feature and post sums of the gains in accuracy and in information, and of instances.
    RETURNS (Dict): For each feature the intervals of both gains, which hold together with `CONFIDENCE`.
    """
    if not sums:
        return {}
    table = numpy.concatenate(list(sums.values()), axis=1)
    table = table[table.any(axis=1)]  # posts without an instance in this task
    rng = numpy.random.default_rng(seed)
    chunk = max(1, 4_000_000 // len(table))
    sizes = [min(chunk, RESAMPLES - start) for start in range(0, RESAMPLES, chunk)]
    drawn = numpy.concatenate([rng.standard_exponential((n, len(table))) @ table for n in sizes])
    tail = (1 - CONFIDENCE) / (2 * len(sums) * MEASURES)
    intervals = {}
    for i, name in enumerate(sums):
        *gains, n_instances = drawn[:, 3 * i : 3 * i + 3].T
        bounds = [numpy.quantile(gain / n_instances, [tail, 1 - tail]) for gain in gains]
        intervals[name] = [[round(float(bound), 6) for bound in pair] for pair in bounds]
    return intervals


def _best_rule(x: Array, y: Array, columns: Sequence[int], names: Array, unit: str) -> dict[str, Any] | None:
    """The one question that tells most, if any leaves enough instances on both sides: a tree of depth 1."""
    from sklearn.tree import DecisionTreeClassifier

    stump = DecisionTreeClassifier(
        criterion="entropy", max_depth=1, min_samples_leaf=MIN_LEAF, random_state=0
    )
    tree = stump.fit(x, y).tree_
    if tree.node_count == 1:
        return None
    column = x[:, tree.feature[0]]
    is_below = column <= tree.threshold[0]
    low, high = (numpy.bincount(y[side], minlength=len(names)) for side in (is_below, ~is_below))
    below, above = (numpy.unique(column[side]) for side in (is_below, ~is_below))
    question = _ask(columns[tree.feature[0]], below, above[0])
    label, other = str(names[low.argmax()]), str(names[high.argmax()])
    rule: dict[str, Any] = {"question": question, "below": float(above[0])}
    if label != other:
        accuracy, majority = (float(n) / len(y) for n in (low.max() + high.max(), (low + high).max()))
        rule.update(labels=[label, other], accuracy=round(accuracy, 6), majority=round(majority, 6))
        answer = f" => {label}, otherwise {other}: right for {100 * accuracy:.1f} % of the {unit} "
        return {**rule, "text": f"{question}{answer}(majority {100 * majority:.1f} %)"}
    # The best guess stays the same, with other odds.
    shares = numpy.stack([low / low.sum(), high / high.sum()])
    most = int(numpy.abs(shares[0] - shares[1]).argmax())
    share, rest = shares[:, most].tolist()
    rule.update(label=str(names[most]), shares=[round(share, 6), round(rest, 6)])
    answer = f"{100 * share:.1f} % of the {unit} are {names[most]}, otherwise {100 * rest:.1f} %"
    return {**rule, "text": f"{question}: {answer}"}


def _ask(column: int, below: Array, limit: float) -> str:
    """RETURNS (str): In words: is this column below the limit, which leaves these of its values?"""
    if column == ORDER:
        overlap = " or over it" if OVERLAPPING in below else ""
        return f"head before tail{overlap}" if HEAD_FIRST in below else "head over tail"
    parts = [QUESTIONS[column].format(math.ceil(limit))]
    if column in (WIDTH, HEIGHT):
        parts = parts if below[-1] > UNREADABLE else []
        without = {UNREADABLE: "picture unreadable", ABSENT: "no picture"}
        parts += [text for value, text in without.items() if value in below]
    return " or ".join(parts)
