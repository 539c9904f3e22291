"""How far do things that are not content predict the labels of a corpus?

The number of objects, whether there is a picture, its size, the length of the text and the order in which
head and tail of a pair are named say little about what a post is about. Where a small decision tree tells
labels from them, on posts it has not seen, better than by always saying the most frequent label, a model can
do so too: the corpus may leak its answers.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy
from spacy.tokens import Doc

from ..post.extensions import get_image_key, get_regions, get_regions_note, get_stored_image
from ..post.relations import ASKED, Relation, get_relations, has_relations

Array: TypeAlias = "numpy.ndarray[Any, Any]"

REGIONS, PRESENCE, WIDTH, HEIGHT, LENGTH, ORDER = range(6)
FEATURES: dict[str, tuple[int, ...]] = {
    "region_count": (REGIONS,),
    "picture_presence": (PRESENCE,),
    "picture_size": (WIDTH, HEIGHT),
    "text_length": (LENGTH,),
    "pair_order": (ORDER,),
    "all_together": (REGIONS, PRESENCE, WIDTH, HEIGHT, LENGTH, ORDER),
}
"""Each feature and its columns. The last column is of pairs only, the others are of their post."""

HEAD_FIRST, OVERLAPPING, TAIL_FIRST = 0.0, 1.0, 2.0

ABSENT, UNREADABLE = -2.0, -1.0
"""Width and height of a picture that isn't there, or that can't be opened."""

WITHOUT_SIZE = {UNREADABLE: "picture unreadable", ABSENT: "no picture"}

MAX_DEPTH = 3
MIN_LEAF = 5
MIN_POSTS = 20
"""With fewer posts an interval from a bootstrap is too narrow to be believed."""
CONFIDENCE = 0.95
RESAMPLES = 10_000
SMOOTHING = 10
"""The frequencies of a leaf are mixed with those of the corpus, as if it had so many more instances."""
MEASURES = 2
"""Each feature is tested for accuracy and for information."""
PLACEHOLDER_SHARE = 0.1
RELATED = "related"
WITH_ENTITY, WITHOUT_ENTITY = "with entities", "without entities"


class AuditError(ValueError):
    """The corpus can't be audited; the message says why and what to do."""


class MissingExtraError(ImportError):
    """scikit-learn can't be imported; the message names the extra that installs it."""


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
    bootstrap draws them together. A feature is `flagged` if the gain in accuracy over always saying the
    most frequent label is above 0 with 95 % confidence, all features of a task taken together. A
    `shift` is the same for the information that the feature gives about the label (the share of the
    labels' entropy that it takes away), which also tells where the most frequent label stays the best
    guess throughout.

    corpus (Union[str, Path]): A `.spacy` file made with `DocBin(store_user_data=True)`, or a folder of
        them. Counted is what it states, whether or not the files of its crops are there.
    image_root (Optional[Union[str, Path]]): The folder that relative paths of pictures start from and
        that none may leave; by default the folder of each `.spacy` file.
    negative_label (str): The label of pairs that are not related.
    folds (int): Folds of the cross-validation, at least 2; fewer are used where there are too few posts.
    seed (int): The same seed gives the same result.
    RETURNS (Dict[str, Any]): Plain values: `corpus`, `posts`, `different_posts`, `pictures`, `leaks`
        (what is noted on regions), `problems`, `tasks` (by name; each with `features`), `left_out`
        (names of tasks that can't be measured, and why), `settings`.
    RAISES (AuditError): The corpus can't be read, or has no posts.
    RAISES (MissingExtraError): There is no scikit-learn.
    RAISES (ValueError): A setting is out of its range.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}, but a cross-validation has at least 2.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, but it has to be between 0 and {2**32 - 1}.")
    _require_sklearn()
    table = _read_corpus(Path(corpus), Path(image_root) if image_root else None)
    if not table.posts:
        raise AuditError(f"There are no posts in {corpus}.")
    groups = _group(table.posts)
    tasks: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for task in _make_tasks(table.posts, negative_label):
        if task.why_not is None:
            with warnings.catch_warnings():
                # scikit-learn's, of rare labels: they are few, and nothing can be done about it.
                warnings.simplefilter("ignore")
                found = _measure(task, table.features, groups, folds, seed)
            if isinstance(found, dict):
                tasks[task.name] = found
                continue
            task.why_not = found
        left_out[task.name] = task.why_not
    return {
        "corpus": str(corpus),
        "posts": len(table.posts),
        "different_posts": int(groups.max()) + 1,
        "pictures": table.pictures(),
        "leaks": [{"note": note, "posts": n} for note, n in sorted(table.notes.items())],
        "problems": dict(sorted(table.problems.items())),
        "tasks": tasks,
        "left_out": left_out,
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


def _require_sklearn() -> None:
    try:
        import sklearn.model_selection
        import sklearn.tree  # noqa: F401
    except ImportError as err:
        raise MissingExtraError(
            f"The audit needs scikit-learn, which can't be imported ({err}). Install it with: "
            'pip install "spacy-mmib[audit]"'
        ) from err


# What the corpus states


@dataclass
class _Post:
    """A post: what tells it from others, and what is annotated.

    text (str): Its text, whatever the case and the spaces.
    picture (Optional[str]): The same for posts with the same picture.
    relations (Optional[List[Tuple[str, float]]]): Labels of its pairs and the order of head and tail; `None`
        if it is not annotated for them.
    entities (Optional[List[str]]): Types of its entities; `None` if it is not annotated for them.
    """

    text: str
    picture: str | None
    relations: list[tuple[str, float]] | None
    entities: list[str] | None


@dataclass
class _Table:
    """The posts of a corpus, with a row of surface features each."""

    posts: list[_Post] = field(default_factory=list)
    rows: list[tuple[float, ...]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)

    @property
    def features(self) -> Array:
        """RETURNS (numpy.ndarray): A row a post, a column each of what `FEATURES` names."""
        return numpy.asarray(self.rows, dtype="float64")

    def pictures(self) -> dict[str, int]:
        """RETURNS (Dict[str, int]): How many posts state a picture, and how many of them can't be read."""
        features = self.features
        return {
            "stated": int(features[:, PRESENCE].sum()),
            "unreadable": int((features[:, WIDTH] == UNREADABLE).sum()),
        }


def _read_corpus(path: Path, image_root: Path | None) -> _Table:
    from spacy.training.corpus import FILE_TYPE, walk_corpus
    from spacy.vocab import Vocab

    from ..training.corpus import _check_path, read_docs

    table = _Table()
    sizes = _Sizes()
    try:
        _check_path(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a folder without files; said by the caller
            locs = walk_corpus(path, FILE_TYPE)
        for loc in locs:
            for doc in read_docs(loc, Vocab()):
                if len(doc):  # as the reader does: nothing can be asked about a post without text
                    _add(table, doc, image_root or loc.parent, sizes)
    except ValueError as err:
        raise AuditError(str(err)) from err
    return table


def _order_of(relation: Relation) -> float:
    head_start, head_end, tail_start, tail_end = relation.pair
    if head_end <= tail_start:
        return HEAD_FIRST
    return TAIL_FIRST if tail_end <= head_start else OVERLAPPING


def _add(table: _Table, doc: Doc, root: Path, sizes: "_Sizes") -> None:
    regions, relations, entities = 0, None, None
    try:
        regions = len(get_regions(doc))
    except TypeError:  # written past the setter, by hand or by a foreign program
        table.problems["regions that can't be read"] += 1
    try:
        if has_relations(doc):
            relations = [(rel.label, _order_of(rel)) for rel in get_relations(doc)]
    except ValueError:
        table.problems["relations that can't be read"] += 1
    if doc.has_annotation("ENT_IOB"):
        entities = [ent.label_ for ent in doc.ents]
    note = get_regions_note(doc)
    if note:
        table.notes[" ".join(str(note).split())] += 1
    picture, size = sizes.look_up(doc, root)
    stated = float(size[0] != ABSENT)
    table.posts.append(_Post(" ".join(doc.text.split()).casefold(), picture, relations, entities))
    table.rows.append((float(regions), stated, *size, float(len(doc))))


class _Sizes:
    """Width and height of pictures, from their headers; each file is opened once."""

    def __init__(self) -> None:
        self._of_file: dict[str, tuple[float, float]] = {}

    def look_up(self, doc: Doc, root: Path) -> tuple[str | None, tuple[float, float]]:
        """Look at the picture of a post, if it has one.

        doc (Doc): The post.
        root (Path): The folder its picture may be in.
        RETURNS (Tuple[Optional[str], Tuple[float, float]]): What tells the picture from others, and its
            width and height.
        """
        from ..images.errors import ImageError
        from ..images.files import bind

        stored: Any = get_stored_image(doc)
        if stored is None:
            return None, (ABSENT, ABSENT)
        if not isinstance(stored, str):
            return get_image_key(doc), _size_of(stored)
        try:
            path = bind(stored, root)
        except ImageError:
            return f"{root}: {stored}", (UNREADABLE, UNREADABLE)
        if path not in self._of_file:
            self._of_file[path] = _size_of(path)
        return path, self._of_file[path]


def _size_of(stored: Any) -> tuple[float, float]:
    from ..images.errors import ImageError
    from ..images.reading import probe_image

    try:
        width, height = probe_image(stored)
    except ImageError:
        return UNREADABLE, UNREADABLE
    return float(width), float(height)


def _group(posts: Sequence[_Post]) -> Array:
    """Number posts such that those with the same text, or the same picture, have the same number."""
    parents = list(range(len(posts)))

    def find(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    placeholder = _find_placeholder(posts)
    first: dict[tuple[str, str], int] = {}
    for i, post in enumerate(posts):
        keys = [("text", post.text)]
        if post.picture is not None and post.picture != placeholder:
            keys.append(("picture", post.picture))
        for key in keys:
            a, b = find(first.setdefault(key, i)), find(i)
            parents[max(a, b)] = min(a, b)
    numbers: dict[int, int] = {}
    return numpy.asarray([numbers.setdefault(find(i), len(numbers)) for i in range(len(posts))])


def _find_placeholder(posts: Sequence[_Post]) -> str | None:
    """The picture that stands in where there is none, as some corpora have it: its posts have nothing in
    common, and would be one huge post otherwise."""
    pairs = {(post.picture, post.text) for post in posts}
    common = Counter(picture for picture, _ in pairs if picture is not None).most_common(2)
    if not common:
        return None
    (picture, n), (_, n_next) = (*common, (None, 0))[:2]
    texts = len({text for _, text in pairs})
    return picture if n > max(PLACEHOLDER_SHARE * texts, 5 * n_next) else None


# What is predicted


@dataclass
class _Task:
    """Labels to predict.

    name (str): Its name in the result.
    unit (str): What is labelled, in the plural.
    labels (List[str]): The labels.
    posts (List[int]): The post each is of.
    why_not (Optional[str]): Why there is nothing to predict.
    order (Optional[List[float]]): The order of head and tail of each, if pairs are labelled.
    """

    name: str
    unit: str
    labels: list[str]
    posts: list[int]
    why_not: str | None = None
    order: list[float] | None = None


def _make_tasks(posts: Sequence[_Post], negative_label: str) -> Iterator[_Task]:
    pairs = [
        (label, i, order)
        for i, post in enumerate(posts)
        for label, order in post.relations or ()
        if label != ASKED
    ]
    labels, where = [label for label, _, _ in pairs], [i for _, i, _ in pairs]
    orders = [order for _, _, order in pairs]
    none = "no pair of entities is annotated with a relation"
    relation = _Task("relation", "pairs", labels, where, order=orders)
    if len(set(labels)) < 2:
        relation.why_not = f"all {len(labels)} pairs are {labels[0]!r}" if labels else none
    yield relation
    positive = RELATED if negative_label != RELATED else f"not {RELATED}"
    related = [negative_label if label == negative_label else positive for label in labels]
    binary = _Task("related", "pairs", related, where, order=orders)
    if not labels:
        binary.why_not = none
    elif negative_label not in labels:
        binary.why_not = f"no pair is annotated as unrelated ({negative_label!r})"
    elif len(set(related)) < 2:
        binary.why_not = "no pair is annotated as related"
    yield binary
    entities = [(label, i) for i, p in enumerate(posts) for label in p.entities or () if label]
    types = [label for label, _ in entities]
    entity_type = _Task("entity_type", "entities", types, [i for _, i in entities])
    if len(set(types)) < 2:
        entity_type.why_not = (
            f"all {len(types)} entities are {types[0]!r}" if types else "no entities are annotated"
        )
    yield entity_type
    asked = [i for i, post in enumerate(posts) if post.entities is not None]
    has = [WITH_ENTITY if posts[i].entities else WITHOUT_ENTITY for i in asked]
    has_entity = _Task("has_entity", "posts", has, asked)
    if len(set(has)) < 2:
        every = "every post" if WITH_ENTITY in has else "no post"
        has_entity.why_not = f"{every} that is annotated has entities" if has else "no entities are annotated"
    yield has_entity


# How well


def _measure(task: _Task, features: Array, groups: Array, folds: int, seed: int) -> dict[str, Any] | str:
    """RETURNS (Union[Dict[str, Any], str]): What was measured, or why nothing can be."""
    names, y = numpy.unique(numpy.asarray(task.labels), return_inverse=True)
    where = numpy.asarray(task.posts)
    order = numpy.zeros(len(where)) if task.order is None else numpy.asarray(task.order)
    x, group = numpy.column_stack([features[where], order]), groups[where]
    why_not = _why_too_few(y, group, names, task.unit)
    if why_not is not None:
        return why_not
    n_folds = min(folds, *_group_counts(y, group))
    fold = _make_folds(y, group, n_folds, seed)
    result: dict[str, Any] = {
        "unit": task.unit,
        "instances": len(y),
        "posts": len(numpy.unique(group)),
        "labels": len(names),
        "majority": str(names[_majority(y)]),
        "majority_share": _rounded((y == _majority(y)).mean()),
        "folds": n_folds,
        "features": {},
    }
    gains: dict[str, _Gains] = {}
    for name, columns in FEATURES.items():
        if name == "pair_order" and task.order is None:
            continue
        # A size is only had by a picture: whether there is one is another feature's matter.
        rows = x[:, PRESENCE] == 1 if name == "picture_size" else numpy.ones(len(y), dtype=bool)
        reason = _why_constant(name, x[rows][:, columns])
        if reason is None and not rows.all():
            reason = _why_too_few(y[rows], group[rows], names, f"{task.unit} with a picture")
        if reason is None and name == "all_together" and len(gains) < 2:
            reason = "no more than one of the features differs between posts"
        if reason is not None:
            result["features"][name] = {"measured": False, "why": reason}
            continue
        gains[name] = _cross_validate(x[rows][:, columns], y[rows], fold[rows], group[rows], seed)
        result["features"][name] = {"measured": True}
    for name, intervals in _bootstrap(gains, seed).items():
        gain, columns = gains[name], FEATURES[name]
        rows = x[:, PRESENCE] == 1 if name == "picture_size" else numpy.ones(len(y), dtype=bool)
        flagged, shift = intervals[0][0] > 0, intervals[1][0] > 0
        rule = _best_rule(x[rows][:, columns], y[rows], columns, names, task.unit)
        result["features"][name].update(
            instances=int(rows.sum()),
            accuracy=_rounded(gain.majority + gain.accuracy),
            majority=_rounded(gain.majority),
            gain=_rounded(gain.accuracy),
            gain_interval=[_rounded(bound) for bound in intervals[0]],
            information=_rounded(gain.information),
            information_interval=[_rounded(bound) for bound in intervals[1]],
            flagged=bool(flagged),
            shift=bool(shift),
            rule=rule if flagged or shift else None,
        )
    return result


def percent(share: float) -> str:
    """RETURNS (str): A share, 0-1, for people."""
    return f"{100 * share:.1f} %"


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _majority(y: Array) -> int:
    return int(numpy.bincount(y).argmax())


def _group_counts(y: Array, group: Array) -> tuple[int, int]:
    """RETURNS (Tuple[int, int]): Posts that have the most frequent label, and posts that have another."""
    most = y == _majority(y)
    return len(numpy.unique(group[most])), len(numpy.unique(group[~most]))


def _why_too_few(y: Array, group: Array, names: Array, unit: str) -> str | None:
    n_posts = len(numpy.unique(group))
    if n_posts < MIN_POSTS:
        return f"{len(y)} {unit} of {n_posts} different posts are too few: at least {MIN_POSTS} are needed"
    if min(_group_counts(y, group)) < 2:
        rest = f"all {len(y)} {unit} but those of a single post are"
        if (y == _majority(y)).all():
            rest = f"all {len(y)} {unit} are"
        return f"{rest} {str(names[_majority(y)])!r}"
    return None


def _why_constant(name: str, x: Array) -> str | None:
    if name == "picture_size" and (x == UNREADABLE).all():
        if not len(x):
            return "no post has a picture"
        return "no picture can be read; if they are in another folder, say so with --image-root"
    if (x == x[:1]).all():
        return "the same for all"
    return None


def _make_folds(y: Array, group: Array, n_folds: int, seed: int) -> Array:
    """RETURNS (numpy.ndarray): A fold for each instance; those of a post are in the same one."""
    from sklearn.model_selection import StratifiedGroupKFold

    # Labels too rare to be in every fold are one when it comes to spreading them.
    rare = numpy.bincount(y)[y] < n_folds
    spread = numpy.where(rare, y.max() + 1, y)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold = numpy.zeros(len(y), dtype=int)
    for k, (_, test) in enumerate(folds.split(spread[:, None], spread, group)):
        fold[test] = k
    return fold


@dataclass
class _Gains:
    """What a feature adds to knowing the frequencies of the labels.

    majority (float): Accuracy of always saying the most frequent label, 0-1.
    accuracy (float): How much higher the accuracy of the tree is.
    information (float): Share of the labels' entropy that the tree takes away, up to 1; below 0 if it
        misleads.
    entropy (float): Of the labels, in bits.
    sums (numpy.ndarray): For each post the sum of the gains in accuracy, of those in bits, and the
        number of instances.
    """

    majority: float
    accuracy: float
    information: float
    entropy: float
    sums: Array


def _cross_validate(x: Array, y: Array, fold: Array, group: Array, seed: int) -> _Gains:
    """Predict each instance with a tree made of other posts.

    Both measures are against constants that know the frequencies in the whole corpus: those of the
    training folds are a little off, and always to the wrong side, which would look like a gain.
    """
    from sklearn.tree import DecisionTreeClassifier

    prior = numpy.bincount(y) / len(y)
    right = (y == _majority(y)).astype(float)
    bits = numpy.zeros(len(y))
    by_majority = right.copy()
    prior_bits = -numpy.log2(prior[y])
    for k in numpy.unique(fold):
        train, test = fold != k, fold == k
        if not train.any():
            continue
        tree = DecisionTreeClassifier(
            max_depth=MAX_DEPTH,
            min_samples_leaf=max(MIN_LEAF, int(train.sum()) // 200),
            random_state=seed,
        ).fit(x[train], y[train])
        proba = numpy.zeros((int(test.sum()), len(prior)))
        proba[:, tree.classes_] = tree.predict_proba(x[test])
        right[test] = tree.classes_[proba[:, tree.classes_].argmax(axis=1)] == y[test]
        n = tree.tree_.n_node_samples[tree.apply(x[test])][:, None]
        proba = (n * proba + SMOOTHING * prior) / (n + SMOOTHING)
        bits[test] = numpy.log2(proba[numpy.arange(len(proba)), y[test]]) + prior_bits[test]
    entropy = float(prior_bits.mean())
    better = right - by_majority
    size = int(group.max()) + 1
    sums = [numpy.bincount(group, weights, size) for weights in (better, bits, numpy.ones(len(y)))]
    return _Gains(
        majority=float(by_majority.mean()),
        accuracy=float(better.mean()),
        information=float(bits.mean()) / entropy,
        entropy=entropy,
        sums=numpy.stack(sums, axis=1),
    )


def _bootstrap(
    gains: dict[str, _Gains], seed: int
) -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
    """Draw posts again and again, all instances of a post together.

    RETURNS (Dict[str, Tuple[Tuple[float, float], Tuple[float, float]]]): For each feature the intervals
        of its gain in accuracy and of its information; all of them hold together with `CONFIDENCE`
        (Bonferroni).
    """
    if not gains:
        return {}
    n_groups = max(len(gain.sums) for gain in gains.values())
    sums = numpy.concatenate(
        [numpy.pad(g.sums, ((0, n_groups - len(g.sums)), (0, 0))) for g in gains.values()], axis=1
    )
    sums = sums[sums.any(axis=1)]  # posts without an instance in this task
    rng = numpy.random.default_rng(seed)
    chunk = max(1, 4_000_000 // len(sums))
    drawn = []
    for start in range(0, RESAMPLES, chunk):
        n = min(chunk, RESAMPLES - start)
        picks = rng.integers(len(sums), size=(n, len(sums))) + numpy.arange(n)[:, None] * len(sums)
        times = numpy.bincount(picks.ravel(), minlength=n * len(sums)).reshape(n, len(sums))
        drawn.append(times.astype("float64") @ sums)
    totals = numpy.concatenate(drawn)
    tail = (1 - CONFIDENCE) / (2 * len(gains) * MEASURES)
    result = {}
    for i, (name, gain) in enumerate(gains.items()):
        accuracy, bits, n_instances = totals[:, 3 * i : 3 * i + 3].T
        n_instances = numpy.maximum(n_instances, 1)
        bounds = [
            numpy.quantile(values / n_instances, [tail, 1 - tail])
            for values in (accuracy, bits / gain.entropy)
        ]
        result[name] = (
            (float(bounds[0][0]), float(bounds[0][1])),
            (float(bounds[1][0]), float(bounds[1][1])),
        )
    return result


# In words


def _best_rule(x: Array, y: Array, columns: Sequence[int], names: Array, unit: str) -> dict[str, Any] | None:
    """The one question that tells most, over the whole corpus: a tree of depth 1, and the one with the
    highest accuracy at that.

    RETURNS (Optional[Dict[str, Any]]): "text" and what it is made of; `None` if no question leaves
        enough instances on both sides.
    """
    best: tuple[tuple[float, float], str, float, Array, Array] | None = None
    for i, column in enumerate(columns):
        values, at = numpy.unique(x[:, i], return_inverse=True)
        counts = numpy.zeros((len(values), len(names)))
        numpy.add.at(counts, (at, y), 1)
        below = counts.cumsum(axis=0)
        for j in range(1, len(values)):
            sides = below[j - 1], below[-1] - below[j - 1]
            if min(side.sum() for side in sides) < MIN_LEAF:
                continue
            score = (float(sum(side.max() for side in sides)) / len(y), -sum(map(_bits, sides)))
            if best is None or score > best[0]:
                best = score, _question(column, values, j), float(values[j]), *sides
    if best is None:
        return None
    (accuracy, _), question, threshold, low, high = best
    label, other = str(names[low.argmax()]), str(names[high.argmax()])
    majority = float(numpy.bincount(y).max() / len(y))
    rule: dict[str, Any] = {"question": question, "below": threshold}
    if label != other:
        rule.update(labels=[label, other], accuracy=_rounded(accuracy), majority=_rounded(majority))
        rule["text"] = (
            f"{question} => {label}, otherwise {other}: right for {percent(accuracy)} of the {unit} "
            f"(majority {percent(majority)})"
        )
    else:  # the best guess stays the same, with other odds
        shares = low / low.sum(), high / high.sum()
        most = int(numpy.abs(shares[0] - shares[1]).argmax())
        rule.update(label=str(names[most]), shares=[_rounded(share[most]) for share in shares])
        rule["text"] = (
            f"{question}: {percent(shares[0][most])} of the {unit} are {names[most]}, otherwise "
            f"{percent(shares[1][most])}"
        )
    return rule


def _bits(counts: Array) -> float:
    """RETURNS (float): Entropy of labels with these counts, times their number."""
    some = counts[counts > 0]
    return float(-(some * numpy.log2(some / some.sum())).sum())


def _question(column: int, values: Array, j: int) -> str:
    """RETURNS (str): In words: is this column below its value number `j`?"""
    n = math.ceil(values[j])
    if column == REGIONS:
        return f"region count < {n}"
    if column == PRESENCE:
        return "no picture"
    if column == ORDER:
        overlap = " or over it" if values[j - 1] == OVERLAPPING else ""
        return f"head before tail{overlap}" if values[0] == HEAD_FIRST else "head over tail"
    if column == LENGTH:
        return f"text length < {n} tokens"
    below = [name for value, name in WITHOUT_SIZE.items() if value in values[:j]]
    side = "width" if column == WIDTH else "height"
    if values[j - 1] > UNREADABLE:
        below.insert(0, f"picture {side} < {n} pixels")
    return " or ".join(below)
