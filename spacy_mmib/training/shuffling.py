"""Give each post another one's picture: a control, in training and in evaluation."""

import random
from collections.abc import Sequence

from spacy.tokens import Doc

from ..post.boxes import BOXES_KEY
from ..post.extensions import PICTURE_KEYS, get_image_key, remove_image
from ..post.user_data import get_entry, set_entry


def shuffle_pictures(docs: Sequence[Doc], seed: int = 0) -> int:
    """Give each post the pictures and the objects of another. Posts without a picture get none, and every
    picture is used as often as before. The first picture tells posts apart: by its path, or by its content
    if it is kept in the doc. Gold boxes of entities are taken away: they are of the post's own picture.

    docs (Sequence[Doc]): The posts, changed in place.
    seed (int): Another one gives another assignment; the same for the same posts in the same order.
    RETURNS (int): How many of them have the same picture as before, which happens only if one picture
        belongs to more than half of the posts that have one.
    """
    keys = [get_image_key(doc) for doc in docs]
    with_picture = [i for i, key in enumerate(keys) if key is not None]
    random.Random(seed).shuffle(with_picture)
    groups: dict[str | None, list[int]] = {}
    for i in with_picture:
        groups.setdefault(keys[i], []).append(i)
    # Posts with the same picture stand side by side in an otherwise random order, and pictures move on by the
    # size of the largest such group: that leads out of every group, unless it is more than half of all.
    row = [i for group in groups.values() for i in group]
    step = max(map(len, groups.values()), default=0)
    values = {i: [get_entry(docs[i], key) for key in PICTURE_KEYS] for i in row}
    kept = 0
    for at, i in enumerate(row):
        source = row[(at + step) % len(row)]
        remove_image(docs[i])  # and what components saw in it
        if keys[i] == keys[source]:
            kept += 1
        else:
            set_entry(docs[i], BOXES_KEY, None)
        for key, value in zip(PICTURE_KEYS, values[source]):
            set_entry(docs[i], key, value)
    return kept
