"""`spacy mmib report`: one page about what a pipeline does on a corpus."""

from pathlib import Path
from typing import Annotated

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
from .outputs import check_output, write_text


@mmib_cli.command("report")
def report_cli(
    model: ModelArg,
    corpus: Annotated[
        Path,
        typer.Argument(
            help="A .spacy file made with DocBin(store_user_data=True), or a folder of them",
            metavar="CORPUS",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="HTML file for the report")
    ] = Path("report.html"),
    image_root: ImageRootOpt = None,
    limit_examples: Annotated[
        int,
        typer.Option("--limit-examples", "-n", min=0, help="Show so many posts, worst first; 0 for all"),
    ] = 200,
    batch_size: BatchSizeOpt = None,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Write a page with scores, errors and examples.

    The pipeline runs with the pictures of the posts, without them, and with those of other posts. The
    page needs nothing beside it: small copies of the pictures that it shows are inside.
    """
    check_image_root(image_root)
    check_output(output)
    from spacy.cli._util import import_code

    import_code(code)
    use_gpu(gpu_id, silent=False)
    nlp = load_pipeline(model)
    from ..visual.report.page import make_report
    from .evaluate import CorpusError

    try:
        html = make_report(
            nlp,
            corpus,
            image_root=image_root,
            limit_examples=limit_examples,
            batch_size=batch_size,
        )
    except CorpusError as err:
        fail(str(err))
    write_text(output, html)
    from wasabi import msg

    msg.good(f"Saved the report to {output} ({output.stat().st_size / 2**20:.1f} MiB)")
