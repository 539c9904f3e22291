"""`spacy mmib contributions`: what of the text and the picture reaches the latents of posts."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from .corpora import CorpusArg, make_reader, read_examples
from .outputs import check_output, write_jsonl, write_text

if TYPE_CHECKING:
    from spacy.tokens import Doc

    from ..evaluation.contributions import Contributions
    from ..training.corpus import MultimodalCorpus

ComponentOpt = Annotated[
    str | None,
    typer.Option("--component", help="The component to look into [default: the first that can be]"),
]


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Contributions - spacy-mmib</title>
<style>:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 70rem; padding: 1rem; font-family: sans-serif; }}
h2 {{ font-size: 1rem; overflow-wrap: anywhere; }}</style>
</head>
<body>
<main aria-label="Posts, by pipeline">
{body}
</main>
</body>
</html>
"""


@mmib_cli.command("contributions")
def contributions_cli(
    model: ModelArg,
    corpus: CorpusArg,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", dir_okay=False, help="Page (.html) or JSON lines (.jsonl)"),
    ],
    compare: Annotated[
        str | None,
        typer.Option("--compare", help="Another pipeline, e.g. one trained without the bottleneck"),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="The first so many posts; 0 for all")
    ] = 20,
    component: ComponentOpt = None,
    image_root: ImageRootOpt = None,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Show how much each word and each object contributes to what the model keeps of a post.

    The contribution scores of the paper (V-B, Fig. 3), as shades of the words and numbers at the
    objects. With --compare each post is there twice, once for each pipeline.
    """
    check_image_root(image_root)
    check_output(output, ".html", ".jsonl")
    from spacy.cli._util import import_code

    import_code(code)
    use_gpu(gpu_id, silent=False)
    reader = make_reader(corpus, image_root, limit)
    found = [(model, compute(model, reader, component))]
    if compare:
        found.append((compare, compute(compare, reader, None)))
    posts = [(name, every[i]) for i in range(len(found[0][1])) for name, every in found if i < len(every)]
    from wasabi import msg

    if output.suffix.lower() == ".jsonl":
        write_jsonl(output, [to_record(name, *post) for name, post in posts])
    else:
        write_text(output, to_page(posts, named=compare is not None))
    msg.good(f"Saved the contributions of {len(found[0][1])} posts to {output}")


def compute(
    model: str, reader: "MultimodalCorpus", component: str | None
) -> "list[tuple[Doc, Contributions | None]]":
    """Predict the posts of a corpus and compute their contributions, or end the command.

    model (str): Name or path of the pipeline.
    reader (MultimodalCorpus): Reads the posts.
    component (Optional[str]): See `get_contributions`.
    RETURNS (List[Tuple[Doc, Optional[Contributions]]]): Of each post.
    RAISES (typer.Exit): It can't be loaded or read, or has nothing to look into.
    """
    from ..evaluation.contributions import get_contributions
    from ..evaluation.inspecting import find_component
    from ..evaluation.predicting import predict_examples

    nlp = load_pipeline(model)
    try:
        component = find_component(nlp, component)
    except ValueError as err:
        fail(f"{model}: {err}")
    examples = predict_examples(nlp, read_examples(reader, nlp))
    docs = [example.predicted for example in examples]
    return list(zip(docs, get_contributions(nlp, docs, component)))


def to_record(model: str, doc: "Doc", found: "Contributions | None") -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A line of the file: raw values, and their shares from 0 to 1."""
    from ..evaluation.contributions import shares
    from ..post.extensions import get_image_error, get_regions, get_stored_image

    tokens: list[Any] = []
    regions: list[Any] = []
    if found is not None:
        names: list[Any] = [None, *get_regions(doc)]
        for token, score, share in zip(doc, found.tokens, shares(found.tokens)):
            tokens.append({"text": token.text, "score": score, "share": share})
        for region, score, share in zip(names, found.regions, shares(found.regions)):
            regions.append({"region": region, "score": score, "share": share})
    image = get_stored_image(doc)
    return {
        "model": model,
        "component": None if found is None else found.component,
        "text": doc.text,
        "image": image if isinstance(image, str) else None,
        "image_error": get_image_error(doc),
        "tokens": tokens,
        "regions": regions,
    }


def to_page(posts: "list[tuple[str, tuple[Doc, Contributions | None]]]", *, named: bool) -> str:
    """RETURNS (str): The posts as a page; if there are two pipelines, each below the name of its own."""
    from .. import render

    if not named:
        docs, found = zip(*(post for _, post in posts))
        html = render(docs, page=True, jupyter=False, contributions=found)
        assert html is not None
        return html
    parts = [
        f"<h2>{escape(name)}</h2>\n{render(doc, jupyter=False, contributions=[shades])}"
        for name, (doc, shades) in posts
    ]
    return PAGE.format(body="\n".join(parts))
