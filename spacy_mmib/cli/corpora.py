"""What commands share that read annotated posts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .app import fail

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.training import Example

    from ..training.corpus import MultimodalCorpus

CorpusArg: TypeAlias = Annotated[
    Path,
    typer.Argument(
        help="A .spacy file made with DocBin(store_user_data=True), or a folder of them",
        metavar="CORPUS",
    ),
]


def make_reader(corpus: Path, image_root: str | None, limit: int = 0) -> "MultimodalCorpus":
    """Make the reader of a corpus, or end the command with a message for people.

    corpus (Path): A `.spacy` file, or a folder of them.
    image_root (Optional[str]): See `MultimodalCorpus`.
    limit (int): Read the first so many posts only; 0 for all.
    RETURNS (MultimodalCorpus): The reader.
    RAISES (typer.Exit): It can't be made.
    """
    from ..training.corpus import MultimodalCorpus

    try:
        return MultimodalCorpus(corpus, image_root=image_root, limit=limit)
    except ValueError as err:
        fail(str(err))


def read_examples(reader: "MultimodalCorpus", nlp: "Language") -> "list[Example]":
    """Read the posts, or end the command with a message for people.

    reader (MultimodalCorpus): The reader.
    nlp (Language): The pipeline to read for.
    RETURNS (List[Example]): At least one.
    RAISES (typer.Exit): The corpus can't be read, or has no posts.
    """
    try:
        examples = list(reader(nlp))
    except ValueError as err:
        fail(str(err))
    if not examples:
        fail(f"There are no posts in {reader.path}.")
    return examples
