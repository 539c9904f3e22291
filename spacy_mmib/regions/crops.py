"""Ready crops of objects, in the two layouts in which they are published.

UMGF's: `<root>/<id>/crop_<type>_<id>.jpg`, at most one crop for each of four types. HVPNeT's:
`<root>/{train,val,test}/crops/<name>`, of which only dictionaries say to whom a crop belongs.

HVPNeT's crops of MNRE leak the label. They are taken only by name, to compare with systems that use them.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from spacy.tokens import Doc

from ..images.errors import ImageError, check_number, explain, shorten
from ..images.files import bind
from ..post.extensions import get_stored_image
from ..post.regions import Region
from ..util import logger, warn
from .base import Pictures, RegionGetter, region_getters

UMGF_TYPES = ("person", "organization", "location", "miscellaneous")

HVPNET_SPLITS = {"train": ("train",), "dev": ("val", "dev", "valid"), "test": ("test",)}
"""Names of the splits in HVPNeT's folders and dictionaries."""

MNRE_KEY = ("spacy_mmib", "mnre", None, None)
"""Where docs converted from MNRE have the rows and the split they come from."""

LEAKING_MNRE_NOTE = (
    "crops from HVPNeT's dictionaries of MNRE, which LEAK THE LABEL: the number of crops of a row is a "
    "function of its gold relation"
)


class LayoutError(ValueError):
    """Folders that are not as published; the message says what was expected."""


class Crops(RegionGetter):
    """Files of crops, looked up: as fast as a cache of regions; their vectors are cached by their content.

    root (Union[str, Path]): The folder that crops are in, and that no name may leave. If the encoder's reader
        has an `image_root`, it has to be inside of that.
    max_regions (Optional[int]): At most so many of a post, from the first.
    """

    needs_pictures = False
    by_row: bool = False
    """Whether the dictionaries are by row, not by picture."""

    def __init__(
        self, root: str | Path, dictionaries: str | Path | Sequence[str | Path], max_regions: int | None
    ) -> None:
        if max_regions is not None:
            check_number("max_regions", max_regions, at_least=0)
        self.root = Path(root)
        self.dictionaries = [dictionaries] if isinstance(dictionaries, (str, Path)) else list(dictionaries)
        self.max_regions = max_regions
        self._said: set[str] = set()

    def __call__(self, docs: Sequence[Doc], pictures: Pictures) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): Paths of the crops that are there; a warning says if some aren't."""
        if not self.root.is_dir():
            raise OSError(f"The folder of crops {str(self.root)!r} is not there (root).")
        return [self._keep_existing(self._list(doc)) for doc in docs]

    def _list(self, doc: Doc) -> list[Path]:
        raise NotImplementedError

    def _keep_existing(self, paths: list[Path]) -> list[Region]:
        found: list[Region] = []
        for path in paths:
            try:
                crop = bind(str(path.absolute()), self.root)
            except ImageError as err:
                self._say(err.kind, f"crops are left out, the first because: {err}")
                continue
            if os.path.isfile(crop):
                found.append(crop)
            else:
                self._say("file", f"crops are left out, the first because: {shorten(crop)} is no file")
        return found[: self.max_regions]

    def _say(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warn(message)

    @cached_property
    def _named(self) -> dict[str, dict[Any, list[Path]]]:
        """The crops that the dictionaries name, by split and key."""
        files: dict[str, Path] = {}
        for path in map(Path, self.dictionaries):
            inside = sorted(path.glob("*_dict.pth")) if path.is_dir() else [path]
            if not inside or not all(file.is_file() for file in inside):
                raise LayoutError(f"There is no dictionary of crops at {path} (<name>_<split>_dict.pth).")
            for file in inside:
                name = file.name.removesuffix("_dict.pth")
                split = next((split for split in HVPNET_SPLITS if name.endswith(HVPNET_SPLITS[split])), None)
                if split is None:
                    raise LayoutError(
                        f"{file}: the name tells no split. HVPNeT's are <name>_<split>_dict.pth, with a "
                        "split of train, val (or dev) and test."
                    )
                if split in files:
                    # File names of crops are numbers of rows: another dataset's would be there, and wrong.
                    raise LayoutError(
                        f"{files[split]} and {file} are both of {split}. Name the dictionaries of one "
                        "dataset, whose crops are in root."
                    )
                files[split] = file
        found: dict[str, dict[Any, list[Path]]] = {}
        for split, file in files.items():
            folder = hvpnet_crops_folder(self.root, split)
            names = load_dictionary(file, by_row=self.by_row)
            found[split] = {key: [folder / name for name in names[key]] for key in names}
        if self.note:
            logger.warning("[spacy-mmib] Regions are %s.", self.note)
        return found


@region_getters("spacy-mmib.crops.v1")
class PublishedCrops(Crops):
    """Crops found by the name of the picture's file.

    root (Union[str, Path]): See `Crops`.
    layout (str): "umgf" or "hvpnet".
    dictionary (Optional[Union[str, List[str]]]): HVPNeT's dictionaries of Twitter-2015 or 2017, files or
        folders of them, read when the first picture comes and without running code in them.
    max_regions (Optional[int]): UMGF has 4 at most, HVPNeT takes 3.
    RAISES (ValueError): No dictionary where one is needed.
    """

    def __init__(
        self,
        root: str | Path,
        layout: Literal["umgf", "hvpnet"],
        dictionary: str | list[str] | None = None,
        max_regions: int | None = None,
    ) -> None:
        super().__init__(root, dictionary or [], max_regions)
        if layout == "hvpnet" and not self.dictionaries:
            raise ValueError(
                "HVPNeT's crops can only be told by their dictionaries: name them, or their folder "
                "(dictionary)."
            )
        self.layout = layout

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return {Path(key).stem: paths for named in self._named.values() for key, paths in named.items()}

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): The name that crops are found by: one picture may have several, by links."""
        image = get_stored_image(doc)
        return Path(image).stem if isinstance(image, str) else ""

    def _list(self, doc: Doc) -> list[Path]:
        if not isinstance(get_stored_image(doc), str):
            self._say("id", "a picture that was attached as an object has no name to find its crops by")
            return []
        name = self.get_query(doc)
        if self.layout == "hvpnet":
            paths, why = self._by_name.get(name), "it is in no dictionary"
        else:
            paths, why = None, f"there is no folder {shorten(str(self.root / name))}"
            if os.path.isdir(self.root / name):  # unlike Path.is_dir, false for a name that can't be
                # A post rarely has crops of all four types: only a link that leads nowhere is worth a word.
                paths = [path for path in list_umgf_crops(self.root, name) if os.path.lexists(path)]
        if paths is None:
            self._say("none", f"pictures have no crops, the first is {shorten(name)}: {why}")
        return paths or []


@region_getters("spacy-mmib.leaking_mnre_crops.v1")
class LeakingMnreCrops(Crops):
    """HVPNeT's crops of MNRE, which leak the label: their number is a function of the gold relation. To
    compare with systems that use them. It says so in one line, and on each doc.

    root (Union[str, Path]): See `Crops`.
    dictionaries (Union[str, List[str]]): `mre_{train,dev,test}_dict.pth`, or their folder.
    max_regions (Optional[int]): HVPNeT takes 3.
    """

    note = LEAKING_MNRE_NOTE
    by_row = True

    def __init__(self, root: str | Path, dictionaries: str | list[str], max_regions: int | None = 3) -> None:
        super().__init__(root, dictionaries, max_regions)

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): Split and row: instances with the same picture have different crops."""
        return str(self._get_source(doc))

    def _get_source(self, doc: Doc) -> tuple[str, int] | None:
        source: Any = doc.user_data.get(MNRE_KEY)
        rows, split = (source.get(key) if isinstance(source, dict) else None for key in ("rows", "split"))
        if not isinstance(rows, (list, tuple)) or [type(row) for row in rows] != [int]:
            return None
        return (split, rows[0]) if split in tuple(HVPNET_SPLITS) else None

    def _list(self, doc: Doc) -> list[Path]:
        source = self._get_source(doc)
        if source is None:
            raise LayoutError(
                f"{doc.text[:60]!r} is not one instance of MNRE whose row and split are known: convert the "
                "data with python -m project.convert --leaking-crops, which makes a doc of each."
            )
        split, row = source
        if split not in self._named:
            raise LayoutError(
                f"There is an instance of {split}, but no dictionary of {split} in "
                f"{', '.join(map(str, self.dictionaries))}: name it, too (dictionaries)."
            )
        return self._named[split].get(row, [])


def list_umgf_crops(root: Path, post_id: str) -> list[Path]:
    """RETURNS (List[Path]): The crops that a post may have in UMGF's layout, there or not."""
    return [root / post_id / f"crop_{kind}_{post_id}.jpg" for kind in UMGF_TYPES]


def hvpnet_crops_folder(root: Path, split: str) -> Path:
    """RETURNS (Path): HVPNeT's folder of the crops of a split; where it should be if there is none."""
    folders = [root / name / "crops" for name in HVPNET_SPLITS[split]]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def load_dictionary(path: Path, *, by_row: bool = False) -> dict[Any, list[str]]:
    """Load one of HVPNeT's dictionaries (`.pth`) without running code in it.

    by_row (bool): It is of MNRE, with numbers of rows from 0 as keys, not of Twitter with names of pictures.
    RETURNS (Dict[Union[str, int], List[str]]): Names of crops.
    """
    import torch

    try:
        dictionary = torch.load(path, weights_only=True)
    except Exception as err:  # torch raises whatever zip, pickle and its own checks raise
        raise LayoutError(f"{path} can't be read as a dictionary of crops ({explain(err)}).") from None
    if not isinstance(dictionary, dict) or not all(
        isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        for names in dictionary.values()
    ):
        raise LayoutError(f"{path} is not a dictionary of lists of file names.")
    if not all(isinstance(key, int if by_row else str) for key in dictionary):
        raise LayoutError(
            f"{path} is not by row, as MNRE's dictionaries are, but by picture: take spacy-mmib.crops.v1."
            if by_row
            else f"{path} is by row, not by picture: it is of MNRE, and leaks the label. To compare with "
            "systems that use it, take spacy-mmib.leaking_mnre_crops.v1."
        )
    return dictionary
