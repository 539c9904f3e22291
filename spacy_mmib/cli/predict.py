"""`spacy mmib predict`: entities and relations of posts with pictures, from JSON lines to JSON lines."""

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TextIO

import typer

from ..post.kinds import describe_kinds
from .app import (
    BatchSizeOpt,
    CodeOpt,
    GpuOpt,
    ImageRootOpt,
    ModelArg,
    check_image_root,
    fail,
    load_pipeline,
    mmib_cli,
    use_gpu,
)
from .outputs import check_output, writing

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

    from ..images.local_pictures import PictureFolder
    from .posts import Post

STANDARD = "-"
MOST_SKIPS_SHOWN = 100


@mmib_cli.command("predict")
def predict_cli(
    model: ModelArg,
    posts: Annotated[
        str,
        typer.Argument(help='JSON lines of posts, or "-" for the standard input', metavar="POSTS"),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help='File to write, "-" for the standard output')
    ] = STANDARD,
    image_root: ImageRootOpt = None,
    batch_size: BatchSizeOpt = None,
    n_process: Annotated[int, typer.Option("--n-process", "-n", min=1, help="Number of processes")] = 1,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Find the entities in posts, and the relations between them.

    A line of the input is an object with "text" or "tokens", and optionally "image" (a path, or a
    data URI), "regions" and "relations" (those with an empty label are questions); everything else
    in it is handed through, and so are tokens and relations of another form, such as Prodigy's. A
    line that can't be used is reported with its number, and skipped.
    """
    if posts != STANDARD and not Path(posts).is_file():
        fail(f"There is no file {posts}. Pass a file of JSON lines, or - for the standard input.")
    if STANDARD not in (posts, output) and Path(posts).resolve() == Path(output).resolve():
        fail("The output would overwrite the input: choose another --output.")
    check_image_root(image_root)
    if output != STANDARD:
        check_output(output)
    from spacy.cli._util import import_code

    from ..images.local_pictures import PictureFolder
    from .json_lines import NotJsonLines, read_json_lines

    import_code(code)
    use_gpu(gpu_id, silent=output == STANDARD)
    root = image_root or (Path() if posts == STANDARD else Path(posts).parent)
    with ExitStack() as files:
        source: BinaryIO = sys.stdin.buffer
        target: TextIO = sys.stdout
        if isinstance(target, io.TextIOWrapper):
            target.reconfigure(encoding="utf8")  # whatever the terminal's is: JSON is UTF-8
        try:
            if posts != STANDARD:
                source = files.enter_context(open(posts, "rb"))
            lines = start(read_json_lines(source))
        except NotJsonLines as err:
            fail(f"{posts} has no JSON lines, an object with a post in each: {err}.")
        except OSError as err:
            fail(f"{posts}: can't be read ({err.strerror or err}).")
        nlp = load_pipeline(model)
        if output != STANDARD:
            with writing(output):
                target = open(output, "w", encoding="utf8", newline="\n")  # noqa: SIM115
            files.callback(_close, target)

        def write(line: str) -> None:
            with writing(output):
                target.write(line)

        try:
            result = predict(
                nlp,
                _reading(lines, posts),
                write,
                PictureFolder(root, "none"),
                batch_size=batch_size,
                n_process=n_process,
            )
            with writing(output):
                target.flush()
                if target is not sys.stdout:
                    target.close()
        except (BrokenPipeError, typer.Exit) as err:
            if target is sys.stdout:
                _close(target)
            if isinstance(err, BrokenPipeError):  # its reader has seen enough, as with "| head"
                raise typer.Exit(0) from None
            raise
    typer.echo(f"[spacy-mmib] {result.summary()}", err=True)
    if result.skipped and not result.posts:
        fail("No line could be used: is this a file of JSON lines with posts?")


def _close(target: TextIO) -> None:
    """Close what was written, or couldn't be, which has been said. The standard output leads nowhere then:
    Python would try it again at its end.
    """
    if target is not sys.stdout:
        with suppress(OSError):
            target.close()
        return
    with suppress(OSError):
        target.flush()
    with suppress(io.UnsupportedOperation):  # no real file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())


def start(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Read the first line, so that what is wrong with a file is said before the work.

    lines (Iterator[bytes]): The lines.
    RETURNS (Iterator[bytes]): All of them.
    """
    return chain(list(islice(lines, 1)), lines)


def _reading(lines: Iterator[bytes], posts: str) -> Iterator[bytes]:
    try:
        yield from lines
    except OSError as err:
        fail(f"{posts}: can't be read ({err.strerror or err}).")


@dataclass
class PredictResult:
    """What came of a file of posts.

    posts (int): Posts predicted.
    with_picture (int): Posts whose picture was used.
    image_errors (int): Posts whose picture, or an object of it, was not used.
    reasons (Counter[str]): Pictures and objects that were not used, by kind of reason; see
        `post.kinds.KINDS`.
    entities (int): Entities found.
    relations (int): Relations on the docs.
    skipped (List[int]): Numbers of the lines that were skipped, from 1.
    """

    posts: int = 0
    with_picture: int = 0
    image_errors: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    entities: int = 0
    relations: int = 0
    skipped: list[int] = field(default_factory=list)

    def summary(self) -> str:
        """RETURNS (str): One line for people."""
        reasons = describe_kinds(self.reasons)
        parts = [
            f"{self.posts} posts predicted ({self.with_picture} with a picture, "
            f"{self.image_errors} with one that can't be used{reasons and ': ' + reasons}), "
            f"{self.entities} entities found" + (f", {self.relations} relations" if self.relations else "")
        ]
        if self.skipped:
            shown = ", ".join(map(str, self.skipped[:10]))
            more = ", ..." if len(self.skipped) > 10 else ""
            parts.append(f"{len(self.skipped)} lines skipped (line {shown}{more})")
        return "; ".join(parts)


def predict(
    nlp: "Language",
    source: Iterable[bytes],
    write: Callable[[str], None],
    folder: "PictureFolder",
    *,
    batch_size: int | None = None,
    n_process: int = 1,
) -> PredictResult:
    """Predict posts as a stream. Bad lines, and posts that make the pipeline fail, are reported on
    stderr with their number.

    nlp (Language): The pipeline.
    source (Iterable[bytes]): JSON lines.
    write (Callable[[str], None]): Writes a line with entities.
    folder (PictureFolder): Where pictures may be.
    batch_size (Optional[int]): Posts at a time.
    n_process (int): Processes.
    RETURNS (PredictResult): What came of it.
    """
    from tqdm import tqdm

    from ..evaluation.resilient import pipe_each
    from ..images.local_pictures import PictureCounts
    from ..post.extensions import get_image_error, get_image_error_kinds, get_stored_image
    from ..post.relations import read_relations
    from .posts import PostError, make_doc, read_posts, to_line

    result = PredictResult()
    # What was found about the pictures of the posts that are in the pipeline, by line.
    found: dict[int, PictureCounts] = {}

    def skip(line: int, reason: object) -> None:
        result.skipped.append(line)
        if len(result.skipped) > MOST_SKIPS_SHOWN:  # the summary has the number of all
            return
        with tqdm.external_write_mode(file=sys.stderr):
            typer.echo(f"line {line} skipped: {reason}", err=True)

    def good_posts() -> Iterator["Post"]:
        for post in read_posts(source):
            if isinstance(post, tuple):
                skip(*post)
            else:
                yield post

    def build(post: "Post") -> "Doc":
        found[post.line] = PictureCounts()
        return make_doc(nlp, post, folder, found[post.line])

    answers = pipe_each(
        nlp,
        good_posts(),
        build,
        batch_size=batch_size,
        n_process=n_process,
    )
    # None: no bar where stderr is not a terminal.
    for post, doc in tqdm(answers, unit=" posts", disable=None):
        counts = found.pop(post.line, None)
        if isinstance(doc, PostError):
            skip(post.line, doc)
            continue
        if isinstance(doc, Exception):
            skip(post.line, f"the pipeline failed on it ({type(doc).__name__}: {doc})")
            continue
        try:
            line = to_line(post, doc)
        except PostError as err:
            skip(post.line, err)
            continue
        write(line)
        result.posts += 1
        error = get_image_error(doc)
        result.image_errors += error is not None
        result.reasons.update(get_image_error_kinds(doc))
        result.reasons.update(counts.reasons if counts is not None else {})
        result.with_picture += error is None and get_stored_image(doc) is not None
        result.entities += len(doc.ents)
        result.relations += len(read_relations(doc))
    result.skipped.sort()
    return result
