"""Processing a stream such that one bad post doesn't take down its batch."""

from collections.abc import Iterable, Iterator
from typing import Any

from spacy import util
from spacy.tokens import Doc

from ..encoders.prefetch import find_encoders, prefetch


class ResilientPipe:
    """Gives a `TrainablePipe` another `pipe`. To be named before it among the bases of a class."""

    def pipe(self: Any, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Process a stream of docs in batches. If a batch fails its docs are processed one by one, and
        only those that fail by themselves go to the error handler.

        stream (Iterable[Doc]): The posts.
        batch_size (int): Docs at a time.
        YIELDS (Doc): In order.
        """
        error_handler = self.get_error_handler()
        for docs in self._read_ahead(util.minibatch(stream, size=batch_size), batch_size):
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

    def _read_ahead(self: Any, batches: Iterable[Iterable[Doc]], batch_size: int) -> Iterator[list[Doc]]:
        """While a batch is processed, pictures of the next one are read, if there is an encoder that reads
        ahead. Not with single docs: whoever sets that size may wait for an answer before the next question.
        """
        encoders = find_encoders(self.model) if batch_size > 1 else []
        if not encoders:
            yield from map(list, batches)
            return
        current: list[Doc] | None = None
        for batch in map(list, batches):
            prefetch(batch, encoders)
            if current is not None:
                yield current
            current = batch
        if current is not None:
            yield current
