"""`spacy mmib evaluate`: scores of a pipeline on posts with their pictures, without, or with wrong ones."""

from typing import Annotated, Any

from typer import Option
from wasabi import msg

from ..evaluation.evaluate import evaluate, show_score, tabulate
from . import app

SHOWN = {"own": "with their pictures", "none": "without pictures", "shuffled": "pictures shuffled"}
COUNTS = ("with_picture", "missing", "unreadable", "refused", "dropped_pictures", "dropped_crops")


@app.command("evaluate", output=())
def evaluate_cli(
    model: app.ModelArg,
    corpus: app.CorpusArg,
    no_images: Annotated[bool, Option("--no-images", help="Take the pictures away from all posts")] = False,
    shuffled: Annotated[bool, Option("--shuffle-images", help="Give every post another's picture")] = False,
    seed: Annotated[int, Option("--seed", "-s", help="Seed of --shuffle-images")] = 0,
    output: app.ResultOpt = None,
    image_root: app.ImageRootOpt = None,
    gold_preproc: Annotated[bool, Option("--gold-preproc", "-G", help="Use the corpus's tokens")] = False,
    batch_size: app.BatchSizeOpt = None,
) -> None:
    """Evaluate a pipeline on posts with pictures.

    spaCy's own evaluate never shows the pictures to the pipeline; this one does. --no-images and
    --shuffle-images show what the pictures contribute.
    """
    if no_images and shuffled:
        app.fail("--no-images and --shuffle-images exclude each other: run the command once with each.")
    nlp = app.load_pipeline(model)
    metrics = evaluate(
        nlp,
        corpus,
        images="none" if no_images else "shuffled" if shuffled else "own",
        seed=seed,
        image_root=image_root,
        gold_preproc=gold_preproc,
        batch_size=batch_size,
    )
    metrics["model"] = model
    print_metrics(metrics)
    if not metrics["pictures"]["with_picture"]:
        msg.warn("No post of this corpus has a picture: --no-images and --shuffle-images change nothing.")
    if not any(nlp.get_pipe_meta(name).factory.startswith("mmib") for name in nlp.pipe_names):
        msg.warn("No mmib component in this pipeline: unless another one does, nothing looks at pictures.")
    if output is not None:
        app.save(output, metrics, "metrics")


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print what `spacy_mmib.evaluation.evaluate.evaluate` returns, as tables."""
    pictures = metrics["pictures"]
    msg.divider(f"{pictures['posts']} posts, {SHOWN[metrics['images']]}")
    rows = [(name.replace("_", " "), pictures[name]) for name in COUNTS]
    rows.append(("shown to the pipeline", pictures["shown"]))
    if metrics["images"] == "shuffled":
        rows.append(("kept their picture", pictures["kept"]))
    msg.table(rows, header=("Pictures in the corpus", "#"), aligns=("l", "r"))
    tables = tabulate(metrics)
    for title, overall, by_label in tables:
        scores = [(name, *map(show_score, prf)) for name, prf in (*overall.items(), *by_label.items())]
        msg.table(scores, header=(title, "P", "R", "F"), aligns=("l", "r", "r", "r"))
    if given := metrics.get("given_entities"):
        msg.text(f"accuracy on annotated pairs: {show_score(given.get('rel_accuracy'))}")
    if not tables:
        msg.warn("No component of this pipeline scores entities or relations.")
    for note in metrics.get("leaks", ()):
        msg.warn(note)
    msg.text(f"{metrics['speed']:.0f} words a second")
