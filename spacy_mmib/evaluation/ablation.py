"""Take the pictures away from posts, or give each post another one's: what does a model owe to them?"""

import random
from collections.abc import Sequence

from spacy.tokens import Doc
from spacy.training import Example

from ..post import extensions


def remove_images(examples: Sequence[Example]) -> list[Example]:
    """RETURNS (List[Example]): Copies without pictures and objects, as `doc._.image_error` says then."""
    result = []
    for example in examples:
        doc = example.predicted.copy()
        extensions.remove_image(doc)
        result.append(Example(doc, example.reference))
    return result


def shuffle_images(examples: Sequence[Example], seed: int = 0) -> tuple[list[Example], int]:
    """Copies of posts, each with the pictures and the objects of another. Posts without a picture get none,
    and every picture is used as often as before. The first picture tells posts apart.

    RETURNS (Tuple[List[Example], int]): The posts in order, and how many of them have the same picture as
        before, which happens only if one picture belongs to more than half of the posts that have one.
    """
    docs: list[Doc] = [example.predicted for example in examples]
    keys = [extensions.get_image_key(doc) for doc in docs]
    with_picture = [i for i, key in enumerate(keys) if key is not None]
    random.Random(seed).shuffle(with_picture)
    groups: dict[str | None, list[int]] = {}
    for i in with_picture:
        groups.setdefault(keys[i], []).append(i)
    # Posts with the same picture stand side by side in an otherwise random order, and pictures move on by the
    # size of the largest such group: that leads out of every group, unless it is more than half of all.
    row = [i for group in groups.values() for i in group]
    step = max(map(len, groups.values()), default=0)
    sources = {i: row[(at + step) % len(row)] for at, i in enumerate(row)}
    result = []
    for i, example in enumerate(examples):
        doc = docs[i].copy()
        if i in sources:
            source = docs[sources[i]]
            extensions.copy_images(source, doc)
            extensions.set_regions(doc, extensions.get_regions(source) or None)
            extensions.set_regions_note(doc, extensions.get_regions_note(source))
        result.append(Example(doc, example.reference))
    return result, sum(keys[i] == keys[source] for i, source in sources.items())
