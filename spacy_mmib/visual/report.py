"""One page about what a pipeline does on a corpus, with its pictures, without and with shuffled ones: scores,
what it takes for what, and examples.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc

from ..evaluation.errors import Error, PostChange, compare, count_kinds
from ..evaluation.evaluate import Roles, evaluate, get_roles, join_stages, show_score, tabulate
from ..post.extensions import get_image_error, get_stored_image
from ..post.relations import ASKED, read_relations
from .collect import make_post, make_text
from .rendering import get_environment, read_asset

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example

MINUS = "\N{MINUS SIGN}"
PICTURE_SIZE = 320


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
    """
    roles = get_roles(nlp)
    found, posts = find(nlp, corpus, roles, image_root=image_root, batch_size=batch_size)
    metrics, compared = found["own"], "none" in found
    comparison = make_comparison(found) if compared else {"rows": []}
    changed = sum(bool(post.added or post.repaired) for post in posts)
    shown = sort_posts(posts)[: limit_examples or None]
    examples = [make_example(post, compared=compared) for post in shown]
    types, relations = (
        set[str]().union(*(example[kind] for example in examples)) for kind in ("types", "relations")
    )
    confusions: list[tuple[str, Confusion | None]] = []
    if roles.recognizers:
        confusions.append(("Types of entities", count_entity_confusion(posts)))
    if roles.extractors:
        title = "Relations of given entities" if roles.silent else "Relations"
        confusions.append((title, count_relation_confusion(posts, roles.negative_label)))
    factories = {name: nlp.get_pipe_meta(name).factory for name in nlp.pipe_names}
    name = "_".join(filter(None, (nlp.meta.get("lang"), nlp.meta.get("name"))))
    script = read_asset("report.js")
    template = get_environment().get_template("report.html")
    return template.render(
        name=f"{name} {nlp.meta.get('version', '')}".strip(),
        factories=factories,
        looks=any(factory.startswith("mmib") for factory in factories.values()),
        corpus=metrics["corpus"],
        pictures=metrics["pictures"],
        leaks=metrics.get("leaks", []),
        tables=make_score_tables(metrics),
        accuracy=metrics.get("given_entities", {}).get("rel_accuracy"),
        compared=compared,
        comparison=comparison,
        same=not changed and all(len(set(numbers[:3])) == 1 for _, numbers in comparison["rows"]),
        kept=found["shuffled"]["pictures"]["kept"] if compared else 0,
        changed=changed,
        errors=make_error_table(posts, compared=compared),
        finds=bool(roles.recognizers or roles.extractors),
        confusions=confusions,
        examples=examples,
        types=sorted(types),
        relations=sorted(relations - {roles.negative_label, ASKED}),
        left_out=len(posts) - len(shown),
        post_css=read_asset("post.css"),
        report_css=read_asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf8")).digest()).decode(),
    )


def find(
    nlp: "Language",
    corpus: str | Path,
    roles: Roles,
    *,
    image_root: str | Path | None = None,
    batch_size: int | None = None,
) -> tuple[dict[str, dict[str, Any]], list[PostChange]]:
    """Evaluate a pipeline, with the pictures, without and shuffled; see `make_report`. Components without a
    pointer say by occlusion which objects entities are: on the demo that finds more than attention.

    RETURNS (Tuple): What `evaluate` finds, by "own", and if any post has a picture "none" and "shuffled"; and
        all posts, in order. If none has a picture, their `without` is their `doc`.
    """
    metrics: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[Example]] = {}
    pointing: list[Any] = [pipe for _, pipe in nlp.pipeline if getattr(pipe, "locate", None) == "pointer"]
    pointing = [pipe for pipe in pointing if pipe.model.maybe_get_ref("pointer") is None]
    try:
        for pipe in pointing:
            pipe.locate = "occlusion"
        for images in ("own", "none", "shuffled"):
            parts: dict[str, list[Example]] = {}
            settings: dict[str, Any] = {"image_root": image_root, "batch_size": batch_size}
            metrics[images] = evaluate(nlp, corpus, images=images, see=parts.__setitem__, **settings)
            if images != "shuffled":
                seen[images] = join_stages(roles, **parts)
            if not metrics["own"]["pictures"]["with_picture"]:
                break
    finally:
        for pipe in pointing:
            pipe.locate = "pointer"
    pairs = zip(seen["own"], seen.get("none", seen["own"]), strict=True)
    return metrics, [compare(i, *pair, roles) for i, pair in enumerate(pairs)]


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


def make_error_table(posts: Sequence[PostChange], *, compared: bool) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): The table of errors of each kind, with and without pictures."""
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


def count_entity_confusion(posts: Sequence[PostChange]) -> Confusion | None:
    """RETURNS (Optional[Confusion]): Of the types of entities; `None` if there are none."""
    gold = [ent.label_ for post in posts for ent in post.reference.ents]
    errors = [error for post in posts for error in post.errors if error.what == "entity"]
    return _count(gold, errors, ["boundary", "missed"])


def count_relation_confusion(posts: Sequence[PostChange], negative_label: str) -> Confusion | None:
    """RETURNS (Optional[Confusion]): Of relations; `None` if there are none."""
    gold: list[str] = []
    for post in posts:
        found = {(relation.pair, relation.label) for relation in read_relations(post.reference)}
        unknown = {pair for pair, label in found if label == ASKED}
        gold += [label for pair, label in found if pair not in unknown and label != negative_label]
    errors = [error for post in posts for error in post.errors if error.what == "relation"]
    return _count(gold, errors, ["missed"])


def _count(gold: list[str], errors: list[Error], others: list[str]) -> Confusion | None:
    # A label is a tuple here: it may have any name, "missed" for one.
    cells: Counter[tuple[Any, Any]] = Counter(((label,), (label,)) for label in gold)
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
    return Confusion([*labels, "spurious"], [*labels, *others], counts)


def sort_posts(posts: Sequence[PostChange]) -> list[PostChange]:
    """RETURNS (List[PostChange]): Worst first: those with most errors, added and repaired by the picture."""
    return sorted(
        posts, key=lambda post: (-len(post.errors), -len(post.added), -len(post.repaired), post.index)
    )


def make_example(post: PostChange, *, compared: bool) -> dict[str, Any]:
    """Collect what is shown of a post.

    compared (bool): Whether it was predicted without its picture, too.
    RETURNS (Dict[str, Any]): "number" in the corpus (from 1), "post", "gold", "without" (the prediction
        without the picture, if its errors are others), "errors" and "repaired" ones, and what it can be
        filtered by: "text", "kinds" of errors, "types" and "relations" (labels), "states" of the picture.
    """
    docs = (post.reference, post.doc)
    added, repaired = (post.added, post.repaired) if compared else ([], [])
    notes = ("only with the picture" if error in added else "" for error in post.errors)
    errors = [_describe(error, post.doc, note) for error, note in zip(post.errors, notes)]
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
        "repaired": [_describe(error, post.without, "only without the picture") for error in repaired],
        "kinds": sorted({f"{error.what}-{error.kind}" for error in post.errors}),
        "types": {ent.label_ for doc in docs for ent in doc.ents},
        "relations": {relation.label for doc in docs for relation in read_relations(doc)},
        "states": [state for state, holds in states.items() if holds],
        "text": post.doc.text.lower(),
    }


def _describe(error: Error, doc: Doc, note: str) -> dict[str, Any]:
    named = {"gold": _name(error.gold, doc), "predicted": _name(error.predicted, doc)}
    label = None if error.predicted is None else error.predicted[-1]
    return {"what": error.what, "kind": error.kind, **named, "label": label, "note": note}


def _name(where: tuple[int | str, ...] | None, doc: Doc) -> str:
    if where is None:
        return ""
    *offsets, label = where
    spans = [f"“{doc[a:b].text}”" for a, b in zip(offsets[::2], offsets[1::2])]
    return f"{' → '.join(spans)} ({label or 'no type'})"
