"""Convert a dataset as published into the corpus that spacy-mmib.Corpus.v1 reads: train.spacy, dev.spacy,
test.spacy, meta.json. `python -m project.convert twitter17 --data FOLDER`.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from project import pictures
from project.facts import NEGATIVE, SPLIT_NAMES, SPLITS, find_dataset
from project.mnre import MnreFile, find_mnre_text, group_rows, make_doc, read_mnre, to_doc
from project.tagged import (
    FormatError,
    TaggedPost,
    check_orphans,
    find_split_file,
    read_json_lines,
    read_twitter_text,
    repair_tags,
)
from spacy_mmib.images.files import resolve_inside
from spacy_mmib.images.reading import ImageError
from spacy_mmib.post.extensions import (
    get_regions,
    set_image,
    set_image_error,
    set_regions,
    set_regions_note,
)
from spacy_mmib.regions.crops import LEAKING_MNRE_NOTE, LayoutError, hvpnet_crops_folder, load_dictionary
from spacy_mmib.util import logger

FORMATS = ("twitter", "mnre", "jsonl")
Counts: TypeAlias = dict[str, Any]
"""What is in a split, as meta.json has it: numbers, and "per_label" numbers for each label."""

COUNTED = {
    "overlapping": "instances whose head and tail overlap",
    "repeated": "instances with the head and tail of an earlier one of the post",
    "not_entities": "heads and tails that are no entities, as they overlap with one",
    "other_names": "heads and tails whose name is not what their tokens say",
    "empty_tokens": "tokens without characters, replaced by U+FFFD",
    "empty_posts": "posts without tokens, left out",
}
"""What is printed if there is any."""


def main(
    dataset: Annotated[str, typer.Argument(help="twitter15, twitter17, mnre, mnre-leaking, or any name")],
    data: pictures.Data = "",
    output: Annotated[str, typer.Option(help="Folder for the corpus [project/data/...]")] = "",
    data_format: Annotated[
        str, typer.Option("--format", help="twitter, mnre or jsonl, if the name doesn't say it")
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
    data_format = data_format or {None: "", "mnre": "mnre"}.get(known, "twitter")
    folders = pictures.find_folders(dataset, data, images, crops, dicts)
    corpus = Path(output) if output else Path("project/data") / dataset
    try:
        if data_format not in FORMATS:
            raise FormatError(f"The format of {dataset!r} is not known: pass --format, {', '.join(FORMATS)}.")
        if data_format == "jsonl":
            convert_jsonl(folders.data, corpus, orphans=orphans)
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
) -> dict[str, Counts]:
    """Convert Twitter-2015, Twitter-2017, or anything in their format.

    crops_layout (str): "umgf", "hvpnet", "none" (the crops are not used), or "auto": guessed.
    dicts (Optional[Path]): The folder of HVPNeT's dictionaries; `data` if `None`.
    max_crops (int): Keep so many crops of a post, 0 all. HVPNeT uses the first 3.
    RAISES (FormatError, LayoutError): Something is not as published.
    """
    check_orphans(orphans)
    if crops_layout not in pictures.LAYOUTS:
        raise LayoutError(f"crops_layout is {crops_layout!r}; choose auto, umgf, hvpnet or none.")
    # Absolute as the image root is.
    crops = None if crops is None or crops_layout == "none" else crops.absolute()
    posts = {split: list(read_twitter_text(find_twitter_text(data, split), tag_column)) for split in SPLITS}
    root = None
    if images is not None:
        folders = [images] if crops is None else [images, crops]
        for folder in folders:
            if not folder.is_dir():
                raise LayoutError(f"There is no folder {folder}.")
        root = pictures.common_root(folders)
        if crops is not None and crops_layout == "auto":
            crops_layout = pictures.guess_layout(crops, [post.id for post in posts["train"]])
    elif crops is not None:
        raise LayoutError("Crops are of no use without the pictures: pass --images too.")
    counts = {}
    for split, split_posts in posts.items():
        look, find = None, None
        if images is not None and root is not None:
            look = partial(pictures.find_picture, images, root=root)
            if crops is not None:
                find = pictures.find_crops(
                    crops, crops_layout, dicts or data, data.resolve().name, split, root
                )
        path = output / f"{split}.spacy"
        counts[split] = _write_tagged(split_posts, path, orphans, look, find, max_crops, suffix=".jpg")
    _finish(output, data, "none" if crops is None else crops_layout, root, counts, orphans=orphans)
    return counts


def find_twitter_text(data: Path, split: str) -> Path:
    """RETURNS (Path): The text file of a split. Raises `FormatError` if there is none, or more than one."""
    found = find_split_file([data], SPLIT_NAMES[split])
    if found is None:
        raise FormatError(
            f"There is no file {data / f'{SPLIT_NAMES[split][0]}.txt'}. The data folder holds train, valid "
            "and test.txt."
        )
    return found


def convert_jsonl(data: Path, output: Path, *, orphans: str = "drop") -> dict[str, Counts]:
    """Convert JSON lines of tagged posts: `texts/<split>/*.json` with lines {"tokens": [...], "label": [BIO
    tags], "image_id": file name}, and `images/<split>/<image_id>`, for the splits that are there.

    RAISES (FormatError): Something is not in the format.
    """
    check_orphans(orphans)
    root = (data / "images").resolve()
    posts = {}
    for split in SPLITS:
        folder = data / "texts" / split
        files = sorted(folder.glob("*.json*"))
        if files:
            posts[split] = [post for file in files for post in read_json_lines(file)]
        elif folder.is_dir() or not (data / "texts").is_dir():
            raise FormatError(f"There is no file {folder / '*.json'}.")
    if not posts:
        raise FormatError(f"There is no folder {data / 'texts' / 'train'}, nor dev, nor test.")
    counts = {}
    for split, found in posts.items():
        look = partial(pictures.find_picture, root / split, root=root)
        counts[split] = _write_tagged(found, output / f"{split}.spacy", orphans, look)
    _finish(output, data, "none", root, counts, orphans=orphans)
    return counts


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

    images (Optional[Path]): The folder of the pictures; `img_org` in `data` if `None`, and text
        only if that isn't there.
    group (Optional[bool]): One doc for each post (text and picture) rather than for each instance.
        `None` means yes, except with crops, which belong to single instances.
    leaking_crops (Optional[Path]): The folder of HVPNeT's crops, which leak the label. It need not be
        there: then the docs state which crops there should be. Without pictures it is the image root.
    dicts (Optional[Path]): The folder of the dictionaries of these crops; `txt` in `data` if
        `None`, or `data`.
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
    files = {split: read_mnre(find_mnre_text(data, split)) for split in SPLITS}
    if images is None and (data / "img_org").is_dir():
        images = data / "img_org"
    if images is not None and not images.is_dir():
        raise LayoutError(f"There is no folder {images}.")
    folders = [folder for folder in (images, leaking_crops) if folder is not None]
    root = pictures.common_root(folders) if folders else None
    names: dict[str, dict[Any, list[str]]] = {}
    if leaking_crops is not None:
        dicts = dicts or (data / "txt" if (data / "txt").is_dir() else data)
        paths = {split: pictures.find_dictionary(dicts, "mre", split) for split in SPLITS}
        names = {split: load_dictionary(path, by_row=True) for split, path in paths.items()}
        logger.warning("[spacy-mmib] Regions are %s.", LEAKING_MNRE_NOTE)
    counts = {}
    for split, file in files.items():
        look = attach = None
        if images is not None and root is not None:
            look = partial(pictures.find_picture, images, root=root, split=split)
        if leaking_crops is not None and root is not None:
            folder = hvpnet_crops_folder(leaking_crops, split)
            attach = partial(attach_leaking_crops, names[split], folder, root, max_crops)
        path = output / f"{split}.spacy"
        counts[split] = _write_mnre(file, path, split, grouped, look, attach, root)
    regions = {
        "protocol": "none" if leaking_crops is None else "leaking_mnre_crops",
        "note": None if leaking_crops is None else LEAKING_MNRE_NOTE,
        "max_crops": None if leaking_crops is None else max_crops,
    }
    _finish(output, data, regions, root, counts, docs_are="posts" if grouped else "instances")
    return counts


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


def _write_tagged(
    posts: Iterable[TaggedPost],
    path: Path,
    orphans: str,
    look: Callable[[str], str] | None = None,
    find: Callable[[str], tuple[list[str], int]] | None = None,
    max_crops: int = 0,
    suffix: str = "",
) -> Counts:
    """Write a split of tagged posts, whose pictures are called by their ids and the suffix; crops are used of
    posts that have their picture.
    """
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    vocab, docs = Vocab(), []
    for post in posts:
        if not post.tokens:
            counts["empty_posts"] += 1
            continue
        tags, begin_with_i = repair_tags(post.tags, check_orphans(orphans))
        doc = make_doc(vocab, post.tokens, tags)
        if _attach_picture(doc, look, post.id + suffix, counts) and find is not None:
            crops, missing = find(post.id)
            set_regions(doc, crops[: max_crops or None] or None)
            counts.update(crops=len(get_regions(doc)), missing_crops=missing)
        labels.update(ent.label_ for ent in doc.ents)
        counts.update(posts=1, tokens=len(doc), begin_with_i=begin_with_i)
        counts.update(empty_tokens=post.tokens.count(""))
        docs.append(doc)
    _save(docs, path)
    names = ("posts", "tokens", "entities", "begin_with_i", "empty_tokens", "empty_posts")
    names += ("with_picture", "missing_pictures", "crops", "missing_crops")
    counts["entities"] = labels.total()
    return {**{name: counts[name] for name in names}, "per_label": dict(sorted(labels.items()))}


def _write_mnre(
    file: MnreFile,
    path: Path,
    split: str,
    grouped: bool,
    look: Callable[[str], str] | None,
    attach: Callable[[Doc, int], int] | None,
    root: Path | None,
) -> Counts:
    """Write a split of MNRE."""
    rows = file.rows
    posts = group_rows(rows)
    labels = Counter(row.relation for row in rows)
    counts = Counter(instances=len(rows), posts=len(posts), labels=len(labels), other_names=file.other_names)
    counts["overlapping"] = sum(r.head[0] < r.tail[1] and r.tail[0] < r.head[1] for r in rows)
    counts["repeated"] = len(rows) - len({(row.tokens, row.image, row.head, row.tail) for row in rows})
    vocab, docs = Vocab(), []
    for numbers in posts if grouped else [[number] for number in range(len(rows))]:
        first = rows[numbers[0]]
        doc, not_entities = to_doc(vocab, [rows[number] for number in numbers], numbers, split)
        counts.update(docs=1, tokens=len(doc), entities=len(doc.ents), not_entities=not_entities)
        counts.update(empty_tokens=first.tokens.count(""))
        _attach_picture(doc, look, first.image, counts)
        if attach is not None and root is not None:
            counts.update(refused_crops=attach(doc, numbers[0]), crops=len(get_regions(doc)))
            counts.update(missing_crops=sum(not (root / crop).exists() for crop in get_regions(doc)))
        docs.append(doc)
    _save(docs, path)
    names = ("instances", "posts", "docs", "tokens", "entities", "not_entities", "labels", "overlapping")
    names += ("repeated", "other_names", "empty_tokens", "with_picture", "missing_pictures", "crops")
    names += ("missing_crops", "refused_crops")
    return {**{name: counts[name] for name in names}, "per_label": dict(sorted(labels.items()))}


def _attach_picture(doc: Doc, look: Callable[[str], str] | None, name: str, counts: Counter[str]) -> bool:
    """Attach the picture of a post, or say on the doc why there is none; `look` finds its path, relative to
    the image root, and is `None` if no pictures are at hand.
    """
    if look is None:
        return False
    try:
        set_image(doc, look(name))
    except ImageError as err:
        set_image_error(doc, str(err))
        counts["missing_pictures"] += 1
        return False
    counts["with_picture"] += 1
    return True


def _save(docs: Iterable[Doc], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    DocBin(docs=docs, store_user_data=True).to_disk(path)


def _finish(
    output: Path, data: Path, regions: Any, root: Path | None, splits: dict[str, Counts], **more: str
) -> None:
    """Write `meta.json` beside the corpus, and print what is in it."""
    meta = {"source": data.resolve().name, **more, "regions": regions}
    meta |= {"image_root": None if root is None else str(root), "splits": splits}
    (output / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf8")
    for split, counts in splits.items():
        _print_split(split, counts, more.get("orphans"))
    print(f"Written to {output}; counts in meta.json.")
    if root is None:
        print("Text only: pass --images to convert with pictures.")
    else:
        print(f"Paths of pictures are relative to this folder, the reader's image_root: {root}")


def _print_split(split: str, counts: Counts, orphans: str | None) -> None:
    mnre = "instances" in counts
    if mnre:
        negative = counts["per_label"].get(NEGATIVE, 0)
        print(
            f"{split}: {counts['instances']} instances of {counts['posts']} posts in {counts['docs']} docs, "
            f"{counts['labels']} labels; {counts['instances'] - negative} related, {negative} {NEGATIVE}"
        )
    else:
        labels = ", ".join(f"{label} {number}" for label, number in counts["per_label"].items())
        print(f"{split}: {counts['posts']} posts, {counts['entities']} entities ({labels})")
        if counts["begin_with_i"]:
            done = "counted as entities" if orphans == "begin" else "not counted, their tokens are O"
            print(f"  {counts['begin_with_i']} entities begin with I- instead of B-: {done}")
    for name, what in COUNTED.items():
        if counts.get(name):
            print(f"  {counts[name]} {what}")
    if counts["with_picture"] or counts["missing_pictures"]:
        docs, missing = ("docs", "missing") if mnre else ("posts", "pictures missing")
        print(f"  {counts['with_picture']} {docs} with a picture, {counts['missing_pictures']} {missing}")
    if counts["crops"] or counts["missing_crops"] or counts.get("refused_crops"):
        what = "crops that LEAK THE LABEL" if mnre else "crops of objects"
        print(
            f"  {counts['crops']} {what}, {counts['missing_crops']} of them missing; "
            f"{counts.get('refused_crops', 0)} outside their folder, left out"
        )


if __name__ == "__main__":
    typer.run(main)
