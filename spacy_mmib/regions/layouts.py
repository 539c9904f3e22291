"""The two layouts in which object crops are published."""

from pathlib import Path
from typing import Any, Literal, TypeAlias

CropsLayout: TypeAlias = Literal["umgf", "hvpnet"]

UMGF_TYPES = ("person", "organization", "location", "miscellaneous")

HVPNET_SPLITS = {"train": ("train",), "dev": ("val", "dev", "valid"), "test": ("test",)}
"""Names of the splits in HVPNeT's folders and dictionaries."""


class LayoutError(ValueError):
    """Folders that are not as published; the message says what was expected."""


def list_umgf_crops(root: Path, post_id: str) -> list[Path]:
    """UMGF's layout: `<root>/<id>/crop_<type>_<id>.jpg`, at most one crop for each of four types.

    root (Path): Where the crops are.
    post_id (str): Of the post.
    RETURNS (List[Path]): The crops it may have, there or not.
    """
    return [root / post_id / f"crop_{kind}_{post_id}.jpg" for kind in UMGF_TYPES]


def hvpnet_crops_folder(root: Path, split: str) -> Path:
    """RETURNS (Path): HVPNeT's folder of the crops of a split; where it should be if there is
    none.
    """
    folders = [root / name / "crops" for name in HVPNET_SPLITS[split]]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def get_split(file_name: str) -> str | None:
    """RETURNS (Optional[str]): The split that a dictionary is of, by its name: `<anything>_val_dict.pth`."""
    for split, names in HVPNET_SPLITS.items():
        if any(file_name.endswith(f"{name}_dict.pth") for name in names):
            return split
    return None


def load_dictionary(path: Path) -> dict[Any, Any]:
    """Load one of HVPNeT's dictionaries.

    path (Path): The `.pth` file. No code in it is run.
    RETURNS (Dict[str, List[str]]): Names of crops.
    RAISES (LayoutError): It is something else.
    """
    import torch

    try:
        dictionary = torch.load(path, weights_only=True)
    except Exception as err:  # torch raises whatever zip, pickle and its own checks raise
        reason = " ".join(str(err).split())[:200]
        raise LayoutError(f"{path} can't be read as a dictionary of crops ({reason}).") from None
    if not isinstance(dictionary, dict) or not all(
        isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        for names in dictionary.values()
    ):
        raise LayoutError(f"{path} is not a dictionary of lists of file names.")
    return dictionary
