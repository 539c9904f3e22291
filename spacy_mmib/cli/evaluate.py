"""`spacy mmib evaluate`: scores of a pipeline on posts with their pictures, without, or with wrong ones."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import BatchSizeOpt, CorpusArg, ImageRootOpt, ModelArg, command, fail, load_pipeline, save

SHOWN = {"own": "with their pictures", "none": "without pictures", "shuffled": "pictures shuffled"}
COUNTS = ("with_picture", "missing", "unreadable", "refused", "dropped_crops")


@command("evaluate", output=())
def evaluate_cli(
    model: ModelArg,
    corpus: CorpusArg,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Take the pictures away from all posts")
    ] = False,
    shuffled: Annotated[
        bool, typer.Option("--shuffle-images", help="Give every post another one's picture")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of --shuffle-images")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="JSON file for the metrics")
    ] = None,
    image_root: ImageRootOpt = None,
    gold_preproc: Annotated[
        bool, typer.Option("--gold-preproc", "-G", help="Use the tokens of the corpus")
    ] = False,
    batch_size: BatchSizeOpt = None,
) -> None:
    """Evaluate a pipeline on posts with pictures.

    spaCy's own evaluate never shows the pictures to the pipeline; this one does. --no-images and
    --shuffle-images show what the pictures contribute.
    """
    if no_images and shuffled:
        fail("--no-images and --shuffle-images exclude each other: run the command once with each.")
    nlp = load_pipeline(model)
    from wasabi import msg

    from ..evaluation.evaluate import evaluate

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
        save(output, metrics, "metrics")


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print what `spacy_mmib.evaluation.evaluate.evaluate` returns: P, R and F of entities and relations,
    overall and for each type, as tables.
    """
    from wasabi import msg

    pictures = metrics["pictures"]
    msg.divider(f"{pictures['posts']} posts, {SHOWN[metrics['images']]}")
    rows = [(name.replace("_", " "), pictures[name]) for name in COUNTS]
    rows.append(("shown to the pipeline", pictures["shown"]))
    if metrics["images"] == "shuffled":
        rows.append(("kept their picture", pictures["kept"]))
    msg.table(rows, header=("Pictures in the corpus", "#"), aligns=("l", "r"))
    given = metrics.get("given_entities", {})
    every = (
        ("Entities", metrics, "ents", "ents_per_type"),
        ("Relations, end to end", metrics, "rel_micro", "rel_per_type"),
        ("Relations of given entities", given, "rel_micro", "rel_per_type"),
    )
    tables = [table for table in every if f"{table[2]}_f" in table[1]]
    for title, scores, name, per_type in tables:
        lines = [("all", *_percents(scores, name + "_"))]
        if scores is metrics and name == "rel_micro":
            lines.append(("all, with types", *_percents(scores, "rel_strict_")))
        lines += [(label, *_percents(prf)) for label, prf in (scores.get(per_type) or {}).items()]
        msg.table(lines, header=(title, "P", "R", "F"), aligns=("l", "r", "r", "r"))
    if given:
        msg.text(f"accuracy on annotated pairs: {_percent(given.get('rel_accuracy'))}")
    if not tables:
        msg.warn("No component of this pipeline scores entities or relations.")
    for note in metrics.get("leaks", ()):
        msg.warn(note)
    msg.text(f"{metrics['speed']:.0f} words a second")


def _percents(scores: dict[str, Any], name: str = "") -> list[str]:
    return [_percent(scores.get(f"{name}{key}")) for key in "prf"]


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{score * 100:.2f}"
