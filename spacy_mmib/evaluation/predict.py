"""Find the entities and relations of a stream of posts, such that a bad one takes no other with it."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import ignore_error, raise_error

from ..images.errors import describe_kinds
from ..post.extensions import get_image_error, get_image_error_kinds, get_stored_image
from ..post.relations import read_relations
from ..training.local_pictures import PictureCounts, PictureFolder
from ..util import warn
from .posts import BOM, PostError, Record, make_doc, parse_post, to_record

T = TypeVar("T")


@dataclass
class PredictResult:
    """What came of a stream of posts.

    with_picture (int): Posts whose picture was used.
    image_errors (int): Posts whose picture, or an object of it, was not used.
    reasons (Counter[str]): Pictures and objects that were not used, by kind of reason.
    skipped (List[int]): Numbers of the lines that were skipped, from 1.
    """

    posts: int = 0
    with_picture: int = 0
    image_errors: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    entities: int = 0
    relations: int = 0
    skipped: list[int] = field(default_factory=list)

    def add(self, doc: Doc, counts: PictureCounts) -> None:
        """Count a post that was predicted, and what was found about its picture before that."""
        error = get_image_error(doc)
        self.posts += 1
        self.image_errors += error is not None
        self.with_picture += error is None and get_stored_image(doc) is not None
        self.reasons.update(get_image_error_kinds(doc))
        self.reasons.update(counts.reasons)
        self.entities += len(doc.ents)
        self.relations += len(read_relations(doc))

    def summary(self) -> str:
        """RETURNS (str): One line for people."""
        reasons = describe_kinds(self.reasons)
        line = (
            f"{self.posts} posts predicted ({self.with_picture} with a picture, "
            f"{self.image_errors} with one that can't be used{reasons and ': ' + reasons}), "
            f"{self.entities} entities found" + (f", {self.relations} relations" if self.relations else "")
        )
        if self.skipped:
            shown = ", ".join(map(str, sorted(self.skipped)[:10]))
            more = ", ..." if len(self.skipped) > 10 else ""
            line += f"; {len(self.skipped)} lines skipped (line {shown}{more})"
        return line


def predict(
    nlp: Language,
    posts: Iterable[bytes | str | Record],
    *,
    image_root: str | Path = ".",
    batch_size: int | None = None,
    n_process: int = 1,
    skip: Callable[[int, str], None] | None = None,
    result: PredictResult | None = None,
) -> Iterator[Record]:
    """Find the entities in posts, and the relations between them: what `spacy mmib predict` writes.

        posts = [{"text": "Rob had dinner", "image": "rob.jpg"}]
        for record in predict(nlp, posts, image_root="images"):
            print(record["text"], record["entities"])

    posts (Iterable[Union[bytes, str, Dict[str, Any]]]): Lines of JSON, or what they hold: objects with "text"
        or "tokens", and optionally "image" (a path, or a data URI), "images" (a list of these), "regions" and
        "relations". Blank lines are passed over.
    image_root (Union[str, Path]): The folder relative paths of pictures start from, and that none may leave.
    skip (Optional[Callable[[int, str], None]]): Is told the number of each line that can't be used, or makes
        the pipeline fail, and why; by default it is a warning.
    result (Optional[PredictResult]): Where posts are counted.
    YIELDS (Dict[str, Any]): Of each post, in order, what its line said and what was found; see
        `posts.to_record`.
    """
    folder, result = PictureFolder(image_root, "none"), result or PredictResult()
    skip = skip or (lambda line, reason: warn(f"line {line} skipped: {reason}"))
    # What was found about the pictures of the posts that are in the pipeline, by line.
    counts: dict[int, PictureCounts] = {}

    def give_up(line: int, reason: str) -> None:
        result.skipped.append(line)
        skip(line, reason)

    def read() -> Iterator[tuple[int, Record]]:
        for number, line in enumerate(posts, 1):
            if number == 1 and isinstance(line, bytes):
                line = line.removeprefix(BOM)  # the mark some editors begin a file with
            if not isinstance(line, (bytes, str)) or line.strip():
                try:
                    yield number, parse_post(line)
                except PostError as err:
                    give_up(number, str(err))

    def build(post: tuple[int, Record]) -> Doc:
        number, record = post
        counts[number] = PictureCounts()
        return make_doc(nlp, record, folder, counts[number])

    for (number, record), doc in pipe_each(nlp, read(), build, batch_size=batch_size, n_process=n_process):
        counted = counts.pop(number)
        if isinstance(doc, PostError):
            give_up(number, str(doc))
        elif isinstance(doc, Exception):
            give_up(number, f"the pipeline failed on it ({type(doc).__name__}: {doc})")
        else:
            result.add(doc, counted)
            yield to_record(record, doc)


def pipe_each(
    nlp: Language,
    items: Iterable[T],
    make_doc: Callable[[T], Doc],
    *,
    batch_size: int | None = None,
    n_process: int = 1,
) -> Iterator[tuple[T, Doc | Exception]]:
    """Like `nlp.pipe`, with an answer for every item. spaCy drops the whole batch if one doc of it fails in a
    component that doesn't try them one by one, so the docs of such a batch are run again alone.

    nlp (Language): Its error handlers are replaced while this runs.
    items (Iterable): Read as the pipeline asks for them.
    make_doc (Callable): Called again if the doc has to be run alone.
    YIELDS (Tuple[Any, Union[Doc, Exception]]): Each item, in order, and its doc or why there is none.
    """
    numbered = enumerate(items)
    pending: deque[tuple[int, T]] = deque()  # what the pipeline has asked for but not answered
    finished, failure = False, None

    def stream() -> Iterator[tuple[Doc, int]]:
        nonlocal finished, failure
        try:
            for number, item in numbered:
                pending.append((number, item))
                try:
                    doc = make_doc(item)
                except Exception:  # left pending, it is tried alone, and answered by this
                    continue
                yield doc, number
        except Exception as err:  # not the pipeline's, so not to be taken for a bad post
            failure = err
        finished = True

    def run_next_alone() -> tuple[T, Doc | Exception]:
        _, item = pending.popleft()
        nlp.set_error_handler(raise_error)
        try:
            return item, nlp(make_doc(item))
        except Exception as err:
            return item, err
        finally:
            nlp.set_error_handler(ignore_error)

    pipes: list[Any] = [pipe for _, pipe in nlp.pipeline if hasattr(pipe, "get_error_handler")]
    handlers = [pipe.get_error_handler() for pipe in pipes]
    default = nlp.default_error_handler
    try:
        nlp.set_error_handler(ignore_error)
        while not finished:
            try:
                answers = nlp.pipe(stream(), as_tuples=True, batch_size=batch_size, n_process=n_process)
                for doc, number in answers:
                    while pending[0][0] < number:
                        yield run_next_alone()
                    yield pending.popleft()[1], doc
            except Exception:
                # A component that bypasses spaCy's error handlers ends the stream. Go on behind what it had
                # asked for; the exception comes up again below, for the post it is about.
                if not pending:
                    raise
            while pending:
                yield run_next_alone()
    finally:
        nlp.set_error_handler(default)
        for pipe, handler in zip(pipes, handlers):
            pipe.set_error_handler(handler)
    if failure is not None:
        raise failure
