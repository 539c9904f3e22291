"""Turn tagged posts into the `.spacy` files that spacy-mmib.Corpus.v1 reads, and count what is in
them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab
from tagged_posts import Orphans, TaggedPost, repair_tags

from spacy_mmib.images.reading import ImageError
from spacy_mmib.post.extensions import set_image, set_image_error, set_regions

EMPTY_TOKEN = "\ufffd"
"""Stands for a token without characters, which spaCy can't have; dropping it would shift the
tags."""

Post = TypeVar("Post")

FindPicture = Callable[[TaggedPost], str | None]
"""The path of a post's picture, relative to the image root; `None` if no pictures are at hand;
raises `ImageError` if it is missing."""

FindCrops = Callable[[TaggedPost], tuple[list[str], int]]
"""Paths of the crops of a post, relative to the image root, and how many are missing."""


@dataclass
class SplitCounts:
    """What is in a split.

    posts (int): Posts.
    tokens (int): Tokens.
    entities (int): Entities after `repair_tags`.
    per_label (Dict[str, int]): Entities for each label.
    begin_with_i (int): Entities that begin with `I-` as published.
    empty_tokens (int): Tokens without characters, replaced by U+FFFD.
    empty_posts (int): Posts without tokens, left out.
    with_picture (int): Posts with a picture.
    missing_pictures (int): Posts whose picture isn't there.
    crops (int): Crops of objects.
    missing_crops (int): Crops that aren't there.
    """

    posts: int = 0
    tokens: int = 0
    entities: int = 0
    per_label: dict[str, int] = field(default_factory=dict)
    begin_with_i: int = 0
    empty_tokens: int = 0
    empty_posts: int = 0
    with_picture: int = 0
    missing_pictures: int = 0
    crops: int = 0
    missing_crops: int = 0


def no_picture(post: TaggedPost) -> str | None:
    """For a conversion without pictures."""
    return None


def no_crops(post: TaggedPost) -> tuple[list[str], int]:
    """For a conversion without crops."""
    return [], 0


def write_split(
    posts: Iterable[TaggedPost],
    path: Path,
    *,
    orphans: Orphans = "drop",
    find_picture: FindPicture = no_picture,
    find_crops: FindCrops = no_crops,
) -> SplitCounts:
    """Write a `.spacy` file.

    posts (Iterable[TaggedPost]): The posts.
    path (Path): Where to.
    orphans (str): See `Orphans`.
    find_picture (Callable): See `FindPicture`.
    find_crops (Callable): See `FindCrops`; asked only for posts with a picture.
    RETURNS (SplitCounts): What was written.
    """
    counts = SplitCounts()
    labels: Counter[str] = Counter()
    vocab = Vocab()
    docbin = DocBin(store_user_data=True)
    for post in posts:
        if not post.tokens:
            counts.empty_posts += 1
            continue
        tags, begin_with_i = repair_tags(post.tags, orphans)
        doc = make_doc(vocab, post.tokens, tags)
        _attach_pictures(doc, post, counts, find_picture, find_crops)
        labels.update(ent.label_ for ent in doc.ents)
        counts.posts += 1
        counts.tokens += len(doc)
        counts.begin_with_i += begin_with_i
        counts.empty_tokens += post.tokens.count("")
        docbin.add(doc)
    counts.per_label = dict(sorted(labels.items()))
    counts.entities = labels.total()
    save_docbin(docbin, path)
    return counts


def make_doc(vocab: Vocab, tokens: list[str], tags: list[str] | None = None) -> Doc:
    """Make a doc of just these tokens, a space after each.

    vocab (Vocab): The vocabulary.
    tokens (List[str]): The tokens; one without characters becomes `EMPTY_TOKEN`.
    tags (Optional[List[str]]): BIO tags of the entities.
    RETURNS (Doc): The doc.
    """
    # Spaces are not known. Said so, spaCy trains and evaluates on these very tokens, those
    # published scores are counted on, rather than on its own tokenization of the joined text.
    return Doc(vocab, words=[token or EMPTY_TOKEN for token in tokens], ents=tags)


def save_docbin(docbin: DocBin, path: Path) -> None:
    """Write a `.spacy` file, and the folder it is in if need be.

    docbin (DocBin): What to write, made with `store_user_data=True`.
    path (Path): Where to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    docbin.to_disk(path)


def attach_picture(doc: Doc, find: Callable[[Post], str | None], post: Post) -> bool | None:
    """Attach the picture of a post, or say on the doc why there is none.

    doc (Doc): The doc.
    find (Callable): Finds the path, see `FindPicture`.
    post (Any): What it is found by.
    RETURNS (Optional[bool]): Whether the picture is there; `None` if no pictures are at hand.
    """
    try:
        picture = find(post)
    except ImageError as err:
        set_image_error(doc, str(err))
        return False
    if picture is None:
        return None
    set_image(doc, picture)
    return True


def _attach_pictures(
    doc: Doc,
    post: TaggedPost,
    counts: SplitCounts,
    find_picture: FindPicture,
    find_crops: FindCrops,
) -> None:
    found = attach_picture(doc, find_picture, post)
    if not found:
        counts.missing_pictures += found is False
        return
    crops, missing_crops = find_crops(post)
    set_regions(doc, crops or None)
    counts.with_picture += 1
    counts.crops += len(crops)
    counts.missing_crops += missing_crops


def write_meta(
    output: Path,
    *,
    source: str,
    orphans: Orphans,
    regions: str,
    image_root: Path | None,
    splits: dict[str, SplitCounts],
) -> None:
    """Write `meta.json` beside the corpus, and print what is in it.

    output (Path): The folder of the corpus.
    source (str): Where the data comes from.
    orphans (str): See `Orphans`.
    regions (str): Which objects the posts have: "none", "umgf" or "hvpnet".
    image_root (Optional[Path]): What paths of pictures are relative to.
    splits (Dict[str, SplitCounts]): What is in each split.
    """
    meta: dict[str, Any] = {
        "source": source,
        "orphans": orphans,
        "regions": regions,
        "image_root": None if image_root is None else str(image_root),
        "splits": {name: asdict(counts) for name, counts in splits.items()},
    }
    save_meta(output, meta)
    for name, counts in splits.items():
        _print_split(name, counts, orphans)
    print_written(output, image_root)


def save_meta(output: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json`.

    output (Path): The folder of the corpus.
    meta (Dict[str, Any]): What is to be known about it.
    """
    (output / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf8")


def print_written(output: Path, image_root: Path | None) -> None:
    """Print where the corpus is, and what its reader has to be told.

    output (Path): The folder of the corpus.
    image_root (Optional[Path]): What paths of pictures are relative to.
    """
    print(f"Written to {output}; counts in meta.json.")
    if image_root is None:
        print("Text only: pass --images to convert with pictures.")
    else:
        print(f"Paths of pictures are relative to this folder, the reader's image_root: {image_root}")


def _print_split(name: str, counts: SplitCounts, orphans: Orphans) -> None:
    labels = ", ".join(f"{label} {number}" for label, number in counts.per_label.items())
    print(f"{name}: {counts.posts} posts, {counts.entities} entities ({labels})")
    if counts.begin_with_i:
        done = "counted as entities" if orphans == "begin" else "not counted, their tokens are O"
        print(f"  {counts.begin_with_i} entities begin with I- instead of B-: {done}")
    for number, what in (
        (counts.empty_tokens, "tokens without characters, replaced by U+FFFD"),
        (counts.empty_posts, "posts without tokens, left out"),
    ):
        if number:
            print(f"  {number} {what}")
    if counts.with_picture or counts.missing_pictures:
        print(
            f"  {counts.with_picture} posts with a picture, {counts.missing_pictures} pictures "
            f"missing; {counts.crops} crops of objects, {counts.missing_crops} missing"
        )
