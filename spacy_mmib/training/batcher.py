"""`spacy-mmib.batch_by_sequence.v1`: a batcher that tells each batch which one follows, whose pictures are
read meanwhile, and can put posts of similar length together.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, pairwise
from typing import Any

from spacy.training import Example
from spacy.training.batchers import configure_minibatch
from spacy.util import registry

from ..encoders.picture_queue import FOLLOWING


@registry.batchers("spacy-mmib.batch_by_sequence.v1")
def make_batcher_v1(
    size: int | Any, get_length: Callable[[Any], int] | None = None, buffer: int = 1
) -> Callable[[Iterable[Any]], Iterator[list[Any]]]:
    """Batch as `spacy.batch_by_sequence.v1` does, one batch earlier: while one is learned from, the pictures
    of the next are read by the threads of the picture encoders in the pipeline (see
    `spacy-mmib.picture_reader.v1`). What is in their caches is not read.

    size (Union[int, Iterable[int]]): Posts in a batch, or a schedule of them.
    get_length (Optional[Callable]): Length of an item; see spaCy's.
    buffer (int): So many batches are made together, such that posts of similar length are in one, and given
        in random order (of Python's `random`, which [training] seed seeds): less padding. At 1 the order of
        the posts stays.
    RAISES (ValueError): A buffer below 1.
    """
    if buffer < 1:
        raise ValueError(f"buffer is a number of batches of at least 1, not {buffer}.")
    batcher = configure_minibatch(size, get_length)

    def make_batches(examples: Iterable[Any]) -> Iterator[list[Any]]:
        batches: Iterator[list[Any]] = map(list, batcher(examples))
        if buffer > 1:
            batches = _by_length(batches, buffer)
        for batch, following in pairwise(chain(batches, [[]])):
            # The batcher knows no model: a post of the batch says to the picture encoders what comes next.
            docs = [item.predicted for item in following if isinstance(item, Example)]
            first = next((item.predicted for item in batch if isinstance(item, Example)), None)
            if first is not None and docs:
                first.user_hooks[FOLLOWING] = lambda docs=docs: docs
            yield batch
            if first is not None:
                first.user_hooks.pop(FOLLOWING, None)

    return make_batches


def _by_length(batches: Iterator[list[Any]], buffer: int) -> Iterator[list[Any]]:
    """YIELDS (List[Any]): Batches of the sizes of those that come in."""
    while group := list(islice(batches, buffer)):
        items = iter(sorted((item for batch in group for item in batch), key=len))
        sorted_batches = [list(islice(items, len(batch))) for batch in group]
        random.shuffle(sorted_batches)
        yield from sorted_batches
