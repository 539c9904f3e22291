"""Region getters for ready crops, in the layouts in which they are published."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc

from ..images.errors import ImageError, shorten
from ..images.files import bind
from ..post.extensions import get_stored_image
from ..post.regions import Region
from ..util import logger, warn
from .getter import RegionGetter
from .layouts import (
    HVPNET_SPLITS,
    CropsLayout,
    LayoutError,
    get_split,
    hvpnet_crops_folder,
    list_umgf_crops,
    load_dictionary,
)
from .leaking import LEAKING_MNRE_NOTE
from .registry import region_getters

if TYPE_CHECKING:
    import PIL.Image

MNRE_KEY = ("spacy_mmib", "mnre", None, None)
"""Where docs converted from MNRE have the rows and the split they come from."""


class Crops(RegionGetter):
    """Files of crops, looked up. Not cached: that is as fast, and their vectors are cached by their content.

    root (Path): The folder that crops are in, and that no name may leave.
    max_regions (Optional[int]): At most so many of a post.
    """

    needs_pictures = False

    def __init__(self, root: str | Path, max_regions: int | None) -> None:
        if max_regions is not None and max_regions < 0:
            raise ValueError(f"max_regions is {max_regions}, and has to be at least 0, or null for all.")
        self.root = Path(root)
        self.max_regions = max_regions
        self._said: set[str] = set()

    def __call__(
        self, docs: Sequence[Doc], pictures: Sequence["PIL.Image.Image | None"]
    ) -> list[list[Region]]:
        """RETURNS (List[List[Region]]): Paths of the crops that are there."""
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


class PublishedCrops(Crops):
    """Crops found by the name of the picture's file; see `make_crops_v1`."""

    def __init__(
        self,
        root: str | Path,
        layout: CropsLayout,
        dictionaries: Sequence[str | Path],
        max_regions: int | None,
    ) -> None:
        super().__init__(root, max_regions)
        self.layout = layout
        self.dictionaries = dictionaries

    @cached_property
    def _names(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for split, (path, dictionary) in _load_by_split(self.dictionaries).items():
            folder = hvpnet_crops_folder(self.root, split)
            for key, names in dictionary.items():
                if not isinstance(key, str):
                    raise LayoutError(
                        f"{path} is by row, not by picture: it is of MNRE, and leaks the label. To compare "
                        "with systems that use it, take spacy-mmib.leaking_mnre_crops.v1."
                    )
                found[Path(key).stem] = [folder / name for name in names]
        return found

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): The name that crops are found by: one picture may have several, by links."""
        return _get_id(doc) or ""

    def _list(self, doc: Doc) -> list[Path]:
        post_id = _get_id(doc)
        if post_id is None:
            self._say("id", "a picture that was attached as an object has no name to find its crops by")
            return []
        if self.layout == "hvpnet":
            names = self._names.get(post_id)
            if names is None:
                self._say_none(post_id, "it is in no dictionary")
            return names or []
        folder = self.root / post_id
        if not os.path.isdir(folder):  # unlike Path.is_dir, false for a name that can't be
            self._say_none(post_id, f"there is no folder {shorten(str(folder))}")
            return []
        # A post rarely has crops of all four types: only a link that leads nowhere is worth a word.
        return [path for path in list_umgf_crops(self.root, post_id) if os.path.lexists(path)]

    def _say_none(self, post_id: str, why: str) -> None:
        self._say("none", f"pictures have no crops, the first is {shorten(post_id)}: {why}")


class LeakingMnreCrops(Crops):
    """Crops found by the row of MNRE; see `make_leaking_mnre_crops_v1`."""

    note = LEAKING_MNRE_NOTE

    def __init__(self, root: str | Path, dictionaries: Sequence[str | Path], max_regions: int | None) -> None:
        super().__init__(root, max_regions)
        self.dictionaries = dictionaries

    @cached_property
    def _rows(self) -> dict[str, dict[Any, Any]]:
        found = {}
        for split, (path, dictionary) in _load_by_split(self.dictionaries).items():
            other = next((key for key in dictionary if not isinstance(key, int)), None)
            if other is not None:
                raise LayoutError(
                    f"{path} is not by row: it has the key {other!r}, where the dictionaries of MNRE have "
                    "numbers from 0. For those of Twitter-2015/2017 take spacy-mmib.crops.v1."
                )
            found[split] = dictionary
        return found

    def get_query(self, doc: Doc) -> str:
        """RETURNS (str): Split and row: instances with the same picture have different crops."""
        source = _get_source(doc)
        return f"{source.get('split')} {source.get('rows')}"

    def _list(self, doc: Doc) -> list[Path]:
        if "note" not in self._said:
            self._said.add("note")
            logger.warning("[spacy-mmib] Regions are %s.", LEAKING_MNRE_NOTE)
        source = _get_source(doc)
        rows, split = source.get("rows"), source.get("split")
        rows = rows if isinstance(rows, (list, tuple)) else ()
        if split not in tuple(HVPNET_SPLITS) or [type(row) for row in rows] != [int]:
            raise LayoutError(
                f"{doc.text[:60]!r} is not one instance of MNRE whose row and split are known: convert the "
                "data with project/scripts/convert_mnre.py --leaking-crops, which makes a doc of each."
            )
        if split not in self._rows:
            known = ", ".join(map(str, self.dictionaries))
            raise LayoutError(
                f"There is an instance of {split}, but no dictionary of {split} in {known}: name it, too "
                "(dictionaries)."
            )
        folder = hvpnet_crops_folder(self.root, split)
        return [folder / name for name in self._rows[split].get(rows[0], ())]


def _get_source(doc: Doc) -> dict[Any, Any]:
    source = doc.user_data.get(MNRE_KEY)
    return source if isinstance(source, dict) else {}


def _get_id(doc: Doc) -> str | None:
    image = get_stored_image(doc)
    return Path(image).stem if isinstance(image, str) else None


def _load_by_split(paths: Sequence[str | Path]) -> dict[str, tuple[Path, dict[Any, Any]]]:
    found: dict[str, tuple[Path, dict[Any, Any]]] = {}
    for path in _find_dictionaries(paths):
        split = get_split(path.name)
        if split is None:
            raise LayoutError(
                f"{path}: the name tells no split. HVPNeT's are <name>_{{train,val,test}}_dict.pth (or dev)."
            )
        if split in found:
            # File names of crops are numbers of rows: those of another dataset would be there, and wrong.
            raise LayoutError(
                f"{found[split][0]} and {path} are both of {split}. Name the dictionaries of one dataset, "
                "whose crops are in root."
            )
        found[split] = path, load_dictionary(path)
    return found


def _find_dictionaries(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        files = sorted(path.glob("*_dict.pth")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise LayoutError(f"There is no dictionary of crops at {path} (<name>_<split>_dict.pth).")
        found += files
    return found


def _as_list(paths: str | Path | Sequence[str | Path] | None) -> list[str | Path]:
    return [] if paths is None else [paths] if isinstance(paths, (str, Path)) else list(paths)


@region_getters("spacy-mmib.crops.v1")
def make_crops_v1(
    root: str | Path,
    layout: CropsLayout,
    dictionary: str | list[str] | None = None,
    max_regions: int | None = None,
) -> RegionGetter:
    """Make a getter of ready crops, by the name of the picture's file.

    root (Union[str, Path]): Where they are. No name may lead out of it. If the encoder's reader has an
        `image_root`, it has to be inside of that.
    layout (str): "umgf": `<root>/<id>/crop_<type>_<id>.jpg`; "hvpnet":
        `<root>/{train,val,test}/crops/<name>`, with names from dictionaries.
    dictionary (Optional[Union[str, List[str]]]): HVPNeT's dictionaries of Twitter-2015 or 2017, files or
        folders of them; read without running code in them.
    max_regions (Optional[int]): At most so many, from the first; UMGF has 4 at most, HVPNeT takes 3.
    RETURNS (RegionGetter): The getter. Crops that aren't there are left out, which is said once, and so is
        that a picture has none. Files are looked for in the first batch, not here.
    RAISES (ValueError): Another layout, or no dictionary where one is needed.
    """
    if layout not in ("umgf", "hvpnet"):
        raise ValueError(f"layout is 'umgf' or 'hvpnet', not {layout!r}.")
    dictionaries = _as_list(dictionary)
    if layout == "hvpnet" and not dictionaries:
        raise ValueError(
            "HVPNeT's crops can only be told by their dictionaries: name them, or their folder (dictionary)."
        )
    return PublishedCrops(root, layout, dictionaries, max_regions)


@region_getters("spacy-mmib.leaking_mnre_crops.v1")
def make_leaking_mnre_crops_v1(
    root: str | Path, dictionaries: str | list[str], max_regions: int | None = 3
) -> RegionGetter:
    """Make a getter of HVPNeT's crops of MNRE, which leak the label: their number is a function of the gold
    relation. To compare with systems that use them. It says so in one line, and on each doc.

    root (Union[str, Path]): The folder with `{train,val,test}/crops`.
    dictionaries (Union[str, List[str]]): `mre_{train,dev,test}_dict.pth`, or their folder.
    max_regions (Optional[int]): At most so many, from the first; HVPNeT takes 3.
    RETURNS (RegionGetter): The getter, for docs with one instance each, as `convert_mnre.py --leaking-crops`
        makes them.
    """
    return LeakingMnreCrops(root, _as_list(dictionaries), max_regions)
