"""`spacy mmib evaluate`: scores of a pipeline on posts with their pictures, without, or with wrong
ones."""

from dataclasses import asdict
from functools import partial
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
from .outputs import check_output, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spacy.language import Language
    from spacy.scorer import Scorer
    from spacy.training import Example


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
    if output is not None:
        check_output(output)
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
        from wasabi import msg

        write_json(output, metrics)

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
    limit: int = 0,
    see: "Callable[[str, list[Example]], None] | None" = None,
) -> dict[str, Any]:
    """Score a pipeline.

    nlp (Language): The pipeline.
    corpus (Union[str, Path]): A `.spacy` file, or a folder of them.
    images (str): "own", "none" or "shuffled": which picture each post is shown with.
    seed (int): Seed for "shuffled".
    image_root (Optional[Union[str, Path]]): See `MultimodalCorpus`.
    gold_preproc (bool): Use the tokens of the corpus.
    batch_size (Optional[int]): Posts at a time.
    limit (int): Score the first so many posts only; 0 for all.
    see (Optional[Callable]): Is given the posts with their predictions: once as "end_to_end", and with a
        component for relations once more as "given_entities".
    RETURNS (Dict[str, Any]): All scores of the pipeline, and `corpus`, `images`, `seed` (if
        shuffled) and `pictures`: the counts of the corpus, `shown`, how many posts were given
        a picture, and `kept`, how many of these their own. With a component for relations, its
        scores are end to end (on predicted entities, if a component predicts entities), and
        `given_entities` has those on the gold entities and pairs. `leaks`, if there are any: what
        is known to leak the labels, of this corpus or the training data.
    RAISES (CorpusError): The corpus can't be read or has no posts.
    """
    from ..evaluation.ablation import remove_images, shuffle_images
    from ..pipeline.instances import get_given_pairs
    from ..training.corpus import MultimodalCorpus

    if images not in ("own", "none", "shuffled"):
        raise ValueError(f"images is {images!r}; choose one of own, none, shuffled.")
    reader = MultimodalCorpus(corpus, image_root=image_root, gold_preproc=gold_preproc, limit=limit)

    def read() -> tuple[list["Example"], int]:
        try:
            examples = list(reader(nlp))
        except ValueError as err:
            raise CorpusError(str(err)) from err
        if not examples or reader.counts is None:
            raise CorpusError(f"There are no posts in {corpus}.")
        if images == "none":
            return remove_images(examples), 0
        if images == "shuffled":
            return shuffle_images(examples, seed)
        return examples, reader.counts.with_picture

    extractors = [name for name in nlp.pipe_names if _finds(nlp, name, "doc._.relations")]
    recognizers = [name for name in nlp.pipe_names if _finds(nlp, name, "doc.ents", "doc.spans")]
    asks = any(getattr(nlp.get_pipe(name), "get_instances", None) is get_given_pairs for name in extractors)
    # Otherwise there is no end to end: nothing finds what to relate.
    end_to_end = bool(recognizers) and not asks
    examples, kept = read()
    with nlp.select_pipes(disable=[] if end_to_end else extractors):
        scorer = make_scorer(nlp, partial(see, "end_to_end") if see else None)
        metrics: dict[str, Any] = dict(nlp.evaluate(examples, batch_size=batch_size, scorer=scorer))
    if extractors:
        examples, kept = read()
        metrics["given_entities"] = evaluate_given(
            nlp,
            examples,
            disable=recognizers,
            batch_size=batch_size,
            see=partial(see, "given_entities") if see else None,
        )
    metrics["corpus"] = str(corpus)
    metrics["images"] = images
    if images == "shuffled":
        metrics["seed"] = seed
    assert reader.counts is not None
    shown = 0 if images == "none" else reader.counts.with_picture
    metrics["pictures"] = {**asdict(reader.counts), "shown": shown, "kept": kept}
    del metrics["pictures"]["example"]  # names a file of this machine
    leaks = {*reader.notes, *nlp.meta.get("spacy_mmib", {}).get("leaks", ())}
    for _, component in nlp.pipeline:
        leaks.update((getattr(component, "cfg", None) or {}).get("leaks", ()))
    if leaks:
        metrics["leaks"] = sorted(leaks)
    return metrics


def evaluate_given(
    nlp: "Language",
    examples: "list[Example]",
    *,
    disable: list[str],
    batch_size: int | None = None,
    see: "Callable[[list[Example]], None] | None" = None,
) -> dict[str, Any]:
    """Score the relations of a pipeline on gold entities, as published scores of MNRE are: it gets
    the entities of the posts, and the pairs that are annotated, without their labels. Whatever its
    candidates are otherwise, it is asked for just these.

    nlp (Language): The pipeline.
    examples (List[Example]): The posts; `predicted` is changed.
    disable (List[str]): The components that find entities.
    batch_size (Optional[int]): Posts at a time.
    see (Optional[Callable]): Is given the posts with their predictions.
    RETURNS (Dict[str, Any]): The scores whose names begin with `rel_`.
    """
    from ..pipeline.instances import get_given_pairs
    from ..post.given import give

    for example in examples:
        give(example, "pairs")
    components = [c for _, c in nlp.pipeline if hasattr(c, "get_instances")]
    own = [component.get_instances for component in components]
    try:
        for component in components:
            component.get_instances = get_given_pairs
        with nlp.select_pipes(disable=disable):
            scores = nlp.evaluate(examples, batch_size=batch_size, scorer=make_scorer(nlp, see))
    finally:
        for component, get_instances in zip(components, own):
            component.get_instances = get_instances
    return {key: score for key, score in scores.items() if key.startswith("rel_")}


def make_scorer(nlp: "Language", see: "Callable[[list[Example]], None] | None" = None) -> "Scorer":
    """Make the scorer that `nlp.evaluate` uses, one that shows what it scores: `nlp.evaluate` itself keeps
    the predictions, which it makes on copies, to itself.

    nlp (Language): The pipeline.
    see (Optional[Callable]): Is given the posts with their predictions.
    RETURNS (Scorer): The scorer.
    """
    from spacy.scorer import Scorer

    class SeeingScorer(Scorer):
        def score(self, examples: "Iterable[Example]", *, per_component: bool = False) -> dict[str, Any]:
            examples = list(examples)
            if see is not None:
                see(examples)
            scores: dict[str, Any] = super().score(examples, per_component=per_component)
            return scores

    return SeeingScorer(nlp=nlp)


def _finds(nlp: "Language", name: str, *what: str) -> bool:
    """RETURNS (bool): Whether a component says that it assigns one of these attributes."""
    return not set(nlp.get_pipe_meta(name).assigns).isdisjoint(what)


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print P, R and F of entities and relations, overall and for each type, as tables.

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
    tables = [("Entities", metrics, "ents", "ents_per_type")]
    given = metrics.get("given_entities", {})
    tables.append(("Relations, end to end", metrics, "rel_micro", "rel_per_type"))
    tables.append(("Relations of given entities", given, "rel_micro", "rel_per_type"))
    shown_tables = 0
    for title, scores, name, per_type in tables:
        keys = [f"{name}_{x}" for x in "prf"]
        if not any(key in scores for key in keys):
            continue
        shown_tables += 1
        lines = [("all", *(_percent(scores.get(key)) for key in keys))]
        if scores is metrics and name == "rel_micro":
            typed = [_percent(scores.get(f"rel_strict_{x}")) for x in "prf"]
            lines.append(("all, with types", *typed))
        for label, prf in (scores.get(per_type) or {}).items():
            lines.append((label, *(_percent(prf[key]) for key in ("p", "r", "f"))))
        msg.table(lines, header=(title, "P", "R", "F"), aligns=("l", "r", "r", "r"))
    if given:
        msg.text(f"accuracy on annotated pairs: {_percent(given.get('rel_accuracy'))}")
    if not shown_tables:
        msg.warn("No component of this pipeline scores entities or relations.")
    for note in metrics.get("leaks", ()):
        msg.warn(note)
    msg.text(f"{metrics['speed']:.0f} words a second")


def say_if_pictures_dont_matter(nlp: "Language", metrics: dict[str, Any]) -> None:
    """Say why scores with, without and with shuffled pictures will be the same, if they will.

    nlp (Language): The pipeline.
    metrics (Dict[str, Any]): What `evaluate` returns.
    """
    from wasabi import msg

    if not metrics["pictures"]["with_picture"]:
        msg.warn("No post of this corpus has a picture: --no-images and --shuffle-images change nothing.")
    if not any(nlp.get_pipe_meta(name).factory.startswith("mmib") for name in nlp.pipe_names):
        msg.warn("No mmib component in this pipeline: unless another one does, nothing looks at pictures.")


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{score * 100:.2f}"
