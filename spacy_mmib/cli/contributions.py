"""`spacy mmib contributions`: what of the text and the picture reaches the latents of posts."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from typer import Option

from .app import ComponentOpt, CorpusArg, ImageRootOpt, ModelArg, command, fail, load_pipeline, save

if TYPE_CHECKING:
    from spacy.tokens import Doc

    from ..evaluation.contributions import Contributions

    Post: TypeAlias = tuple[Doc, Contributions | None]

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


@command("contributions", output=(".html", ".jsonl"))
def contributions_cli(
    model: ModelArg,
    corpus: CorpusArg,
    output: Annotated[
        Path, Option("--output", "-o", dir_okay=False, help="Page (.html) or JSON lines (.jsonl)")
    ],
    compare: Annotated[
        str | None,
        Option("--compare", help="Another pipeline, e.g. one trained without the bottleneck"),
    ] = None,
    limit: Annotated[int, Option("--limit", "-n", min=0, help="The first so many posts; 0 for all")] = 20,
    component: ComponentOpt = None,
    image_root: ImageRootOpt = None,
) -> None:
    """Show how much each word and each object contributes to what the model keeps of a post.

    The contribution scores of the paper (V-B, Fig. 3), as shades of the words and numbers at the
    objects. With --compare each post is there twice, once for each pipeline.
    """
    from ..evaluation import EvaluationError
    from ..evaluation.contributions import get_contributions
    from ..evaluation.evaluate import predict_examples, read_corpus
    from ..evaluation.inspecting import find_component

    def compute(model: str, component: str | None) -> "list[Post]":
        nlp = load_pipeline(model)
        try:
            component = find_component(nlp, component)
        except EvaluationError as err:
            fail(f"{model}: {err}")
        examples, *_ = read_corpus(nlp, corpus, image_root=image_root, limit=limit)
        docs = [example.predicted for example in predict_examples(nlp, examples)]
        return list(zip(docs, get_contributions(nlp, docs, component)))

    found = [(model, compute(model, component))]
    if compare:
        found.append((compare, compute(compare, None)))
    n = len(found[0][1])
    posts = [(name, every[i]) for i in range(n) for name, every in found if i < len(every)]
    content: object
    if output.suffix.lower() == ".jsonl":
        content = [to_record(name, *post) for name, post in posts]
    else:
        content = to_page(posts, named=compare is not None)
    save(output, content, f"the contributions of {n} posts")


def to_record(model: str, doc: "Doc", found: "Contributions | None") -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A line of the file: raw values, and their shares from 0 to 1."""
    from ..evaluation.contributions import shares
    from ..post.extensions import get_image_error, get_regions, get_stored_image

    def rows(what: str, names: list[Any], scores: list[float]) -> list[dict[str, Any]]:
        values = zip(names, scores, shares(scores))
        return [{what: name, "score": score, "share": share} for name, score, share in values]

    image = get_stored_image(doc)
    return {
        "model": model,
        "component": None if found is None else found.component,
        "text": doc.text,
        "image": image if isinstance(image, str) else None,
        "image_error": get_image_error(doc),
        "tokens": [] if found is None else rows("text", [token.text for token in doc], found.tokens),
        "regions": [] if found is None else rows("region", [None, *get_regions(doc)], found.regions),
    }


def to_page(posts: "list[tuple[str, Post]]", *, named: bool) -> str:
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
