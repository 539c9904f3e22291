"""`spacy mmib errors`: what a pipeline gets wrong, and what its pictures have to do with it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from spacy.tokens import Doc
from typer import Option
from wasabi import msg

from ..evaluation.errors import Error, PostChange, count_kinds, predict_both, sort_changes
from ..evaluation.evaluate import get_roles, read_corpus
from ..evaluation.posts import entity_to_json
from ..post.extensions import get_image_error, get_region_weights, get_stored_images
from ..post.relations import relations_to_json
from . import app


@app.command("errors", output=(".jsonl",))
def errors_cli(
    model: app.ModelArg,
    corpus: app.CorpusArg,
    output: Annotated[
        Path, Option("--output", "-o", dir_okay=False, help="File of JSON lines to write (.jsonl)")
    ],
    limit: Annotated[
        int, Option("--limit", "-n", min=0, help="Posts shown on the screen; the file has all that change")
    ] = 10,
    image_root: app.ImageRootOpt = None,
    batch_size: app.BatchSizeOpt = None,
) -> None:
    """Count a pipeline's errors by kind, with and without pictures, and list the posts that change.

    Of an entity the border, the type or both can be wrong, or it is missed or spurious; of a
    relation the label, or it is missed or spurious. Posts whose errors are others without their
    picture are written to a file, those first to which the picture did most harm.
    """
    nlp = app.load_pipeline(model)
    roles = get_roles(nlp)
    if not (roles.recognizers or roles.extractors):
        msg.warn("No component of this pipeline finds entities or relations.")
    examples, counts, _ = read_corpus(nlp, corpus, image_root=image_root)
    posts = predict_both(nlp, examples, batch_size=batch_size)
    changed = sort_changes(posts)
    own = count_kinds([error for post in posts for error in post.errors])
    without = count_kinds([error for post in posts for error in post.errors_without])
    finds = {"entity": roles.recognizers, "relation": roles.extractors}
    rows = [(k, n, without[k], f"{n - without[k]:+d}") for k, n in own.items() if finds[k.split()[0]]]
    msg.divider(f"{len(posts)} posts, {counts.with_picture} of them with a picture")
    header = ("Errors", "with", "without", "by the picture")
    msg.table(rows, header=header, aligns=("l", "r", "r", "r"))
    if counts.with_picture:
        print_changes(changed, limit)
    else:
        msg.warn("No post of this corpus has a picture: there is nothing to compare.")
    if roles.silent:
        msg.text("Relations are those of given pairs: the pipeline is asked for the gold ones.")
    app.save(output, [to_record(post) for post in changed], f"{len(changed)} posts that change")


def print_changes(changed: list[PostChange], limit: int) -> None:
    """Print the first so many of the posts that change, and in which errors."""
    added, repaired = sum(len(p.added) for p in changed), sum(len(p.repaired) for p in changed)
    msg.text(
        f"Without their pictures {len(changed)} posts have other errors: the pictures add {added} and "
        f"repair {repaired}."
    )
    for post in changed[:limit]:
        msg.divider(f"Post {post.index}: +{len(post.added)} -{len(post.repaired)}", char="-")
        msg.text(_one_line(post.doc.text, 200), spaced=False)
        for error in post.added:
            msg.text(f"added: {describe(post.doc, error)}")
        for error in post.repaired:
            msg.text(f"repaired: {describe(post.without, error)}")


def describe(doc: Doc, error: Error) -> str:
    """RETURNS (str): An error in one line."""

    def show(side: tuple[int | str, ...] | None) -> str:
        if side is None:
            return "nothing"
        *offsets, label = side
        spans = [doc[start:end].text for start, end in zip(offsets[::2], offsets[1::2])]
        return f"{_one_line(' -> '.join(spans), 60)!r} {label}"

    return f"{error.kind} ({error.what}): gold {show(error.gold)}, predicted {show(error.predicted)}"


def _one_line(text: str, length: int) -> str:
    """Printable, and not too long."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= length else line[: length - 3] + "..."


def to_record(post: PostChange) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A line of the file; offsets are into the predicted text and tokens."""

    def predicted(doc: Doc, errors: list[Error]) -> dict[str, Any]:
        values = [{**asdict(error), "said": describe(doc, error)} for error in errors]
        return {**annotations(doc), "errors": values}

    images = [image if isinstance(image, str) else None for image in get_stored_images(post.doc)]
    return {
        "post": post.index,
        "text": post.doc.text,
        "image": images[0] if images else None,
        "images": images,
        "image_error": get_image_error(post.doc),
        "added": len(post.added),
        "repaired": len(post.repaired),
        "gold": annotations(post.reference),
        "with_picture": predicted(post.doc, post.errors),
        "without_picture": predicted(post.without, post.errors_without),
    }


def annotations(doc: Doc) -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): Entities and relations of a doc as plain values."""
    try:
        relations = relations_to_json(doc)
    except ValueError:  # written past the setter; said by whoever compares them
        relations = []
    entities = [{**entity_to_json(ent), "region_weights": get_region_weights(ent)} for ent in doc.ents]
    return {"entities": entities, "relations": relations}
