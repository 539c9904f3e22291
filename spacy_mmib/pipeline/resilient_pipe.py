"""Processing a stream such that one bad post doesn't take down its batch."""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

from spacy import util
from spacy.tokens import Doc

from ..encoders.picture_queue import find_encoder_layers, read_ahead


class ResilientPipe:
    """Gives a `TrainablePipe` another `pipe`. To be named before it among the bases of a class."""

    def pipe(self: Any, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Process a stream of docs in batches. If a batch fails its docs are processed one by one, and
        only those that fail by themselves go to the error handler.

        While a batch is processed, pictures of the next one are read. Not with single docs: whoever sets that
        size may wait for an answer before the next question.

        stream (Iterable[Doc]): The posts.
        batch_size (int): Docs at a time.
        YIELDS (Doc): In order.
        """
        error_handler = self.get_error_handler()
        encoders = find_encoder_layers(self.model) if batch_size > 1 else []
        batches = map(list, util.minibatch(stream, size=batch_size))
        with_following = pairwise(chain(batches, [[]])) if encoders else ((docs, []) for docs in batches)
        for docs, following in with_following:
            if following:
                read_ahead(encoders, following)
            try:
                self.set_annotations(docs, self.predict(docs))
            except Exception:
                for doc in docs:
                    try:
                        self.set_annotations([doc], self.predict([doc]))
                    except Exception as err:
                        error_handler(self.name, self, [doc], err)
                    else:
                        yield doc
            else:
                yield from docs
