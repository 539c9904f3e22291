"""Look into the core of a component: text and picture vectors, before and after the bottleneck."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spacy.language import Language
from spacy.tokens import Doc

from ..pipeline.batching import batches_by_length
from ..post.extensions import take_picture_findings
from . import EvaluationError

if TYPE_CHECKING:
    from ..models.inspection import Inspection

FACTORIES = ("mmib_ner", "mmib_rel")
"""Of the components that have an MMIB core in their models."""


def find_component(nlp: Language, component: str | None = None) -> str:
    """Find the component to look into.

    nlp (Language): The pipeline.
    component (Optional[str]): Its name; by default the first with an MMIB core.
    RETURNS (str): Its name.
    RAISES (EvaluationError): There is none that can be looked into; the message says why.
    """
    if component is not None:
        if component not in nlp.pipe_names:
            raise EvaluationError(
                f"There is no component {component!r} in this pipeline (or it is disabled). It has: "
                f"{', '.join(nlp.pipe_names) or 'none'}."
            )
        _check(component, nlp.get_pipe(component))
        return component
    named = [name for name, pipe in nlp.pipeline if nlp.get_pipe_meta(name).factory in FACTORIES]
    with_core = [name for name in named if _has_core(nlp.get_pipe(name))]
    pooled = [name for name in with_core if not _marks(nlp.get_pipe(name))]
    if pooled:
        return pooled[0]
    if with_core or named:
        _check((with_core or named)[0], nlp.get_pipe((with_core or named)[0]))
    raise EvaluationError(
        "There is nothing to look into: the pipeline has neither mmib_ner nor mmib_rel. It has: "
        f"{', '.join(nlp.pipe_names) or 'no component'}."
    )


def _has_core(pipe: Any) -> bool:
    model: Any = getattr(pipe, "model", None)
    return hasattr(model, "maybe_get_ref") and model.maybe_get_ref("core") is not None


def _marks(pipe: Any) -> bool:
    return bool(pipe.model.attrs.get("entity_repr") == "marker")


def _check(name: str, pipe: Any) -> None:
    """RAISES (EvaluationError): The component can't be looked into."""
    if not _has_core(pipe):
        raise EvaluationError(
            f"The component {name!r} has no MMIB core, so there is no bottleneck to look into: its model has "
            "to be spacy-mmib.MMIB_NER.v1 or spacy-mmib.MMIB_REL.v1."
        )
    if _marks(pipe):
        raise EvaluationError(
            f"The component {name!r} writes each post anew for each pair of entities (entity_repr = "
            '"marker"), so its posts as they are never reach its bottleneck. Looking into it needs '
            'entity_repr = "pool".'
        )
    if not pipe._is_initialized:
        raise EvaluationError(f"The component {name!r} has no weights yet: train it, or load a trained one.")


def inspect_docs(nlp: Language, docs: Sequence[Doc], component: str) -> "list[Inspection | None]":
    """Run a component's encoders and core, after the components before it, to which its layers may listen.

    nlp (Language): The pipeline.
    docs (Sequence[Doc]): The posts. Their annotations stay as they are; what the picture encoder finds
        (`doc._.regions`, `doc._.image_error`) is written to them, as in prediction.
    component (str): See `find_component`.
    RETURNS (List[Optional[Inspection]]): Of each post; `None` for one without tokens.
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
    for group in batches_by_length(copies, pipe.max_batch_tokens):
        for i, found in zip(group, inspect_posts(pipe.model, [copies[i] for i in group])):
            result[i] = found
    for doc, copy in zip(docs, copies):
        take_picture_findings(doc, copy)
    return result
