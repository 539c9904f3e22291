"""`spacy mmib report`: one page about what a pipeline does on a corpus."""

from pathlib import Path
from typing import Annotated

from typer import Option

from . import app


@app.command("report", output=())
def report_cli(
    model: app.ModelArg,
    corpus: app.CorpusArg,
    output: Annotated[Path, Option("--output", "-o", dir_okay=False, help="HTML file for the report")] = Path(
        "report.html"
    ),
    image_root: app.ImageRootOpt = None,
    limit_examples: Annotated[
        int, Option("--limit-examples", "-n", min=0, help="Show so many posts, worst first; 0 for all")
    ] = 200,
    batch_size: app.BatchSizeOpt = None,
) -> None:
    """Write a page with scores, errors and examples.

    The pipeline runs with the pictures of the posts, without them, and with those of other posts. The
    page needs nothing beside it: small copies of the pictures that it shows are inside.
    """
    nlp = app.load_pipeline(model)
    from ..visual.report import make_report

    html = make_report(
        nlp, corpus, image_root=image_root, limit_examples=limit_examples, batch_size=batch_size
    )
    app.save(output, html, f"the report ({len(html.encode('utf8')) / 2**20:.1f} MiB)")
