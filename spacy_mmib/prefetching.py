"""`spacy-mmib.batch_by_sequence.v1`: a batcher that has the pictures of the next batch read meanwhile."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from spacy.training import Example
from spacy.training.batchers import configure_minibatch
from spacy.util import registry

from .layers.prefetch import prefetch


@registry.batchers("spacy-mmib.batch_by_sequence.v1")
def make_prefetching_batcher_v1(
    size: int | Any, get_length: Callable[[Any], int] | None = None
) -> Callable[[Iterable[Any]], Iterator[list[Any]]]:
    """Batch as `spacy.batch_by_sequence.v1` does, one batch earlier: while one is learned from, the pictures
    of the next are read by the threads of the picture encoders in the pipeline (see
    `spacy-mmib.picture_reader.v1`). What is in their caches is not read.

    size (Union[int, Iterable[int]]): Posts in a batch, or a schedule of them.
    get_length (Optional[Callable]): Length of an item; see spaCy's.
    RETURNS (Callable[[Iterable[Example]], Iterable[List[Example]]]): The batcher.
    """
    batcher = configure_minibatch(size, get_length)

    def make_batches(examples: Iterable[Any]) -> Iterator[list[Any]]:
        current: list[Any] | None = None
        for batch in batcher(examples):
            batch = list(batch)
            prefetch([item.predicted for item in batch if isinstance(item, Example)])
            if current is not None:
                yield current
            current = batch
        if current is not None:
            yield current

    return make_batches
