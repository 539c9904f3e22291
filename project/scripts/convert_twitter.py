"""Convert Twitter-2015 or Twitter-2017 (text files, and folders of pictures and crops where a user
has them) into the corpus that spacy-mmib.Corpus.v1 reads: train.spacy, dev.spacy, test.spacy,
meta.json.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from corpus_writer import (
    FindCrops,
    FindPicture,
    SplitCounts,
    no_crops,
    no_picture,
    write_meta,
    write_split,
)
from picture_files import (
    LayoutError,
    common_root,
    existing_crops,
    find_dictionary,
    find_picture,
    guess_layout,
    hvpnet_crops,
    load_dictionary,
    umgf_crops,
)
from split_files import find_split_file
from tagged_posts import FormatError, TaggedPost, check_orphans, read_twitter_text

SPLITS = {"train": ("train",), "dev": ("valid", "dev", "val"), "test": ("test",)}
"""Our names of the splits, and the names their text files go by."""


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train.txt, valid.txt and test.txt")],
    output: Annotated[Path, typer.Argument(help="Folder for the corpus")],
    images: Annotated[str, typer.Option(help="Folder of the pictures, <id>.jpg")] = "",
    crops: Annotated[str, typer.Option(help="Folder of the crops of objects")] = "",
    crops_layout: Annotated[
        str, typer.Option(help="How the crops are laid out: auto, umgf, hvpnet, or none")
    ] = "auto",
    dicts: Annotated[
        str,
        typer.Option(help="Folder of HVPNeT's dictionaries *_dict.pth [default: the data folder]"),
    ] = "",
    max_crops: Annotated[
        int, typer.Option(min=0, help="Keep so many crops of a post, from the first; 0: all")
    ] = 0,
    orphans: Annotated[
        str, typer.Option(help="I- tags that continue nothing: drop (O) or begin (an entity)")
    ] = "drop",
    tag_column: Annotated[
        int,
        typer.Option(
            help="Column of the tag, where lines have more than two; the token is in column 1. "
            "0: lines have two columns"
        ),
    ] = 0,
) -> None:
    """Convert Twitter-2015 or Twitter-2017."""
    try:
        convert(
            data,
            output,
            # An unset variable of a project arrives as an empty string: none.
            images=Path(images) if images else None,
            crops=Path(crops) if crops else None,
            crops_layout=crops_layout,
            dicts=Path(dicts) if dicts else None,
            max_crops=max_crops,
            orphans=orphans,
            tag_column=tag_column,
        )
    except (FormatError, LayoutError, OSError) as err:
        print(f"Not converted. {err}", file=sys.stderr)
        raise typer.Exit(1) from None


def convert(
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
) -> dict[str, SplitCounts]:
    """Convert a dataset.

    data (Path): The folder with its text files.
    output (Path): The folder for the corpus.
    images (Optional[Path]): The folder of the pictures; text only without.
    crops (Optional[Path]): The folder of the crops of objects.
    crops_layout (str): "umgf", "hvpnet", "none" (the crops are not used), or "auto": guessed.
    dicts (Optional[Path]): The folder of HVPNeT's dictionaries; `data` if `None`.
    max_crops (int): Keep so many crops of a post, 0 all. HVPNeT uses the first 3.
    orphans (str): See `Orphans`.
    tag_column (int): See `read_twitter_text`.
    RETURNS (Dict[str, SplitCounts]): What is in each split.
    RAISES (FormatError, LayoutError): Something is not as published.
    """
    policy = check_orphans(orphans)
    if crops_layout not in ("auto", "umgf", "hvpnet", "none"):
        raise LayoutError(f"crops_layout is {crops_layout!r}; choose auto, umgf, hvpnet or none.")
    if crops_layout == "none":
        crops = None
    if crops is not None:
        crops = crops.absolute()  # as the image root is
    posts = {split: list(read_twitter_text(find_twitter_text(data, split), tag_column)) for split in SPLITS}
    root = None
    if images is not None:
        folders = [images] if crops is None else [images, crops]
        for folder in folders:
            if not folder.is_dir():
                raise LayoutError(f"There is no folder {folder}.")
        root = common_root(folders)
        if crops is not None and crops_layout == "auto":
            crops_layout = guess_layout(crops, [post.id for post in posts["train"]])
    elif crops is not None:
        raise LayoutError("Crops are of no use without the pictures: pass --images too.")
    counts = {}
    for split, split_posts in posts.items():
        find_crops: FindCrops = no_crops
        if root is not None and crops is not None:
            dictionary = None
            if crops_layout == "hvpnet":
                found = find_dictionary(dicts or data, data.resolve().name, split)
                dictionary = load_dictionary(found)
            find_crops = _crops_finder(crops, root, dictionary, split, max_crops)
        counts[split] = write_split(
            split_posts,
            output / f"{split}.spacy",
            orphans=policy,
            find_picture=_picture_finder(images, root),
            find_crops=find_crops,
        )
    regions = "none" if crops is None else crops_layout
    write_meta(
        output,
        source=data.resolve().name,
        orphans=policy,
        regions=regions,
        image_root=root,
        splits=counts,
    )
    return counts


def find_twitter_text(data: Path, split: str) -> Path:
    """Find the text file of a split.

    data (Path): The folder of the data.
    split (str): "train", "dev" or "test".
    RETURNS (Path): The file.
    RAISES (FormatError): There is none, or more than one.
    """
    found = find_split_file([data], SPLITS[split])
    if found is None:
        raise FormatError(
            f"There is no file {data / f'{SPLITS[split][0]}.txt'}. The data folder holds train, valid "
            "and test.txt."
        )
    return found


def _picture_finder(images: Path | None, root: Path | None) -> FindPicture:
    if images is None or root is None:
        return no_picture
    return lambda post: find_picture(images, f"{post.id}.jpg", root)


def _crops_finder(
    crops: Path, root: Path, dictionary: dict[str, list[str]] | None, split: str, most: int
) -> FindCrops:
    candidates = umgf_crops(crops) if dictionary is None else hvpnet_crops(crops, dictionary, split)

    def find(post: TaggedPost) -> tuple[list[str], int]:
        found, missing = existing_crops(candidates(post.id), crops, root)
        return found[: most or None], missing

    return find


if __name__ == "__main__":
    typer.run(main)
