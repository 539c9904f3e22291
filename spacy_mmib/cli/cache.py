"""`spacy mmib cache ...`: what is in a feature cache, whether it is sound, and how to be rid of it."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from typer import Argument, Option

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
    Path, Argument(help="File of the feature cache, as in the config", metavar="PATH")
]


@cache_app.command("stats")
def cache_stats_cli(
    path: CacheArg,
    as_json: Annotated[bool, Option("--json", help="Print JSON to the standard output")] = False,
) -> None:
    """Show how much of what is in a feature cache, and when it was used.

    Two caches with the same content digest hold the same, whenever and in whatever order it was computed.
    """
    import json

    from wasabi import msg

    store = _open(path)
    stats = store.stats()
    if store.problem:
        fail(store.problem)
    if as_json:
        return typer.echo(json.dumps(stats, indent=2))
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
        bool, Option("--remove", help="Take out what is damaged: it will be computed again")
    ] = False,
) -> None:
    """Read everything in a feature cache and compare it with its checksums.

    The exit code is 1 if anything is damaged, removed or not. A pipeline never uses what is damaged: it
    computes it again.
    """
    from wasabi import msg

    sound, damaged, problem = _open(path, read_only=not remove).verify(remove=remove)
    msg.text(f"{sound} sound, {damaged} damaged")
    if problem:
        fail(problem)
    if damaged:
        hint = f"Removed {damaged} damaged." if remove else "--remove takes it out."
        fail(f"{damaged} of {sound + damaged} are damaged. {hint}")
    msg.good("Nothing is damaged.")


@cache_app.command("clear")
def cache_clear_cli(
    path: CacheArg,
    yes: Annotated[bool, Option("--yes", "-y", help="Don't ask")] = False,
) -> None:
    """Remove a feature cache, sound or damaged, with the files SQLite keeps beside it.

    Other files than feature caches are left as they are. Whoever uses it just now goes on with a new one.
    """
    from wasabi import msg

    from ..cache.store import remove_files

    _open(path)
    if not yes and not typer.confirm(f"Remove the feature cache {path}?"):
        raise typer.Exit(1)
    try:
        remove_files(path)
    except (OSError, ValueError) as err:
        fail(f"Can't remove {path}: {err}")
    msg.good(f"Removed the feature cache {path}")


def _open(path: Path, *, read_only: bool = True) -> "FeatureStore":
    from ..cache.store import FeatureStore, is_feature_cache

    try:
        if is_feature_cache(path):
            return FeatureStore(path, read_only=read_only, warns=False)
    except FileNotFoundError:
        fail(f"There is no feature cache at {path}: no such file.")
    except OSError as err:
        fail(f"Can't read {path}: {err}")
    fail(f"{path} is not a feature cache, and is left as it is.")


def _size(n: int) -> str:
    if n < 1000:
        return f"{n} bytes"
    power = min(3, (len(str(n)) - 1) // 3)
    return f"{n / 1000**power:.{max(1, power - 1)}f} {['kB', 'MB', 'GB'][power - 1]}"


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
