"""`spacy mmib predict`: entities and relations of posts with pictures, from JSON lines to JSON lines."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer
from typer import Argument, Option

from ..evaluation.posts import NotJsonLines, open_json_lines, to_line
from ..evaluation.predict import PredictResult, predict
from . import app

MOST_SKIPS_SHOWN = 100
"""The summary has the number of all."""


@app.command("predict", output=())
def predict_cli(
    model: app.ModelArg,
    posts: Annotated[
        str, Argument(help='JSON lines of posts, or "-" for the standard input', metavar="POSTS")
    ],
    output: Annotated[
        str, Option("--output", "-o", help='File to write, "-" for the standard output')
    ] = app.STANDARD,
    image_root: app.ImageRootOpt = None,
    batch_size: app.BatchSizeOpt = None,
    n_process: Annotated[int, Option("--n-process", "-n", min=1, help="Number of processes")] = 1,
) -> None:
    """Find the entities in posts, and the relations between them.

    A line of the input is an object with "text" or "tokens", and optionally "image" (a path, or a
    data URI), "regions" and "relations" (those with an empty label are questions); everything else
    in it is handed through, and so are tokens and relations of another form, such as Prodigy's. A
    line that can't be used is reported with its number, and skipped.
    """
    if posts != app.STANDARD and not Path(posts).is_file():
        app.fail(f"There is no file {posts}. Pass a file of JSON lines, or - for the standard input.")
    if app.STANDARD not in (posts, output) and Path(posts).resolve() == Path(output).resolve():
        app.fail("The output would overwrite the input: choose another --output.")
    from tqdm import tqdm

    result = PredictResult()

    def skip(line: int, reason: str) -> None:
        if len(result.skipped) <= MOST_SKIPS_SHOWN:
            with tqdm.external_write_mode(file=sys.stderr):
                typer.echo(f"line {line} skipped: {reason}", err=True)

    root = image_root or (Path() if posts == app.STANDARD else Path(posts).parent)
    with ExitStack() as files:
        source: BinaryIO = sys.stdin.buffer
        target: TextIO = sys.stdout
        if isinstance(target, io.TextIOWrapper):
            target.reconfigure(encoding="utf8")  # whatever the terminal's is: JSON is UTF-8
        with _reading(posts):
            if posts != app.STANDARD:
                source = files.enter_context(open(posts, "rb"))
            lines = open_json_lines(source)
        nlp = app.load_pipeline(model)
        if output != app.STANDARD:
            with app.writing(output):
                target = open(output, "w", encoding="utf8", newline="\n")  # noqa: SIM115
        files.callback(_close, target)

        def read() -> Iterator[bytes]:
            with _reading(posts):
                yield from lines

        records = predict(
            nlp, read(), image_root=root, batch_size=batch_size, n_process=n_process, skip=skip, result=result
        )
        try:
            # None: no bar where stderr is not a terminal.
            for record in tqdm(records, unit=" posts", disable=None):
                with app.writing(output):
                    target.write(to_line(record))
            with app.writing(output):
                target.flush() if target is sys.stdout else target.close()
        except BrokenPipeError:  # its reader has seen enough, as with "| head"
            raise typer.Exit(0) from None
    typer.echo(f"[spacy-mmib] {result.summary()}", err=True)
    if result.skipped and not result.posts:
        app.fail("No line could be used: is this a file of JSON lines with posts?")


@contextmanager
def _reading(posts: str) -> Iterator[None]:
    try:
        yield
    except NotJsonLines as err:
        app.fail(f"{posts} has no JSON lines, an object with a post in each: {err}.")
    except OSError as err:
        app.fail(f"{posts}: can't be read ({err.strerror or err}).")


def _close(target: TextIO) -> None:
    """Close what was written, or couldn't be, which has been said. The standard output leads nowhere then:
    Python would try it again at its end.
    """
    try:
        target.flush() if target is sys.stdout else target.close()
    except OSError:
        if target is sys.stdout:
            with suppress(io.UnsupportedOperation):  # no real file, as in a test
                os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())
