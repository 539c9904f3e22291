"""How much of each token and each region is left in the latents of a post: the contribution scores of the
paper's §V-B, which its Fig. 3 shows as shades."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spacy.language import Language
from spacy.tokens import Doc

from ..bridge.data import sum_by_region
from ..pipeline.mmib_ner import batches_by_length
from ..post.extensions import count_regions, take_picture_findings
from . import EvaluationError

if TYPE_CHECKING:
    from ..models.inspection import Inspection

FACTORIES = ("mmib_ner", "mmib_rel")
"""Of the components that may have MMIB as the fusion of their models."""


@dataclass(frozen=True)
class Contributions:
    """Of a post. The numbers are sums of dot products, without a unit: only those of one kind in one post can
    be compared.

    component (str): Whose latents they are about.
    tokens (List[float]): How much each token contributes to Z^T.
    regions (List[float]): How much the whole picture and each of `doc._.regions` contribute to Z^V, 0 for
        those that could not be used; empty without a (readable) picture. Where patches are encoded, those of
        all patches are in the first.
    """

    component: str
    tokens: list[float]
    regions: list[float]


def shares(values: Sequence[float]) -> list[float]:
    """RETURNS (List[float]): Shades: from 0 for the smallest to 1 for the largest; 0.5 if all are equal."""
    low, high = min(values, default=0), max(values, default=0)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def get_contributions(
    nlp: Language, docs: Iterable[Doc], component: str | None = None
) -> list[Contributions | None]:
    """Compute the contributions: with A = X Zᵀ, X being the vectors before and Z those after the bottleneck,
    that of row i is the sum of row i of A (§V-B).

    docs (Iterable[Doc]): The posts. Nothing but `doc._.regions` and `doc._.image_error`, which the picture
        encoder writes, is changed; components before the one that is looked into run on copies.
    component (Optional[str]): See `find_component`.
    RETURNS (List[Optional[Contributions]]): Of each post; `None` for one without tokens.
    """
    name = find_component(nlp, component)
    docs = list(docs)
    result: list[Contributions | None] = []
    for doc, found in zip(docs, inspect_docs(nlp, docs, name)):
        if found is None:
            result.append(None)
            continue
        tokens, rows = (
            x.astype("float64") @ z.astype("float64").sum(axis=0)  # the sums of the rows of X Zᵀ
            for x, z in ((found.text, found.z_text), (found.image, found.z_image))
        )
        regions = sum_by_region(rows[None], found.rows, count_regions(doc))[0]
        result.append(Contributions(name, tokens.tolist(), regions.tolist()))
    return result


def find_component(nlp: Language, component: str | None = None) -> str:
    """RETURNS (str): The component to look into: this one, by default the first that can be.
    RAISES (EvaluationError): There is none that can be looked into; the message says why.
    """
    names = [name for name in nlp.pipe_names if nlp.get_pipe_meta(name).factory in FACTORIES]
    missing = None
    if component is not None:
        names = [component]
        if component not in nlp.pipe_names:
            missing = f"There is no component {component!r} in this pipeline (or it is disabled)."
    elif not names:
        missing = "There is nothing to look into: the pipeline has neither mmib_ner nor mmib_rel."
    if missing is not None:
        raise EvaluationError(f"{missing} It has: {', '.join(nlp.pipe_names) or 'no component'}.")
    problems = {name: _find_problem(name, nlp.get_pipe(name)) for name in names}
    for name, problem in problems.items():
        if problem is None:
            return name
    raise EvaluationError(" ".join(filter(None, problems.values())))


def _find_problem(name: str, pipe: Any) -> str | None:
    """Why a component can't be looked into."""
    model: Any = getattr(pipe, "model", None)
    fusion = model.maybe_get_ref("fusion") if hasattr(model, "maybe_get_ref") else None
    if fusion is None or fusion.name not in ("MMIB", "mmib_core"):  # the latter in version 0.1
        return f"The component {name!r} has no bottleneck to look into: its fusion isn't spacy-mmib.MMIB.v1."
    if model.attrs.get("entity_repr") == "marker":
        return (
            f"The component {name!r} writes each post anew for each pair of entities (entity_repr = "
            '"marker"), so its posts as they are never reach its bottleneck. Looking into it needs '
            'entity_repr = "pool".'
        )
    if not pipe._is_initialized:
        return f"The component {name!r} has no weights yet: train it, or load a trained one."
    return None


def inspect_docs(nlp: Language, docs: Sequence[Doc], component: str) -> "list[Inspection | None]":
    """Run a component's encoders and core, after the components before it, to which its layers may listen.
    What the picture encoder finds is written to the docs, as in prediction; their annotations stay.
    """
    from ..models.inspection import inspect_posts

    copies = [doc.copy() for doc in docs]
    later = nlp.pipe_names[nlp.pipe_names.index(component) :]
    pipe: Any = nlp.get_pipe(component)
    with nlp.select_pipes(disable=later):
        if nlp.pipe_names:
            for _ in nlp.pipe(copies):
                pass
    result: list[Inspection | None] = [None] * len(docs)
    for group in batches_by_length([len(doc) for doc in copies], pipe.max_batch_tokens):
        for i, found in zip(group, inspect_posts(pipe.model, [copies[i] for i in group])):
            result[i] = found
    for doc, copy in zip(docs, copies):
        take_picture_findings(doc, copy)
    return result
