"""Convert a dataset as published into the corpus that spacy-mmib.Corpus.v1 reads: train.spacy, dev.spacy,
test.spacy, meta.json. `python -m project.convert twitter17 --data FOLDER`.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from spacy.tokens import Doc, DocBin

from project import pictures
from project.facts import NEGATIVE, PUBLISHED, SOURCE_KEY, SPLITS, find_dataset
from project.gmner import add_boxes
from project.mnre import find_mnre_text, read_mnre_split
from project.tagged import (
    FormatError,
    Split,
    find_twitter_text,
    read_json_lines,
    read_tagged,
    read_twitter_text,
)
from project.wikidiverse import find_wikidiverse_text, read_wikidiverse
from spacy_mmib.images.errors import ImageError
from spacy_mmib.images.files import resolve_inside
from spacy_mmib.post.extensions import (
    get_regions,
    get_stored_image,
    set_image,
    set_image_error,
    set_regions,
    set_regions_note,
)
from spacy_mmib.regions.crops import LEAKING_MNRE_NOTE, LayoutError, hvpnet_crops_folder, load_dictionary
from spacy_mmib.util import logger

FORMATS = ("twitter", "gmner", "mnre", "wikidiverse", "jsonl")
Counts: TypeAlias = dict[str, Any]
"""What is in a split, as meta.json has it: numbers, and "per_label" numbers for each label."""

COUNTED = {
    "begin_with_i": "entities begin with I- instead of B- (see --orphans)",
    "overlapping": "instances whose head and tail overlap",
    "repeated": "instances with the head and tail of an earlier one of the post",
    "not_entities": "heads and tails that are no entities, as they overlap with one",
    "other_names": "heads and tails whose name is not what their tokens say",
    "empty_tokens": "tokens without characters, replaced by U+FFFD",
    "empty_posts": "posts without tokens, left out",
    "visible": "entities with a box in the picture",
    "boxes": "boxes of entities",
    "unmatched_boxes": "boxes with a name that is no entity's text, left out",
    "bad_boxes": "boxes that are none, whose entities are left without annotation",
    "bad_annotations": "posts whose file of boxes can't be read, left without annotation",
    "linked": "entities with a link",
    "moved": "mentions that are not at their place, moved to the nearest one with their text",
    "lost": "mentions whose text is nowhere in the post, left out",
    "overlapping_mentions": "mentions that overlap with a longer one, left out",
    "with_picture": "with a picture",
    "missing_pictures": "whose picture is missing",
    "crops": "crops of objects",
    "missing_crops": "crops missing",
    "refused_crops": "crops outside their folder, left out",
}
"""What is printed if there is any."""


def main(
    dataset: Annotated[str, typer.Argument(help=f"{', '.join(PUBLISHED)}, mnre-leaking, or any name")],
    data: pictures.Data = "",
    output: Annotated[str, typer.Option(help="Folder for the corpus [project/data/...]")] = "",
    data_format: Annotated[
        str, typer.Option("--format", help=f"{', '.join(FORMATS)}, if the name doesn't say it")
    ] = "",
    images: pictures.Images = "",
    crops: pictures.Crops = "",
    crops_layout: pictures.Layout = "auto",
    dicts: pictures.Dicts = "",
    max_crops: Annotated[int, typer.Option(min=0, help="Keep so many crops, from the first; 0: all")] = 0,
    orphans: pictures.OrphanTags = "drop",
    tag_column: pictures.TagColumn = 0,
    group: Annotated[
        bool | None,
        typer.Option("--group/--no-group", help="MNRE: a doc for each post, or for each instance"),
    ] = None,
    leaking_crops: Annotated[
        str,
        typer.Option(
            help="Folder of HVPNeT's crops of MNRE (img_vg), which LEAK THE LABEL: to compare with "
            "systems that use them, never for results of your own. Implies --no-group"
        ),
    ] = "",
) -> None:
    """Convert a dataset. Regions are never chosen with knowledge of a label, unless --leaking-crops."""
    known = find_dataset(dataset)
    data_format = data_format or (PUBLISHED[known]["format"] if known else "")
    folders = pictures.find_folders(dataset, data, images, crops, dicts)
    corpus = Path(output) if output else Path("project/data") / dataset
    try:
        if data_format not in FORMATS:
            raise FormatError(f"The format of {dataset!r} is not known: pass --format, {', '.join(FORMATS)}.")
        if data_format == "jsonl":
            convert_jsonl(folders.data, corpus, orphans=orphans)
        elif data_format == "wikidiverse":
            convert_wikidiverse(folders.data, corpus, images=folders.images)
        elif data_format == "mnre":
            convert_mnre(
                folders.data, corpus, images=folders.images, group=group, dicts=folders.dicts,
                leaking_crops=Path(leaking_crops) if leaking_crops else None, max_crops=max_crops,
            )  # fmt: skip
        else:
            convert_twitter(
                folders.data, corpus, images=folders.images, crops_layout=crops_layout,
                # Of no use without the pictures, as check has said.
                crops=None if folders.images is None else folders.crops,
                dicts=folders.dicts, max_crops=max_crops, orphans=orphans, tag_column=tag_column,
                boxes=data_format == "gmner",
            )  # fmt: skip
    except (FormatError, LayoutError, OSError) as err:
        print(f"Not converted. {err}", file=sys.stderr)
        if known and not folders.data.is_dir():
            print(pictures.explain_texts(known, folders.data), file=sys.stderr)
        raise typer.Exit(1) from None


def convert_twitter(
    data: Path,
    output: Path,
    *,
    images: Path | None = None,
    crops: Path | None = None,
    crops_layout: str = "auto",
    dicts: Path | None = None,
    max_crops: int = 0,
    orphans: str = "drop",
    tag_column: int = 0,
    boxes: bool = False,
) -> dict[str, Counts]:
    """Convert Twitter-2015, Twitter-2017, or anything in their format.

    crops_layout (str): "umgf", "hvpnet", "none" (the crops are not used), or "auto": guessed.
    dicts (Optional[Path]): The folder of HVPNeT's dictionaries; `data` if `None`.
    max_crops (int): Keep so many crops of a post, 0 all. HVPNeT uses the first 3.
    boxes (bool): Annotate the entities with GMNER's boxes, as gold (`ent._.boxes`). They are never regions,
        which would tell which entities can be seen.
    RAISES (FormatError, LayoutError): Something is not as published.
    """
    if crops_layout not in pictures.LAYOUTS:
        raise LayoutError(f"crops_layout is {crops_layout!r}; choose auto, umgf, hvpnet or none.")
    # Absolute as the image root is.
    crops = None if crops is None or crops_layout == "none" else crops.absolute()
    splits = {
        split: read_tagged(read_twitter_text(find_twitter_text(data, split), tag_column), orphans)
        for split in SPLITS
    }
    if boxes:
        add_boxes(data, splits)
    if crops is not None and images is None:
        raise LayoutError("Crops are of no use without the pictures: pass --images too.")
    for folder in filter(None, (images, crops)):
        pictures.check_folder(folder)
    root = pictures.common_root([images, crops])
    if crops is not None and crops_layout == "auto":
        crops_layout = pictures.guess_layout(crops, splits["train"].pictures)
    attach = None
    if crops is not None:
        name = data.resolve().name
        find = {s: pictures.find_crops(crops, crops_layout, dicts or data, name, s, root) for s in SPLITS}

        def attach(doc: Doc, picture: str, split: str) -> Counts:
            if get_stored_image(doc) is None:  # crops are of no use without their picture
                return {}
            there, missing = find[split](picture)
            set_regions(doc, there[: max_crops or None] or None)
            return {"crops": len(get_regions(doc)), "missing_crops": missing}

    regions = "none" if crops is None else crops_layout
    return _write(splits, output, data, images, root, regions, attach, orphans=orphans)


def convert_jsonl(data: Path, output: Path, *, orphans: str = "drop") -> dict[str, Counts]:
    """Convert JSON lines of tagged posts: `texts/<split>/*.json` with lines {"tokens": [...], "label": [BIO
    tags], "image_id": file name}, and `images/<split>/<image_id>`, for the splits that are there.

    RAISES (FormatError): Something is not in the format.
    """
    root = (data / "images").resolve()
    splits = {}
    for split in SPLITS:
        folder = data / "texts" / split
        files = sorted(folder.glob("*.json*"))
        if files:
            splits[split] = read_tagged((post for file in files for post in read_json_lines(file)), orphans)
        elif folder.is_dir() or not (data / "texts").is_dir():
            raise FormatError(f"There is no file {folder / '*.json'}.")
    if not splits:
        raise FormatError(f"There is no folder {data / 'texts' / 'train'}, nor dev, nor test.")
    return _write(splits, output, data, root, root, "none", by_split=True, orphans=orphans)


def convert_wikidiverse(data: Path, output: Path, *, images: Path | None = None) -> dict[str, Counts]:
    """Convert WikiDiverse.

    images (Optional[Path]): The folder of the pictures, from the published archive or `project.commons`.
    RAISES (FormatError, LayoutError): Something is not as published.
    """
    splits = {split: read_wikidiverse(find_wikidiverse_text(data, split)) for split in SPLITS}
    if images is not None:
        pictures.check_folder(images)
    return _write(splits, output, data, images, pictures.common_root([images]), "none")


def convert_mnre(
    data: Path,
    output: Path,
    *,
    images: Path | None = None,
    group: bool | None = None,
    leaking_crops: Path | None = None,
    dicts: Path | None = None,
    max_crops: int = 0,
) -> dict[str, Counts]:
    """Convert MNRE.

    images (Optional[Path]): The folder of the pictures; `img_org` in `data` if `None`, if it is there.
    group (Optional[bool]): One doc for each post (text and picture) rather than for each instance.
        `None` means yes, except with crops, which belong to single instances.
    leaking_crops (Optional[Path]): The folder of HVPNeT's crops, which leak the label. It need not be there:
        then the docs state which crops there should be. Without pictures it is the image root.
    dicts (Optional[Path]): The folder of their dictionaries; `txt` in `data` if `None`, or `data`.
    max_crops (int): Keep so many crops of an instance, 0 all. HVPNeT uses the first 3.
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
    splits = {split: read_mnre_split(find_mnre_text(data, split), split, grouped=grouped) for split in SPLITS}
    if images is None and (data / "img_org").is_dir():
        images = data / "img_org"
    if images is not None:
        pictures.check_folder(images)
    root = pictures.common_root([images, leaking_crops])
    attach = None
    if leaking_crops is not None:
        dicts = dicts or (data / "txt" if (data / "txt").is_dir() else data)
        paths = {split: pictures.find_dictionary(dicts, "mre", split) for split in SPLITS}
        dictionaries = {split: load_dictionary(path, by_row=True) for split, path in paths.items()}
        logger.warning("[spacy-mmib] Regions are %s.", LEAKING_MNRE_NOTE)

        def attach(doc: Doc, picture: str, split: str) -> Counts:
            folder, row = hvpnet_crops_folder(leaking_crops, split), doc.user_data[SOURCE_KEY]["rows"][0]
            refused = attach_leaking_crops(dictionaries[split], folder, root, max_crops, doc, row)
            missing = sum(not (root / crop).exists() for crop in get_regions(doc))
            return {"refused_crops": refused, "crops": len(get_regions(doc)), "missing_crops": missing}

    regions = {
        "protocol": "none" if leaking_crops is None else "leaking_mnre_crops",
        "note": None if leaking_crops is None else LEAKING_MNRE_NOTE,
        "max_crops": None if leaking_crops is None else max_crops,
    }
    docs_are = "posts" if grouped else "instances"
    return _write(splits, output, data, images, root, regions, attach, by_split=True, docs_are=docs_are)


def attach_leaking_crops(
    names: dict[Any, list[str]], folder: Path, root: Path, max_crops: int, doc: Doc, row: int
) -> int:
    """Attach the crops that HVPNeT published for a row of MNRE. A row with the relation "None" has 2 of them
    (rarely 1), a related one up to 4, in the test split too: a model that sees them sees the answer.

    They are attached whether or not their files exist: what is stated can be audited without them, and
    spacy-mmib.Corpus.v1 leaves out and counts missing ones.

    names (Dict[int, List[str]]): File names of crops by row. None may lead out of the folder.
    RETURNS (int): How many names were left out, as they lead out of it.
    """
    wanted = names.get(row, ())[: max_crops or None]
    stated = []
    for name in wanted:
        try:
            # Inside both: the folder may be a link.
            path = resolve_inside(root, resolve_inside(folder, name))
        except ImageError:
            continue
        stated.append(path.relative_to(root.resolve()).as_posix())
    set_regions(doc, stated)
    set_regions_note(doc, LEAKING_MNRE_NOTE)
    return len(wanted) - len(stated)


def _write(
    splits: Mapping[str, Split],
    output: Path,
    data: Path,
    images: Path | None,
    root: Path | None,
    regions: Any,
    attach: Callable[[Doc, str, str], Counts] | None = None,
    *,
    by_split: bool = False,
    **more: str,
) -> dict[str, Counts]:
    """Write the splits, with the picture of each doc, or why there is none, if there are any; `meta.json`
    beside them; and print what is in it.

    attach (Optional[Callable]): Attaches and counts the crops of a doc, by its picture's name and the split.
    by_split (bool): Look for pictures in a folder of the split first.
    """
    written = {}
    output.mkdir(parents=True, exist_ok=True)
    for split, found in splits.items():
        counts = found.counts
        for doc, name in zip(found.docs, found.pictures):
            if images is not None:
                try:
                    set_image(doc, pictures.find_picture(images, name, root, split if by_split else None))
                    counts["with_picture"] += 1
                except ImageError as err:
                    set_image_error(doc, str(err))
                    counts["missing_pictures"] += 1
            if attach is not None:
                counts.update(attach(doc, name, split))
        DocBin(docs=found.docs, store_user_data=True).to_disk(output / f"{split}.spacy")
        written[split] = {**counts, "per_label": dict(sorted(found.labels.items()))}
    meta = {"source": data.resolve().name, **more, "regions": regions}
    meta |= {"image_root": None if root is None else str(root), "splits": written}
    (output / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf8")
    for split, counts in written.items():
        if "instances" in counts:
            negative = counts["per_label"].get(NEGATIVE, 0)
            print(
                f"{split}: {counts['instances']} instances of {counts['posts']} posts in {counts['docs']} "
                f"docs, {counts['labels']} labels; {counts['instances'] - negative} related, "
                f"{negative} {NEGATIVE}"
            )
        else:
            labels = ", ".join(f"{label} {number}" for label, number in counts["per_label"].items())
            print(f"{split}: {counts['posts']} posts, {counts['entities']} entities ({labels})")
        for name, what in COUNTED.items():
            if counts.get(name):
                print(f"  {counts[name]} {what}")
    if isinstance(regions, dict) and regions["note"]:
        print(f"Crops are {regions['note']}.")
    print(f"Written to {output}; counts in meta.json.")
    if root is None:
        print("Text only: pass --images to convert with pictures.")
    else:
        print(f"Paths of pictures are relative to this folder, the reader's image_root: {root}")
    return written


if __name__ == "__main__":
    typer.run(main)
