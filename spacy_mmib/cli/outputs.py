"""The files that commands write: looked at before the work, and a line for people if one can't be written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .app import fail

OUTPUT = "--output"


def check_output(output: str | Path, *kinds: str, option: str = OUTPUT) -> None:
    """End the command before its work if its output can't be written afterwards. Makes the folder.

    output (Union[str, Path]): What the user named.
    kinds (str): Endings that the name may have, such as ".html"; any if there are none.
    option (str): How it was named.
    RAISES (typer.Exit): It has another ending, or can't be written.
    """
    path = Path(output)
    if kinds and path.suffix.lower() not in kinds:
        fail(f"{option} {path}: the name has to end in {' or '.join(kinds)}.")
    with writing(path, option):
        exists = os.path.lexists(path)
        # Whoever reads from a pipe would take a look at it for its end.
        if not exists or path.is_file() or path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):
                pass
        if not exists:
            path.unlink()


@contextmanager
def writing(output: str | Path, option: str = OUTPUT) -> Iterator[None]:
    """While this lasts, end the command with one line if the output can't be written.

    output (Union[str, Path]): What the user named.
    option (str): How it was named.
    RAISES (typer.Exit): It can't be written.
    """
    try:
        yield
    except BrokenPipeError:  # no failure: whoever reads it has seen enough
        raise
    except OSError as err:
        fail(f"{option} {output}: can't be written ({err.strerror or err}). Choose another place.")


def write_text(output: Path, text: str, option: str = OUTPUT) -> None:
    """Write a file, or end the command.

    output (Path): What the user named.
    text (str): What is to be in it.
    option (str): How it was named.
    RAISES (typer.Exit): It can't be written.
    """
    with writing(output, option):
        output.write_text(text, encoding="utf8")


def write_json(output: Path, value: object, option: str = OUTPUT) -> None:
    """Write a JSON file, or end the command.

    output (Path): What the user named.
    value (object): What is to be in it.
    option (str): How it was named.
    RAISES (typer.Exit): It can't be written.
    """
    import srsly

    with writing(output, option):
        srsly.write_json(output, value)


def write_jsonl(output: Path, values: list[dict[str, object]], option: str = OUTPUT) -> None:
    """Write a file of JSON lines, or end the command.

    output (Path): What the user named.
    values (List[Dict[str, object]]): Its lines.
    option (str): How it was named.
    RAISES (typer.Exit): It can't be written.
    """
    import srsly

    with writing(output, option):
        srsly.write_jsonl(output, values)
