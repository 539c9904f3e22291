"""Which object decided: the one without which an entity is least probable. Needs no training."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy
from spacy.tokens import Doc
from thinc.api import Model
from thinc.types import Floats2d

from ..bridge.data import DecodedEntities, NERInput
from ..post.boxes import EntityRegion
from .post_encoder import fuse

LEAST = 1e-4
"""By how much the probability of an entity has to fall for an object to have had a part in it. Small, as
little falls where the text decides, too; chosen on the demo's dev posts."""


def find_by_occlusion(
    model: Model[Any, Any],
    docs: Sequence[Doc],
    text: Sequence[Floats2d],
    image: Sequence[Floats2d],
    decoded: Sequence[DecodedEntities],
    objects: Sequence["numpy.ndarray[Any, Any]"],
) -> list[list[EntityRegion]]:
    """Take the vectors of one object at a time away, run fusion and head again (not the encoders), and see
    how far the probability of each entity falls. Object i gets the share fall_i / sum of all falls as its
    score; if none falls by `LEAST`, the entity is "not in the picture" with the probability 1 - largest fall.
    This is about what decided: an object that the text makes redundant isn't found, though it may be seen.

    text, image (Sequence[Floats2d]): What both encoders gave for the docs.
    objects (Sequence[numpy.ndarray]): As in `PointerInput`.
    RETURNS (List[List[EntityRegion]]): Of each post, of each entity.
    """
    falls = [numpy.zeros((len(x.starts), max(1, of.shape[1]))) for x, of in zip(decoded, objects)]
    tries = [(i, j) for i, of in enumerate(objects) for j in range(1, of.shape[1]) if of[:, j].any()]
    tries = [(i, j) for i, j in tries if decoded[i].starts]
    following = iter(tries)
    while batch := list(islice(following, len(docs))):  # as many posts at once as there were
        kept = [image[i][numpy.flatnonzero(objects[i][:, j] == 0).tolist()] for i, j in batch]
        without, _ = fuse(model, [docs[i] for i, _ in batch], [text[i] for i, _ in batch], kept, False)
        spans = [(at, *span) for at, (i, _) in enumerate(batch) for span in zip(*decoded[i][:3])]
        left = iter(model.get_ref("head").predict(NERInput(without.context, without.borders, spans=spans)))
        for i, j in batch:
            falls[i][:, j] = [max(0.0, before - next(left)) for before in decoded[i].confidences]
    return [[_choose(row) for row in of_post] for of_post in falls]


def _choose(falls: "numpy.ndarray[Any, Any]") -> EntityRegion:
    best = int(falls.argmax())
    if falls[best] < LEAST:
        return EntityRegion(None, 1.0 - float(falls[best]), "occlusion")
    return EntityRegion(best - 1, float(falls[best] / falls.sum()), "occlusion")
