"""`spacy mmib errors`: what a pipeline gets wrong, and what its pictures have to do with it."""

from collections.abc import Iterable
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
    load_pipeline,
    mmib_cli,
    use_gpu,
)
from .corpora import CorpusArg, make_reader, read_examples
from .outputs import check_output, write_jsonl

if TYPE_CHECKING:
    from spacy.tokens import Doc

    from ..evaluation.errors import AnyError, PostChange


@mmib_cli.command("errors")
def errors_cli(
    model: ModelArg,
    corpus: CorpusArg,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", dir_okay=False, help="File of JSON lines to write (.jsonl)"),
    ],
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=0, help="Posts shown on the screen; the file has all that change"),
    ] = 10,
    image_root: ImageRootOpt = None,
    batch_size: BatchSizeOpt = None,
    gpu_id: GpuOpt = -1,
    code: CodeOpt = None,
) -> None:
    """Count a pipeline's errors by kind, with and without pictures, and list the posts that change.

    Of an entity the border, the type or both can be wrong, or it is missed or spurious; of a
    relation the label, or it is missed or spurious. Posts whose errors are others without their
    picture are written to a file, those first to which the picture did most harm.
    """
    check_image_root(image_root)
    check_output(output, ".jsonl")
    from spacy.cli._util import import_code

    import_code(code)
    use_gpu(gpu_id, silent=False)
    nlp = load_pipeline(model)
    reader = make_reader(corpus, image_root)
    from wasabi import msg

    from ..evaluation.errors import predict_both, sort_changes
    from ..evaluation.predicting import get_roles

    roles = get_roles(nlp)
    if not (roles.recognizers or roles.extractors):
        msg.warn("No component of this pipeline finds entities or relations.")
    posts = predict_both(nlp, lambda: read_examples(reader, nlp), batch_size=batch_size)
    changed = sort_changes(posts)
    assert reader.counts is not None
    print_errors(
        posts,
        changed,
        limit=limit,
        with_picture=reader.counts.with_picture,
        entities=bool(roles.recognizers),
        relations=bool(roles.extractors),
    )
    if roles.extractors and not roles.end_to_end:
        msg.text("Relations are those of given pairs: the pipeline is asked for the gold ones.")
    write_jsonl(output, [to_record(post) for post in changed])
    msg.good(f"Saved {len(changed)} posts that change to {output}")


def print_errors(
    posts: "list[PostChange]",
    changed: "list[PostChange]",
    *,
    limit: int,
    with_picture: int,
    entities: bool = True,
    relations: bool = True,
) -> None:
    """Print the kinds of errors with and without pictures, and the posts that change.

    posts (List[PostChange]): All posts.
    changed (List[PostChange]): Those that change, in order.
    limit (int): How many of these to print.
    with_picture (int): Posts with a picture.
    entities (bool): Whether the pipeline finds entities.
    relations (bool): Whether it finds relations.
    """
    from wasabi import msg

    from ..evaluation.errors import count_kinds

    own = count_kinds([error for post in posts for error in post.errors])
    without = count_kinds([error for post in posts for error in post.errors_without])
    shown = [k for k in own if (entities if k.startswith("entity") else relations)]
    rows = [(kind, own[kind], without[kind], f"{own[kind] - without[kind]:+d}") for kind in shown]
    msg.divider(f"{len(posts)} posts, {with_picture} of them with a picture")
    aligns = ("l", "r", "r", "r")
    msg.table(rows, header=("Errors", "with", "without", "by the picture"), aligns=aligns)
    if not with_picture:
        msg.warn("No post of this corpus has a picture: there is nothing to compare.")
        return
    added, repaired = sum(len(p.added) for p in changed), sum(len(p.repaired) for p in changed)
    msg.text(
        f"Without their pictures {len(changed)} posts have other errors: the pictures add {added} and "
        f"repair {repaired}."
    )
    for post in changed[:limit]:
        msg.divider(f"Post {post.index}: +{len(post.added)} -{len(post.repaired)}", char="-")
        msg.text(one_line(post.doc.text, 200), spaced=False)
        for sign, doc, errors in (
            ("added", post.doc, post.added),
            ("repaired", post.without, post.repaired),
        ):
            for error in errors:
                msg.text(f"{sign}: {describe(doc, error)}")


def describe(doc: "Doc", error: "AnyError") -> str:
    """RETURNS (str): An error in one line."""
    sides = [
        "nothing" if side is None else f"{one_line(_text(doc, side[:-1]))!r} {side[-1]}"
        for side in (error.gold, error.predicted)
    ]
    what = "entity" if type(error).__name__ == "EntityError" else "relation"
    return f"{error.kind} ({what}): gold {sides[0]}, predicted {sides[1]}"


def _text(doc: "Doc", offsets: Iterable[Any]) -> str:
    numbers = list(offsets)
    spans = [doc[start:end].text for start, end in zip(numbers[::2], numbers[1::2])]
    return " -> ".join(spans)


def one_line(text: str, length: int = 60) -> str:
    """RETURNS (str): Printable, and not too long."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= length else line[: length - 3] + "..."


def to_record(post: "PostChange") -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): A line of the file; offsets are those of characters and tokens of the
    predicted text.
    """
    from ..post.extensions import get_image_error, get_stored_image

    image = get_stored_image(post.doc)
    return {
        "post": post.index,
        "text": post.doc.text,
        "image": image if isinstance(image, str) else None,
        "image_error": get_image_error(post.doc),
        "added": len(post.added),
        "repaired": len(post.repaired),
        "gold": annotations(post.reference),
        "with_picture": {**annotations(post.doc), "errors": _to_json(post.doc, post.errors)},
        "without_picture": {
            **annotations(post.without),
            "errors": _to_json(post.without, post.errors_without),
        },
    }


def annotations(doc: "Doc") -> dict[str, Any]:
    """RETURNS (Dict[str, Any]): Entities and relations of a doc as plain values."""
    from ..post.extensions import get_confidence, get_region_weights
    from ..post.relations import relations_to_json

    try:
        relations = relations_to_json(doc)
    except ValueError:  # written past the setter; said by whoever compares them
        relations = []
    entities = [
        {
            "start": ent.start_char,
            "end": ent.end_char,
            "label": ent.label_,
            "text": ent.text,
            "confidence": get_confidence(ent),
            "region_weights": get_region_weights(ent),
        }
        for ent in doc.ents
    ]
    return {"entities": entities, "relations": relations}


def _to_json(doc: "Doc", errors: "list[AnyError]") -> list[dict[str, Any]]:
    return [
        {
            "what": "entity" if type(error).__name__ == "EntityError" else "relation",
            "kind": error.kind,
            "gold": error.gold,
            "predicted": error.predicted,
            "said": describe(doc, error),
        }
        for error in errors
    ]
