"""Entity markers: a post written anew for each pair, with head and tail between marks."""

from collections.abc import Sequence

from spacy.tokens import Doc

from ..post.extensions import PICTURE_KEYS
from ..post.user_data import get_entry, set_entry

MARKERS = ("[", "]", "{", "}")
"""Before and after the head, before and after the tail. Word pieces of their own in every vocabulary, and
rare in posts; the code released with the paper adds <s>, </s>, <o> and </o> to BERT's."""


def mark_pair(doc: Doc, pair: Sequence[int], markers: Sequence[str]) -> tuple[Doc, list[int]]:
    """Write a post with markers round a pair of spans. Nested and overlapping spans are allowed.

    doc (Doc): The post.
    pair (Sequence[int]): First token and one past the last of the head, then of the tail.
    markers (Sequence[str]): Four, in the order of `MARKERS`.
    RETURNS (Tuple[Doc, List[int]]): The marked post, with its pictures but without annotations, and the
        tokens that stand for head and tail, as a pair: their opening markers.
    """
    head_start, head_end, tail_start, tail_end = (int(x) for x in pair)
    # At one place closing markers come first; of two spans that begin together the longer one opens first,
    # of two that end together the shorter one closes first: marks nest where spans do.
    marks = sorted(
        [
            (head_start, 1, -head_end, 0),
            (tail_start, 1, -tail_end, 2),
            (head_end, 0, -head_start, 1),
            (tail_end, 0, -tail_start, 3),
        ]
    )
    words: list[str] = []
    spaces: list[bool] = []
    places = {}
    for i in range(len(doc) + 1):
        while marks and marks[0][0] == i:
            which = marks.pop(0)[3]
            places[which] = len(words)
            words.append(markers[which])
            spaces.append(True)
        if i < len(doc):
            words.append(doc[i].text)
            spaces.append(bool(doc[i].whitespace_))
    head, tail = places[0], places[2]
    marked = Doc(doc.vocab, words=words, spaces=spaces)
    for key in PICTURE_KEYS:  # for a text encoder that looks at pictures
        set_entry(marked, key, get_entry(doc, key))
    marked.user_hooks.update(doc.user_hooks)  # of which it may go without in training
    return marked, [head, head + 1, tail, tail + 1]
