"""`spacy mmib cache build`: vectors of a corpus's pictures, computed ahead."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import CodeOpt, GpuOpt, ImageRootOpt, check_image_root, fail, use_gpu
from .cache import cache_app

if TYPE_CHECKING:
    from spacy.language import Language


@cache_app.command("build", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def cache_build_cli(
    ctx: typer.Context,
    pipeline: Annotated[
        str,
        typer.Argument(help="A config (.cfg), or the name or path of a trained pipeline", metavar="PIPELINE"),
    ],
    corpus: Annotated[
        list[str],
        typer.Argument(
            help=".spacy files made with DocBin(store_user_data=True), or folders of them",
            metavar="CORPUS",
        ),
    ],
    image_root: ImageRootOpt = None,
    chunk_size: Annotated[
        int, typer.Option("--chunk-size", min=1, help="Posts encoded, and kept, at a time")
    ] = 64,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Encode the pictures of a corpus, and search for the objects in them, once for all trainings,
    evaluations and predictions with the same frozen encoder.

    Everything the config says can be overridden as in spacy train: --paths.features FILE. What is in
    the cache already is passed over: an interrupted build goes on where it was.
    """
    from spacy.cli._util import import_code, parse_config_overrides, show_validation_error
    from spacy.util import load_config, load_model, load_model_from_config

    from ..encoders.feature_building import (
        NothingToBuild,
        build_features,
        find_cached_encoders,
        get_caches,
    )
    from ..util import MMIBWarning

    # Settings of the config are unknown options, which arrive among the arguments.
    first = next((i for i, word in enumerate(corpus) if word.startswith("--")), len(corpus))
    overrides = parse_config_overrides([*corpus[first:], *ctx.args])
    paths = [Path(word) for word in corpus[:first]]
    if not paths:
        fail("Name the corpus, then the settings: build PIPELINE CORPUS --paths.features FILE")
    check_image_root(image_root)
    import_code(code)
    use_gpu(gpu_id, silent=False)
    trained = not pipeline.endswith(".cfg")
    try:
        if trained:
            nlp = load_model(pipeline, config=overrides)
        else:
            path = Path(pipeline)
            with show_validation_error(path):
                config = load_config(path, overrides=overrides, interpolate=True)
                nlp = load_model_from_config(config, auto_fill=True)
    except OSError as err:
        fail(f"Can't load {pipeline!r}: {err}")
    from tqdm import tqdm

    result = None
    try:
        with warnings.catch_warnings():
            # The store's own: the command says the same, and its exit code too.
            warnings.filterwarnings("ignore", r"\[spacy-mmib\] The feature cache", MMIBWarning)
            encoders = find_cached_encoders(nlp, trained=trained)
            docs = _read(nlp, paths, image_root)
            with tqdm(desc="Features", unit=" posts") as bar:
                for result in build_features(nlp, docs, encoders, chunk_size=chunk_size):
                    bar.update(result.posts - bar.n)
    except (NothingToBuild, OSError) as err:  # the latter: weights that are not there
        fail(str(err))
    if result is None:
        fail(f"There are no posts in {', '.join(map(str, paths))}.")
    if result.with_picture == result.not_used:
        fail(
            f"Nothing was kept: none of the {result.posts} posts has a picture that can be used"
            f"{result.why}. Paths of pictures start from --image-root, or the folder of the corpus."
        )
    for cache in get_caches(encoders):
        if not cache.count_entries():
            fail(f"Nothing was kept: max_gb = {cache.max_gb} is too small for {cache.path}.")
    typer.echo(f"[spacy-mmib] {result.summary()}")


def _read(nlp: "Language", corpus: list[Path], image_root: str | None) -> Iterator[Any]:
    from ..training.corpus import MultimodalCorpus

    for path in corpus:
        reader = MultimodalCorpus(path, image_root=image_root or None)
        try:
            for example in reader(nlp):
                yield example.predicted
        except ValueError as err:
            fail(str(err))
