"""How much of each token and each region is left in the latents of a post: the contribution scores of the
paper's §V-B, which its Fig. 3 shows as shades."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spacy.language import Language
from spacy.tokens import Doc

from ..bridge.picture_vectors import sum_by_region
from ..post.extensions import count_regions
from .inspecting import find_component, inspect_docs


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
    """RETURNS (List[float]): `Contributions.tokens` or `.regions` in the range of a shade: from 0 for the
    smallest to 1 for the largest; all 0.5 if they are equal.
    """
    if not len(values):
        return []
    low, high = min(values), max(values)
    if not high > low:
        return [0.5] * len(values)
    return [(value - low) / (high - low) for value in values]


def get_contributions(
    nlp: Language, docs: Iterable[Doc], component: str | None = None
) -> list[Contributions | None]:
    """Compute the contributions: with A = X Zᵀ, X being the vectors before and Z those after the bottleneck,
    that of row i is the sum of row i of A (§V-B).

    docs (Iterable[Doc]): The posts. Nothing but `doc._.regions` and `doc._.image_error`, which the picture
        encoder writes, is changed; components before the one that is looked into run on copies.
    component (Optional[str]): `mmib_ner` or `mmib_rel`, or what it is called here; by default the first that
        has an MMIB core.
    RETURNS (List[Optional[Contributions]]): Of each post; `None` for one without tokens.
    RAISES (EvaluationError): No such component, or one without a core, or one with `entity_repr = "marker"`.
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
