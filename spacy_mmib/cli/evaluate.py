"""`spacy mmib evaluate`: scores of a pipeline on posts with their pictures, without, or with wrong
ones."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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

if TYPE_CHECKING:
    from spacy.language import Language


@mmib_cli.command("evaluate")
def evaluate_cli(
    model: ModelArg,
    corpus: Annotated[
        Path,
        typer.Argument(
            help="A .spacy file made with DocBin(store_user_data=True), or a folder of them",
            metavar="CORPUS",
        ),
    ],
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Take the pictures away from all posts")
    ] = False,
    shuffled: Annotated[
        bool, typer.Option("--shuffle-images", help="Give every post another one's picture")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of --shuffle-images")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="JSON file for the metrics"),
    ] = None,
    image_root: ImageRootOpt = None,
    gold_preproc: Annotated[
        bool, typer.Option("--gold-preproc", "-G", help="Use the tokens of the corpus")
    ] = False,
    batch_size: BatchSizeOpt = None,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Evaluate a pipeline on posts with pictures.

    spaCy's own evaluate never shows the pictures to the pipeline; this one does. --no-images and
    --shuffle-images show what the pictures contribute.
    """
    if no_images and shuffled:
        fail("--no-images and --shuffle-images exclude each other: run the command once with each.")
    check_image_root(image_root)
    from spacy.cli._util import import_code

    import_code(code)
    use_gpu(gpu_id, silent=False)
    nlp = load_pipeline(model)
    try:
        metrics = evaluate(
            nlp,
            corpus,
            images="none" if no_images else "shuffled" if shuffled else "own",
            seed=seed,
            image_root=image_root,
            gold_preproc=gold_preproc,
            batch_size=batch_size,
        )
    except CorpusError as err:
        fail(str(err))
    metrics["model"] = model
    print_metrics(metrics)
    say_if_pictures_dont_matter(nlp, metrics)
    if output is not None:
        import srsly

        output.parent.mkdir(parents=True, exist_ok=True)
        srsly.write_json(output, metrics)
        from wasabi import msg

        msg.good(f"Saved metrics to {output}")


class CorpusError(ValueError):
    """The corpus can't be evaluated on; the message says why and what to do."""


def evaluate(
    nlp: "Language",
    corpus: str | Path,
    *,
    images: str = "own",
    seed: int = 0,
    image_root: str | Path | None = None,
    gold_preproc: bool = False,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Score a pipeline.

    nlp (Language): The pipeline.
    corpus (Union[str, Path]): A `.spacy` file, or a folder of them.
    images (str): "own", "none" or "shuffled": which picture each post is shown with.
    seed (int): Seed for "shuffled".
    image_root (Optional[Union[str, Path]]): See `MultimodalCorpus`.
    gold_preproc (bool): Use the tokens of the corpus.
    batch_size (Optional[int]): Posts at a time.
    RETURNS (Dict[str, Any]): All scores of the pipeline, and `corpus`, `images`, `seed` (if
        shuffled) and `pictures`: the counts of the corpus, `shown`, how many posts were given
        a picture, and `kept`, how many of these their own.
    RAISES (CorpusError): The corpus can't be read or has no posts.
    """
    from ..ablation import remove_images, shuffle_images
    from ..corpus import MultimodalCorpus

    if images not in ("own", "none", "shuffled"):
        raise ValueError(f"images is {images!r}; choose one of own, none, shuffled.")
    reader = MultimodalCorpus(corpus, image_root=image_root, gold_preproc=gold_preproc)
    try:
        examples = list(reader(nlp))
    except ValueError as err:
        raise CorpusError(str(err)) from err
    if not examples or reader.counts is None:
        raise CorpusError(f"There are no posts in {corpus}.")
    kept = reader.counts.with_picture
    if images == "none":
        examples, kept = remove_images(examples), 0
    elif images == "shuffled":
        examples, kept = shuffle_images(examples, seed)
    metrics: dict[str, Any] = dict(nlp.evaluate(examples, batch_size=batch_size))
    metrics["corpus"] = str(corpus)
    metrics["images"] = images
    if images == "shuffled":
        metrics["seed"] = seed
    shown = 0 if images == "none" else reader.counts.with_picture
    metrics["pictures"] = {**asdict(reader.counts), "shown": shown, "kept": kept}
    del metrics["pictures"]["example"]  # names a file of this machine
    return metrics


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print P, R and F of entities, overall and for each type, as tables.

    metrics (Dict[str, Any]): What `evaluate` returns.
    """
    from wasabi import msg

    pictures = metrics["pictures"]
    shown = {
        "own": "with their pictures",
        "none": "without pictures",
        "shuffled": "pictures shuffled",
    }
    msg.divider(f"{pictures['posts']} posts, {shown[metrics['images']]}")
    names = ("with_picture", "missing", "unreadable", "refused", "dropped_crops")
    rows = [(name.replace("_", " "), str(pictures[name])) for name in names]
    rows.append(("shown to the pipeline", str(pictures["shown"])))
    if metrics["images"] == "shuffled":
        rows.append(("kept their picture", str(pictures["kept"])))
    msg.table(rows, header=("Pictures in the corpus", "#"), aligns=("l", "r"))
    keys = ("ents_p", "ents_r", "ents_f")
    if any(key in metrics for key in keys):
        scores = [("all", *(_percent(metrics.get(key)) for key in keys))]
        for label, prf in (metrics.get("ents_per_type") or {}).items():
            scores.append((label, *(_percent(prf[key]) for key in ("p", "r", "f"))))
        msg.table(scores, header=("Entities", "P", "R", "F"), aligns=("l", "r", "r", "r"))
    else:
        msg.warn("No component of this pipeline scores entities.")
    msg.text(f"{metrics['speed']:.0f} words a second")


def say_if_pictures_dont_matter(nlp: "Language", metrics: dict[str, Any]) -> None:
    """Say why scores with, without and with shuffled pictures will be the same, if they will.

    nlp (Language): The pipeline.
    metrics (Dict[str, Any]): What `evaluate` returns.
    """
    from wasabi import msg

    if not metrics["pictures"]["with_picture"]:
        msg.warn(
            "No post of this corpus has a picture: --no-images and --shuffle-images change nothing."
        )
    if not any(nlp.get_pipe_meta(name).factory.startswith("mmib") for name in nlp.pipe_names):
        msg.warn(
            "No mmib component in this pipeline: unless another one does, nothing looks at pictures."
        )


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{score * 100:.2f}"
