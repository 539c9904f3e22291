"""Which pictures and crops of a published dataset are there, without converting anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from picture_files import (
    LayoutError,
    existing_crops,
    find_dictionary,
    find_picture,
    find_picture_of_split,
    guess_layout,
    hvpnet_crops,
    load_dictionary,
    umgf_crops,
)

from spacy_mmib.images.reading import ImageError, probe_image

Posts = Mapping[str, Sequence[str]]
"""For each split, the file name of each post's picture."""


@dataclass
class PictureCheck:
    """The pictures of a split.

    posts (int): Posts.
    there (int): Posts whose picture is there and can be opened.
    missing (int): Posts whose picture is not there.
    unreadable (int): Posts whose picture can't be opened, by its header, or is outside the folder.
    example (Optional[str]): Why the first that can't be used can't.
    """

    posts: int = 0
    there: int = 0
    missing: int = 0
    unreadable: int = 0
    example: str | None = None


@dataclass
class CropCheck:
    """The crops of objects of a dataset.

    layout (Optional[str]): "umgf" or "hvpnet".
    posts (Dict[str, int]): Posts with a crop, by split.
    crops (int): Crops that are there.
    missing (int): Crops that should be there.
    problem (Optional[str]): Why they can't be used.
    """

    layout: str | None = None
    posts: dict[str, int] = field(default_factory=dict)
    crops: int = 0
    missing: int = 0
    problem: str | None = None


def check_pictures(images: Path, posts: Posts, in_splits: bool) -> dict[str, PictureCheck]:
    """Look for the picture of each post, and open it without decoding it.

    images (Path): The folder of the pictures.
    posts (Posts): Names of the pictures.
    in_splits (bool): Look in folders of the splits first, as the converter of MNRE does.
    RETURNS (Dict[str, PictureCheck]): What was found, by split.
    """
    root = images.resolve()
    found = {}
    for split, names in posts.items():
        check = PictureCheck(posts=len(names))
        outcomes: dict[str, ImageError | None] = {}
        for name in names:
            if name not in outcomes:
                outcomes[name] = _look(root, name, split if in_splits else None)
            error = outcomes[name]
            if error is None:
                check.there += 1
                continue
            check.missing += error.kind == "missing"
            check.unreadable += error.kind != "missing"
            check.example = check.example or str(error)
        found[split] = check
    return found


def check_crops(crops: Path, layout: str, dicts: Path, dataset: str, posts: Posts) -> CropCheck:
    """Look for the crops of a dataset of tagged posts.

    crops (Path): Their folder.
    layout (str): "umgf", "hvpnet" or "auto".
    dicts (Path): Of HVPNeT's dictionaries.
    dataset (str): How the names of the dictionaries preferably begin.
    posts (Posts): Names of the pictures.
    RETURNS (CropCheck): What was found.
    """
    check = CropCheck()
    root = crops.resolve()
    try:
        if not crops.is_dir():
            raise LayoutError(f"There is no folder {crops}.")
        ids = {split: [name.removesuffix(".jpg") for name in names] for split, names in posts.items()}
        check.layout = layout if layout != "auto" else guess_layout(crops, ids["train"])
        for split, split_ids in ids.items():
            candidates = umgf_crops(crops)
            if check.layout == "hvpnet":
                dictionary = load_dictionary(find_dictionary(dicts, dataset, split))
                candidates = hvpnet_crops(crops, dictionary, split)
            check.posts[split] = 0
            for post_id in split_ids:
                there, missing = existing_crops(candidates(post_id), crops, root)
                check.posts[split] += bool(there)
                check.crops += len(there)
                check.missing += missing
        if not check.crops:
            raise LayoutError(f"None of the posts' crops is in {crops}.")
    except LayoutError as err:
        check.problem = str(err)
    return check


def _look(root: Path, name: str, split: str | None) -> ImageError | None:
    """RETURNS (Optional[ImageError]): Why a picture can't be used, `None` if it can."""
    try:
        if split is None:
            path = find_picture(root, name, root)
        else:
            path = find_picture_of_split(root, name, root, split)
        probe_image(str(root / path))
    except ImageError as err:
        return err
    return None
