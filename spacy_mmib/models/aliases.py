"""Architectures of version 0.1: `spacy-mmib.NER.v1` and `spacy-mmib.REL.v1` with a fusion that is given."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import PairInput, PairScores, PostVectors
from ..fusion.mmib import build_mmib_v1
from ..heads.markers import MARKERS
from .ner import build_ner_v1
from .rel import build_rel_v1


def _with_mmib(build: Callable[..., Model[Any, Any]]) -> Callable[..., Model[Any, Any]]:
    """RETURNS (Callable): The same builder with the settings of `spacy-mmib.MMIB.v1` in place of a fusion."""
    own, mmib = (dict(inspect.signature(function).parameters) for function in (build, build_mmib_v1))
    del own["fusion"]

    def build_with_mmib(**settings: Any) -> Model[Any, Any]:
        fusion = build_mmib_v1(**{name: settings.pop(name) for name in mmib if name in settings})
        return build(fusion=fusion, **settings)

    # Configs are checked against it, and filled from it.
    parameters = [x.replace(kind=inspect.Parameter.KEYWORD_ONLY) for x in (*own.values(), *mmib.values())]
    build_with_mmib.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return build_with_mmib


build_mmib_ner_v1 = registry.architectures("spacy-mmib.MMIB_NER.v1")(_with_mmib(build_ner_v1))
build_mmib_rel_v1 = registry.architectures("spacy-mmib.MMIB_REL.v1")(_with_mmib(build_rel_v1))


@registry.architectures("spacy-mmib.Text_NER.v1")
def build_text_ner_v1(tok2vec: Model[list[Doc], list[Floats2d]]) -> Model[list[Doc], PostVectors]:
    """RETURNS (Model[List[Doc], PostVectors]): `spacy-mmib.NER.v1` without a fusion."""
    return build_ner_v1(tok2vec, None)


@registry.architectures("spacy-mmib.Text_REL.v1")
def build_text_rel_v1(
    tok2vec: Model[list[Doc], list[Floats2d]],
    *,
    entity_repr: Literal["pool", "start", "marker"] = "pool",
    markers: Sequence[str] = MARKERS,
) -> Model[PairInput, PairScores]:
    """RETURNS (Model[PairInput, PairScores]): `spacy-mmib.REL.v1` without a fusion."""
    return build_rel_v1(tok2vec, None, entity_repr=entity_repr, markers=markers)
