"""Where the files of a published dataset are: in the folders that were named, or below project/assets."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from dataset_facts import TITLES

ASSETS = Path("project/assets")

SOURCES = {
    "twitter15": "the release of UMT (github.com/jefferyYu/UMT) has the texts and links to the pictures",
    "twitter17": "the releases of UMT (github.com/jefferyYu/UMT) and HVPNeT (github.com/zjunlp/HVPNeT) have "
    "the texts and link to the pictures",
    "mnre": "github.com/thecharm/MNRE links to the texts and pictures",
}
"""Where to get what is missing. Nothing of it is part of this project."""

TEXTS = {
    "twitter15": "train.txt, valid.txt and test.txt",
    "twitter17": "train.txt, valid.txt and test.txt",
    "mnre": "mnre_train.txt, mnre_val.txt and mnre_test.txt (or the folder mnre_txt, or HVPNeT's folder txt)",
}


@dataclass(frozen=True)
class Folders:
    """Of a dataset as published.

    data (Path): Of its text files, there or not.
    images (Optional[Path]): Of its pictures.
    crops (Optional[Path]): Of the crops of objects, absolute.
    dicts (Optional[Path]): Of HVPNeT's dictionaries of crops.
    """

    data: Path
    images: Path | None = None
    crops: Path | None = None
    dicts: Path | None = None


def find_folders(dataset: str, data: str = "", images: str = "", crops: str = "", dicts: str = "") -> Folders:
    """Find the folders of a dataset.

    dataset (str): "twitter15", "twitter17" or "mnre".
    data (str): Of the text files; "" for `project/assets/<dataset>`.
    images (str): Of the pictures; "" for `images` (or MNRE's `img_org`) in the data folder, if it is there.
    crops (str): Of the crops; "" for `crops` there, if there are pictures.
    dicts (str): Of the dictionaries; "" for the data folder.
    RETURNS (Folders): The folders.
    """
    folder = Path(data) if data else ASSETS / dataset
    pictures = Path(images) if images else _first_folder(folder, "images", "img_org")
    objects = Path(crops).absolute() if crops else None
    # The published crops of MNRE leak the label: nothing finds them by itself.
    if not crops and pictures is not None and dataset != "mnre":
        objects = _first_folder(folder.absolute(), "crops")
    return Folders(folder, pictures, objects, Path(dicts) if dicts else None)


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `read_folders` reads. An unset variable of the project arrives as "": not given."""
    parser.add_argument("dataset", choices=list(TITLES))
    parser.add_argument("--data", default="", help="folder of the text files [project/assets/...]")
    parser.add_argument("--images", default="", help="folder of the pictures [images in --data]")
    parser.add_argument("--crops", default="", help="folder of the crops [crops in --data]")
    parser.add_argument("--crops-layout", default="auto", help="umgf, hvpnet, none, or auto")
    parser.add_argument("--dicts", default="", help="folder of HVPNeT's dictionaries [--data]")
    parser.add_argument("--orphans", default="drop", help="orphan I- tags: drop or begin")
    parser.add_argument("--tag-column", type=int, default=0, help="of the tag, if more than two")


def read_folders(args: argparse.Namespace) -> Folders:
    """RETURNS (Folders): Those that the command line names."""
    return find_folders(args.dataset, args.data, args.images, args.crops, args.dicts)


def explain_texts(dataset: str, data: Path) -> str:
    """RETURNS (str): Where to put the text files, and where they come from."""
    return (
        f"Put {TEXTS[dataset]} into {data}, or name their folder: spacy project run {dataset} . "
        f"--vars.data FOLDER. They are not part of this project: {SOURCES[dataset]}."
    )


def _first_folder(parent: Path, *names: str) -> Path | None:
    return next((parent / name for name in names if (parent / name).is_dir()), None)
