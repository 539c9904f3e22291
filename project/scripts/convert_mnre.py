"""Convert MNRE (text files, and pictures where a user has them) into the corpus that
spacy-mmib.Corpus.v1 reads: train.spacy, dev.spacy, test.spacy, meta.json.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from corpus_writer import attach_picture, print_written, save_docbin, save_meta
from mnre_docs import to_doc
from mnre_rows import FILES, MnreFile, find_mnre_text, group_rows, read_mnre
from picture_files import (
    LayoutError,
    common_root,
    find_dictionary,
    find_picture_of_split,
    hvpnet_crops_folder,
    load_dictionary,
)
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab
from tagged_posts import FormatError

from spacy_mmib.post.extensions import get_regions
from spacy_mmib.regions.crops import LEAKING_MNRE_NOTE, AttachCrops, leaking_mnre_crops

NEGATIVE = "None"
"""MNRE's label of a pair without a relation."""


@dataclass
class MnreCounts:
    """What is in a split.

    instances (int): Instances, each a relation of a doc.
    posts (int): Different pairs of text and picture.
    docs (int): Docs; as many as posts, or as instances.
    tokens (int): Tokens of the docs.
    entities (int): Entities of the docs.
    not_entities (int): Heads and tails that are no entities, as they overlap with one.
    labels (int): Different labels, "None" included.
    per_label (Dict[str, int]): Instances for each label.
    overlapping (int): Instances whose head and tail overlap.
    repeated (int): Instances whose post, head and tail are those of an earlier one.
    other_names (int): Heads and tails whose "name" is not what their tokens say.
    empty_tokens (int): Tokens without characters, replaced by U+FFFD.
    with_picture (int): Docs with a picture.
    missing_pictures (int): Docs whose picture isn't there.
    crops (int): Crops of objects that the docs state.
    missing_crops (int): Those of them that aren't there.
    refused_crops (int): Names of crops that lead out of their folder, left out.
    """

    instances: int = 0
    posts: int = 0
    docs: int = 0
    tokens: int = 0
    entities: int = 0
    not_entities: int = 0
    labels: int = 0
    per_label: dict[str, int] = field(default_factory=dict)
    overlapping: int = 0
    repeated: int = 0
    other_names: int = 0
    empty_tokens: int = 0
    with_picture: int = 0
    missing_pictures: int = 0
    crops: int = 0
    missing_crops: int = 0
    refused_crops: int = 0


def main(
    data: Annotated[
        Path,
        typer.Argument(help="Folder with mnre_{train,val,test}.txt, or HVPNeT's with txt, img_org"),
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the corpus")],
    images: Annotated[
        str,
        typer.Option(help="Folder of the pictures, in one or in train, val, test (default: <data>/img_org)"),
    ] = "",
    group: Annotated[
        bool | None,
        typer.Option(
            "--group/--no-group", help="One doc for each post, or for each instance (default: post)"
        ),
    ] = None,
    leaking_crops: Annotated[
        str,
        typer.Option(
            help="Folder of HVPNeT's crops (img_vg), which LEAK THE LABEL: to compare with "
            "systems that use them, never for results of your own. Implies --no-group"
        ),
    ] = "",
    dicts: Annotated[
        str,
        typer.Option(help="Folder of the dictionaries of these crops (default: <data>/txt, or <data>)"),
    ] = "",
    max_crops: Annotated[
        int, typer.Option(min=0, help="Keep so many crops of an instance, from the first; 0: all")
    ] = 0,
) -> None:
    """Convert MNRE. Regions are never chosen with knowledge of a label, unless --leaking-crops."""
    try:
        convert(
            data,
            output,
            # An unset variable of a project arrives as an empty string: none.
            images=Path(images) if images else None,
            group=group,
            leaking_crops=Path(leaking_crops) if leaking_crops else None,
            dicts=Path(dicts) if dicts else None,
            max_crops=max_crops,
        )
    except (FormatError, LayoutError, OSError) as err:
        print(f"Not converted. {err}", file=sys.stderr)
        raise typer.Exit(1) from None


def convert(
    data: Path,
    output: Path,
    *,
    images: Path | None = None,
    group: bool | None = None,
    leaking_crops: Path | None = None,
    dicts: Path | None = None,
    max_crops: int = 0,
) -> dict[str, MnreCounts]:
    """Convert the dataset.

    data (Path): The folder with its text files.
    output (Path): The folder for the corpus.
    images (Optional[Path]): The folder of the pictures; `img_org` in `data` if `None`, and text
        only if that isn't there.
    group (Optional[bool]): One doc for each post (text and picture) rather than for each instance.
        `None` means yes, except with crops, which belong to single instances.
    leaking_crops (Optional[Path]): The folder of HVPNeT's crops, which leak the label: see
        `leaking_mnre_crops`. It need not be there: then the docs state which crops there should
        be. Without pictures it is the image root.
    dicts (Optional[Path]): The folder of the dictionaries of these crops; `txt` in `data` if
        `None`, or `data`.
    max_crops (int): Keep so many crops of an instance, 0 all. HVPNeT uses the first 3.
    RETURNS (Dict[str, MnreCounts]): What is in each split.
    RAISES (FormatError, LayoutError): Something is not as published.
    """
    if leaking_crops is None and dicts is not None:
        raise LayoutError(
            "The dictionaries name MNRE's published crops, which leak the label, and are read with "
            "--leaking-crops only: pass it too, or leave --dicts out."
        )
    if leaking_crops is not None and group:
        raise LayoutError(
            "The published crops belong to single instances: --leaking-crops can't go with --group."
        )
    grouped = leaking_crops is None if group is None else group
    files = {split: read_mnre(find_mnre_text(data, split)) for split in FILES}
    if images is None and (data / "img_org").is_dir():
        images = data / "img_org"
    if images is not None and not images.is_dir():
        raise LayoutError(f"There is no folder {images}.")
    folders = [folder for folder in (images, leaking_crops) if folder is not None]
    root = common_root(folders) if folders else None
    attach_crops = None
    if leaking_crops is not None and root is not None:
        attach_crops = _crops(leaking_crops, dicts or _dicts_folder(data), root, max_crops)
    counts = {
        split: _write_split(
            file,
            output / f"{split}.spacy",
            split,
            grouped=grouped,
            find_picture=_picture_finder(images, root, split),
            attach_crops=attach_crops,
            root=root,
        )
        for split, file in files.items()
    }
    meta: dict[str, Any] = {
        "source": data.resolve().name,
        "docs_are": "posts" if grouped else "instances",
        "regions": {
            "protocol": "none" if attach_crops is None else "leaking_mnre_crops",
            "note": None if attach_crops is None else LEAKING_MNRE_NOTE,
            "max_crops": None if attach_crops is None else max_crops,
        },
        "image_root": None if root is None else str(root),
        "splits": {split: asdict(found) for split, found in counts.items()},
    }
    save_meta(output, meta)
    for split, found in counts.items():
        _print_split(split, found)
    print_written(output, root)
    return counts


def _dicts_folder(data: Path) -> Path:
    return data / "txt" if (data / "txt").is_dir() else data


def _picture_finder(images: Path | None, root: Path | None, split: str) -> Callable[[str], str | None]:
    if images is None or root is None:
        return lambda name: None
    folder, top = images, root
    return lambda name: find_picture_of_split(folder, name, top, split)


def _crops(crops: Path, dicts: Path, root: Path, max_crops: int) -> AttachCrops:
    dictionaries = {split: load_dictionary(find_dictionary(dicts, "mre", split)) for split in FILES}
    folders = {split: hvpnet_crops_folder(crops, split) for split in FILES}
    try:
        return leaking_mnre_crops(dictionaries, folders, root, max_crops=max_crops)
    except ValueError as err:
        raise LayoutError(f"{dicts}: {err}") from None


def _write_split(
    file: MnreFile,
    path: Path,
    split: str,
    *,
    grouped: bool,
    find_picture: Callable[[str], str | None],
    attach_crops: AttachCrops | None,
    root: Path | None,
) -> MnreCounts:
    rows = file.rows
    posts = group_rows(rows)
    counts = MnreCounts(instances=len(rows), posts=len(posts), other_names=file.other_names)
    labels = Counter(row.relation for row in rows)
    counts.labels, counts.per_label = len(labels), dict(sorted(labels.items()))
    counts.overlapping = sum(row.overlaps for row in rows)
    counts.repeated = len(rows) - len({(*row.post, row.head, row.tail) for row in rows})
    vocab = Vocab()
    docbin = DocBin(store_user_data=True)
    for numbers in posts if grouped else [[number] for number in range(len(rows))]:
        first = rows[numbers[0]]
        doc, not_entities = to_doc(vocab, [rows[number] for number in numbers], numbers, split)
        counts.docs += 1
        counts.tokens += len(doc)
        counts.entities += len(doc.ents)
        counts.not_entities += not_entities
        counts.empty_tokens += first.tokens.count("")
        found = attach_picture(doc, find_picture, first.image)
        counts.with_picture += found is True
        counts.missing_pictures += found is False
        if attach_crops is not None and root is not None:
            counts.refused_crops += attach_crops(doc, split, numbers[0])
            counts.crops += len(get_regions(doc))
            counts.missing_crops += _missing(doc, root)
        docbin.add(doc)
    save_docbin(docbin, path)
    return counts


def _missing(doc: Doc, root: Path) -> int:
    return sum(not (root / path).exists() for path in get_regions(doc))


def _print_split(split: str, counts: MnreCounts) -> None:
    related = counts.instances - counts.per_label.get(NEGATIVE, 0)
    print(
        f"{split}: {counts.instances} instances of {counts.posts} posts in {counts.docs} docs, "
        f"{counts.labels} labels; {related} related, {counts.instances - related} {NEGATIVE}"
    )
    for number, what in (
        (counts.overlapping, "instances whose head and tail overlap"),
        (counts.repeated, "instances with the head and tail of an earlier one of the post"),
        (counts.not_entities, "heads and tails that are no entities, as they overlap with one"),
        (counts.other_names, "heads and tails whose name is not what their tokens say"),
        (counts.empty_tokens, "tokens without characters, replaced by U+FFFD"),
    ):
        if number:
            print(f"  {number} {what}")
    if counts.with_picture or counts.missing_pictures:
        print(f"  {counts.with_picture} docs with a picture, {counts.missing_pictures} missing")
    if counts.crops or counts.refused_crops:
        print(
            f"  {counts.crops} crops that LEAK THE LABEL, {counts.missing_crops} of them missing; "
            f"{counts.refused_crops} outside their folder, left out"
        )


if __name__ == "__main__":
    typer.run(main)
