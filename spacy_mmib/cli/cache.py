"""`spacy mmib cache ...`: fill a feature cache, see what is in it and whether it is sound, remove it."""

import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import srsly
import typer
from spacy.cli._util import import_code, parse_config_overrides, show_validation_error
from spacy.util import load_config, load_model_from_config
from typer import Argument, Option
from wasabi import msg

from ..training.corpus import MultimodalCorpus
from ..util import MMIBWarning
from . import app

if TYPE_CHECKING:
    from ..cache.store import FeatureStore

cache_app = typer.Typer(
    name="cache",
    help="The feature cache: vectors of pictures, and objects found in them, kept in a file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.mmib_cli.add_typer(cache_app)

CacheArg = Annotated[Path, Argument(help="File of the feature cache, as in the config", metavar="PATH")]
PipelineArg = Annotated[
    str, Argument(help="A config (.cfg), or the name or path of a trained pipeline", metavar="PIPELINE")
]
CorporaArg = Annotated[
    list[str], Argument(help=".spacy files with user data, or folders of them", metavar="CORPUS")
]


@cache_app.command("build", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def cache_build_cli(
    ctx: typer.Context,
    pipeline: PipelineArg,
    corpus: CorporaArg,
    image_root: app.ImageRootOpt = None,
    chunk_size: Annotated[int, Option(min=1, help="Posts encoded, and kept, at a time")] = 64,
    gpu_id: app.GpuOpt = -1,
    code: app.CodeOpt = None,
) -> None:
    """Encode the pictures of a corpus, and search for the objects in them, once for all trainings,
    evaluations and predictions with the same frozen encoder.

    Everything the config says can be overridden as in spacy train: --paths.features FILE. What is in
    the cache already is passed over: an interrupted build goes on where it was.
    """
    from tqdm import tqdm

    from ..encoders.cache_building import build_cache

    # Settings of the config are unknown options, which arrive among the arguments.
    first = next((i for i, word in enumerate(corpus) if word.startswith("--")), len(corpus))
    overrides = parse_config_overrides([*corpus[first:], *ctx.args])
    paths = [Path(word) for word in corpus[:first]]
    if not paths:
        app.fail("Name the corpus, then the settings: build PIPELINE CORPUS --paths.features FILE")
    import_code(code)
    app.use_gpu(gpu_id, silent=False)
    trained = not pipeline.endswith(".cfg")
    if trained:
        nlp = app.load_pipeline(pipeline, overrides)
    else:
        try:
            with show_validation_error(Path(pipeline)):
                config = load_config(Path(pipeline), overrides=overrides, interpolate=True)
                nlp = load_model_from_config(config, auto_fill=True)
        except OSError as err:
            app.fail(f"Can't load {pipeline!r}: {err}")
        except ValueError as err:
            hint = "python -m project.config NAME > NAME.cfg writes an overlay in full"
            app.fail(f"{pipeline!r} is no full config ({str(err).splitlines()[0]}); {hint}")
    result = None
    try:
        with warnings.catch_warnings(), tqdm(desc="Features", unit=" posts") as bar:
            # The store's own: the command says the same, and its exit code too.
            warnings.filterwarnings("ignore", r"\[spacy-mmib\] The feature cache", MMIBWarning)
            readers = [MultimodalCorpus(path, image_root=image_root or None) for path in paths]
            bar.reset(sum(1 for reader in readers for _ in reader(nlp)))
            docs = (example.predicted for reader in readers for example in reader(nlp))
            for result in build_cache(nlp, docs, trained=trained, chunk_size=chunk_size):
                bar.update(result.posts - bar.n)
    except (ValueError, OSError) as err:  # weights or posts that are not there, too
        app.fail(str(err))
    if result is None:
        app.fail(f"There are no posts in {', '.join(map(str, paths))}.")
    typer.echo(
        f"[spacy-mmib] {result.posts} posts, {result.with_picture} with a picture, {result.not_used} with "
        f"something that can't be used{result.explain()}; {result.posts / result.seconds:.1f} posts a second"
    )


@cache_app.command("stats")
def cache_stats_cli(
    path: CacheArg,
    as_json: Annotated[bool, Option("--json", help="Print JSON to the standard output")] = False,
) -> None:
    """Show how much of what is in a feature cache, and when it was used.

    Two caches with the same content digest hold the same, whenever and in whatever order it was computed.
    """
    store = _open(path)
    stats = store.stats()
    if store.problem:
        app.fail(store.problem)
    if as_json:
        return typer.echo(srsly.json_dumps(stats, indent=2))
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
    sound, damaged, problem = _open(path, read_only=not remove).verify(remove=remove)
    msg.text(f"{sound} sound, {damaged} damaged")
    if problem:
        app.fail(problem)
    if damaged:
        hint = f"Removed {damaged} damaged." if remove else "--remove takes it out."
        app.fail(f"{damaged} of {sound + damaged} are damaged. {hint}")
    msg.good("Nothing is damaged.")


@cache_app.command("clear")
def cache_clear_cli(
    path: CacheArg, yes: Annotated[bool, Option("--yes", "-y", help="Don't ask")] = False
) -> None:
    """Remove a feature cache, sound or damaged, with the files SQLite keeps beside it.

    Other files than feature caches are left as they are. Whoever uses it just now goes on with a new one.
    """
    from ..cache.store import remove_files

    _open(path)
    if not yes and not typer.confirm(f"Remove the feature cache {path}?"):
        raise typer.Exit(1)
    try:
        remove_files(path)
    except (OSError, ValueError) as err:
        app.fail(f"Can't remove {path}: {err}")
    msg.good(f"Removed the feature cache {path}")


def _open(path: Path, *, read_only: bool = True) -> "FeatureStore":
    from ..cache.store import FeatureStore, is_feature_cache

    try:
        if is_feature_cache(path):
            return FeatureStore(path, read_only=read_only, warns=False)
    except FileNotFoundError:
        app.fail(f"There is no feature cache at {path}: no such file.")
    except OSError as err:
        app.fail(f"Can't read {path}: {err}")
    app.fail(f"{path} is not a feature cache, and is left as it is.")


def _size(n: int) -> str:
    if n < 1000:
        return f"{n} bytes"
    power = min(3, (len(str(n)) - 1) // 3)
    return f"{n / 1000**power:.{max(1, power - 1)}f} {['kB', 'MB', 'GB'][power - 1]}"


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
