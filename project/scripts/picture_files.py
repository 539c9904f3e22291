"""Where a post's picture and the crops of its objects are, in the layouts in which they are
published."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spacy_mmib.images.files import existing_inside, resolve_inside
from spacy_mmib.images.reading import ImageError
from spacy_mmib.regions.crops import (
    HVPNET_SPLITS,
    CropsLayout,
    LayoutError,
    hvpnet_crops_folder,
    list_umgf_crops,
    load_dictionary,
)

__all__ = [
    "CropsLayout",
    "LayoutError",
    "common_root",
    "existing_crops",
    "find_dictionary",
    "find_picture",
    "find_picture_of_split",
    "guess_layout",
    "hvpnet_crops",
    "hvpnet_crops_folder",
    "load_dictionary",
    "umgf_crops",
]


def common_root(folders: list[Path]) -> Path:
    """The folder that paths in the corpus start from.

    folders (List[Path]): Where pictures and crops are.
    RETURNS (Path): Their innermost common folder, absolute.
    RAISES (LayoutError): They have none but the root of the file system, which as image root would
        allow a corpus to name any file.
    """
    try:
        root = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    except ValueError:  # two drives
        root = Path(folders[0].anchor)
    if root == root.parent:
        shown = " and ".join(str(folder) for folder in folders)
        raise LayoutError(
            f"{shown} have no folder in common that could be the image root. Put them side by side."
        )
    return root


def find_picture(folder: Path, name: str, root: Path) -> str:
    """Look up the picture of a post.

    folder (Path): Where the pictures are.
    name (str): Name of the file.
    root (Path): The image root.
    RETURNS (str): Path of the file, relative to `root`.
    RAISES (ImageError): It isn't there, or isn't inside `folder` and `root`.
    """
    # Inside both: the folder may be a link.
    return resolve_inside(root, existing_inside(folder, name)).relative_to(root).as_posix()


def find_picture_of_split(folder: Path, name: str, root: Path, split: str) -> str:
    """Look up a picture in the folder of its split, `<folder>/{train,val,test}`, or if it isn't
    there in the folder itself.

    folder (Path): Where the pictures or their folders are.
    name (str): Name of the file.
    root (Path): The image root.
    split (str): "train", "dev" or "test".
    RETURNS (str): Path of the file, relative to `root`.
    RAISES (ImageError): It is in neither, or not inside of them.
    """
    parts = [folder / part for part in HVPNET_SPLITS[split]]
    first: ImageError | None = None
    for place in (*filter(Path.is_dir, parts), folder):
        try:
            return find_picture(place, name, root)
        except ImageError as err:
            first = first or err
    assert first is not None
    raise first


def umgf_crops(root: Path) -> Callable[[str], list[Path]]:
    """UMGF's layout; see `layouts.list_umgf_crops`.

    root (Path): Where the crops are.
    RETURNS (Callable[[str], List[Path]]): Names the crops a post may have, by its id.
    """

    def candidates(post_id: str) -> list[Path]:
        return [path for path in list_umgf_crops(root, post_id) if os.path.lexists(path)]

    return candidates


def hvpnet_crops(root: Path, dictionary: dict[Any, Any], split: str) -> Callable[[str], list[Path]]:
    """HVPNeT's layout: `<root>/<split>/crops/<row>_pred_yolo_crop_<n>.png`. Only the dictionary
    says which post a crop belongs to.

    root (Path): Where the crops are.
    dictionary (Dict[str, List[str]]): The published dictionary of the split, keyed by `<id>.jpg`.
    split (str): "train", "dev" or "test".
    RETURNS (Callable[[str], List[Path]]): Names the crops a post should have, by its id.
    RAISES (LayoutError): There is no folder of crops for the split.
    """
    folder = hvpnet_crops_folder(root, split)
    if not folder.is_dir():
        raise LayoutError(f"HVPNeT's crops of {split} should be in {folder}, which isn't there.")

    def candidates(post_id: str) -> list[Path]:
        return [folder / name for name in dictionary.get(f"{post_id}.jpg", ())]

    return candidates


def existing_crops(candidates: list[Path], folder: Path, root: Path) -> tuple[list[str], int]:
    """Keep the crops that are there.

    candidates (List[Path]): The crops.
    folder (Path): The folder that none may leave.
    root (Path): The image root.
    RETURNS (Tuple[List[str], int]): Paths relative to `root`, and how many are missing.
    """
    found = []
    for path in candidates:
        try:
            found.append(existing_inside(folder, path).relative_to(root).as_posix())
        except ImageError:
            continue
    return found, len(candidates) - len(found)


def guess_layout(crops: Path, ids: list[str]) -> CropsLayout:
    """Tell the two layouts apart.

    crops (Path): Where the crops are.
    ids (List[str]): Ids of posts.
    RETURNS (str): "hvpnet" or "umgf".
    RAISES (LayoutError): It looks like neither.
    """
    if any((crops / name / "crops").is_dir() for names in HVPNET_SPLITS.values() for name in names):
        return "hvpnet"
    if any((crops / post_id).is_dir() for post_id in ids):
        return "umgf"
    raise LayoutError(
        f"{crops} looks like neither layout of crops: HVPNeT's has folders train/crops, val/crops "
        "and test/crops, UMGF's a folder for each post. Check --crops."
    )


def find_dictionary(folder: Path, dataset: str, split: str) -> Path:
    """Find HVPNeT's dictionary of a split, such as `twitter2015_train_dict.pth`.

    folder (Path): Where the dictionaries are.
    dataset (str): Preferred beginning of the file name.
    split (str): "train", "dev" or "test".
    RETURNS (Path): The file.
    RAISES (LayoutError): There is none, or more than one.
    """
    found = [path for name in HVPNET_SPLITS[split] for path in sorted(folder.glob(f"*{name}_dict.pth"))]
    if len(found) > 1:
        found = [path for path in found if path.name.startswith(dataset)] or found
    if len(found) != 1:
        shown = ", ".join(path.name for path in found) or "none"
        raise LayoutError(
            f"Expected one dictionary <name>_{HVPNET_SPLITS[split][0]}_dict.pth in {folder}, found "
            f"{shown}. HVPNeT's crops can't be assigned to posts without it: pass its folder with "
            "--dicts."
        )
    return found[0]
