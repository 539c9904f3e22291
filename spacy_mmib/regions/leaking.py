"""The published crops of MNRE, which leak the label. Nothing in this package takes them by itself: whoever
wants to compare with systems that use them calls `leaking_mnre_crops` by its name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from spacy.tokens import Doc

from ..images.errors import ImageError
from ..images.files import resolve_inside
from ..post.extensions import set_regions, set_regions_note
from ..util import logger

LEAKING_MNRE_NOTE = (
    "crops from HVPNeT's dictionaries of MNRE, which LEAK THE LABEL: the number of crops of a row is a "
    "function of its gold relation"
)
"""What the docs' note says, and what is said when the crops are used."""

AttachCrops: TypeAlias = Callable[[Doc, str, int], int]
"""Attaches the crops of a row: the doc, the split and the row in it, from 0. Returns how many names are left
out because they lead out of the folder of crops."""


def leaking_mnre_crops(
    dictionaries: Mapping[str, Mapping[Any, Sequence[str]]],
    folders: Mapping[str, Path],
    root: Path,
    *,
    max_crops: int = 0,
) -> AttachCrops:
    """Take the objects of MNRE's pictures from the dictionaries that HVPNeT published.

    In them, a row with the relation "None" has 2 crops (rarely 1), a related one up to 4, in the test split
    too. A model that sees them sees the answer, and its scores can't be compared with others. This is said
    in one line of the log here, and stands on each doc as the note of its regions.

    Crops are attached whether or not their files are there: what is stated can be audited without them, and
    spacy-mmib.Corpus.v1 leaves out and counts those that are missing.

    dictionaries (Dict[str, Dict[int, List[str]]]): For each split, the file names of crops by row, from 0.
    folders (Dict[str, Path]): For each split the folder of its crops, which need not be there. No name may
        lead out of it.
    root (Path): The image root: the paths on the docs are relative to it.
    max_crops (int): Take so many of each row, from the first; 0: all. HVPNeT takes 3.
    RETURNS (AttachCrops): Attaches the crops of a row to a doc, with the note.
    RAISES (ValueError): A dictionary is not by row.
    """
    for split, dictionary in dictionaries.items():
        other = next((key for key in dictionary if not isinstance(key, int)), None)
        if other is not None:
            raise ValueError(
                f"The dictionary of {split} is not by row: it has the key {other!r}, where the "
                "dictionaries of MNRE have numbers from 0. Those of Twitter-2015/2017 are by picture."
            )
    logger.warning("[spacy-mmib] Regions are %s.", LEAKING_MNRE_NOTE)

    def attach(doc: Doc, split: str, row: int) -> int:
        stated, refused = [], 0
        for name in dictionaries[split].get(row, ())[: max_crops or None]:
            try:
                # Inside both: the folder may be a link.
                path = resolve_inside(root, resolve_inside(folders[split], name))
            except ImageError:
                refused += 1
            else:
                stated.append(path.relative_to(root.resolve()).as_posix())
        set_regions(doc, stated)
        set_regions_note(doc, LEAKING_MNRE_NOTE)
        return refused

    return attach
