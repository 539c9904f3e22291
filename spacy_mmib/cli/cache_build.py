"""`spacy mmib cache build`: vectors of a corpus's pictures, computed ahead."""

import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .app import CodeOpt, GpuOpt, ImageRootOpt, check_image_root, fail, load_pipeline, use_gpu
from .cache import cache_app

Pipeline = Argument(help="A config (.cfg), or the name or path of a trained pipeline", metavar="PIPELINE")
Corpus = Argument(
    help=".spacy files made with DocBin(store_user_data=True), or folders of them", metavar="CORPUS"
)


@cache_app.command("build", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def cache_build_cli(
    ctx: typer.Context,
    pipeline: Annotated[str, Pipeline],
    corpus: Annotated[list[str], Corpus],
    image_root: ImageRootOpt = None,
    chunk_size: Annotated[int, Option(min=1, help="Posts encoded, and kept, at a time")] = 64,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Encode the pictures of a corpus, and search for the objects in them, once for all trainings,
    evaluations and predictions with the same frozen encoder.

    Everything the config says can be overridden as in spacy train: --paths.features FILE. What is in
    the cache already is passed over: an interrupted build goes on where it was.
    """
    from spacy.cli._util import import_code, parse_config_overrides, show_validation_error
    from spacy.util import load_config, load_model_from_config
    from tqdm import tqdm

    from ..encoders.cache_building import build_cache
    from ..training.corpus import MultimodalCorpus
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
    if trained:
        nlp = load_pipeline(pipeline, overrides)
    else:
        try:
            with show_validation_error(Path(pipeline)):
                config = load_config(Path(pipeline), overrides=overrides, interpolate=True)
                nlp = load_model_from_config(config, auto_fill=True)
        except OSError as err:
            fail(f"Can't load {pipeline!r}: {err}")
    result = None
    try:
        with warnings.catch_warnings(), tqdm(desc="Features", unit=" posts") as bar:
            # The store's own: the command says the same, and its exit code too.
            warnings.filterwarnings("ignore", r"\[spacy-mmib\] The feature cache", MMIBWarning)
            readers = [MultimodalCorpus(path, image_root=image_root or None) for path in paths]
            docs = (example.predicted for reader in readers for example in reader(nlp))
            for result in build_cache(nlp, docs, trained=trained, chunk_size=chunk_size):
                bar.update(result.posts - bar.n)
    except (ValueError, OSError) as err:  # weights or posts that are not there, too
        fail(str(err))
    if result is None:
        fail(f"There are no posts in {', '.join(map(str, paths))}.")
    typer.echo(
        f"[spacy-mmib] {result.posts} posts, {result.with_picture} with a picture, {result.not_used} with "
        f"something that can't be used{result.explain()}; {result.posts / result.seconds:.1f} posts a second"
    )
