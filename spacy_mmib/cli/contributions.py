"""`spacy mmib contributions`: what of the text and the picture reaches the latents of posts."""

from pathlib import Path
from typing import Annotated, Any

from spacy.tokens import Doc
from typer import Option

from ..evaluation.contributions import Contributions, get_contributions, shares
from ..evaluation.evaluate import predict_examples
from ..post.extensions import get_image_error, get_regions, get_stored_images
from . import app

Post = tuple[Doc, Contributions | None]


@app.command("contributions", output=(".html", ".jsonl"))
def contributions_cli(
    model: app.ModelArg,
    corpus: app.CorpusArg,
    output: Annotated[
        Path, Option("--output", "-o", dir_okay=False, help="Page (.html) or JSON lines (.jsonl)")
    ],
    compare: app.CompareOpt = None,
    limit: Annotated[int, Option("--limit", "-n", min=0, help="The first so many posts; 0 for all")] = 20,
    component: app.ComponentOpt = None,
    image_root: app.ImageRootOpt = None,
) -> None:
    """Show how much each word and each object contributes to what the model keeps of a post.

    The contribution scores of the paper (V-B, Fig. 3), as shades of the words and numbers at the
    objects. With --compare each post is there twice, once for each pipeline.
    """

    def compute(model: str, component: str | None) -> list[Post]:
        nlp, component, examples = app.load_to_inspect(model, component, corpus, image_root, limit)
        docs = [example.predicted for example in predict_examples(nlp, examples)]
        return list(zip(docs, get_contributions(nlp, docs, component)))

    found = [(model, compute(model, component))]
    if compare:
        found.append((compare, compute(compare, None)))
    n = len(found[0][1])
    posts = [(name, every[i]) for i in range(n) for name, every in found if i < len(every)]
    content: object = [to_record(name, *post) for name, post in posts]
    if output.suffix.lower() != ".jsonl":
        from ..visual.collect import make_post
        from ..visual.rendering import to_html

        made = [
            make_post(doc, max_size=400, contributions=found, heading=name if compare else None)
            for name, (doc, found) in posts
        ]
        content = to_html(made, page=True)
    app.save(output, content, f"the contributions of {n} posts")


def to_record(model: str, doc: Doc, found: Contributions | None) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A line of the file: raw values, and their shares from 0 to 1."""

    def rows(what: str, names: list[Any], scores: list[float]) -> list[dict[str, Any]]:
        values = zip(names, scores, shares(scores))
        return [{what: name, "score": score, "share": share} for name, score, share in values]

    images = [image if isinstance(image, str) else None for image in get_stored_images(doc)]
    return {
        "model": model,
        "component": found and found.component,
        "text": doc.text,
        "image": images[0] if images else None,
        "images": images,
        "image_error": get_image_error(doc),
        "tokens": rows("text", [token.text for token in doc], found.tokens if found else []),
        "regions": rows("region", [None, *get_regions(doc)], found.regions if found else []),
    }
