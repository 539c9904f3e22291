"""The `mmib` group, hung into spaCy's own command line, and what its commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer
from spacy.cli._util import app as spacy_app

if TYPE_CHECKING:
    from spacy.language import Language

mmib_cli = typer.Typer(
    name="mmib",
    help="Commands for posts with pictures (package spacy-mmib).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
spacy_app.add_typer(mmib_cli)

ModelArg: TypeAlias = Annotated[str, typer.Argument(help="Name or path of the pipeline", metavar="MODEL")]
ImageRootOpt: TypeAlias = Annotated[
    str | None,  # not a Path, so that an unset variable of a project ("") can be told from "."
    typer.Option(
        "--image-root",
        "-r",
        help="Folder that relative paths of pictures start from and that none may leave "
        "[default: the folder of the input]",
    ),
]
GpuOpt: TypeAlias = Annotated[int, typer.Option("--gpu-id", "-g", help="GPU ID or -1 for CPU")]
BatchSizeOpt: TypeAlias = Annotated[
    int | None,
    typer.Option("--batch-size", "-b", min=1, help="Posts at a time [default: the pipeline's]"),
]
CodeOpt: TypeAlias = Annotated[
    Path | None,
    typer.Option("--code", "-c", help="Python file with additional code (registered functions) to import"),
]


def fail(message: str) -> NoReturn:
    """Say on stderr what went wrong, and end the command.

    message (str): What, where, and what to do.
    RAISES (typer.Exit): Always, with exit code 1.
    """
    typer.echo(f"✘ {message}", err=True)
    raise typer.Exit(1)


def load_pipeline(model: str) -> "Language":
    """Load a pipeline, or end the command with a message for people.

    model (str): Name or path.
    RETURNS (Language): The pipeline.
    RAISES (typer.Exit): There is none of this name.
    """
    from spacy.util import load_model

    try:
        return load_model(model)
    except OSError as err:
        fail(
            f"Can't load the pipeline {model!r}: {err} (After spacy train, pass the folder "
            "model-best or model-last inside its output folder.)"
        )


def use_gpu(gpu_id: int, *, silent: bool) -> None:
    """Run on a GPU if one is asked for, or end the command with a message for people.

    gpu_id (int): Its number, or -1 for the CPU.
    silent (bool): Don't say which it is.
    RAISES (typer.Exit): It can't be used.
    """
    from spacy.cli._util import setup_gpu

    try:
        setup_gpu(gpu_id, silent=silent)
    except ValueError as err:
        fail(
            f"The GPU {gpu_id} can't be used: {err} (The extras cuda12x and cuda13x of spacy-mmib install "
            "CuPy: take the one that fits your torch. --gpu-id -1 runs on the CPU.)"
        )


def check_image_root(image_root: str | None) -> None:
    """End the command if the image root that was named isn't a folder.

    image_root (Optional[str]): What the user named, if anything.
    RAISES (typer.Exit): It is no folder.
    """
    if image_root and not Path(image_root).is_dir():
        fail(f"--image-root {image_root}: there is no such folder.")
