"""The page itself: see `make_report`."""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..rendering.environment import get_environment, read_asset
from .confusion import Confusion, count_entity_confusion, count_relation_confusion
from .examples import get_labels, make_example, sort_posts
from .findings import Findings, find
from .tables import make_comparison, make_error_table, make_score_tables

if TYPE_CHECKING:
    from spacy.language import Language

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
    return build_page(nlp, findings, limit_examples=limit_examples)


def build_page(nlp: "Language", findings: Findings, *, limit_examples: int = 200) -> str:
    """Write what was found as a page.

    nlp (Language): The pipeline.
    findings (Findings): What was found.
    limit_examples (int): So many posts are shown at most, worst first; 0 for all.
    RETURNS (str): HTML.
    """
    metrics, posts = findings.metrics["own"], findings.posts
    shown = sort_posts(posts)[: limit_examples or None]
    types, relations = get_labels(shown, findings.roles.negative_label)
    compared = findings.compared
    script = read_asset("spacy_mmib.visual.report", "report.js")
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
            accuracy=(metrics.get("given_entities") or {}).get("rel_accuracy"),
            comparison=make_comparison(findings.metrics) if compared else None,
            notes=_get_notes(nlp, findings),
            changed=sum(bool(post.added or post.repaired) for post in posts),
            errors=make_error_table(posts, compared=compared),
            finds=bool(findings.roles.recognizers or findings.roles.extractors),
            confusions=_get_confusions(findings),
            examples=[make_example(p, types, relations, compared=compared) for p in shown],
            types=types,
            relations=relations,
            left_out=len(posts) - len(shown),
            compared=compared,
            post_css=read_asset("spacy_mmib.visual.rendering", "post.css"),
            report_css=read_asset("spacy_mmib.visual.report", "report.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode("utf8")).digest()).decode(),
        )
    )


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
    meta: dict[str, Any] = nlp.meta
    name = "_".join(filter(None, (meta.get("lang"), meta.get("name"))))
    return f"{name} {meta.get('version', '')}".strip()


def _get_notes(nlp: "Language", findings: Findings) -> list[str]:
    """RETURNS (List[str]): What has to be known about the comparison with and without pictures."""
    if not findings.compared:
        return [
            "No post of this corpus has a picture that can be used, so nothing can be said about what "
            "pictures contribute."
        ]
    notes = []
    same = not any(post.added or post.repaired for post in findings.posts)
    comparison = make_comparison(findings.metrics)
    if same and comparison.rows and all(len(set(numbers[:3])) == 1 for _, numbers in comparison.rows):
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
