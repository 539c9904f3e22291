"""One page about what a pipeline does on a corpus, with its pictures, without and with shuffled ones: scores,
what it takes for what, and examples.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc

from ..evaluation.errors import Error, PostChange, compare, count_kinds
from ..evaluation.evaluate import Roles, evaluate, get_roles, join_stages, show_score, tabulate
from ..post.extensions import get_image_error, get_stored_image
from ..post.relations import ASKED, get_relations, has_relations, read_relations
from .collect import make_post, make_text
from .rendering import get_environment, read_asset

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example

MINUS = "\N{MINUS SIGN}"
PICTURE_SIZE = 320
PICTURE_COUNTS = (
    ("with_picture", "posts with a picture"),
    ("missing", "picture files missing"),
    ("unreadable", "pictures that can't be read"),
    ("refused", "pictures outside the image root"),
    ("dropped_crops", "crops left out"),
)


@dataclass(frozen=True)
class Findings:
    """What a report is made of.

    metrics (Dict[str, Dict[str, Any]]): What `spacy mmib evaluate` finds, for "own", and if any post has a
        picture for "none" and "shuffled".
    posts (List[PostChange]): All posts, in order. Without pictures in the corpus, `without` is `doc`.
    """

    metrics: dict[str, dict[str, Any]]
    posts: list[PostChange]
    roles: Roles

    @property
    def compared(self) -> bool:
        """RETURNS (bool): Whether there are pictures to take away."""
        return "none" in self.metrics


@dataclass(frozen=True)
class Confusion:
    """A matrix of counts.

    rows (List[str]): Gold labels, and at the end "spurious": predictions that nothing gold belongs to.
    columns (List[str]): Predicted labels, and at the end "boundary" (entities of which only a part, or more,
        was found, under whatever label) and "missed".
    counts (List[List[int]]): By row and column. A gold label's row sums up to how often it is gold.
    """

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]
    n_labels: int

    def shares(self) -> list[list[float]]:
        """RETURNS (List[List[float]]): How large each count is, 0-1: of what is gold, or in the last row of
        what is predicted under this label.
        """
        *gold, spurious = self.counts
        predicted = [sum(column) for column in zip(*self.counts)]
        shares = [[count / max(1, sum(row)) for count in row] for row in gold]
        return [*shares, [count / max(1, total) for count, total in zip(spurious, predicted)]]


def make_report(
    nlp: "Language",
    corpus: str | Path,
    *,
    image_root: str | Path | None = None,
    limit_examples: int = 200,
    batch_size: int | None = None,
) -> str:
    """Evaluate a pipeline and write what was found as one page that needs nothing beside it.

    limit_examples (int): So many posts are shown at most, worst first; 0 for all.
    RETURNS (str): HTML, the same for the same predictions.
    RAISES (EvaluationError): The corpus can't be read or has no posts.
    """
    findings = find(nlp, corpus, image_root=image_root, batch_size=batch_size)
    metrics, posts, roles = findings.metrics["own"], findings.posts, findings.roles
    shown = sort_posts(posts)[: limit_examples or None]
    types, relations = get_labels(shown, roles.negative_label)
    compared = findings.compared
    comparison = make_comparison(findings.metrics) if compared else None
    script = read_asset("report.js")
    return (
        get_environment()
        .get_template("report.html")
        .render(
            name=_get_name(nlp),
            components=[(name, nlp.get_pipe_meta(name).factory) for name in nlp.pipe_names],
            corpus=metrics["corpus"],
            pictures=metrics["pictures"],
            picture_counts=PICTURE_COUNTS,
            leaks=metrics.get("leaks", []),
            tables=make_score_tables(metrics),
            accuracy=metrics.get("given_entities", {}).get("rel_accuracy"),
            comparison=comparison,
            notes=_get_notes(nlp, findings, comparison),
            changed=sum(bool(post.added or post.repaired) for post in posts),
            errors=make_error_table(posts, compared=compared),
            finds=bool(roles.recognizers or roles.extractors),
            confusions=_get_confusions(findings),
            examples=[make_example(post, types, relations, compared=compared) for post in shown],
            types=types,
            relations=relations,
            left_out=len(posts) - len(shown),
            compared=compared,
            post_css=read_asset("post.css"),
            report_css=read_asset("report.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode("utf8")).digest()).decode(),
        )
    )


def make_score_tables(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """RETURNS (List[Dict[str, Any]]): Tables of P, R and F of everything that is annotated."""
    return [
        {
            "title": title,
            "header": ["Label", "P", "R", "F"],
            "rows": [(name, [*map(show, prf)]) for name, prf in (*overall.items(), *by_label.items())],
        }
        for title, overall, by_label in tabulate(metrics)
        if overall["all"][2] is not None
    ]


def make_comparison(metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The table of F with, without, and with shuffled pictures."""
    f: dict[str, dict[str, float | None]] = {images: {} for images in metrics}
    for images, found in metrics.items():
        for title, overall, _ in tabulate(found):
            f[images].update({title + name.removeprefix("all"): prf[2] for name, prf in overall.items()})
    rows = []
    for title, own in f["own"].items():
        if own is not None:
            others = [f[images].get(title) for images in ("none", "shuffled")]
            lost = [None if score is None else score - own for score in others]
            rows.append((title, [*map(show, (own, *others)), *(show(x, sign=True) for x in lost)]))
    columns = ["with pictures", "without", "shuffled", f"without {MINUS} with", f"shuffled {MINUS} with"]
    title = "Scores with pictures, without, and with those of other posts"
    return {"title": title, "header": ["F", *columns], "rows": rows}


def make_error_table(posts: Iterable[PostChange], *, compared: bool) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The table of errors of each kind, with and without pictures."""
    posts = list(posts)
    counts = [count_kinds([error for post in posts for error in post.errors])]
    if compared:
        counts.append(count_kinds([error for post in posts for error in post.errors_without]))
    rows = [(kind, [str(count[kind]) for count in counts]) for kind in counts[0]]
    header = ["Kind of error", *(["with pictures", "without"] if compared else ["errors"])]
    rows = [row for row in rows if any(number != "0" for number in row[1])]
    return {"title": "Errors by kind", "header": header, "rows": rows}


def show(score: float | None, *, sign: bool = False) -> str:
    """RETURNS (str): A score, 0-1, in percent; a difference with its sign."""
    if score is None or not sign:
        return show_score(score)
    # A change that rounds to nothing has no sign.
    text = f"{100 * score:+.2f}" if round(score, 4) else show_score(abs(score))
    return text.replace("-", MINUS)


def _get_confusions(findings: Findings) -> list[tuple[str, Confusion]]:
    roles, found = findings.roles, []
    if roles.recognizers:
        found.append(("Types of entities", count_entity_confusion(findings.posts)))
    if roles.extractors:
        title = "Relations of given entities" if roles.silent else "Relations"
        found.append((title, count_relation_confusion(findings.posts, roles.negative_label)))
    return [(title, matrix) for title, matrix in found if matrix is not None]


def _get_name(nlp: "Language") -> str:
    name = "_".join(filter(None, (nlp.meta.get("lang"), nlp.meta.get("name"))))
    return f"{name} {nlp.meta.get('version', '')}".strip()


def _get_notes(nlp: "Language", findings: Findings, comparison: dict[str, Any] | None) -> list[str]:
    if comparison is None:
        return [
            "No post of this corpus has a picture that can be used, so nothing can be said about what "
            "pictures contribute."
        ]
    notes = []
    same = not any(post.added or post.repaired for post in findings.posts)
    rows = comparison["rows"]
    if same and rows and all(len(set(numbers[:3])) == 1 for _, numbers in rows):
        notes.append(
            "The predictions are the same with pictures, without them, and with those of other posts. "
            "That is to be expected of a pipeline in which nothing looks at pictures."
        )
    if not any(nlp.get_pipe_meta(name).factory.startswith("mmib") for name in nlp.pipe_names):
        notes.append(
            "There is no mmib component in this pipeline: unless another one does, nothing looks at pictures."
        )
    kept = findings.metrics["shuffled"]["pictures"]["kept"]
    if kept:
        notes.append(
            f"{kept} posts kept their picture when pictures were shuffled, since it belongs to more than "
            "half of the posts."
        )
    with_picture, posts = (findings.metrics["own"]["pictures"][k] for k in ("with_picture", "posts"))
    if with_picture < posts:
        notes.append(f"Only {with_picture} of {posts} posts have a picture that can be used.")
    return notes


# What was found


def find(
    nlp: "Language",
    corpus: str | Path,
    *,
    image_root: str | Path | None = None,
    batch_size: int | None = None,
) -> Findings:
    """Evaluate a pipeline, with the pictures, without and shuffled; see `make_report`."""
    roles = get_roles(nlp)
    metrics: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[Example]] = {}
    for images in ("own", "none", "shuffled"):
        parts: dict[str, list[Example]] = {}
        settings: dict[str, Any] = {"image_root": image_root, "batch_size": batch_size}
        metrics[images] = evaluate(nlp, corpus, images=images, see=parts.__setitem__, **settings)
        if images != "shuffled":
            seen[images] = join_stages(roles, **parts)
        if not metrics["own"]["pictures"]["with_picture"]:
            break
    pairs = zip(seen["own"], seen.get("none", seen["own"]), strict=True)
    return Findings(metrics, [compare(i, *pair, roles) for i, pair in enumerate(pairs)], roles)


def count_entity_confusion(posts: Iterable[PostChange]) -> Confusion | None:
    """RETURNS (Optional[Confusion]): Of the types of entities; `None` if there are none."""
    gold: Counter[str] = Counter()
    errors: list[Error] = []
    for post in posts:
        if post.reference.has_annotation("ENT_IOB"):
            gold.update(ent.label_ for ent in post.reference.ents)
        errors += [error for error in post.errors if error.what == "entity"]
    return _count(gold, errors, ["boundary", "missed"])


def count_relation_confusion(posts: Iterable[PostChange], negative_label: str) -> Confusion | None:
    """RETURNS (Optional[Confusion]): Of relations; `None` if there are none."""
    gold: Counter[str] = Counter()
    errors: list[Error] = []
    for post in posts:
        if has_relations(post.reference):
            found = {(relation.pair, relation.label) for relation in read_relations(post.reference)}
            unknown = {pair for pair, label in found if label == ASKED}
            gold.update(label for pair, label in found if pair not in unknown and label != negative_label)
        errors += [error for error in post.errors if error.what == "relation"]
    return _count(gold, errors, ["missed"])


def _count(gold: "Counter[str]", errors: Sequence[Error], others: list[str]) -> Confusion | None:
    # A label is a tuple here: it may have any name, "missed" for one.
    cells: Counter[tuple[Any, Any]] = Counter({((label,), (label,)): n for label, n in gold.items()})
    for error in errors:
        row = "spurious" if error.gold is None else error.gold[-1:]
        column = "missed" if error.predicted is None else error.predicted[-1:]
        cells[row, "boundary" if error.kind == "boundary" else column] += 1
        if error.gold is not None:
            cells[row, row] -= 1
    labels = sorted({cell[0] for pair in cells for cell in pair if isinstance(cell, tuple)})
    if not labels:
        return None
    keys = [(label,) for label in labels]
    counts = [[cells[row, column] for column in (*keys, *others)] for row in (*keys, "spurious")]
    return Confusion([*labels, "spurious"], [*labels, *others], counts, len(labels))


# Examples


def sort_posts(posts: Sequence[PostChange]) -> list[PostChange]:
    """RETURNS (List[PostChange]): Worst first: those with most errors, added and repaired by the picture."""
    return sorted(
        posts, key=lambda post: (-len(post.errors), -len(post.added), -len(post.repaired), post.index)
    )


def get_labels(posts: Sequence[PostChange], negative_label: str) -> tuple[list[str], list[str]]:
    """RETURNS (Tuple[List[str], List[str]]): Types of entities and labels of relations, gold or predicted."""
    found = [_get_labels_of(post) for post in posts]
    types, relations = (set[str]().union(*(labels[i] for labels in found)) for i in (0, 1))
    return sorted(types), sorted(relations - {negative_label, ASKED})


def _get_labels_of(post: PostChange) -> tuple[set[str], set[str]]:
    types: set[str] = set()
    relations: set[str] = set()
    for doc in (post.reference, post.doc):
        types |= {ent.label_ for ent in doc.ents}
        try:
            relations |= {relation.label for relation in get_relations(doc)}
        except ValueError:  # written past the setter; the text says so
            continue
    return types, relations


def make_example(
    post: PostChange, types: Sequence[str], relations: Sequence[str], *, compared: bool
) -> dict[str, Any]:
    """Collect what is shown of a post.

    types (Sequence[str]): The types of entities that can be filtered by.
    relations (Sequence[str]): The labels of relations; numbered on from the types.
    compared (bool): Whether it was predicted without its picture, too.
    RETURNS (Dict[str, Any]): "number" in the corpus (from 1), "post", "gold", "without" (the prediction
        without the picture, if its errors are others), "errors" and "repaired" ones in words, and what it can
        be filtered by: "text", "kinds" of errors, "labels" (numbers in the lists), "states" of the picture.
    """
    own_types, own_relations = _get_labels_of(post)
    labels = [i for i, label in enumerate(types) if label in own_types]
    labels += [i for i, label in enumerate(relations, len(types)) if label in own_relations]
    added, repaired = (post.added, post.repaired) if compared else ([], [])
    notes = ("only with the picture" if error in added else "" for error in post.errors)
    errors = [_explain(error, post.doc, note) for error, note in zip(post.errors, notes)]
    states = {
        "changed": added or repaired,
        "added": added,
        "repaired": repaired,
        "none": get_stored_image(post.doc) is None,
        "refused": get_image_error(post.doc) is not None,
    }
    return {
        "number": post.index + 1,
        "post": make_post(post.doc, max_size=PICTURE_SIZE),
        "gold": make_text(post.reference),
        "without": make_text(post.without) if added or repaired else None,
        "errors": errors,
        "repaired": [_explain(error, post.without, "only without the picture") for error in repaired],
        "kinds": sorted({error["kind"].replace(" ", "-") for error in errors}),
        "labels": labels,
        "states": [state for state, holds in states.items() if holds],
        "text": post.doc.text.lower(),
    }


def _explain(error: Error, doc: Doc, note: str) -> dict[str, str]:
    gold, predicted = _name(error.gold, doc), _name(error.predicted, doc)
    if error.kind == "missed":
        text = f"{gold} is missed"
    elif error.kind == "spurious":
        text = f"{predicted} is predicted, but not gold"
    elif error.kind == "type":
        assert error.predicted is not None
        text = f"{gold} is predicted as {error.predicted[-1]}"
    else:
        text = f"{gold} is predicted as {predicted}"
    return {"kind": f"{error.what} {error.kind}", "text": text, "note": note}


def _name(where: tuple[int | str, ...] | None, doc: Doc) -> str:
    if where is None:
        return ""
    *offsets, label = where
    spans = [f"“{doc[a:b].text}”" for a, b in zip(offsets[::2], offsets[1::2])]
    return f"{' → '.join(spans)} ({label or 'no type'})"
