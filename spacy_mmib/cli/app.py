"""The `mmib` group, hung into spaCy's own command line, and what its commands share."""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import srsly
import typer
from spacy.cli._util import app as spacy_app
from spacy.cli._util import import_code, setup_gpu
from spacy.language import Language
from spacy.training import Example
from spacy.util import load_model
from typer import Argument, Option
from wasabi import msg

from ..evaluation import EvaluationError, MissingExtraError
from ..evaluation.contributions import find_component
from ..evaluation.evaluate import read_corpus

T = TypeVar("T", bound=Callable[..., None])

mmib_cli = typer.Typer(
    name="mmib",
    help="Commands for posts with pictures (package spacy-mmib).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
spacy_app.add_typer(mmib_cli)

STANDARD = "-"
"""Named as an output: the standard output."""


def fail(message: str) -> NoReturn:
    """Say on stderr what went wrong, where, and what to do, and end the command with exit code 1."""
    typer.echo(f"✘ {message}", err=True)
    raise typer.Exit(1)


def check_image_root(image_root: str | None) -> str | None:
    """RETURNS (Optional[str]): The same; if it isn't a folder, the command ends."""
    if image_root and not Path(image_root).is_dir():
        fail(f"--image-root {image_root}: there is no such folder.")
    return image_root


ModelArg = Annotated[str, Argument(help="Name or path of the pipeline", metavar="MODEL")]
DOCS = "A .spacy file made with DocBin(store_user_data=True), or a folder of them"
CorpusArg = Annotated[Path, Argument(help=DOCS, metavar="CORPUS")]
ImageRootOpt = Annotated[
    str | None,  # not a Path, so that an unset variable of a project ("") can be told from "."
    Option(
        *("--image-root", "-r"),
        callback=check_image_root,
        help="Folder that relative paths of pictures start from and that none may leave "
        "[default: the folder of the input]",
    ),
]
GpuOpt = Annotated[int, Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")]
BatchSizeOpt = Annotated[
    int | None, Option("--batch-size", "-b", min=1, help="Posts at a time [default: the pipeline's]")
]
SeedOpt = Annotated[
    int, Option("--seed", "-s", min=0, max=2**32 - 1, help="Seed of all that is drawn at random")
]
ResultOpt = Annotated[Path | None, Option("--output", "-o", dir_okay=False, help="JSON file for the result")]
ComponentOpt = Annotated[
    str | None, Option(help="The component to look into [default: the first that can be]")
]
CompareOpt = Annotated[
    str | None, Option(help="Another pipeline, e.g. one trained without alignment or bottleneck")
]
CodeOpt = Annotated[
    Path | None,
    Option("--code", "-c", help="Python file with additional code (registered functions) to import"),
]


def command(name: str, **outputs: tuple[str, ...]) -> Callable[[T], T]:
    """Register a command, with what all of them repeat: the outputs are checked before the work, and what
    can't be measured is said in one line. A command with a pipeline (its parameter `model`) gets the options
    `--gpu-id` and `--code`, which have had their effect when it is called.

    outputs (Tuple[str, ...]): For each parameter that names a file to write the endings its name may have;
        any if there are none.
    """

    def register(function: T) -> T:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if "model" in signature.parameters:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters += [
                inspect.Parameter("gpu_id", keyword, annotation=GpuOpt, default=-1),
                inspect.Parameter("code", keyword, annotation=CodeOpt, default=None),
            ]

        @wraps(function)
        def run(**options: Any) -> None:
            for option, kinds in outputs.items():
                if options[option] not in (None, STANDARD):
                    check_output(options[option], *kinds, option=f"--{option}")
            if "model" in options:
                import_code(options.pop("code"))
                use_gpu(options.pop("gpu_id"), silent=options.get("output") == STANDARD)
            try:
                function(**options)
            except (EvaluationError, MissingExtraError) as err:
                fail(str(err))

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        mmib_cli.command(name)(run)
        return function

    return register


def load_pipeline(model: str, overrides: dict[str, Any] | None = None) -> Language:
    """RETURNS (Language): The pipeline of this name or path, if there is one; else the command ends."""
    try:
        return load_model(model, config=overrides or {})
    except OSError as err:
        fail(
            f"Can't load the pipeline {model!r}: {err} (After spacy train, pass the folder "
            "model-best or model-last inside its output folder.)"
        )


def load_to_inspect(
    model: str, component: str | None, corpus: Path, image_root: str | None, limit: int = 0
) -> tuple[Language, str, list[Example]]:
    """RETURNS (Tuple[Language, str, List[Example]]): A pipeline, its component to look into, and posts."""
    nlp = load_pipeline(model)
    try:
        component = find_component(nlp, component)
    except EvaluationError as err:
        fail(f"{model}: {err}")
    return nlp, component, read_corpus(nlp, corpus, image_root=image_root, limit=limit)[0]


def use_gpu(gpu_id: int, *, silent: bool) -> None:
    """Run on the GPU of this number, or on the CPU (-1); end the command if it can't be used."""
    try:
        setup_gpu(gpu_id, silent=silent)
    except ValueError as err:
        fail(
            f"The GPU {gpu_id} can't be used: {err} (The extras cuda12x and cuda13x of spacy-mmib install "
            "CuPy: take the one that fits your torch. --gpu-id -1 runs on the CPU.)"
        )


def check_output(output: str | Path, *kinds: str, option: str = "--output") -> None:
    """Make the folder of an output; end the command if its name ends otherwise, or it can't be written."""
    path = Path(output)
    if kinds and path.suffix.lower() not in kinds:
        fail(f"{option} {path}: the name has to end in {' or '.join(kinds)}.")
    with writing(path, option):
        exists = os.path.lexists(path)
        # Whoever reads from a pipe would take a look at it for its end.
        if not exists or path.is_file() or path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        if not exists:
            path.unlink()


@contextmanager
def writing(output: str | Path, option: str = "--output") -> Iterator[None]:
    """While this lasts, end the command with one line if the output can't be written."""
    try:
        yield
    except BrokenPipeError:  # no failure: whoever reads it has seen enough
        raise
    except OSError as err:
        fail(f"{option} {output}: can't be written ({err.strerror or err}). Choose another place.")


def save(output: Path, content: object, what: str, option: str = "--output") -> None:
    """Write a text, a list of JSON lines, or a value of JSON, and say so, or that it can't be written."""
    with writing(output, option):
        if isinstance(content, str):
            output.write_text(content, encoding="utf8")
        elif isinstance(content, list):
            srsly.write_jsonl(output, content)
        else:
            srsly.write_json(output, content)
    msg.good(f"Saved {what} to {output}")
