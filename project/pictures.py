"""Where a dataset's files are: its folders, the pictures of its posts and the crops of their objects, in the
layouts in which they are published.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from project.facts import PUBLISHED, find_dataset
from spacy_mmib.images.files import existing_inside, resolve_inside
from spacy_mmib.images.reading import ImageError
from spacy_mmib.regions.crops import (
    HVPNET_SPLITS,
    LayoutError,
    hvpnet_crops_folder,
    list_umgf_crops,
    load_dictionary,
)

ASSETS = Path("project/assets")
IMAGES = ("images", "img_org", "wikinewsImgs")
LAYOUTS = ("auto", "umgf", "hvpnet", "none")

# An unset variable of the project arrives as "": not given.
Data = Annotated[str, typer.Option(help="Folder of the text files [project/assets/...]")]
Images = Annotated[str, typer.Option(help="Folder of the pictures [images in --data]")]
Crops = Annotated[str, typer.Option(help="Folder of the crops of objects [crops in --data]")]
Layout = Annotated[str, typer.Option(help="How the crops are laid out: umgf, hvpnet, none, or auto")]
Dicts = Annotated[str, typer.Option(help="Folder of HVPNeT's dictionaries *_dict.pth [--data]")]
OrphanTags = Annotated[str, typer.Option(help="I- tags that continue nothing: drop (O) or begin (an entity)")]
TagColumn = Annotated[
    int, typer.Option(help="Column of the tag, where lines have more than two; the token is in column 1")
]


class Folders(NamedTuple):
    """Of a dataset as published: its text files, there or not, pictures, crops (absolute), and HVPNeT's
    dictionaries of crops.
    """

    data: Path
    images: Path | None = None
    crops: Path | None = None
    dicts: Path | None = None


def find_folders(dataset: str, data: str = "", images: str = "", crops: str = "", dicts: str = "") -> Folders:
    """Find the folders of a dataset; for "" those that the options' help names, if they are there."""
    known = find_dataset(dataset) or dataset
    folder = Path(data) if data else ASSETS / known
    pictures = Path(images) if images else _first_folder(folder, *IMAGES)
    objects = Path(crops).absolute() if crops else None
    # The published crops of MNRE leak the label: nothing finds them by itself.
    if not crops and pictures is not None and known != "mnre":
        objects = _first_folder(folder.absolute(), "crops")
    return Folders(folder, pictures, objects, Path(dicts) if dicts else None)


def explain_texts(dataset: str, data: Path) -> str:
    """RETURNS (str): Where to put the text files, and where they come from."""
    facts = PUBLISHED[dataset]
    return (
        f"Put {facts['texts']} into {data}, or name their folder: spacy project run check . "
        f"--vars.dataset {dataset} --vars.data FOLDER. They are not part of this project: {facts['source']}."
    )


def check_folder(folder: Path) -> None:
    """RAISES (LayoutError): It isn't there."""
    if not folder.is_dir():
        raise LayoutError(f"There is no folder {folder}.")


def common_root(folders: Iterable[Path | None]) -> Path | None:
    """RETURNS (Optional[Path]): The innermost common folder of those that are given, absolute, which paths in
    the corpus start from; `None` if none is.

    RAISES (LayoutError): There is none but the root of the file system, which as image root would
        allow a corpus to name any file.
    """
    given = [folder for folder in folders if folder is not None]
    if not given:
        return None
    try:
        root = Path(os.path.commonpath([folder.resolve() for folder in given]))
    except ValueError:  # two drives
        root = Path(given[0].anchor)
    if root == root.parent:
        shown = " and ".join(map(str, given))
        raise LayoutError(
            f"{shown} have no folder in common that could be the image root. Put them side by side."
        )
    return root


def find_picture(folder: Path, name: str, root: Path, split: str | None = None) -> str:
    """Look up the picture of a post.

    split (Optional[str]): Look in the folder of this split first, `<folder>/{train,val,test}`.
    RAISES (ImageError): It isn't there, or isn't inside its folder and `root`.
    """
    parts = [folder / part for part in HVPNET_SPLITS[split]] if split else []
    errors = []
    for place in (*filter(Path.is_dir, parts), folder):
        try:
            # Inside both: the folder may be a link.
            return resolve_inside(root, existing_inside(place, name)).relative_to(root).as_posix()
        except ImageError as err:
            errors.append(err)
    raise errors[0]


def find_crops(
    crops: Path, layout: str, dicts: Path, dataset: str, split: str, root: Path
) -> Callable[[str], tuple[list[str], int]]:
    """Find the crops of a split of tagged posts.

    layout (str): "umgf"; or "hvpnet", `<crops>/<split>/crops/<row>_pred_yolo_crop_<n>.png`, where the
        published dictionary, by `<id>.jpg`, says which post a crop belongs to.
    RETURNS (Callable): Gives by the name of a post's picture the paths of the crops that are there, relative
        to `root`, and how many are missing.
    RAISES (LayoutError): There are no crops for the split, or no dictionary.
    """
    names: dict[Any, Any] = {}
    folder = hvpnet_crops_folder(crops, split)
    if layout == "hvpnet":
        names = load_dictionary(find_dictionary(dicts, dataset, split))
        if not folder.is_dir():
            raise LayoutError(f"HVPNeT's crops of {split} should be in {folder}, which isn't there.")

    def find(picture: str) -> tuple[list[str], int]:
        candidates = [folder / name for name in names.get(picture, ())]
        if layout == "umgf":
            paths = list_umgf_crops(crops, picture.removesuffix(".jpg"))
            candidates = [path for path in paths if os.path.lexists(path)]
        there = []
        for path in candidates:
            try:
                there.append(existing_inside(crops, path).relative_to(root).as_posix())
            except ImageError:
                continue
        return there, len(candidates) - len(there)

    return find


def guess_layout(crops: Path, pictures: list[str]) -> str:
    """RETURNS (str): "hvpnet" or "umgf", by what is in the folder of the crops of posts with these pictures.
    RAISES (LayoutError): It looks like neither.
    """
    if any((crops / name / "crops").is_dir() for names in HVPNET_SPLITS.values() for name in names):
        return "hvpnet"
    if any((crops / picture.removesuffix(".jpg")).is_dir() for picture in pictures):
        return "umgf"
    raise LayoutError(
        f"{crops} looks like neither layout of crops: HVPNeT's has folders train/crops, val/crops and "
        "test/crops, UMGF's a folder for each post. Check --crops."
    )


def find_dictionary(folder: Path, dataset: str, split: str) -> Path:
    """RETURNS (Path): HVPNeT's dictionary of a split, such as `twitter2015_train_dict.pth`; of several, the
    one whose name begins with `dataset`.

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


def _first_folder(parent: Path, *names: str) -> Path | None:
    return next((parent / name for name in names if (parent / name).is_dir()), None)
