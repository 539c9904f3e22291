"""The page itself: see `make_report`."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.errors import PostChange, count_kinds
from ...evaluation.evaluate import show_score, tabulate
from ..rendering import get_environment, read_asset
from .examples import get_labels, make_example, sort_posts
from .findings import Confusion, Findings, count_entity_confusion, count_relation_confusion, find

if TYPE_CHECKING:
    from spacy.language import Language

MINUS = "\N{MINUS SIGN}"

PICTURE_COUNTS = (
    ("with_picture", "posts with a picture"),
    ("missing", "picture files missing"),
    ("unreadable", "pictures that can't be read"),
    ("refused", "pictures outside the image root"),
    ("dropped_crops", "crops left out"),
)


def make_report(
    nlp: "Language",
    corpus: str | Path,
    *,
    image_root: str | Path | None = None,
    limit_examples: int = 200,
    batch_size: int | None = None,
) -> str:
    """Evaluate a pipeline and write what was found as one page that needs nothing beside it.

    nlp (Language): The pipeline.
    corpus (Union[str, Path]): A `.spacy` file, or a folder of them.
    image_root (Optional[Union[str, Path]]): See `MultimodalCorpus`.
    limit_examples (int): So many posts are shown at most, worst first; 0 for all.
    batch_size (Optional[int]): Posts at a time.
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
    """RETURNS (List[Dict[str, Any]]): Tables of P, R and F of everything that is annotated, overall and by
    label: "title", "header", and "rows" of a name and numbers.
    """
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
    """RETURNS (List[Tuple[str, Confusion]]): Of what the pipeline finds; all else would be right."""
    roles, found = findings.roles, []
    if roles.recognizers:
        found.append(("Types of entities", count_entity_confusion(findings.posts)))
    if roles.extractors:
        title = "Relations" if roles.end_to_end else "Relations of given entities"
        found.append((title, count_relation_confusion(findings.posts, roles.negative_label)))
    return [(title, matrix) for title, matrix in found if matrix is not None]


def _get_name(nlp: "Language") -> str:
    """RETURNS (str): Language, name and version of a pipeline."""
    name = "_".join(filter(None, (nlp.meta.get("lang"), nlp.meta.get("name"))))
    return f"{name} {nlp.meta.get('version', '')}".strip()


def _get_notes(nlp: "Language", findings: Findings, comparison: dict[str, Any] | None) -> list[str]:
    """RETURNS (List[str]): What has to be known about the comparison with and without pictures."""
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
