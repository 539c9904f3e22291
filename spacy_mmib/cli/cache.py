"""`spacy mmib cache ...`: what is in a feature cache, whether it is sound, and how to be rid of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from .app import fail, mmib_cli

if TYPE_CHECKING:
    from ..cache.store import FeatureStore

cache_app = typer.Typer(
    name="cache",
    help="The feature cache: vectors of pictures, and objects found in them, kept in a file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
mmib_cli.add_typer(cache_app)

CacheArg: TypeAlias = Annotated[
    Path, typer.Argument(help="File of the feature cache, as in the config", metavar="PATH")
]


@cache_app.command("stats")
def cache_stats_cli(
    path: CacheArg,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to the standard output")] = (False),
) -> None:
    """Show how much of what is in a feature cache, and when it was used.

    Two caches with the same content digest hold the same, whenever and in whatever order it was computed.
    """
    with _open(path) as store:
        stats = store.stats()
        if store.broken:
            fail(_damaged(path, store.broken))
    if as_json:
        import json

        typer.echo(json.dumps(stats, indent=2))
        return
    from wasabi import msg

    limit = stats["max_bytes"]
    rows = [(kind, f"{n}", _size(stats["bytes"][kind])) for kind, n in stats["entries"].items()]
    msg.table(rows, header=("Kind", "Entries", "Size"), aligns=("l", "r", "r"), divider=True)
    msg.table(
        {
            "Size on disk": _size(stats["size_on_disk"]),
            "Limit": "not set yet" if limit is None else _size(limit),
            "Files known": stats["files"],
            "Used first": _time(stats["oldest_use"]),
            "Used last": _time(stats["newest_use"]),
            "Content digest": stats["content_digest"],
        }
    )


@cache_app.command("verify")
def cache_verify_cli(
    path: CacheArg,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take out what is damaged: it will be computed again")
    ] = False,
) -> None:
    """Read everything in a feature cache and compare it with its checksums.

    The exit code is 1 if anything is damaged, removed or not. A pipeline never uses what is damaged: it
    computes it again.
    """
    with _open(path) as store:
        if remove and store.read_only:
            fail(f"Can't write to {path}, so nothing can be removed.")
        found = store.verify(remove=remove)
    from wasabi import msg

    msg.text(f"{found.sound} sound, {found.damaged} damaged")
    if found.removed:
        msg.good(f"Removed {found.removed} damaged")
    if found.file_error:
        fail(_damaged(path, found.file_error))
    if found.damaged:
        hint = "" if remove else " --remove takes it out."
        fail(f"{found.damaged} of {found.sound + found.damaged} are damaged.{hint}")
    msg.good("Nothing is damaged.")


@cache_app.command("clear")
def cache_clear_cli(
    path: CacheArg,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask")] = False,
) -> None:
    """Remove a feature cache, sound or damaged, with the files SQLite keeps beside it.

    Other files than feature caches are left as they are. Whoever uses it just now goes on with a new one.
    """
    _check(path)
    if not yes and not typer.confirm(f"Remove the feature cache {path}?"):
        raise typer.Exit(1)
    from wasabi import msg

    from ..cache.database import remove_files

    try:
        remove_files(path.absolute())
    except (OSError, ValueError) as err:
        fail(f"Can't remove {path}: {err}")
    msg.good(f"Removed the feature cache {path}")


def _check(path: Path) -> None:
    from ..cache.database import is_ours

    try:
        if is_ours(path.absolute()):
            return
    except FileNotFoundError:
        fail(f"There is no feature cache at {path}: no such file.")
    except OSError as err:
        fail(f"Can't read {path}: {err}")
    fail(f"{path} is not a feature cache, and is left as it is.")


@contextmanager
def _open(path: Path) -> "Iterator[FeatureStore]":
    _check(path)
    from ..cache.store import FeatureStore

    try:
        with _quietly():
            try:
                # A reader that may not write leaves SQLite's own files beside the file.
                store = FeatureStore(path)
            except PermissionError:
                store = FeatureStore(path, read_only=True)
    except (OSError, ValueError) as err:
        fail(f"Can't open the feature cache: {err}.")
    with _quietly(), store:
        yield store


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the store's warnings: the commands say the same, and their exit code too."""
    import warnings

    from ..util import MMIBWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MMIBWarning)
        yield


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged ({reason}). Remove it: spacy mmib cache clear {path}"


def _size(n: Any) -> str:
    size = float(n)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds).isoformat(sep=" ", timespec="seconds")
