"""`spacy mmib gap`: how far texts and pictures are apart in the latent space."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option
from wasabi import msg

from ..evaluation.gap import (
    EntityRegionPairs,
    Gap,
    entity_region_vectors,
    measure_gap,
    plot_gap,
    require_extra,
)
from . import app


@app.command("gap", output=(".png", ".svg", ".pdf"), json=())
def gap_cli(
    model: app.ModelArg,
    corpus: app.CorpusArg,
    output: Annotated[
        Path | None, Option("--output", "-o", dir_okay=False, help="Figure (.png, .svg or .pdf)")
    ] = None,
    json: Annotated[Path | None, Option(dir_okay=False, help="JSON file for the numbers")] = None,
    compare: app.CompareOpt = None,
    labels: Annotated[str | None, Option(help="Types in the figure, e.g. PER,LOC,ORG [default: all]")] = None,
    pairs: Annotated[int, Option(min=2, help="At most so many entities of a type in the figure")] = 150,
    seed: app.SeedOpt = 0,
    component: app.ComponentOpt = None,
    image_root: app.ImageRootOpt = None,
) -> None:
    """Measure how near the latents of texts are to those of their own pictures, and draw them.

    Mean cosines of texts with their own and with other pictures, and how often the own picture is
    the nearest, beside what guessing reaches. The figure shows entities and the objects they attend
    to (the paper's V-D, Fig. 5) by t-SNE, a row a type and a column a pipeline.

    The figure needs scikit-learn and matplotlib: pip install "spacy-mmib[analysis]".
    """
    if output is not None:
        require_extra()

    def measure(
        model: str, wanted: list[str] | None, component: str | None
    ) -> tuple[Gap, list[EntityRegionPairs]]:
        nlp, component, examples = app.load_to_inspect(model, component, corpus, image_root)
        gap = measure_gap(nlp, [example.predicted for example in examples], component)
        return gap, entity_region_vectors(nlp, examples, wanted, pairs, seed, component=component)

    wanted = [name.strip() for name in (labels or "").split(",") if name.strip()] or None
    names, results = [model], [measure(model, wanted, component)]
    if compare:
        names.append(compare)
        results.append(measure(compare, wanted or [one.label for one in results[0][1]], None))
    print_gaps(names, [gap for gap, _ in results])
    if json is not None:
        values = [
            {"model": name, **asdict(gap), "entities": {one.label: one.found for one in sample}}
            for name, (gap, sample) in zip(names, results)
        ]
        app.save(json, {"corpus": str(corpus), "models": values}, "the numbers", "--json")
    if output is not None:
        if not results[0][1]:
            app.fail(
                "No figure: there are no gold entities in posts with a picture that can be read"
                + (f" with the types {labels}." if labels else ".")
            )
        with app.writing(output):
            plot_gap([(name, sample) for name, (_, sample) in zip(names, results)], output, seed)
        msg.good(f"Saved the figure to {output}")


def print_gaps(names: list[str], gaps: list[Gap]) -> None:
    """Print the numbers of pipelines side by side, beside chance."""
    first = gaps[0]
    msg.divider(f"{first.posts} posts with a picture, {first.pictures} different pictures")
    for name, gap in zip(names, gaps):
        msg.text(f"{name}: {gap.component}")
    own = [f"{gap.paired:.3f}" for gap in gaps]
    others = ["-" if gap.unpaired is None else f"{gap.unpaired:.3f}" for gap in gaps]
    rows = [("cosine, own picture", "", *own), ("cosine, other pictures", "", *others)]
    for title, k in (("own picture is nearest, %", 1), ("among the nearest 5, %", 5)):
        shares = [getattr(first, f"chance_at_{k}"), *(getattr(gap, f"recall_at_{k}") for gap in gaps)]
        rows.append((title, *(f"{100 * share:.1f}" for share in shares)))
    header = ("Text to picture", "chance", *(f"pipeline {i}" for i in range(1, len(gaps) + 1)))
    msg.table(rows, header=header, aligns=("l", *("r" for _ in header[1:])))
