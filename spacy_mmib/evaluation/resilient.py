"""Run a stream of posts through a pipeline such that a post that makes it fail takes no other with
it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from spacy.tokens import Doc
from spacy.util import ignore_error, raise_error

if TYPE_CHECKING:
    from spacy.language import Language

T = TypeVar("T")


def pipe_each(
    nlp: "Language",
    items: Iterable[T],
    make_doc: Callable[[T], Doc],
    *,
    batch_size: int | None = None,
    n_process: int = 1,
) -> Iterator[tuple[T, Doc | Exception]]:
    """Like `nlp.pipe`, with an answer for every item. spaCy drops the whole batch if one doc of it
    fails in a component that doesn't try them one by one, so the docs of such a batch are run again
    alone.

    nlp (Language): The pipeline. Its error handlers are replaced while this runs.
    items (Iterable): What to process; read as the pipeline asks for it.
    make_doc (Callable): Makes the doc of an item; called again if the doc has to be run alone.
    batch_size (Optional[int]): Docs at a time.
    n_process (int): Processes.
    YIELDS (Tuple[Any, Union[Doc, Exception]]): Each item, in order, and its doc or why there is
        none.
    """
    stream = _Stream(items, make_doc)
    with _error_handlers(nlp) as set_handlers:

        def run_alone(item: T) -> tuple[T, Doc | Exception]:
            set_handlers(raise_error)
            try:
                return item, nlp(make_doc(item))
            except Exception as err:
                return item, err
            finally:
                set_handlers(ignore_error)

        set_handlers(ignore_error)
        while not stream.finished:
            try:
                for doc, number in nlp.pipe(
                    stream, as_tuples=True, batch_size=batch_size, n_process=n_process
                ):
                    for item in stream.take_before(number):
                        yield run_alone(item)
                    yield stream.take(), doc
            except Exception:
                # A component that bypasses spaCy's error handlers ends the stream. Go on behind
                # what it had asked for; the exception comes up again below, for the post it is
                # about.
                if not stream.pending:
                    raise
            while stream.pending:
                yield run_alone(stream.take())
    if stream.error is not None:
        raise stream.error


class _Stream(Generic[T]):
    """Numbers docs for the pipeline and remembers which items it has asked for but not answered."""

    def __init__(self, items: Iterable[T], make_doc: Callable[[T], Doc]) -> None:
        self._items = iter(items)
        self._make_doc = make_doc
        self._asked = 0
        self.pending: deque[T] = deque()
        self.finished = False
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[Doc, int]]:
        while True:
            try:
                item = next(self._items)
            except StopIteration:
                self.finished = True
                return
            except Exception as err:  # not the pipeline's, so not to be taken for a bad post
                self.finished, self.error = True, err
                return
            self.pending.append(item)
            self._asked += 1
            try:
                doc = self._make_doc(item)
            except Exception:
                # Left pending, the item is found to be unanswered, tried alone, and answered by
                # this.
                continue
            yield doc, self._asked - 1

    def take(self) -> T:
        return self.pending.popleft()

    def take_before(self, number: int) -> Iterator[T]:
        while self._asked - len(self.pending) < number:
            yield self.take()


@contextmanager
def _error_handlers(nlp: "Language") -> Iterator[Callable[[Callable[..., Any]], None]]:
    pipes = [pipe for _, pipe in nlp.pipeline if hasattr(pipe, "set_error_handler")]
    before = [(pipe, pipe.get_error_handler()) for pipe in pipes if hasattr(pipe, "get_error_handler")]
    default = nlp.default_error_handler
    try:
        yield nlp.set_error_handler
    finally:
        nlp.set_error_handler(default)
        for pipe, handler in before:
            pipe.set_error_handler(handler)
