"""`spacy mmib gap`: how far texts and pictures are apart in the latent space."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import (
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
from .contributions import ComponentOpt
from .corpora import CorpusArg, make_reader, read_examples
from .outputs import check_output, write_json, writing

if TYPE_CHECKING:
    from ..evaluation.gap import EntityRegionPairs, Gap
    from ..training.corpus import MultimodalCorpus


@mmib_cli.command("gap")
def gap_cli(
    model: ModelArg,
    corpus: CorpusArg,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Figure (.png, .svg or .pdf)"),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="JSON file for the numbers")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option("--compare", help="Another pipeline, e.g. one trained without alignment"),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="Types in the figure, e.g. PER,LOC,ORG [default: all]"),
    ] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", min=2, help="At most so many entities of a type in the figure")
    ] = 150,
    seed: Annotated[
        int, typer.Option("--seed", "-s", min=0, max=2**32 - 1, help="Of the sample and the figure")
    ] = 0,
    component: ComponentOpt = None,
    image_root: ImageRootOpt = None,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Measure how near the latents of texts are to those of their own pictures, and draw them.

    Mean cosines of texts with their own and with other pictures, and how often the own picture is
    the nearest, beside what guessing reaches. The figure shows entities and the objects they attend
    to (the paper's V-D, Fig. 5) by t-SNE, a row a type and a column a pipeline.

    The figure needs scikit-learn and matplotlib: pip install "spacy-mmib[analysis]".
    """
    check_image_root(image_root)
    from ..evaluation.audit import MissingExtraError
    from ..evaluation.gap_plot import plot_gap, require_extra

    if output is not None:
        check_output(output, ".png", ".svg", ".pdf")
        try:
            require_extra()
        except MissingExtraError as err:
            fail(str(err))
    if json is not None:
        check_output(json, option="--json")
    from spacy.cli._util import import_code
    from wasabi import msg

    import_code(code)
    use_gpu(gpu_id, silent=False)
    reader = make_reader(corpus, image_root)
    wanted = [name.strip() for name in (labels or "").split(",") if name.strip()] or None
    found = [measure(model, reader, wanted, pairs, seed, component)]
    if compare:
        same = wanted or [one.label for one in found[0][1]]
        found.append(measure(compare, reader, same, pairs, seed, None))
    names = [name for name in (model, compare) if name]
    print_gaps(names, [gap for gap, _ in found])
    if json is not None:
        values = [
            {"model": name, **gap.to_json(), "entities": {one.label: one.found for one in sample}}
            for name, (gap, sample) in zip(names, found)
        ]
        write_json(json, {"corpus": str(corpus), "models": values}, option="--json")
        msg.good(f"Saved the numbers to {json}")
    if output is not None:
        drawn = [pairs for _, pairs in found]
        if not drawn[0]:
            fail(
                "No figure: there are no gold entities in posts with a picture that can be read"
                + (f" with the types {labels}." if labels else ".")
            )
        with writing(output):
            plot_gap(list(zip(names, drawn)), output, seed)
        msg.good(f"Saved the figure to {output}")


def measure(
    model: str,
    reader: "MultimodalCorpus",
    labels: list[str] | None,
    pairs: int,
    seed: int,
    component: str | None,
) -> "tuple[Gap, list[EntityRegionPairs]]":
    """Measure one pipeline, or end the command with a message for people.

    RETURNS (Tuple[Gap, List[EntityRegionPairs]]): See `measure_gap` and `entity_region_vectors`.
    RAISES (typer.Exit): It can't be loaded, there is nothing to look into, or no picture.
    """
    from ..evaluation.gap import entity_region_vectors, measure_gap

    nlp = load_pipeline(model)
    examples = read_examples(reader, nlp)
    try:
        gap = measure_gap(nlp, [example.predicted for example in examples], component)
        sample = entity_region_vectors(nlp, examples, labels, pairs, seed, component=component)
    except ValueError as err:
        fail(f"{model}: {err}")
    return gap, [one for one in sample if labels is not None or len(one.entities)]


def print_gaps(names: list[str], gaps: "list[Gap]") -> None:
    """Print the numbers of pipelines side by side, beside chance.

    names (List[str]): Of the pipelines.
    gaps (List[Gap]): Theirs.
    """
    from wasabi import msg

    first = gaps[0]
    msg.divider(f"{first.posts} posts with a picture, {first.pictures} different pictures")
    for name, gap in zip(names, gaps):
        msg.text(f"{name}: {gap.component}")
    rows = [
        ("cosine, own picture", "", *(_number(gap.paired) for gap in gaps)),
        ("cosine, other pictures", "", *(_number(gap.unpaired) for gap in gaps)),
        (
            "own picture is nearest, %",
            _percent(first.chance_at_1),
            *(_percent(gap.recall_at_1) for gap in gaps),
        ),
        (
            "among the nearest 5, %",
            _percent(first.chance_at_5),
            *(_percent(gap.recall_at_5) for gap in gaps),
        ),
    ]
    header = ("Text to picture", "chance", *(f"pipeline {i}" for i in range(1, len(gaps) + 1)))
    msg.table(rows, header=header, aligns=("l", *("r" for _ in header[1:])))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
